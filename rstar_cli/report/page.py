"""`report.html`: what a run did and what came of it, in one file that needs nothing else."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from rstar_cli.layout import RunDir, write_bytes
from rstar_cli.report.charts import charts, on_page, themed, write_charts
from rstar_cli.report.collect import collect, series
from rstar_cli.report.figure import draw_curve, draw_figure
from rstar_cli.report.gather import gather
from rstar_cli.report.tables import (
    accuracies,
    asked,
    changed_settings,
    cost,
    listed_searches,
    percent,
    reward_models,
    searched,
    subjects,
    table,
    training_data,
)

_CLAIMED = """<p class="hint">The dashed curves are claims of others, for a 7B model on MATH;
nothing of them was measured here.</p>"""


def assemble(name: str, **parts: str) -> str:
    """A page of `report/page/`: its HTML with its style, its script, and parts put in their places."""
    folder = resources.files("rstar_cli").joinpath("report/page")
    html, style, script = (folder.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
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
    figures = [
        f"<figure><figcaption><b>{chart.title}</b>{escape(chart.about)}</figcaption>{on_page(chart)}</figure>"
        for chart in charts(report, found)
    ]
    searches = listed_searches(found["rounds"])
    return assemble(
        "report",
        TITLE=f"{escape(name)}: report",
        LEAD=escape(_lead(report)),
        WARNINGS=_warnings(report, found),
        PARTS=_parts(report, found),
        CURVE="".join(f'<div class="{kind}">{themed(svg)}</div>' for kind, svg in curve.items())
        + (_CLAIMED if curve else "<p>Nothing was evaluated yet: <code>rstar status</code> names the command.</p>"),
        TABLES="".join((*accuracies(report), subjects(report), reward_models(report))),
        CHARTS="".join(figures) or "<p>No round was searched yet.</p>",
        PROBLEMS=asked(report, found["problems"]) + searched(searches),
        DATA_TABLE=training_data(report),
        COST=cost(found["rounds"]),
        CHANGED=changed_settings(found["changed"]),
        ORIGINS=table("Origins", ["", ""], [[k, v] for k, v in found["origins"].items()], "words"),
        DATA=as_json({"problems": found["problems"], "searches": searches}),
    )


def _parts(report: dict[str, Any], found: dict[str, Any]) -> str:
    """Links to what the page holds."""
    parts = {
        "accuracy": "Accuracy",
        "charts": "Charts",
        "problems-part": f"Problems of {report['sets'][0]}" if found["problems"]["columns"] else "",
        "searches-part": "Searches" if any(entry["searches"].listed for entry in found["rounds"]) else "",
        "origins": "Data, cost, origins",
    }
    return "".join(f'<a href="#{key}">{escape(text)}</a>' for key, text in parts.items() if text)


def _lead(report: dict[str, Any]) -> str:
    """The outcome in a sentence."""
    if not report["sets"]:
        return "Nothing was evaluated yet."
    name = report["sets"][0]
    greedy = series(report, name, "greedy")
    if not greedy:
        return "Nothing was evaluated greedily yet."
    first, last = min(greedy), max(greedy)
    before = f"{percent(greedy[first]['accuracy'])} in round {first}, " if first != last else ""
    (low, high), n = greedy[last]["ci95"], greedy[last]["n"]
    told = f"{percent(greedy[last]['accuracy'])} in round {last} (95 % interval {percent(low)} to {percent(high)})"
    return f"Of {n} problems of {name}, greedy decoding answers right: {before}{told}."


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
