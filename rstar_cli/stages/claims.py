"""What a row of outputs claims, and the answer to hold against it: in rows of ours, and as other tools write theirs.

| row | what is checked | gold |
|---|---|---|
| ours: `answer` and one of `prediction`, `solution`, `code` | that one | `answer` |
| of lm-evaluation-harness: `target`, `filtered_resps`, `resps` | what its filter found | the answer in `target` |
| upstream's: `answer` and a search tree in `rstar` | the solution of highest `q_value` | `answer` |

What the filter found is a `prediction`; a `solution` where it is the whole response.
The harness writes them by `lm_eval --log_samples`, upstream (microsoft/rStar, branch rStar-math) by `main.py`; its
`eval_output.py` chooses the same node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rstar_cli.errors import DataError
from rstar_cli.jsonl import Aside
from rstar_cli.problems.fields import final_answer
from rstar_cli.stages.foreign_trees import NO_ANSWERS
from rstar_cli.stages.sample_log import INVALID

KINDS = ("prediction", "solution", "code")
"""Fields that hold what is checked; a row of ours has just one of them."""

Row = dict[str, Any]


class Claim(NamedTuple):
    """What is to be checked.

    Attributes:
        kind: one of `KINDS`.
        text: what stands there; empty where there is nothing.
        gold: the right answer; empty where there is nothing to compare with.
    """

    kind: str
    text: str
    gold: str


def claim(row: Row, origin: str, line: int) -> Claim:
    """What a row claims.

    Args:
        row: its fields.
        origin: the file, for messages.
        line: the line, from 1.

    Raises:
        DataError: there is nothing to check or to compare with, or more than one thing; names the field.
    """
    given = [kind for kind in KINDS if row.get(kind) is not None]
    if not given and "filtered_resps" in row:
        kind, text = _harness(row, origin, line)
        return Claim(kind, text, final_answer(_text(row, "target", origin, line)))
    if not given and isinstance(row.get("rstar"), dict):
        return Claim("solution", _best(row["rstar"], origin, line), _text(row, "answer", origin, line))
    if len(given) != 1:
        raise DataError(
            f"has {' and '.join(given) or 'none'} of {', '.join(KINDS)}; a row has just one",
            path=origin,
            line=line,
            remedy="Leave one of them." if given else "Add one of them: that is what is checked.",
        )
    return Claim(given[0], _text(row, given[0], origin, line), _text(row, "answer", origin, line))


def try_claim(row: Row, origin: str, line: int, aside: Aside) -> Claim | None:
    """The same; None for a bad row, which goes to `aside`."""
    try:
        return claim(row, origin, line)
    except DataError as error:
        aside.take(error)
        return None


def _text(row: Row, name: str, origin: str, line: int) -> str:
    """A field's text; empty where there is no value."""
    if name not in row:
        raise DataError(
            "is missing: there is nothing to compare with",
            path=origin,
            line=line,
            field=name,
            remedy=f'Name the gold answer "{name}", or write "{name}": "" for a bare run.',
        )
    value = row[name]
    if value is not None and not isinstance(value, str | int | float):
        raise DataError("must be text", path=origin, line=line, field=name)
    return "" if value is None else str(value)


def _harness(row: Row, origin: str, line: int) -> tuple[str, str]:
    """(kind, text) of what the harness's filter found."""
    found = row["filtered_resps"]
    while isinstance(found, list) and len(found) == 1:  # a filter may leave a list, even of one
        found = found[0]
    if not isinstance(found, str):
        raise DataError(
            "expected one text: what a filter found in the response",
            path=origin,
            line=line,
            field="filtered_resps",
            remedy="Log a task that generates text, with a filter that leaves one answer (take_first, majority_vote).",
        )
    if found == INVALID:
        return "solution", ""
    return "solution" if row.get("resps") == [[found]] else "prediction", found


def _best(nodes: Mapping[str, Any], origin: str, line: int) -> str:
    """The text from the root of upstream's tree to the answer node of highest Q, the first of equals; else empty."""
    for tag, node in nodes.items():
        told = isinstance(node, Mapping) and isinstance(node.get("text"), str)
        if not told or not isinstance(node.get("q_value", 0), int | float):
            field, why = f"rstar.{tag}", "expected a node with a text and a q_value"
            raise DataError(why, path=origin, line=line, field=field, remedy="Give a tree as upstream saves it.")
    answers = {tag: node.get("q_value", 0) for tag, node in nodes.items() if _answers(node)}
    if not answers:
        return ""
    parts = max(answers, key=lambda tag: answers[tag]).split(".")
    above = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return "".join(nodes[tag]["text"] for tag in above if tag in nodes)


def _answers(node: Mapping[str, Any]) -> bool:
    return bool(node.get("final_answer")) and node["final_answer"] not in NO_ANSWERS
