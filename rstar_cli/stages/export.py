"""export: a run's training rows in TRL's formats, as JSON lines or parquet, with a card for the hub.

| format | fields | from |
|---|---|---|
| prompt-completion | `prompt`, `completion` | `sft.jsonl`: what train-policy trains on |
| conversational | `messages`: the problem, the solution | the same |
| preference | `prompt`, `chosen`, `rejected` | `pairs.jsonl` |
| stepwise | `prompt`, `completions`, `labels` | `step_labels.jsonl` |

Each row has its `problem_id`, too. `train-policy --input` and `train-prm --input` read all of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rstar_cli import __version__
from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import read_rows, write_rows
from rstar_cli.layout import RoundDir, RunDir, make_folder, read_manifest, write_bytes
from rstar_cli.options import ExportPlace
from rstar_cli.prompts import split_prompt
from rstar_cli.records import PairRow, Row, SftRow, StepLabelRow
from rstar_cli.stages.common import Summary
from rstar_cli.stages.contaminated import refuse_trained
from rstar_cli.stages.push import push_rows
from rstar_cli.stages.train_policy import check_fresh, read_sft_rows

Fields = dict[str, Any]


def export(place: ExportPlace, run: RunDir) -> Summary:
    """Write the rows of one format to one file, and upload it if that is asked for.

    Raises:
        UsageError: the file is neither .jsonl nor .parquet.
        MissingArtifactError: a round was not verified.
        DataError: there is no row, it was made from other trees than the round has now, or its problem is in an
            evaluation set.
        SetupError: the hub is not within reach, or refuses.
    """
    write = WRITERS.get(place.output.suffix)
    if write is None:
        raise UsageError(f"--output {place.output} is none of {', '.join(WRITERS)}", remedy="Give another --output.")
    chosen = FORMATS[place.format]
    sources = _sources(place, run, chosen.file)
    found, left_out = _read(run, sources, chosen)
    if not found:
        remedy = "Search more (--rollouts), or other problems."
        raise DataError("there is no row to export", path=list(sources.values())[-1], remedy=remedy)
    ids = {row.problem_id for row in found}
    allowed = TrainPolicyConfig(allow_contamination=place.allow_contamination)
    contaminated = refuse_trained(run, sources, ids, allowed)
    make_folder(place.output.parent)
    write(place.output, [{"problem_id": row.problem_id, **chosen.fields(row)} for row in found])
    counts: dict[str, Any] = {"rows": len(found), "problems": len(ids), **left_out}
    counts |= {"contaminated problems": contaminated} if contaminated else {}
    figures = {"format": place.format, "rounds": ", ".join(map(str, sources)), **counts}
    summary = Summary("export", figures=figures, files=[place.output], data={**counts, "rounds": list(sources)})
    if place.push_to_hub is not None:
        card = Card(place, run, chosen, list(sources), counts).text()
        summary.notes.append(f"Pushed: {push_rows(place.output, card, place.push_to_hub)}")
    return summary


def _sources(place: ExportPlace, run: RunDir, file: Callable[[RoundDir], Path]) -> dict[int, Path]:
    """The files of rows by round."""
    last = place.round or max((folder.number for folder in run.rounds() if file(folder).exists()), default=1)
    first = last if place.data_rounds == "last" else 1
    return {n: run.require(file(run.round(n)), "verify", n) for n in range(first, last + 1)}


def _read(run: RunDir, sources: Mapping[int, Path], chosen: Format) -> tuple[list[Any], dict[str, int]]:
    """The rows, and how many of sft.jsonl the merge left out for which reason."""
    if chosen.row is SftRow:
        rows, left_out = read_sft_rows(run, sources)
        return rows, {f"left out, {choice}": count for choice, count in sorted(left_out.items())}
    for number, path in sources.items():
        check_fresh(run, number, path)
    return [row for path in sources.values() for row in read_rows(path, chosen.row)], {}


def _prompt_completion(row: SftRow) -> Fields:
    return {"prompt": row.prompt, "completion": row.completion}


def _conversational(row: SftRow) -> Fields:
    problem, opening = split_prompt(row.prompt)
    turns = {"user": problem, "assistant": opening + row.completion}
    return {"messages": [{"role": role, "content": content} for role, content in turns.items()]}


def _preference(row: PairRow) -> Fields:
    return {"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected}


def _stepwise(row: StepLabelRow) -> Fields:
    return {"prompt": row.prompt, "completions": list(row.completions), "labels": list(row.labels)}


class Format(NamedTuple):
    """A format of TRL's.

    Attributes:
        row: of ours, which it is made of.
        file: where a round has them.
        fields: what a row becomes.
        holds: what a row is, for the card.
    """

    row: type[Row]
    file: Callable[[RoundDir], Path]
    fields: Callable[[Any], Fields]
    holds: str


_SOLUTION = "a problem and a right solution: a program that was run again from scratch, and whose answer was graded"
FORMATS: dict[str, Format] = {
    "prompt-completion": Format(SftRow, lambda files: files.sft, _prompt_completion, _SOLUTION),
    "conversational": Format(SftRow, lambda files: files.sft, _conversational, _SOLUTION),
    "preference": Format(
        PairRow, lambda files: files.pairs, _preference, "a better and a worse step, or solution, after the same prompt"
    ),
    "stepwise": Format(
        StepLabelRow,
        lambda files: files.step_labels,
        _stepwise,
        "a solution's steps; a label tells whether a right answer was reached from the step",
    ),
}


def _write_parquet(path: Path, rows: list[Fields]) -> None:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    table, buffer = pyarrow.Table.from_pylist(rows), pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer)
    write_bytes(path, buffer.getvalue().to_pybytes())


WRITERS: dict[str, Callable[[Path, list[Fields]], object]] = {".jsonl": write_rows, ".parquet": _write_parquet}
"""What writes a file of each suffix."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a data set's README says: what it holds, how it was made."""

    place: ExportPlace
    run: RunDir
    format: Format
    rounds: list[int]
    counts: Mapping[str, Any]

    def text(self) -> str:
        """The README, with the hub's header."""
        name = str(self.place.push_to_hub).rpartition("/")[2]
        run = self.run.recipe.run
        counts = "\n".join(f"| {what} | {count:,} |" for what, count in self.counts.items())
        return f"""---
pretty_name: {name}
task_categories:
- text-generation
tags:
- trl
- mathematics
- rstar
configs:
- config_name: default
  data_files:
  - split: train
    path: train{self.place.output.suffix}
---

# {name}

Each row is {self.format.holds}. The format is TRL's {self.place.format}, with a `problem_id`.

| | |
|---|---|
{counts}

## How it was made

By `rstar` {__version__}: a policy searches solutions whose steps are Python that is really run, is trained on those
whose answers are right, and searches again. Base: {_public(run.base)}. Problems: {_public(run.source)}.

| round | search | rollouts | policy |
|---|---|---|---|
{self._searches()}

```sh
{self._command()}
```
"""

    def _searches(self) -> str:
        lines = []
        for number in self.rounds:
            config = read_manifest(self.run.round(number).manifest).get("generate", {}).get("config", {})
            told = [_public(config.get(key, "?")) for key in ("method", "rollouts", "policy")]
            lines.append(f"| {number} | {' | '.join(told)} |")
        return "\n".join(lines)

    def _command(self) -> str:
        flags: dict[str, object] = {
            "--run": self.run.root.name,
            "--round": self.rounds[-1],
            "--data-rounds": self.place.data_rounds,
            "--format": self.place.format,
            "--output": self.place.output.name,
        }
        words = ["rstar", "export", *(str(word) for flag in flags.items() for word in flag)]
        return shlex.join([*words, *(["--allow-contamination"] if self.place.allow_contamination else [])])


def _public(name: object) -> str:
    """A model's or data set's name; of what lies on this machine the last part alone."""
    return Path(str(name)).name if Path(str(name)).exists() else str(name)
