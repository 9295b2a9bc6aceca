"""`report.html`: what a run did and what came of it, in one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from rstar_cli.layout import RunDir, write_bytes
from rstar_cli.report.charts import charts
from rstar_cli.report.collect import collect, series, shown_methods
from rstar_cli.report.gather import gather


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


def write_page(run: RunDir) -> Path:
    """Write `report.html` into the run and return its path.

    Raises:
        DataError: a file of the run is damaged.
        StorageError: the page can't be written.
    """
    path = run.root / "report.html"
    write_bytes(path, report_page(collect(run), gather(run), run.root.resolve().name).encode())
    return path


def report_page(report: dict[str, Any], found: dict[str, Any], name: str) -> str:
    """The page.

    Args:
        report: as `collect` gives it.
        found: as `gather` gives it.
        name: of the run.
    """
    drawn = charts(report, found)
    curve = [svg for title, _, svg in drawn if title == "Accuracy by round"]
    others = [
        f"<figure><figcaption><b>{title}</b>{about}</figcaption>{svg}</figure>"
        for title, about, svg in drawn
        if title != "Accuracy by round"
    ]
    return assemble(
        "report",
        TITLE=f"{escape(name)}: report",
        LEAD=escape(_lead(report)),
        WARNINGS="".join(f'<p class="warning">{escape(text)}</p>' for text in _warnings(report)),
        CURVE="".join(curve) or "<p>Nothing was evaluated yet.</p>",
        TABLES="".join(_accuracies(report, name) for name in report["sets"]),
        CHARTS="".join(others) or "<p>No round was searched yet.</p>",
        PROBLEMS=_problems(report, found["problems"]),
        COST=_cost(found["rounds"]),
        CHANGED=_changed(found["changed"]),
        ORIGINS=_table("Origins", ["", ""], [[k, v] for k, v in found["origins"].items()], "words"),
        DATA=as_json(found["problems"]),
    )


def _lead(report: dict[str, Any]) -> str:
    """The outcome in a sentence."""
    if not report["sets"]:
        return "Nothing was evaluated yet."
    name = report["sets"][0]
    greedy = series(report, name, "greedy")
    first, last = min(greedy), max(greedy)
    (low, high), n = greedy[last]["ci95"], greedy[last]["n"]
    told = f"round {last} answers {_percent(greedy[last]['accuracy'])} of {n} problems of {name} (95 % interval "
    told += f"{_percent(low)} to {_percent(high)}), greedily"
    if first == last:
        return told[0].upper() + told[1:] + "."
    return f"From {_percent(greedy[first]['accuracy'])} in round {first}: {told}."


def _warnings(report: dict[str, Any]) -> list[str]:
    return [
        f"Round {entry['round']} trained on {entry['contaminated']} problems of evaluation sets: "
        "its accuracy, and that of later rounds, is no held-out accuracy."
        for entry in report["rounds"]
        if "contaminated" in entry
    ]


def _accuracies(report: dict[str, Any], name: str) -> str:
    methods = shown_methods(report, name)
    found = {method: series(report, name, method) for method in methods}
    numbers = sorted({number for figures in found.values() for number in figures})
    rows = [[f"round {n}", *(_told(found[method].get(n)) for method in methods)] for n in numbers]
    counts = ["problems", *(str(max((f["n"] for f in found[m].values()), default="")) for m in methods)]
    return _table(f"{name}: accuracy by method", ["", *methods], [*rows, counts], raw=True)


def _told(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    low, high = figures["ci95"]
    return f"{_percent(figures['accuracy'])}<small>{_percent(low)} to {_percent(high)}</small>"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _problems(report: dict[str, Any], problems: dict[str, Any]) -> str:
    if not problems["columns"]:
        return ""
    choices = {
        "all": "all problems",
        "wrong": "wrong in the last round",
        "right": "right in the last round",
        "learnt": "learnt: wrong at first, right at last",
        "lost": "lost: right once, wrong at last",
        "never": "never right",
    }
    options = "".join(f'<option value="{value}">{text}</option>' for value, text in choices.items())
    heads = "".join(f"<th>round {number}</th>" for number in problems["columns"])
    return f"""<section>
  <h2>Problems of {escape(report["sets"][0])}, greedily</h2>
  <div class="tools">
    <input id="search" type="search" placeholder="words of the problem" aria-label="Words of the problem">
    <select id="keep" aria-label="Which problems">{options}</select>
    <button id="back" type="button">&#9664;</button><button id="on" type="button">&#9654;</button>
    <span id="count" class="hint"></span>
  </div>
  <div class="scrolls"><table class="words"><thead><tr><th>problem</th><th>gold</th>{heads}</tr></thead>
  <tbody id="problems"></tbody></table></div>
  <p class="hint">How a training problem was searched:
  <code>rstar show --round N --problem ID --html tree.html</code></p>
</section>"""


def _cost(rounds: Sequence[dict[str, Any]]) -> str:
    stages = list(dict.fromkeys(name for entry in rounds for name in entry["stages"]))
    rows = []
    for stage in stages:
        told = [entry["stages"].get(stage) for entry in rounds]
        cells = ["–" if t is None else f"{t['seconds']:,.0f} s<small>{_tokens(t['tokens'])}</small>" for t in told]
        rows.append([escape(stage), *cells])
    return _table("Time and generated tokens", ["", *(f"round {e['round']}" for e in rounds)], rows, raw=True)


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count else ""


def _changed(changed: Iterable[dict[str, Any]]) -> str:
    rows = [
        [entry["stage"], entry["setting"], ", ".join(f"round {n}: {value}" for n, value in entry["values"].items())]
        for entry in changed
    ]
    if not rows:
        return ""
    return _table("Settings that differ between rounds", ["stage", "setting", "values"], rows, "words")


def _table(
    title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", *, raw: bool = False
) -> str:
    """A table under a heading; cells are escaped unless they are HTML already (`raw`)."""
    text = (lambda cell: cell) if raw else escape
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    return (
        f'<h3>{escape(title)}</h3><div class="scrolls"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'
    )
