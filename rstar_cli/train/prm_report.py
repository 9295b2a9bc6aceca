"""How well a scorer judges problems that it was not trained on: pairs, solutions, and which one it would choose."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rstar_cli.metrics import (
    Estimate,
    auc,
    auc_within,
    best_of,
    calibration_error,
    estimate,
    estimate_clustered,
    told,
    vote,
)
from rstar_cli.train.batches import cut
from rstar_cli.train.label_trainer import LabelledIds, score_tokens
from rstar_cli.train.label_trainer import stack as stack_rows
from rstar_cli.train.reward_trainer import TokenPair, score, stack

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHOICES = (8, 16)
"""Of how many solutions of a problem one is chosen."""

Ranking: TypeAlias = dict[str, Estimate | float]
"""Held-out figures by their name in manifests; `TITLES` says what each is."""

TITLES = {
    "leaf_auc": "AUC of solutions, right against wrong",
    "mid_auc": "AUC of steps before the answer, a right answer reached or not",
    "within_auc": "AUC of solutions within a problem",
    "mid_within_auc": "AUC of steps before the answer within a problem",
    "leaf_ece": "calibration error of solutions",
    "mid_ece": "calibration error of steps before the answer",
    "best_of_n": "best by value",
    "weighted": "vote weighted by value",
    "majority": "majority",
    "random": "a random one",
}
"""What a figure is; those of a choice among n solutions are keyed `best_of_n@n` and so on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A solution of a problem that is kept apart.

    Attributes:
        problem_id: its problem.
        answer: the text of its answer step: equal texts are one vote.
        labels: of each step, whether a right answer was reached from it; the last one: whether the solution is right.
        row: its token ids, and where its steps end.
        logprob: the policy's log-probability of it, nats; None: unknown.
    """

    problem_id: str
    answer: str
    labels: tuple[bool, ...]
    row: LabelledIds
    logprob: float | None = None


class JudgedPair(NamedTuple):
    """A pair of a problem that is kept apart; `kind` as in its row."""

    problem_id: str
    kind: str
    pair: TokenPair


def ranking(
    net: PreTrainedModel, solutions: Sequence[Judged], *, scale: float, batch_tokens: int, seed: int
) -> Ranking:
    """Figures of the values of solutions and their steps; those that can't be had (nothing is wrong, say) are left out.

    The choices are of n solutions of each problem that has at least two, drawn by the seed with replacement, by their
    likelihoods: as the policy would give them, could it give no others. What a choice among a policy's real samples is
    worth, `rstar evaluate` tells.

    Args:
        net: the scorer.
        solutions: of problems that it was not trained on.
        scale: a value is tanh(score / scale).
        batch_tokens: tokens of a forward pass, padding counted, at most; a longer solution goes alone.
        seed: of the draws.
    """
    values = [
        [math.tanh(score / scale) for score in scores]
        for scores in solution_scores(net, [solution.row for solution in solutions], batch_tokens)
    ]
    return ranking_of(solutions, values, seed)


def ranking_of(solutions: Sequence[Judged], values: Sequence[Sequence[float]], seed: int) -> Ranking:
    """The figures of given values, in [-1, 1], of each solution's steps."""
    by_problem: defaultdict[str, list[tuple[Judged, Sequence[float]]]] = defaultdict(list)
    for solution, steps in zip(solutions, values, strict=True):
        by_problem[solution.problem_id].append((solution, steps))
    leaves = [[(steps[-1], s.labels[-1]) for s, steps in found] for found in by_problem.values()]
    mids = [
        [pair for s, steps in found for pair in zip(steps[:-1], s.labels[:-1], strict=True)]
        for found in by_problem.values()
    ]
    figures = {
        "leaf_auc": auc(leaves),
        "mid_auc": auc(mids),
        "within_auc": auc_within(leaves),
        "mid_within_auc": auc_within(mids),
        "leaf_ece": _calibration(leaves),
        "mid_ece": _calibration(mids),
    }
    for n in CHOICES:
        figures |= _choices(by_problem, n, seed)
    return {name: figure for name, figure in figures.items() if figure is not None}


def _calibration(problems: Iterable[Sequence[tuple[float, bool]]]) -> float | None:
    return calibration_error([((1 + value) / 2, label) for rows in problems for value, label in rows])


def _choices(
    by_problem: dict[str, list[tuple[Judged, Sequence[float]]]], n: int, seed: int
) -> dict[str, Estimate | None]:
    """Accuracy of each way to choose one of n drawn solutions, over the problems with two at least."""
    right: defaultdict[str, list[float]] = defaultdict(list)
    for problem_id, found in by_problem.items():
        if len(found) < 2:
            continue
        chances = _chances([solution for solution, _ in found])
        drawn = random.Random(f"{seed}:{problem_id}:{n}").choices(found, chances, k=n)
        labels = [solution.labels[-1] for solution, _ in drawn]
        values = [steps[-1] for _, steps in drawn]
        groups = _answer_groups([solution for solution, _ in drawn])
        picked = {
            "best_of_n": best_of(values, groups),
            "weighted": vote(groups, [(1 + value) / 2 for value in values]),
            "majority": vote(groups),
        }
        for name, index in picked.items():
            right[name].append(float(index is not None and labels[index]))
        right["random"].append(sum(c for c, (s, _) in zip(chances, found, strict=True) if s.labels[-1]) / sum(chances))
    return {f"{name}@{n}": estimate(outcomes) for name, outcomes in right.items()}


def _chances(solutions: Sequence[Judged]) -> list[float]:
    """How likely each is to be drawn, in proportion; equally where a likelihood is unknown."""
    told = [solution.logprob for solution in solutions if solution.logprob is not None]
    if len(told) < len(solutions):
        return [1.0] * len(solutions)
    return [math.exp(logprob - max(told)) for logprob in told]


def _answer_groups(solutions: Sequence[Judged]) -> list[int | None]:
    """Numbers of equal answers; all right ones are equal, however they are written."""
    numbers: dict[str | None, int] = {}
    keys = [None if solution.labels[-1] else solution.answer for solution in solutions]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def solution_scores(net: PreTrainedModel, rows: Sequence[LabelledIds], batch_tokens: int) -> list[list[float]]:
    """The scores at the ends of each row; the model computes in the number format of its weights.

    Args:
        net: the scorer.
        rows: token ids and ends.
        batch_tokens: tokens of a forward pass, padding counted, at most; a longer row goes alone.
    """
    import torch

    _ready(net)
    padding = net.config.get_text_config().pad_token_id
    scores: list[list[float]] = [[] for _ in rows]
    for batch in cut(range(len(rows)), [len(row.ids) for row in rows], batch_tokens) if rows else ():
        tensors = {name: t.to(net.device) for name, t in stack_rows([rows[i] for i in batch], padding).items()}
        with torch.inference_mode():
            found = score_tokens(net, tensors).cpu()
        for line, i in enumerate(batch):
            scores[i] = found[line, rows[i].ends].tolist()
    return scores


def pairwise_accuracy(
    net: PreTrainedModel, pairs: Sequence[JudgedPair], batch_tokens: int
) -> dict[str, Estimate] | None:
    """Share of pairs whose chosen side scores higher, equal scores half, of `all` and of each kind; None without pairs.

    The model computes in the number format of its weights. The interval counts by problem, `n` counts pairs.

    Args:
        net: the scorer.
        pairs: what is to be ranked.
        batch_tokens: tokens of a forward pass, padding counted, at most; a longer pair goes alone.
    """
    import torch

    _ready(net)
    padding = net.config.get_text_config().pad_token_id
    points: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for batch in cut(range(len(pairs)), [judged.pair.padded for judged in pairs], batch_tokens) if pairs else ():
        tensors = {name: t.to(net.device) for name, t in stack([pairs[i].pair for i in batch], padding).items()}
        with torch.inference_mode():
            chosen, rejected = score(net, tensors)
        won = ((chosen > rejected).float() + (chosen == rejected).float() / 2).tolist()
        for i, point in zip(batch, won, strict=True):
            for kind in ("all", pairs[i].kind):
                points[kind][pairs[i].problem_id].append(point)
    return {kind: estimate_clustered(list(points[kind].values())) for kind in sorted(points)} or None


def _ready(net: PreTrainedModel) -> None:
    """No dropout, and attention that needs no autocast, as the one that training uses on a CPU does."""
    net.eval()
    net.set_attn_implementation("sdpa")


def shown(figures: Ranking) -> list[tuple[str, str]]:
    """The figures to read: what each is, and its value with its interval."""
    lines: list[tuple[str, str]] = []
    for name, figure in figures.items():
        method, _, n = name.partition("@")
        title = TITLES[method] + (f" of {n}" if n else "")
        lines.append((title, f"{figure:.3f}" if isinstance(figure, float) else told(figure)))
    return lines
