"""Which rows a process reward model is trained on, which it is measured on, and both as token ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rstar_cli.config import TrainPrmConfig
from rstar_cli.errors import DataError
from rstar_cli.records import PairRow, StepLabelRow
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.fit import is_held_out
from rstar_cli.train.label_trainer import LabelledIds
from rstar_cli.train.prm_report import Judged, JudgedPair
from rstar_cli.train.reward_trainer import TokenPair

PrmRow: TypeAlias = PairRow | StepLabelRow
"""What a PRM is trained or measured on."""

LEARNT = {"ppm": "pair", "orm": "solution", "prm-hard": "solution", "prm-soft": "solution"}
"""By objective: what a row of its training is called."""


@dataclass(slots=True)
class PrmData:
    """Rows as token ids, those too long left out: pairs or labels to train on, and what is kept apart of both kinds."""

    pairs: list[TokenPair]
    labels: list[LabelledIds]
    held_out_pairs: list[JudgedPair]
    held_out_labels: list[Judged]
    dropped: int = 0

    @property
    def every_ids(self) -> Iterable[list[int]]:
        """The token ids of every row."""
        for pair in [*self.pairs, *(judged.pair for judged in self.held_out_pairs)]:
            yield from (pair.chosen, pair.rejected)
        yield from (row.ids for row in [*self.labels, *(judged.row for judged in self.held_out_labels)])


def is_learnt(row: PrmRow, config: TrainPrmConfig) -> bool:
    """Whether a row is of the kind that the objective learns from."""
    return isinstance(row, PairRow) == (config.objective == "ppm")


def chosen(rows: Sequence[PrmRow], config: TrainPrmConfig) -> list[PrmRow]:
    """The rows without the wrong solutions beyond the `negatives` likeliest of each problem; in order.

    A search finds many wrong solutions that the policy would hardly give. Of two that are equally likely, or whose
    likelihood nobody told, the first one is kept.
    """
    wrong: defaultdict[str, list[StepLabelRow]] = defaultdict(list)
    for row in rows:
        if isinstance(row, StepLabelRow) and not row.labels[-1]:
            wrong[row.problem_id].append(row)
    left_out: set[int] = set()
    for found in wrong.values() if config.negatives else ():
        found.sort(key=lambda row: 0.0 if row.logprob is None else -row.logprob)
        left_out.update(map(id, found[config.negatives :]))
    return [row for row in rows if id(row) not in left_out]


def encode(rows: Sequence[PrmRow], tokenizer: StepTokenizer, config: TrainPrmConfig) -> PrmData:
    """Rows as token ids.

    Raises:
        DataError: nothing to train on: no row of the kind, all too long, or all kept apart.
    """
    data, learnt = PrmData([], [], [], []), LEARNT[config.objective]
    rows = chosen(rows, config)
    wanted = [row for row in rows if is_learnt(row, config)]
    if not wanted:
        file = "pairs.jsonl" if config.objective == "ppm" else "step_labels.jsonl"
        raise DataError(f"there is no {learnt} to train on", remedy=f"Run `rstar verify` first; it writes {file}.")
    lengths = [_put(data, row, tokenizer, config) for row in wanted]
    data.dropped = sum(length > config.max_length for length in lengths)
    if data.dropped == len(wanted):
        what = "have a side" if learnt == "pair" else "are"
        raise DataError(
            f"all {len(wanted)} {learnt}s {what} longer than {config.max_length} tokens; the shortest has "
            f"{min(lengths)}",
            remedy=f"Give --max-length {min(lengths)} or more.",
        )
    if not data.pairs and not data.labels:
        raise DataError(
            f"there is no {learnt} to train on: the problems of all {len(wanted) - data.dropped} are held out",
            remedy=f"Give {learnt}s of more problems, or --held-out 0.",
        )
    for row in rows:
        if not is_learnt(row, config) and is_held_out(row.problem_id, config):
            _put(data, row, tokenizer, config)
    return data


def _put(data: PrmData, row: PrmRow, tokenizer: StepTokenizer, config: TrainPrmConfig) -> int:
    """Put a row where it belongs unless it is too long; returns its length (of a pair: of the longer side), tokens."""
    apart = is_held_out(row.problem_id, config)
    if isinstance(row, PairRow):
        pair = TokenPair(*tokenizer.pair_ids(row), row.weight)
        if pair.longest <= config.max_length:
            if apart:
                data.held_out_pairs.append(JudgedPair(row.problem_id, row.kind, pair))
            else:
                data.pairs.append(pair)
        return pair.longest
    ids, ends = tokenizer.label_ids(row)
    if len(ids) <= config.max_length:
        labelled = _labelled(row, ids, ends, config)
        if apart:
            data.held_out_labels.append(Judged(row.problem_id, row.completions[-1], row.labels, labelled, row.logprob))
        else:
            data.labels.append(labelled)
    return len(ids)


def _labelled(row: StepLabelRow, ids: list[int], ends: list[int], config: TrainPrmConfig) -> LabelledIds:
    """What the objective says of a solution; of one that is kept apart every step is scored."""
    if config.objective == "orm" and not is_held_out(row.problem_id, config):
        return LabelledIds(ids, ends[-1:], [float(row.labels[-1])])
    if config.objective == "prm-soft":
        return LabelledIds(ids, ends, [(value + 1) / 2 for value in row.values])
    return LabelledIds(ids, ends, [float(label) for label in row.labels])
