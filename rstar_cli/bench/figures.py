"""The measurements of the sandbox, as lines to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(report: Mapping[str, Any]) -> dict[str, str]:
    """Name to text, in the order to show; what compares is said as a ratio."""
    machine, start, programs = report["machine"], report["start_seconds"], report["programs_per_second"]
    steps, plain, null = report["steps_per_second"], report["without_sandbox_steps_per_second"], report["null_step_ms"]
    paused, workers = report["paused_state"], report["steps_per_second_by_workers"]
    tree = steps["tree"]
    return {
        "isolation": f"{machine['isolation']} ({' '.join(machine['layers'])})",
        "workers": f"{machine['workers']} on {machine['cores']} cores",
        "start": f"{start['bare']:.2f} s, with sympy {start['scientific']:.2f} s",
        "whole programs": f"{_rate(programs['bare'])}/s, with sympy {_rate(programs['scientific'])}/s",
        "five steps at once": f"{_rate(steps['completions'])} steps/s",
        "step by step": f"{_rate(tree)} steps/s in the tree, {_against(tree, steps['replay'])} prefix replay",
        "4 candidates at depth 5": (
            f"{_rate(steps['candidates_tree'])} steps/s in the tree, "
            f"{_against(steps['candidates_tree'], steps['candidates_replay'])} prefix replay"
        ),
        "python -c a step": f"{_rate(plain['fresh_process'])} steps/s; the tree {_times(tree, plain['fresh_process'])}",
        "exec in a loop": f"{_rate(plain['exec_loop'])} steps/s; the tree {_times(tree, plain['exec_loop'])}",
        "null step": _price(null["bare"]),
        "sympy null step": _price(null["sympy"]),
        "paused sympy step": (
            f"{paused['mean_mb']:.1f} MB, at most {paused['max_mb']:.1f} ({paused['states']} held)" if paused else "-"
        ),
        "step by depth": _series(report["step_ms_by_depth"]),
        "step by held states": _series(report["step_ms_by_held_states"]),
        "all workers": f"{_rate(workers['all'])} steps/s, {_against(workers['all'], workers['one'])} one worker",
    }


def warnings(report: Mapping[str, Any]) -> list[str]:
    """What makes the figures worth less."""
    machine = report["machine"]
    told = []
    if machine["load"] > machine["cores"] / 4:
        told.append(f"The machine was busy when this began (load {machine['load']}): figures may be low.")
    if "grants" not in machine["layers"]:
        told.append("No state can be held on this machine, so the tree is prefix replay; see `rstar doctor`.")
    elif not report["paused_state"]:
        told.append("No paused process was found, or its memory can't be read.")
    return told


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _times(value: float, base: float) -> str:
    return f"{value / base:.2g} times" if value < 10 * base else f"{value / base:.0f} times"


def _against(value: float, base: float) -> str:
    return f"{_times(value, base)} the {_rate(base)} of"


def _price(cost: Mapping[str, float]) -> str:
    shut, open_ = cost["isolated"], cost["open"]
    return f"{shut:.2f} ms, {_times(shut, open_)} the {open_:.2f} without isolation; {cost['tree']:.2f} in the tree"


def _series(costs: Mapping[str, float]) -> str:
    return ", ".join(f"{cost:.1f} ms at {place}" for place, cost in costs.items())
