"""`report.html`: what a run did and what came of it, in one file that needs nothing else."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from rstar_cli.layout import RunDir, write_bytes
from rstar_cli.report.charts import Chart, charts, left_out, on_page, themed, write_charts
from rstar_cli.report.collect import collect, series
from rstar_cli.report.figure import claims_told, draw_curve, draw_figure
from rstar_cli.report.gather import gather
from rstar_cli.report.tables import (
    SEARCHES,
    accuracies,
    asked,
    changed_settings,
    cost,
    interval,
    listed_searches,
    origins,
    percent,
    problems_title,
    reward_models,
    searched,
    subjects,
    table,
    training_data,
)
from rstar_cli.report.words import explained

_SECTIONS = {"accuracy": "Accuracy", "charts": "What happened", "origins": "Data, cost and origins"}
"""Headings of the parts that every page has, by the link to them."""
_NOTHING = "<p>Nothing was evaluated yet: <code>rstar status</code> names the command.</p>"


def assemble(name: str, **parts: str) -> str:
    """A page of `report/page/`: its HTML with its style, its scripts, and parts put in their places.

    The scripts are `NAME.js` and, after it, each `NAME_*.js` in order of their names.
    """
    folder = resources.files("rstar_cli").joinpath("report/page")
    html, style, script = (folder.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    more = sorted(
        (f for f in folder.iterdir() if f.name.startswith(f"{name}_") and f.name.endswith(".js")), key=lambda f: f.name
    )
    script += "".join(file.read_text("utf-8") for file in more)
    for place, text in {"STYLE": style, "SCRIPT": script, **parts}.items():
        html = html.replace(f"/*{place}*/", text)
    return html


def as_json(data: Any) -> str:
    """Data for a script element, which no text in it can end."""
    return orjson.dumps(data).decode().replace("<", "\\u003c")


def write_page(run: RunDir) -> list[Path]:
    """Write `report.html` into the run, and its charts as files into `figures/`.

    Returns:
        The folder of the charts, where there are any, and the page.

    Raises:
        DataError: a file of the run is damaged.
        StorageError: they can't be written.
    """
    path, report, found = run.root / "report.html", collect(run), gather(run)
    write_bytes(path, report_page(report, found, run.root.resolve().name).encode())
    drawn = draw_curve(report, run.figures) + write_charts(charts(report, found), run.figures)
    return [*([run.figures] if drawn else []), path]


def report_page(report: dict[str, Any], found: dict[str, Any], name: str) -> str:
    """The page.

    Args:
        report: as `collect` gives it.
        found: as `gather` gives it.
        name: of the run.
    """
    curve = {"wide": draw_figure(report), "narrow": draw_figure(report, narrow=True)} if report["sets"] else {}
    searches = listed_searches(found["rounds"])
    figures = "".join(_figure(chart) for chart in charts(report, found))
    words = explained(report, found["sets"], found["temperature"])
    label = f"Accuracy by round. {_lead(report)}"
    claimed = f'<p class="hint">{escape(claims_told(report))}</p>'
    return assemble(
        "report",
        TITLE=f"{escape(name)}: {escape(_headline(report))}",
        LEAD=escape(_lead(report)),
        WARNINGS=_warnings(report, found),
        PARTS=_parts(report, found),
        **{f"HEADING_{key.upper()}": heading for key, heading in _SECTIONS.items()},
        CURVE="".join(f'<div class="{kind}">{themed(svg, label)}</div>' for kind, svg in curve.items())
        + (claimed if curve else _NOTHING),
        TABLES="".join((*accuracies(report, found["same"]), words, subjects(report), reward_models(report))),
        CHARTS=figures or "<p>No round was searched yet.</p>",
        LEFT_OUT=f'<p class="hint">{escape(left_out(report))}</p>' if figures else "",
        PROBLEMS=asked(report, found["problems"]) + searched(searches),
        DATA_TABLE=training_data(report),
        COST=cost(found["rounds"]),
        CHANGED=changed_settings(found["changed"]),
        ORIGINS=origins(found),
        DATA=as_json({"run": found["run"], "problems": found["problems"], "searches": searches}),
    )


def _figure(chart: Chart) -> str:
    """A chart with what it shows, what the words of its key mean, and its numbers."""
    notes = "".join(f"<li><b>{escape(word)}</b>: {escape(told)}</li>" for word, told in chart.notes.items())
    numbers = table("", chart.heads, chart.rows, "cards plain") if chart.rows else ""
    return (
        f"<figure><figcaption><b>{chart.title}</b>{escape(chart.about)}</figcaption>{on_page(chart)}"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + (f"<details><summary>in numbers</summary>{numbers}</details>" if numbers else "")
        + "</figure>"
    )


def _parts(report: dict[str, Any], found: dict[str, Any]) -> str:
    """Links to what the page holds, each with the words of its heading."""
    parts = {
        "accuracy": _SECTIONS["accuracy"],
        "charts": _SECTIONS["charts"],
        "problems-part": problems_title(report) if found["problems"]["columns"] else "",
        "searches-part": SEARCHES if any(entry["searches"].listed for entry in found["rounds"]) else "",
        "origins": _SECTIONS["origins"],
    }
    return "".join(f'<a href="#{key}">{escape(text)}</a>' for key, text in parts.items() if text)


def _headline(report: dict[str, Any]) -> str:
    """The outcome in a few words: from where to where, and the best round where it is not the last."""
    name = next(iter(report["sets"]), "")
    greedy = series(report, name, "greedy")
    if not greedy:
        return "not evaluated yet"
    first, last, best = min(greedy), max(greedy), best_round(greedy)
    end = percent(greedy[last]["accuracy"])
    if first == last:
        return f"{end} on {name} in round\u00a0{last}"
    higher = f" (best: {percent(greedy[best]['accuracy'])} in round\u00a0{best})" if best != last else ""
    return f"{percent(greedy[first]['accuracy'])} to {end} on {name} by round\u00a0{last}{higher}"


def best_round(figures: dict[int, dict[str, Any]]) -> int:
    """The round of the highest accuracy, of equal ones the last.

    Args:
        figures: by round, at least one.
    """
    return max(figures, key=lambda number: (figures[number]["accuracy"], number))


def _lead(report: dict[str, Any]) -> str:
    """The outcome in a sentence."""
    if not report["sets"]:
        return "Nothing was evaluated yet."
    name = report["sets"][0]
    greedy = series(report, name, "greedy")
    if not greedy:
        return "Nothing was evaluated greedily yet."
    first, last, best = min(greedy), max(greedy), best_round(greedy)
    before = f"{percent(greedy[first]['accuracy'])} in round\u00a0{first}, " if first != last else ""
    told = f"Of {greedy[last]['n']:,} problems of {name}, greedy decoding answers right: "
    told += f"{before}{_round_told(greedy, last)}."
    if best == last:
        return told
    return f"{told} The best round was not the last: {_round_told(greedy, best)}, picked in hindsight."


def _round_told(figures: dict[int, dict[str, Any]], number: int) -> str:
    found = figures[number]
    share, bounds = percent(found["accuracy"]), interval(found["ci95"])
    return f"{share} in round\u00a0{number} (95\u00a0%\u00a0interval {bounds})"


def _warnings(report: dict[str, Any], found: dict[str, Any]) -> str:
    """What a reader must know before the figures."""
    told = [
        f"Round {entry['round']} trained on {entry['contaminated']} problems of evaluation sets: "
        "its accuracy, and that of later rounds, is no held-out accuracy."
        for entry in report["rounds"]
        if "contaminated" in entry
    ]
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in told)
    notices = [
        f"Round {entry['round']} is not done: {escape(', '.join(left))}. What is not finished is not shown."
        for entry in found["rounds"]
        if (left := [name for name, told in entry["stages"].items() if told["status"] in ("running", "stopped")])
    ]
    if changed := found["changed"]:
        stages = ", ".join(dict.fromkeys(entry["stage"].split()[0] for entry in changed))
        count = f'<a href="#changed">{len(changed)} setting{"s" * (len(changed) > 1)}</a>'
        notices.append(f"Rounds differ in {count} of {escape(stages)}: bear that in mind when comparing them.")
    return warnings + "".join(f'<p class="notice">{text}</p>' for text in notices)
