"""The tables of the report page, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from rstar_cli.config import STAGES
from rstar_cli.report.bars import duration, time_unit
from rstar_cli.report.collect import series, shown_methods, told_methods
from rstar_cli.report.searches import MOST

_COUNTS = {
    "problems": "problems searched",
    "solved": "with a right solution",
    "solutions": "finished solutions",
    "sft": "rows for the policy",
    "pairs": "pairs for the PRM",
    "step labels": "labelled solutions for the PRM",
}
_PAIRS = {"all": "all pairs", "step": "pairs of steps", "solution": "pairs of solutions"}
_BY_PROBLEM = """<p class="hint">n is the number of pairs. The intervals count by problem, of which there are fewer:
pairs of one problem tend to be right or wrong together.</p>"""
_KEEP = {
    "all": "all problems",
    "wrong": "wrong in the last round",
    "right": "right in the last round",
    "learnt": "learnt: wrong at first, right at last",
    "lost": "lost: right once, wrong at last",
    "never": "never right",
}
SEARCHES = "Searches of training problems"
_SOLVED = {"unsolved": "not solved", "solved": "solved", "all": "all searches"}


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", *, raw: bool = False) -> str:
    """A table under a heading; cells are escaped unless they are HTML already (`raw`).

    Args:
        title: of the table; empty: what stands above it says enough.
        heads: of its columns; all empty: there is no row of heads.
        rows: cells by row.
        kind: `words`: text, not numbers; `cards`: on a phone each row is a block of its own, a line a cell.
        raw: see above.
    """
    text = (lambda cell: cell) if raw else escape
    named = [escape(name) for name in heads]
    head = "".join(f"<th>{name}</th>" for name in named)
    body = "".join(
        "<tr>" + "".join(f'<td data-head="{n}">{text(c)}</td>' for n, c in zip(named, row, strict=True)) + "</tr>"
        for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    named_so = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{named_so}<div class="scrolls"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def percent(share: float) -> str:
    """A share in [0, 1] in percent, with a decimal; it does not break over lines."""
    return f"{100 * share:.1f}\u00a0%"


def interval(bounds: Sequence[float]) -> str:
    """A 95 % interval, in one piece."""
    low, high = map(percent, bounds)
    return f"{low}\u00a0to\u00a0{high}"


def accuracies(report: dict[str, Any], same: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """The sets by their methods, the main one first; those of greedy decoding alone in one table.

    Args:
        report: as `collect` gives it.
        same: by set and round, greedy decoding on the problems of the other methods, see `gather`.
    """
    if not report["sets"]:
        return []
    main = report["sets"][0]
    plain = [name for name in report["sets"] if shown_methods(report, name) == ["greedy"]]
    title = "Greedy accuracy by set" if main in plain else "Other sets: greedy accuracy"
    tables = [
        _by_round(f"{name}: accuracy by method", _columns(report, name, same.get(name, {})))
        for name in report["sets"]
        if name not in plain
    ]
    if costs := _costs(report):
        tables.insert(1, costs)
    if plain:
        tables.append(_by_round(title, {name: series(report, name, "greedy") for name in plain}))
    return tables


def _columns(
    report: dict[str, Any], name: str, same: dict[int, dict[str, Any]]
) -> dict[str, dict[int, dict[str, Any]]]:
    """Figures of a set by method and round; after `greedy` what it makes of the other methods' problems."""
    greedy, *others = told_methods(report, name)
    columns = {greedy: series(report, name, greedy)}
    if same:
        columns[f"greedy, the same {_most(same)}"] = same
    return columns | {method: series(report, name, method) for method in others}


def _by_round(title: str, columns: dict[str, dict[int, dict[str, Any]]]) -> str:
    """A row a round, a column a method or set: accuracy over its 95 % interval."""
    numbers = sorted({number for figures in columns.values() for number in figures})
    rows = [[f"round {n}", *(_told(figures.get(n)) for figures in columns.values())] for n in numbers]
    counts = ["problems", *(_most(found) for found in columns.values())]
    return table(f"{title}, 95\u00a0%\u00a0intervals", ["", *columns], [*rows, counts], "cards tight", raw=True)


def _most(found: dict[int, dict[str, Any]]) -> str:
    """Of how many problems figures by round are."""
    return f"{max(figures['n'] for figures in found.values()):,}" if found else "–"


def _costs(report: dict[str, Any]) -> str:
    """Generated tokens of the main set's methods in the last round that evaluated it; of one method there is none."""
    main = report["sets"][0]
    number, found = next((e["round"], e["eval"][main]) for e in reversed(report["rounds"]) if main in e["eval"])
    methods = [method for method in told_methods(report, main) if method in found]
    if len(methods) < 2:
        return ""
    rows = [["a problem", *(f"{found[method]['tokens'] / found[method]['n']:,.0f}" for method in methods)]]
    solved = [found[method].get("tokens_per_solved") for method in methods]
    if any(solved):
        rows.append(["a solved problem", *("–" if cost is None else f"{cost:,.0f}" for cost in solved)])
    return table(f"{main}: generated tokens, round {number}", ["", *methods], rows, "cards")


def _told(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return "–"
    low, high = figures["ci95"]  # one sign for both: many columns must find room
    return f"{percent(figures['accuracy'])}<small>{100 * low:.1f}\u00a0to\u00a0{percent(high)}</small>"


def subjects(report: dict[str, Any]) -> str:
    """Greedy accuracy on the main set by subject and round, where its problems have subjects."""
    found = series(report, report["sets"][0], "greedy") if report["sets"] else {}
    names = sorted({name for figures in found.values() for name in figures.get("by_subject") or {}})
    if not names:
        return ""
    rows = [[escape(name), *(_told((f.get("by_subject") or {}).get(name)) for f in found.values())] for name in names]
    heads = ["", *(f"round {number}" for number in found)]
    return table(
        f"{report['sets'][0]}: greedy accuracy by subject, 95\u00a0%\u00a0intervals", heads, rows, "cards", raw=True
    )


def reward_models(report: dict[str, Any]) -> str:
    """How often each round's PRM ranks held-out pairs right."""
    known = {entry["round"]: entry["prm"] for entry in report["rounds"] if "prm" in entry}
    kinds = [kind for kind in _PAIRS if any(kind in found for found in known.values())]
    columns = {_PAIRS[kind]: {n: found[kind] for n, found in known.items() if kind in found} for kind in kinds}
    numbers = list(known)
    rows = [[f"round {n}", *(_counted(figures.get(n)) for figures in columns.values())] for n in numbers]
    title = "Process reward model (PRM): held\u2011out pairs ranked right, 95\u00a0%\u00a0intervals"
    return table(title, ["", *columns], rows, "cards", raw=True) + _BY_PROBLEM if known else ""


def _counted(figures: dict[str, Any] | None) -> str:
    return "–" if figures is None else _told(figures).replace("</small>", f", n\u00a0=\u00a0{figures['n']:,}</small>")


def training_data(report: dict[str, Any]) -> str:
    """What each round's searches left to train on, a row a round."""
    known = {entry["round"]: entry["counts"] for entry in report["rounds"] if "counts" in entry}
    columns = {key: told for key, told in _COUNTS.items() if any(key in counts for counts in known.values())}
    rows = [
        [f"round {number}", *(f"{counts[key]:,}" if key in counts else "–" for key in columns)]
        for number, counts in known.items()
    ]
    return table("Training data", ["", *columns.values()], rows, "cards plain") if columns else ""


def problems_title(report: dict[str, Any]) -> str:
    """Heading of the main set's problems."""
    return f"Problems of {report['sets'][0]}"


def asked(report: dict[str, Any], problems: dict[str, Any]) -> str:
    """The main set's problems with each round's answers, which the page's script fills in."""
    if not problems["columns"]:
        return ""
    heads = ["problem", "gold", *(f"round {number}" for number in problems["columns"])]
    if problems["sampled"] is not None:
        heads.append(f"samples of round {problems['sampled']}")
    about = "Answers of greedy decoding"
    if problems["sampled"] is not None:
        about += (
            "; of samples how often each answer came, and the PRM's mean value of it (−1 to 1), where there is a PRM"
        )
    return _finder("problems", problems_title(report), f"{about}.", heads, _KEEP)


def listed_searches(rounds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By round that was searched, {round, rows, in_all}: see `Searches`."""
    return [
        {"round": entry["round"], "rows": entry["searches"].listed, "in_all": entry["searches"].in_all}
        for entry in rounds
        if entry["searches"].listed
    ]


def searched(searches: Sequence[dict[str, Any]]) -> str:
    """Training problems and what their searches came to, which the page's script fills in."""
    if not searches:
        return ""
    heads = ["problem", "gold", "right solutions", "answers", "dropped steps"]
    cut = f" Of a round with more than {MOST:,}, these are the unsolved ones first." if _any_cut(searches) else ""
    about = "Why a search failed: the answers it came to, the commonest first, and the candidate steps that were "
    about += f"dropped.{cut} The command below a problem draws its search step by step; with <code>--prm last</code> "
    about += "it tells the PRM's value of each step too."
    rounds = {str(entry["round"]): f"round {entry['round']}" for entry in reversed(searches)}
    return _finder("searches", SEARCHES, about, heads, _SOLVED, rounds)


def _any_cut(searches: Sequence[dict[str, Any]]) -> bool:
    return any(entry["in_all"] > len(entry["rows"]) for entry in searches)


def _finder(
    name: str,
    title: str,
    about: str,
    heads: Sequence[str],
    choices: dict[str, str],
    rounds: dict[str, str] | None = None,
) -> str:
    """A table that is searched, filtered and leafed through: its frame; `about` is HTML."""
    selects = [(f"{name}-keep", "Which problems", choices)]
    if rounds is not None:
        selects.insert(0, (f"{name}-round", "Which round", rounds))
    options = "".join(
        f'<select id="{key}" aria-label="{label}">'
        + "".join(f'<option value="{value}">{text}</option>' for value, text in values.items())
        + "</select>"
        for key, label, values in selects
    )
    named = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return f"""<section>
  <h2 id="{name}-part">{escape(title)}</h2>
  <p class="hint">{about}</p>
  <div class="tools">
    <input id="{name}-search" type="search" placeholder="words or id" aria-label="Words or id of a problem">
    {options}
    <button id="{name}-back" type="button" aria-label="Page back">&#9664;</button>
    <button id="{name}-on" type="button" aria-label="Page on">&#9654;</button>
    <span id="{name}-count" class="hint" aria-live="polite"></span>
  </div>
  <div class="scrolls"><table class="words cards"><thead><tr>{named}</tr></thead>
  <tbody id="{name}"></tbody></table></div>
</section>"""


def cost(rounds: Sequence[dict[str, Any]]) -> str:
    """Time and generated tokens of each stage by round, with their sums."""
    stages = list(dict.fromkeys(name for entry in rounds for name in entry["stages"]))
    order = list(STAGES)
    stages.sort(key=lambda name: order.index(name.split()[0]) if name.split()[0] in order else len(order))
    if not stages:
        return ""
    evaluations = [stage for stage in stages if stage.startswith("evaluate ")]
    summed = {stage: [stage] for stage in stages}
    if len(evaluations) > 1:
        summed["evaluate, together"] = evaluations
    summed["all stages"] = stages
    unit, size = time_unit(rounds)
    rows = []
    for name, parts in summed.items():
        told = [[entry["stages"][part] for part in parts if part in entry["stages"]] for entry in rounds]
        cells = [_spent(found, size) for found in told]
        if len(rounds) > 1:
            cells.append(_spent([stage for found in told for stage in found], size))
        rows.append([escape(name), *cells])
    heads = ["", *(f"round {entry['round']}" for entry in rounds), *(["all rounds"] if len(rounds) > 1 else [])]
    return table(f"Time ({unit}) and generated tokens", heads, rows, "cards sums", raw=True)


def _spent(stages: Sequence[dict[str, Any]], size: int) -> str:
    """Time and tokens of stages together, and that one is not done; the tokens where there are any."""
    if not stages:
        return "–"
    tokens = sum(stage["tokens"] for stage in stages)
    going = any(stage["status"] in ("running", "stopped") for stage in stages)
    told = [*([f"{tokens:,}\u00a0tokens"] if tokens else []), *(["not done yet"] if going else [])]
    return f"{escape(duration(sum(stage['seconds'] for stage in stages) / size))}<small>{', '.join(told)}</small>"


def origins(found: dict[str, Any]) -> str:
    """Where the figures come from, and the hashes of what was trained on.

    Args:
        found: as `gather` gives it.
    """
    # a space within a part does not break, one between parts does
    rows = [
        [name, ", ".join(text.replace(" ", "\u00a0") for text in texts)] for name, texts in found["origins"].items()
    ]
    kinds = list(dict.fromkeys(name for hashes in found["hashes"].values() for name in hashes))
    hashed = [
        [f"round {number}", *(hashes.get(kind, "–") for kind in kinds)] for number, hashes in found["hashes"].items()
    ]
    told = table("Origins", ["", ""], rows, "words")
    title = "SHA\u2011256 of what each round's training rows were made from"
    return told + (table(title, ["", *kinds], hashed, "words cards hashes") if hashed else "")


def changed_settings(changed: Iterable[dict[str, Any]]) -> str:
    """Settings that are not the same in all rounds."""
    rows = [
        [
            entry["stage"],
            entry["setting"],
            ", ".join(f"round\u00a0{n}:\u00a0{value}" for n, value in entry["values"].items()),
        ]
        for entry in changed
    ]
    if not rows:
        return ""
    heads = ["stage", "setting", "values"]
    return f'<div id="changed">{table("Settings that differ between rounds", heads, rows, "words cards")}</div>'
