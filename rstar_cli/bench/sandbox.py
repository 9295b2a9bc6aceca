"""How fast the sandbox is, and what it costs: each of its ways beside what it replaces, on the same programs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Any

from rstar_cli.bench import baselines, memory
from rstar_cli.bench.programs import DEPTH, StepProgram, bare, mixed, scientific
from rstar_cli.cores import count_cores
from rstar_cli.errors import RstarError
from rstar_cli.progress import StageProgress
from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.sandbox import Sandbox

OPEN = ("pid", "mount", "landlock", "seccomp", "grants")
"""Layers to leave out for the price of isolation: all that can be."""
CANDIDATES = 4
DEPTHS = (1, 4, 16)
_FEW_HELD = 10
_IN_FLIGHT = 64
"""Programs whose steps run side by side, as a search's problems do."""
_FRESH_PROGRAMS = 5
"""Programs that get a new interpreter for every step, which is slow."""
_NULL_STEPS = 60
_TIMED_STEPS = 25
_TIMEOUT = 60.0
_NULL = ("x = 0", "x = 1")
_SYMPY_NULL = ("import sympy\nx = sympy.Symbol('x')", "y = x")
_ALIKE = "import sympy\ny = sympy.expand((sympy.Symbol('x') + {})**2)"
"""A step that costs the same wherever it stands."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is measured.

    Attributes:
        workers: sandbox processes.
        programs: programs a measurement.
    """

    workers: int
    programs: int

    @property
    def states(self) -> int:
        """States to hold: one a step."""
        return DEPTH * self.programs

    @property
    def repetitions(self) -> int:
        """Tries of which the median counts; a run of a few programs is for trying the command out."""
        return 3 if self.programs >= DEPTH else 1


def measure(workers: int | None, programs: int) -> dict[str, Any]:
    """Measure everything, one part after the other; plain values by part, after what is known of the machine.

    Args:
        workers: sandbox processes; None for one a core.
        programs: programs a measurement.

    Raises:
        SetupError: no program can be run here.
        RstarError: a program of ours did not run to its end.
    """
    load = Load(workers or count_cores(), programs)
    report: dict[str, Any] = {"machine": _machine(load)}
    with StageProgress("bench sandbox", len(PARTS)) as progress:
        for i, (name, part) in enumerate(PARTS.items()):
            progress.update(i, name.replace("_", " "))
            report[name] = part(load)
    return report


def _machine(load: Load) -> dict[str, Any]:
    with Sandbox(workers=1, floor="none") as sandbox:
        layers = sandbox.layers()
        level = sandbox.isolation()
    return {
        "python": platform.python_version(),
        "cores": count_cores(),
        "load": round(os.getloadavg()[0], 1),
        "workers": load.workers,
        "programs": load.programs,
        "isolation": level,
        "layers": list(layers),
    }


def _start(load: Load) -> dict[str, float]:
    """Seconds from nothing to the first result."""
    return {
        "bare": median(_seconds_to_start("x = 1") for _ in range(load.repetitions)),
        "scientific": median(_seconds_to_start(_SYMPY_NULL[0]) for _ in range(load.repetitions)),
    }


def _seconds_to_start(code: str) -> float:
    started = time.perf_counter()
    with Sandbox(workers=1, floor="none") as sandbox:
        _check(sandbox.run(code))
        return time.perf_counter() - started


def _one_shot(load: Load) -> dict[str, float]:
    """Whole programs a second."""
    rates = {}
    with _warm(load.workers) as sandbox:
        for name, made in (("bare", bare(load.programs)), ("scientific", scientific(load.programs))):
            codes = [program.code for program in made]
            rates[name] = _rate(load.repetitions, len(codes), partial(_run_all, sandbox, codes))
    return rates


def _steps(load: Load) -> dict[str, float]:
    """Steps a second, by the way they are asked for."""
    programs = mixed(load.programs)
    rates = {}
    with _warm(load.workers, tree=True) as tree, _warm(load.workers) as replay:
        rates["completions"] = _rate(load.repetitions, load.states, lambda: _complete(tree, programs))
        rates["tree"] = _rate(load.repetitions, load.states, lambda: _step_by_step(tree, programs))
        rates["replay"] = _rate(load.repetitions, load.states, lambda: _step_by_step(replay, programs))
        candidates = CANDIDATES * load.programs
        rates["candidates_tree"] = candidates / median(_candidates(tree, programs) for _ in range(load.repetitions))
        rates["candidates_replay"] = candidates / median(_candidates(replay, programs) for _ in range(load.repetitions))
    return rates


def _without_sandbox(load: Load) -> dict[str, float]:
    """Steps a second with no sandbox at all."""
    programs = mixed(load.programs)
    return {
        "fresh_process": baselines.fresh_process(programs[:_FRESH_PROGRAMS], load.workers),
        "exec_loop": baselines.exec_loop(programs, load.workers),
    }


def _null_step(load: Load) -> dict[str, dict[str, float]]:
    """Milliseconds of a step that does nothing, on one worker: with all layers, with none that can be left out, held.

    The first two are forks of the zygote, so that they differ in isolation alone; the third is a step in the tree.
    """
    costs = {}
    with _warm(1, tree=True) as isolated, _warm(1, tree=True, without=OPEN) as unprotected:
        for name, (prefix, step) in (("bare", _NULL), ("sympy", _SYMPY_NULL)):
            branches = tuple((f"{step if name == 'bare' else prefix}  # {i}",) for i in range(_NULL_STEPS))
            steps = tuple((f"{step}  # {i}",) for i in range(_NULL_STEPS))
            rows = []
            for _ in range(load.repetitions):
                # one request each: what is sent to and fro is paid once
                open_, shut = (_milliseconds_a_branch(box, (), branches, "") for box in (unprotected, isolated))
                rows.append((shut, open_, _milliseconds_a_branch(isolated, (prefix,), steps, "null")))
            with_, without, held = (median(column) for column in zip(*rows, strict=True))
            costs[name] = {"isolated": with_, "open": without, "ratio": with_ / without, "tree": held}
    return costs


def _paused(load: Load) -> dict[str, float] | None:
    """Memory of paused sympy steps, in MB each; None where it can't be told, or nothing is paused."""
    programs = scientific(load.programs)
    with _warm(1, tree=True, states=max(1024, 4 * load.states)) as sandbox:
        for program in programs:
            for depth, step in enumerate(program.steps):  # two candidates, so that each has a process of its own
                twice = ((step,), (f"{step}\n# again",))
                _execute(sandbox, [ExecuteRequest(program.steps[:depth], twice, program.id)])
        sizes = [size for pid in memory.stopped_descendants() if (size := memory.proportional_mb(pid)) is not None]
    return {"states": len(sizes), "mean_mb": mean(sizes), "max_mb": max(sizes)} if sizes else None


def _step_by_depth(load: Load) -> dict[str, float]:
    """Milliseconds of one and the same step, by its depth in the tree."""
    times: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    path = tuple(_ALIKE.format(i) for i in range(max(DEPTHS)))
    with _warm(1, tree=True) as sandbox:
        for _ in range(load.repetitions):
            for depth in DEPTHS:
                for i in range(depth - 1):
                    _execute(sandbox, [ExecuteRequest(path[:i], ((path[i],),), "depth")])
                times[depth].append(_milliseconds(sandbox, _alike(path[: depth - 1], _TIMED_STEPS, "depth")))
                sandbox.forget("depth")
    return {str(depth): median(found) for depth, found in times.items()}


def _step_by_held(load: Load) -> dict[str, float]:
    """Milliseconds of one and the same step, by the states held beside it."""
    times: dict[int, list[float]] = {held: [] for held in sorted({min(_FEW_HELD, load.states), load.states})}
    path = (_ALIKE.format(0),)
    with _warm(1, tree=True, states=max(1024, 4 * load.states)) as sandbox:
        for _ in range(load.repetitions):
            for held, found in times.items():
                _execute(sandbox, _alike(path, held, "held"))
                found.append(_milliseconds(sandbox, _alike(path, _TIMED_STEPS, "held", first=held)))
                sandbox.forget("held")
    return {str(held): median(found) for held, found in times.items()}


def _workers(load: Load) -> dict[str, float]:
    """Steps a second in the tree with one worker and with all."""
    programs = mixed(load.programs)
    with _warm(1, tree=True) as one, _warm(load.workers, tree=True) as all_:
        pairs = [(_seconds(one, programs), _seconds(all_, programs)) for _ in range(load.repetitions)]
    alone, together = (load.states / median(column) for column in zip(*pairs, strict=True))
    return {"one": alone, "all": together, "ratio": together / alone}


PARTS: dict[str, Callable[[Load], Any]] = {
    "start_seconds": _start,
    "programs_per_second": _one_shot,
    "steps_per_second": _steps,
    "without_sandbox_steps_per_second": _without_sandbox,
    "null_step_ms": _null_step,
    "paused_state": _paused,
    "step_ms_by_depth": _step_by_depth,
    "step_ms_by_held_states": _step_by_held,
    "steps_per_second_by_workers": _workers,
}
"""What is measured, by name in the report."""


@contextmanager
def _warm(workers: int, *, tree: bool = False, states: int = 1024, without: Sequence[str] = ()) -> Iterator[Sandbox]:
    """A sandbox whose processes have all started."""
    with Sandbox(workers=workers, timeout=_TIMEOUT, tree=tree, states=states, floor="none", without=without) as sandbox:
        first = [ExecuteRequest((), ((code,),)) for code in (_NULL[1], _SYMPY_NULL[0])]
        _execute(sandbox, first * workers)  # each worker is handed two at once: one of each kind
        yield sandbox


def _run_all(sandbox: Sandbox, codes: Sequence[str]) -> None:
    """Run whole programs, none of which waits for another."""
    for result in sandbox.run_many(codes):
        _check(result)


def _complete(sandbox: Sandbox, programs: Sequence[StepProgram]) -> None:
    """Run each program as one chain of steps."""
    _execute(sandbox, [ExecuteRequest((), (program.steps,), program.id) for program in programs])
    _forget(sandbox, programs)


def _step_by_step(sandbox: Sandbox, programs: Sequence[StepProgram]) -> None:
    """Run each step on top of those before it, in a request of its own."""
    for wave in _waves(programs):
        for depth in range(DEPTH):
            _execute(sandbox, [ExecuteRequest(p.steps[:depth], ((p.steps[depth],),), p.id) for p in wave])
        _forget(sandbox, wave)


def _candidates(sandbox: Sandbox, programs: Sequence[StepProgram]) -> float:
    """Seconds that candidates for the last step of each program take."""
    seconds = 0.0
    for wave in _waves(programs):
        # their parents, which a search has run before; where no state is held this is for nothing, and short
        _execute(sandbox, [ExecuteRequest(p.steps[:-2], ((p.steps[-2],),), p.id) for p in wave])
        asked = [
            ExecuteRequest(p.steps[:-1], tuple((f"{p.steps[-1]}\n# {i}",) for i in range(CANDIDATES)), p.id)
            for p in wave
        ]
        started = time.perf_counter()
        _execute(sandbox, asked)
        seconds += time.perf_counter() - started
        _forget(sandbox, wave)
    return seconds


def _alike(path: tuple[str, ...], count: int, tree: str, *, first: int = 0) -> list[ExecuteRequest]:
    """Steps that cost the same, all different, on top of one path."""
    return [ExecuteRequest(path, ((_ALIKE.format(1000 + first + i),),), tree) for i in range(count)]


def _waves(programs: Sequence[StepProgram]) -> list[Sequence[StepProgram]]:
    return [programs[i : i + _IN_FLIGHT] for i in range(0, len(programs), _IN_FLIGHT)]


def _forget(sandbox: Sandbox, programs: Sequence[StepProgram]) -> None:
    for program in programs:
        sandbox.forget(program.id)


def _rate(repetitions: int, count: int, work: Callable[[], object]) -> float:
    """How many a second: the median of some tries."""
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return count / median(times)


def _seconds(sandbox: Sandbox, programs: Sequence[StepProgram]) -> float:
    started = time.perf_counter()
    _step_by_step(sandbox, programs)
    return time.perf_counter() - started


def _milliseconds(sandbox: Sandbox, requests: Sequence[ExecuteRequest]) -> float:
    """Milliseconds a step, for steps on one path, on a sandbox with one worker; the path's state is there before."""
    path, tree = requests[0].prefix, requests[0].tree
    branches = tuple(request.branches[0] for request in requests)
    _execute(sandbox, [ExecuteRequest(path, branches[:2], tree)])
    started = time.perf_counter()
    _execute(sandbox, [ExecuteRequest(path, branches[2:], tree)])
    return (time.perf_counter() - started) * 1000 / (len(branches) - 2)


def _milliseconds_a_branch(
    sandbox: Sandbox, prefix: tuple[str, ...], branches: tuple[tuple[str, ...], ...], tree: str
) -> float:
    """Milliseconds a branch of one request; the state that it starts from is there before."""
    if prefix:
        _execute(sandbox, [ExecuteRequest((), (prefix,), tree)])
    started = time.perf_counter()
    _execute(sandbox, [ExecuteRequest(prefix, branches, tree)])
    milliseconds = (time.perf_counter() - started) * 1000 / len(branches)
    if tree:
        sandbox.forget(tree)
    return milliseconds


def _execute(sandbox: Sandbox, requests: Sequence[ExecuteRequest]) -> None:
    for branches in sandbox.execute(requests):
        for results in branches:
            for result in results:
                _check(result)


def _check(result: ExecutionResult) -> None:
    """Count nothing that did not run."""
    if not result.ok:
        raise RstarError(f"a program of the benchmark ended as {result.status}: {result.error}")
