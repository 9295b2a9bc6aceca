"""The report's charts: which there are, for the page as SVG in its colours and font, and as files of their own."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rstar_cli.layout import write_bytes
from rstar_cli.report import figure
from rstar_cli.report.bars import dropped, kept, time_by_stage, tokens_by_stage
from rstar_cli.report.collect import last_figures, series
from rstar_cli.report.drawings import (
    INK,
    LINE,
    ON,
    Draw,
    Drawing,
    by_level,
    by_samples,
    by_subject,
    by_tokens,
    calibration,
    coverage,
    q_values,
)

_OWN = {
    INK: "currentColor",
    LINE: "var(--line)",
    ON: "var(--on-blue)",
    figure.INK: "currentColor",
    figure.SOFT: "var(--soft)",
    figure.FAINT: "var(--line)",
    "#FFFFFF": "var(--paper)",
    figure.COLOURS["greedy"]: "var(--blue)",
    figure.COLOURS["swor"]: "var(--brown)",
}
"""What a page has instead: colours of its own, lighter ones where it is dark."""
_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
_PAGE = {"svg.fonttype": "none", "savefig.transparent": True}
_INTERVAL = "95\u00a0%\u00a0interval"
_Asked = tuple[str, str, str, Drawing | None]
"""Name, title, what it is of, and what it shows, where there is data for it."""
_ROUND_INCHES = 0.34
"""Height of a round's bar with its share of the space between."""


class Chart(NamedTuple):
    """A chart that there is data for.

    Attributes:
        name: of its files.
        title, about: what it shows, and of what.
        draw, bars, notes, heads, rows: see `Drawing`.
    """

    name: str
    title: str
    about: str
    draw: Draw
    bars: int = 0
    notes: Mapping[str, str] = {}
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def charts(report: dict[str, Any], found: dict[str, Any]) -> list[Chart]:
    """The charts, beside the curve by round.

    Args:
        report: as `collect` gives it.
        found: as `gather` gives it.
    """
    asked = [*_of_accuracy(report, found["same"]), *_of_searches(found["rounds"])]
    return [Chart(name, title, about, *drawn) for name, title, about, drawn in asked if drawn is not None]


def _of_accuracy(report: dict[str, Any], by_set: dict[str, dict[int, dict[str, Any]]]) -> list[_Asked]:
    main = next(iter(report["sets"]), "")
    last = max(series(report, main, "greedy"), default=0)
    same = by_set.get(main, {}).get(last) if "greedy" in last_figures(report) else None
    greedy = f"Greedy decoding on {main}, with {_INTERVAL}s"
    spent = f"One dot a method, the last evaluated round, with {_INTERVAL}s"
    spent += f"; greedy decoding too on the {same['n']:,} problems that the others were given." if same else "."
    return [
        ("accuracy_by_level", "Accuracy by level", f"{greedy}; a\u00a0line\u00a0a\u00a0level.", by_level(report)),
        ("accuracy_by_subject", "Accuracy by subject", f"{greedy}; the last evaluated round.", by_subject(report)),
        ("accuracy_by_tokens", "Accuracy against tokens", spent, by_tokens(report, same)),
        (
            "accuracy_by_samples",
            "Accuracy by number of samples",
            f"The last evaluated round, with {_INTERVAL}s; dashed: what chance alone would give, each sample "
            "of a problem being right with its probability p.",
            by_samples(report),
        ),
    ]


def _of_searches(rounds: Sequence[dict[str, Any]]) -> list[_Asked]:
    sure = "Sampled solutions by the chance that the PRM gives them, and how many are right: the last round with "
    sure += f"{_INTERVAL}s, earlier ones faint."
    return [
        (
            "coverage_by_level",
            "Coverage by level",
            f"Training problems with a verified right solution, with {_INTERVAL}s; a\u00a0line\u00a0a\u00a0level.",
            coverage(rounds),
        ),
        ("prm_calibration", "PRM calibration", f"{sure} On the dashed line it would be exact.", calibration(rounds)),
        (
            "q_of_steps",
            "Q of visited steps",
            "Mean reward of each step that a rollout passed; numbers are shares of the round's visited steps, heights "
            "are to one scale.",
            q_values(rounds),
        ),
        (
            "dropped_candidates",
            "Where candidates die",
            "Candidate steps that a search could not go on from, of all candidates of the round.",
            dropped(rounds),
        ),
        (
            "kept_solutions",
            "Solutions kept and dropped",
            "Finished solutions of a round, by whether they train the policy, and why not.",
            kept(rounds),
        ),
        (
            "time_by_stage",
            "Time by stage",
            "Wall clock; every number is in the table of time and generated tokens.",
            time_by_stage(rounds),
        ),
        ("tokens_by_stage", "Tokens by stage", "Generated by the policy; see the same table.", tokens_by_stage(rounds)),
    ]


def left_out(report: dict[str, Any]) -> str:
    """Why a chart of methods is not there, where one alone was evaluated; else nothing."""
    figures = last_figures(report)
    if len(figures) != 1:
        return ""
    (method, found), main = next(iter(figures.items())), report["sets"][0]
    return (
        f"There is no chart of accuracy against tokens: on {main} the only method that was evaluated is {method}, "
        f"with {found['tokens'] / found['n']:,.0f} generated tokens a problem."
    )


def on_page(chart: Chart) -> str:
    """A chart as SVG for the page, which has its title."""
    return themed(_drawn(chart, "svg", {**_PAGE, "svg.hashsalt": chart.name}).decode(), f"{chart.title}. {chart.about}")


def write_charts(drawn: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as `NAME.svg` and `NAME.png`; equal charts give equal bytes.

    Raises:
        StorageError: they can't be written.
    """
    paths = []
    for chart in drawn:
        for kind in ("svg", "png"):
            paths.append(folder / f"{chart.name}.{kind}")
            write_bytes(paths[-1], _drawn(chart, kind, {"svg.hashsalt": "rstar"}, titled=True))
    return paths


def themed(svg: str, label: str) -> str:
    """An SVG with the page's colours and font instead of its own, without the lines above its root.

    Args:
        svg: a whole file.
        label: what it shows, for who does not see it.
    """
    body = svg[svg.index("<svg") :]
    for fixed, own in _OWN.items():
        body = body.replace(fixed.lower(), own)  # as matplotlib writes colours
    body = re.sub(r' ?font-family: [^;"]*;|<metadata>.*?</metadata>', "", body, flags=re.DOTALL)
    end = f'role="img" aria-label="{escape(label)}">'
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        lambda found: f'<svg xmlns="http://www.w3.org/2000/svg" {found[1]} {end}',
        body,
        count=1,
    )


def _drawn(chart: Chart, kind: str, more: dict[str, Any], *, titled: bool = False) -> bytes:
    from matplotlib import style
    from matplotlib.figure import Figure

    height = 3.1 if not chart.bars else 1.1 + _ROUND_INCHES * chart.bars
    with style.context(["default", _STYLE, more]):  # whatever the user's own matplotlibrc says
        drawing = Figure(figsize=(5.0, height + 0.45 * titled), layout="constrained")
        axes = drawing.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_linewidth(0.5)
        axes.tick_params(length=0)
        chart.draw(axes)
        if titled:
            drawing.suptitle(chart.title, x=0.02, ha="left", weight="bold", size=11)
        drawn = io.BytesIO()
        drawing.savefig(drawn, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
    return drawn.getvalue()
