"""Training rows from plain files: our own artifacts, the formats that TRL documents, and those of known data sets.

| for | fields of TRL's format | the same as | and of others (`foreign_rows`) |
|---|---|---|---|
| policy | `prompt`, `completion`; `messages`; or `text` | `SftRow` | upstream's SFT rows |
| pairs of the PRM | `chosen`, `rejected`, perhaps `prompt` | `PairRow` | upstream's PPM rows |
| step labels of the PRM | `prompt`, `completions`, `labels` | `StepLabelRow` | ProcessBench, PRM800K, Math-Shepherd |

A file is JSON lines, JSON, CSV or parquet and holds one format; other columns are ignored. Text becomes segments, each
tokenised by itself as in search: a solution in the step format is cut at its closing tags, and what programs printed
takes no loss. Where TRL has a list of messages they are rendered by the model's chat template, and only what the
assistant says is learnt. A solution that does not end with an answer's tag is followed by the tokenizer's end token, as
in TRL. `problem_id` is taken where a row has one; else rows of one prompt are one problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rstar_cli.errors import DataError
from rstar_cli.jsonl import STRICT, Aside, parse_row
from rstar_cli.problems.formats import read_file
from rstar_cli.prompts import ANSWER_END, PROMPT_TAIL, STEP_STOPS, split_solution
from rstar_cli.records import PairRow, Row, RowSegment, SftRow, StepLabelRow
from rstar_cli.stages import foreign_rows
from rstar_cli.stages.chat import Chat
from rstar_cli.stages.source import Source, kind_of

RowT = TypeVar("RowT", bound=Row)


def read_sft(path: Path, model: str, aside: Aside = STRICT) -> list[SftRow]:
    """Rows to train a policy on.

    Args:
        path: the file.
        model: the policy that will be trained: its tokenizer knows the end token and the chat template.
        aside: takes bad lines.

    Raises:
        DataError: no such file, no row, or a bad one; names line and field.
        StorageError: the file can't be read.
        SetupError: the model's tokenizer can't be found.
    """
    return _read(path, SftRow, "steps", SFT_FORMATS, Chat(model), aside)


def read_pairs(path: Path, model: str, aside: Aside = STRICT) -> list[PairRow]:
    """Preference pairs to train a PRM on; arguments and errors as of `read_sft`."""
    return _read(path, PairRow, "prefix", PAIR_FORMATS, Chat(model), aside)


def read_step_labels(path: Path, model: str, aside: Aside = STRICT) -> list[StepLabelRow]:
    """Solutions with labelled steps to train a PRM on; arguments and errors as of `read_sft`."""
    return _read(path, StepLabelRow, "values", LABEL_FORMATS, Chat(model), aside)


class Format(NamedTuple, Generic[RowT]):
    """A format: the columns that it needs, how a row of TRL's is read, and what makes rows of TRL's of its rows."""

    fields: tuple[str, ...]
    read: Callable[[Source, Chat], RowT]
    translate: Callable[[Source], Iterable[Source]] = lambda row: (row,)

    def __str__(self) -> str:
        return ", ".join(self.fields)

    def fits(self, fields: Mapping[str, Any]) -> bool:
        """Whether a row has all columns."""
        return all(name in fields for name in self.fields)


def _read(
    path: Path, own: type[RowT], mark: str, formats: Sequence[Format[RowT]], chat: Chat, aside: Aside
) -> list[RowT]:
    """The rows of a file, all of the format of the first one; it is ours where that has the field `mark`."""
    read: list[RowT] = []
    chosen: Format[RowT] | None = None
    row = None
    for line, fields in read_file(path, aside):
        row = Source(path, line, fields)
        try:
            if chosen is None:
                chosen = Format((mark,), _ours(own)) if mark in fields else _choose(row, own, formats)
            read += [chosen.read(each, chat) for each in chosen.translate(_alike(row, chosen, formats))]
        except DataError as error:
            aside.take(error)
    if not read:
        why = "there is no row in it" if row is None else "every row of it is bad, or has no label"
        raise DataError(why, path=path, remedy=f"Give a file of rows of {_any_of(own, formats)}.")
    return read


def _ours(own: type[RowT]) -> Callable[[Source, Chat], RowT]:
    return lambda row, _: parse_row(row.fields, own, row.path, row.line)


def _choose(first: Source, own: type[RowT], formats: Sequence[Format[RowT]]) -> Format[RowT]:
    """The format of a row.

    Raises:
        DataError: it has none.
    """
    for each in formats:
        if each.fits(first.fields):
            return each
    raise DataError(
        f"no training row: it has {', '.join(first.fields) or 'no field'}",
        path=first.path,
        line=first.line,
        remedy=_for_another(first.fields) or f"Give rows of {_any_of(own, formats)}.",
    )


def _alike(row: Source, chosen: Format[RowT], formats: Sequence[Format[RowT]]) -> Source:
    """The row, if it is of the chosen format.

    Raises:
        DataError: it is of another one, or of none.
    """
    if not chosen.fits(row.fields):
        other = next((each for each in formats if each.fits(row.fields)), None)
        missing = next(name for name in chosen.fields if name not in row.fields)
        why = f"a row of {other}, where the first row has {chosen}" if other else "is missing"
        raise row.error(missing, why, f"every row of this file must have {chosen}")
    return row


def _for_another(fields: Mapping[str, Any]) -> str:
    """What a row is good for that is not of the kind that was asked for; empty where it is none of ours or TRL's."""
    fitting = (command for command, formats in KINDS.items() if any(each.fits(fields) for each in formats))
    return "".join(f"This is a row for `rstar {command}`." for command in list(fitting)[:1])


def _any_of(own: type[Row], formats: Sequence[Format[Any]]) -> str:
    return "; ".join([*map(str, formats)]) + f"; or our own {own.__name__}"


def _prompt_completion(row: Source, chat: Chat) -> SftRow:
    if row.is_chat("prompt") or row.is_chat("completion"):
        before = row.messages("prompt")
        return _spoken(row, chat, before + row.messages("completion"), len(before), "completion")
    prompt, completion = row.text("prompt", empty=True), row.text("completion")
    return _sft(row, prompt, ended(split_solution(completion), chat))


def _messages(row: Source, chat: Chat) -> SftRow:
    return _spoken(row, chat, row.messages("messages"), 0, "messages")


def _text(row: Source, chat: Chat) -> SftRow:
    return _sft(row, "", ended(split_solution(row.text("text")), chat))


def _spoken(row: Source, chat: Chat, messages: list[dict[str, Any]], first: int, field: str) -> SftRow:
    """A conversation, of which the assistant's turns from message `first` on are learnt."""
    with row.blamed(field):
        prompt, steps = chat.turns(messages, first)
    return _sft(row, prompt, steps)


def ended(steps: list[RowSegment], chat: Chat) -> list[RowSegment]:
    """A solution with its end: the answer's tag, else the tokenizer's end token."""
    last = steps[-1].text
    if last.rstrip().endswith(ANSWER_END) or not chat.end or last.endswith(chat.end):
        return steps
    return [*steps, RowSegment(text=chat.end)]


def _sft(row: Source, prompt: str, steps: Sequence[RowSegment]) -> SftRow:
    completion = "".join(step.text for step in steps)
    return SftRow(
        problem_id=row.problem(_asked(prompt) or completion),
        prompt=prompt,
        completion=completion,
        steps=tuple(steps),
    )


def _pair(row: Source, chat: Chat) -> PairRow:
    if row.is_chat("chosen"):
        with row.blamed("chosen"):
            prompt, chosen, rejected = _spoken_sides(row, chat)
    else:
        sides = row.text("chosen"), row.text("rejected")
        prompt = row.text("prompt", empty=True) if "prompt" in row.fields else _common(*sides)
        cut = 0 if "prompt" in row.fields else len(prompt)
        chosen, rejected = (split_solution(side[cut:]) for side in sides)
    asked = _asked(prompt)
    before = [RowSegment(text=asked), *split_solution(prompt[len(asked) :])]
    return PairRow(
        problem_id=row.problem(asked or "".join(segment.text for segment in (*chosen, *rejected))),
        kind="step" if chosen[-1].text.endswith(STEP_STOPS[:2]) else "solution",
        prompt=prompt,
        chosen="".join(segment.text for segment in chosen),
        rejected="".join(segment.text for segment in rejected),
        q_gap=2.0,  # right against wrong
        weight=row.weight,
        prefix=tuple(before),
        chosen_steps=tuple(chosen),
        rejected_steps=tuple(rejected),
    )


def _spoken_sides(row: Source, chat: Chat) -> tuple[str, list[RowSegment], list[RowSegment]]:
    """(prompt, chosen, rejected) of two conversations; what they have in common is prompt where none is given."""
    chosen, rejected = row.messages("chosen"), row.messages("rejected")
    if row.is_chat("prompt"):
        before = row.messages("prompt")
    else:
        same = 0
        while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
            same += 1
        before, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    prompt, good = chat.reply(before, chosen)
    return prompt, [RowSegment(text=good)], [RowSegment(text=chat.reply(before, rejected)[1])]


def _labels(row: Source, _chat: Chat) -> StepLabelRow:
    prompt, completions, labels = row.text("prompt", empty=True), row.listed("completions"), row.listed("labels")
    if len(completions) != len(labels):
        why = f"{len(labels)} labels for {len(completions)} completions"
        raise row.error("labels", why, "give a label for each step")
    for i, (step, label) in enumerate(zip(completions, labels, strict=True)):
        if not isinstance(step, str) or not step:
            raise row.error(f"completions.{i}", f"expected text, not {kind_of(step)}", "correct the step")
        if label not in (0, 1):
            raise row.error(f"labels.{i}", f"expected true or false, not {kind_of(label)}", "correct the label")
    steps = tuple(step if step.endswith((*STEP_STOPS, "\n")) else f"{step}\n" for step in completions)
    return StepLabelRow(
        problem_id=row.problem(_asked(prompt)),
        prompt=prompt,
        completions=steps,
        labels=tuple(map(bool, labels)),
        values=tuple(1.0 if label else -1.0 for label in labels),
        steps=tuple(RowSegment(text=step) for step in steps),
    )


def _asked(prompt: str) -> str:
    """The part of a prompt that poses the problem, without the steps after it: all of it in another format."""
    at = prompt.rfind(PROMPT_TAIL)
    return prompt if at < 0 else prompt[: at + len(PROMPT_TAIL)]


def _common(chosen: str, rejected: str) -> str:
    """What two texts begin with, up to a space: the prompt, where a pair has none of its own."""
    shared = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    return shared[: max(0, shared.rfind(" "))]


SFT_FORMATS = (
    Format(("prompt", "completion"), _prompt_completion),
    Format(("messages",), _messages),
    Format(("text",), _text),
    Format(("query", "response"), _prompt_completion, foreign_rows.upstream_sft),
)
"""Tried in this order."""
PAIR_FORMATS = (
    Format(("chosen", "rejected"), _pair),
    Format(("prompt", "pos", "neg"), _pair, foreign_rows.upstream_pair),
)
LABEL_FORMATS = (
    Format(("prompt", "completions", "labels"), _labels),
    Format(("problem", "steps", "label"), _labels, foreign_rows.process_bench),
    Format(("question", "label"), _labels, foreign_rows.prm800k),
    Format(("input", "label"), _labels, foreign_rows.math_shepherd),
)
KINDS: dict[str, Sequence[Format[Any]]] = {
    "train-policy": SFT_FORMATS,
    "train-prm --objective ppm": PAIR_FORMATS,
    "train-prm --objective prm-hard": LABEL_FORMATS,
}
"""What formats are for."""
