"""What the names in the tables of accuracy mean: the methods and the sets, in a line each."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from rstar_cli.config import EvalSetConfig
from rstar_cli.report.collect import told_methods

_METHODS = {
    "greedy": "one solution a problem, at each token the likeliest; nothing is drawn",
    "pass": "the chance that at least one of {n} sampled solutions is right: what picking among them can reach at most",
    "majority": "the commonest answer of {n} sampled solutions",
    "weighted": "a vote of {n} sampled solutions, each counting by the value that the PRM gives it",
    "best_of_n": "of {n} sampled solutions the one that the PRM gives the highest value",
}
"""Beside searches, whose names are those of their method."""
_SEARCH = (
    "{kind} search of {n} rollouts a problem, gold unseen; its solutions vote, each counting by its likelihood"
    " and, with a PRM, its value"
)
_VOTE = "of the solutions of {kind}@{n} the {top} that the PRM gives the highest values vote, each with one voice"


def explained(report: dict[str, Any], sets: dict[str, EvalSetConfig], temperature: float | None) -> str:
    """Lines that open below the tables; nothing where nothing was evaluated.

    Args:
        report: as `collect` gives it.
        sets: settings of the recipe's sets, by name.
        temperature: of samples; None: none were drawn.
    """
    methods = dict.fromkeys(method for name in report["sets"] for method in told_methods(report, name))
    told = {method: _method(method) for method in methods}
    if temperature is not None:
        told["samples"] = f"drawn at temperature {temperature:g}"
    told |= {name: _set(sets[name]) for name in report["sets"] if name in sets}
    lines = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in told.items())
    summary = "<summary>what the names mean</summary>"
    return f'<details id="words">{summary}<ul class="notes">{lines}</ul></details>' if report["sets"] else ""


def _method(method: str) -> str:
    kind, _, number = method.partition("@")
    if kind in _METHODS:
        return _METHODS[kind].format(n=number)
    kind, voting, top = kind.partition("_top")
    return (_VOTE if voting else _SEARCH).format(kind=kind, n=number, top=top)


def _set(config: EvalSetConfig) -> str:
    return "; ".join(_parts(config))


def _parts(config: EvalSetConfig) -> Iterator[str]:
    """What a set's settings tell of it."""
    yield f"a set of the recipe: {config.source}"
    if config.source == "synthetic":
        yield f"level{'s' * (not config.levels.isdigit())} {config.levels}".replace("-", " to ")
        if config.rare:
            yield "compositions that are rare in training"
        if config.split != "test":
            yield f"split {config.split}"
    if config.sampled is not None:
        yield f"samples and search of {config.sampled:,} of its problems" if config.sampled else "greedy decoding alone"
