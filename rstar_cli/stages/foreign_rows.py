"""Others' training rows, as rows of TRL's: each function takes a row and gives those that it holds.

| rows | fields | become |
|---|---|---|
| upstream's SFT rows | `query`, `response` | `prompt`, `completion` |
| upstream's PPM rows | `prompt`, `pos`, `neg`, perhaps `pos_count`, `neg_count` | `prompt`, `chosen`, `rejected` |
| ProcessBench | `problem`, `steps`, `label` | `prompt`, `completions`, `labels` |
| PRM800K | `question`, `label` | the same, a row for each step that has alternatives |
| Math-Shepherd | `input`, `label` | the same |

Upstream's are as its trainings read them (microsoft/rStar, branch rStar-math: `train/train_SFT.py`, `train/rm.py`, with
an example of each beside them). ProcessBench: Zheng et al. 2024, arXiv 2412.06559, and its card on the hub. PRM800K:
Lightman et al. 2023, arXiv 2305.20050, and the README of openai/prm800k. Math-Shepherd: Wang et al. 2023, arXiv
2312.08935; what TRL makes of it (`examples/datasets/math_shepherd.py`) told of its irregular rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rstar_cli.prompts import CODE, PROMPT_TAIL, render_prompt
from rstar_cli.stages.source import Source, kind_of

SHEPHERD_TAG = "ки"
"""Ends a step of Math-Shepherd's `input`; `label` has + or - in its place."""

_FIRST_STEP = re.compile("step 1:", re.IGNORECASE)
_FIX = "correct the field, or remove the row"


def upstream_sft(row: Source) -> Iterator[Source]:
    """A problem and its solution; prompt and completion together are the text that upstream trains on."""
    prompt, response = render_prompt(row.text("query")), row.text("response")
    if response.startswith(CODE) and response != CODE:
        response = response.removeprefix(CODE)
    else:
        prompt = prompt.removesuffix(CODE)
    yield _as(row, prompt=prompt, completion=response)


def upstream_pair(row: Source) -> Iterator[Source]:
    """A better and a worse continuation: steps, or whole solutions, which begin with the assistant's opening.

    As in upstream's loss a pair weighs one part of all that its node has.
    """
    prompt, good, bad = row.text("prompt"), row.text("pos"), row.text("neg")
    for head in (PROMPT_TAIL, CODE):
        if all(side.startswith(head) and side != head for side in (good, bad)):
            prompt, good, bad = prompt + head, good.removeprefix(head), bad.removeprefix(head)
            break
    pairs = _count(row, "pos_count") * _count(row, "neg_count")
    yield replace(_as(row, prompt=prompt, chosen=good, rejected=bad), weight=1 / pairs)


def process_bench(row: Source) -> Iterator[Source]:
    """The steps up to the first wrong one, which `label` names from 0; -1: all are right. None is known after it."""
    problem, steps, wrong = row.text("problem"), row.listed("steps"), row.fields["label"]
    if not isinstance(wrong, int) or isinstance(wrong, bool) or not -1 <= wrong < len(steps):
        raise row.error("label", f"expected -1 to {len(steps) - 1}, the first wrong step", _FIX)
    for i, step in enumerate(steps):
        _check_text(row, f"steps.{i}", step)
    known = steps if wrong < 0 else steps[: wrong + 1]
    yield _labelled(row, problem, known, [i != wrong for i in range(len(known))])


def prm800k(row: Source) -> Iterator[Source]:
    """The labelled solution, and for each alternative to one of its steps the steps before it and it.

    A rating of 0 (no mistake, no progress) counts as right, as in the paper's scores; TRL's conversion counts it as
    wrong. A step that a labeller wrote is right. What is not rated has no label and ends what can be learnt.
    """
    problem = _inner(row, "question", row.fields["question"], "problem")
    _check_text(row, "question.problem", problem)
    before: list[tuple[str, bool]] = []
    for i, step in enumerate(_list(row, "label.steps", _inner(row, "label", row.fields["label"], "steps"))):
        place = f"label.steps.{i}"
        if not isinstance(step, Mapping):
            raise row.error(place, f"expected a step, not {kind_of(step)}", _FIX)
        rated = _rated(row, f"{place}.completions", step.get("completions"))
        taken = _taken(row, place, step, rated)
        others = [found for found in rated.values() if found is not taken]
        for found in others:
            yield _labelled(row, problem, *zip(*before, found, strict=True))
        if taken is None:
            if others:
                return  # the steps before stand in each of them
            break
        before.append(taken)
    if before:
        yield _labelled(row, problem, *zip(*before, strict=True))


def _rated(row: Source, place: str, completions: object) -> dict[int, tuple[str, bool]]:
    """(text, right) of each rated completion of a step, by its number."""
    found = {}
    for k, each in enumerate(_list(row, place, completions)):
        text, rating = _inner(row, f"{place}.{k}", each, "text"), _inner(row, f"{place}.{k}", each, "rating")
        if rating not in (None, -1, 0, 1) or isinstance(rating, bool):
            raise row.error(f"{place}.{k}.rating", "expected -1, 0, 1 or null", _FIX)
        if rating is not None:
            _check_text(row, f"{place}.{k}.text", text)
            found[k] = text, rating >= 0
    return found


def _taken(
    row: Source, place: str, step: Mapping[str, Any], rated: Mapping[int, tuple[str, bool]]
) -> tuple[str, bool] | None:
    """The completion that the solution goes on from, if it is rated, or what a labeller wrote; None: it ends here."""
    chosen, written = step.get("chosen_completion"), step.get("human_completion")
    if chosen is None:
        text = written.get("text") if isinstance(written, Mapping) else written
        if text is None:
            return None
        _check_text(row, f"{place}.human_completion", text)
        return text, True
    if not isinstance(chosen, int) or not 0 <= chosen < len(step.get("completions") or ()):
        raise row.error(f"{place}.chosen_completion", "expected the number of a completion, from 0, or null", _FIX)
    return rated.get(chosen)


def math_shepherd(row: Source) -> Iterator[Source]:
    """The steps of `input`, each closed by a tag; the problem stands before the first.

    The first step begins with "Step 1:", else after the problem's question mark. Tags within the problem are left out.
    """
    text, marks = row.text("input"), row.text("label")
    pieces = text.split(SHEPHERD_TAG)[:-1]
    if not pieces:
        raise row.error("input", f"has no step: none is closed by {SHEPHERD_TAG}", _FIX)
    labels, at = [], -1
    for i, piece in enumerate(pieces):
        at += len(piece) + 1  # a tag of `input` is one character of `label`
        if marks[at : at + 1] not in ("+", "-"):
            raise row.error("label", f"has neither + nor - at the end of step {i + 1} of `input`", _FIX)
        labels.append(marks[at] == "+")
    first = next((i for i, piece in enumerate(pieces) if _FIRST_STEP.search(piece)), 0)
    found = _FIRST_STEP.search(pieces[first])
    begin = found.start() if found else pieces[0].rfind("?") + 1
    problem = "".join([*pieces[:first], pieces[first][:begin]]).strip()
    if not problem:
        raise row.error("input", "can't tell the problem from the first step", "let the first step begin with Step 1:")
    steps = [piece.strip() for piece in (pieces[first][begin:], *pieces[first + 1 :])]
    if not steps[0]:  # the problem has a tag of its own
        steps, first = steps[1:], first + 1
    if not steps or not all(steps):
        raise row.error("input", "has a step without text", _FIX)
    yield _labelled(row, problem, steps, labels[first:])


def _as(row: Source, **fields: object) -> Source:
    """The same row with TRL's fields; `problem_id` is kept."""
    kept = {name: row.fields[name] for name in ("problem_id",) if name in row.fields}
    return replace(row, fields={**fields, **kept})


def _labelled(row: Source, problem: str, steps: Sequence[str], labels: Sequence[bool]) -> Source:
    return _as(row, prompt=f"{problem}\n", completions=list(steps), labels=list(labels))


def _count(row: Source, name: str) -> int:
    """How many of a node's continuations are paired; 1 where nothing is told, or none."""
    value = row.fields.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise row.error(name, f"expected a count, not {kind_of(value)}", _FIX)
    return value or 1


def _inner(row: Source, place: str, value: object, name: str) -> Any:
    """A field of an object within a row."""
    if not isinstance(value, Mapping):
        raise row.error(place, f"expected an object with {name}, not {kind_of(value)}", _FIX)
    if name not in value:
        raise row.error(f"{place}.{name}", "is missing", _FIX)
    return value[name]


def _list(row: Source, place: str, value: object) -> list[Any]:
    """A list within a row; nothing is an empty one."""
    if value is not None and not isinstance(value, list):
        raise row.error(place, f"expected a list, not {kind_of(value)}", _FIX)
    return value or []


def _check_text(row: Source, place: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise row.error(place, f"expected text, not {kind_of(value)}", _FIX)
