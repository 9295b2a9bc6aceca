"""Figures and their uncertainty. Pure: takes outcomes, scores and the numbers of answer groups; never grades."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

Estimate: TypeAlias = dict[str, float | int | list[float]]
"""A mean in [0, 1] as `accuracy`, its 95 % interval as `ci95` [lower, upper], and `n`, the number of problems."""
GroupT = TypeVar("GroupT", int, str)


def wilson(successes: float, n: float) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927).

    Args:
        successes: 0 to n; a fraction counts in part.
        n: trials; 0 gives (0, 1): nothing is known.

    Returns:
        Lower and upper bound in [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    # none and all have bounds of exactly 0 and 1, whatever the rounding
    lower = (centre - spread) / scale if successes else 0.0
    upper = (centre + spread) / scale if successes < n else 1.0
    return lower, upper


def accuracy(outcomes: Sequence[bool]) -> Estimate:
    """Share of right outcomes as `accuracy`, with `ci95` [lower, upper] and `n`."""
    right = sum(outcomes)
    return {
        "accuracy": right / len(outcomes) if outcomes else 0.0,
        "ci95": list(wilson(right, len(outcomes))),
        "n": len(outcomes),
    }


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of a value a problem, such as pass@k, with its 95 % interval over problems.

    Where every value is 0 or 1 this is `accuracy`. Else the interval is the normal one, mean +- Z95 * sd / sqrt(n), of
    the values with two 0s and two 1s put beside them. For proportions that comes close to Wilson's (Agresti & Coull
    1998, The American Statistician 52:119), so the two kinds agree; and equal values, whose own sd is 0, still get a
    width, of the order of 4 / n. Where values are many and spread out it is the interval of the bootstrap over
    problems. Where they crowd at 0 or 1, as those of pass@k do, the bootstrap (percentile and BCa) and the plain normal
    interval hold the true mean in far fewer than 95 % of the cases, this one does not (tests/unit/test_intervals.py).

    Args:
        values: shape (n,), each in [0, 1].

    Returns:
        `accuracy`, the plain mean (0 of no values); `ci95`, clamped to [0, 1]; `n`.
    """
    if all(value in (0, 1) for value in values):
        return accuracy([value == 1 for value in values])
    padded = [*values, 0, 0, 1, 1]
    centre = math.fsum(padded) / len(padded)
    variance = math.fsum((value - centre) ** 2 for value in padded) / (len(padded) - 1)
    spread = Z95 * math.sqrt(variance / len(padded))
    return {
        "accuracy": math.fsum(values) / len(values),
        "ci95": [max(0.0, centre - spread), min(1.0, centre + spread)],
        "n": len(values),
    }


def estimate_clustered(problems: Sequence[Sequence[float]]) -> Estimate:
    """Mean of values several of which belong to one problem, as pairs of its steps do, with its 95 % interval.

    Values of one problem are alike, and count for less than as many of different ones: Wilson's interval of as many
    independent values as have the variance between problems, fewer where problems are few (Korn & Graubard 1998, Survey
    Methodology 24:193; Dean & Pagano 2015, Journal of Survey Statistics and Methodology 3:484). Values that are all 0
    or all 1 have no variance: each problem counts once.

    Args:
        problems: the values of each problem, in [0, 1].

    Returns:
        `accuracy`, the plain mean over all values; `ci95`; `n`, the number of values.
    """
    clusters = [values for values in problems if values]
    n = sum(map(len, clusters))
    if not n:
        return accuracy([])
    mean = math.fsum(map(math.fsum, clusters)) / n
    between = math.fsum(math.fsum(value - mean for value in values) ** 2 for values in clusters)
    variance = _unbiased(len(clusters)) * between / n**2
    independent: float = len(clusters)
    if variance > 0 and len(clusters) > 1:  # of few problems the variance itself is a guess
        independent = min(n, mean * (1 - mean) / variance) * (Z95 / _students(len(clusters) - 1)) ** 2
    low, high = wilson(mean * independent, independent)
    return {"accuracy": mean, "ci95": [max(0.0, low), min(1.0, high)], "n": n}


def accuracy_by_group(values: Iterable[tuple[GroupT | None, float]]) -> dict[str, Estimate]:
    """Estimate of each level or subject, keyed by its text, in order; problems without one are left out.

    Args:
        values: level or subject, and value of each problem; the value in [0, 1], or a bool.
    """
    groups: defaultdict[GroupT, list[float]] = defaultdict(list)
    for group, value in values:
        if group is not None:
            groups[group].append(value)
    return {str(group): estimate(groups[group]) for group in sorted(groups)}


def pass_at_k(n: int, c: int, k: int) -> float:
    """Chance that of k samples, drawn from n without replacement, at least one is right.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1), in integers up
    to the last division.

    Args:
        n: samples.
        c: right ones among them, 0 to n.
        k: draws, 1 to n.

    Returns:
        A probability in [0, 1].
    """
    ways = math.comb(n, k)
    return (ways - math.comb(n - c, k)) / ways


def independent_pass(n: int, c: int, k: int) -> float:
    """Chance that of k independent samples one is right, 1 - (1 - p)^k with p = c / n: the theory of Best-of-N.

    With the true p it is what a perfect choice among k samples reaches. The p of n samples put in its place makes it
    too low for k > 1, on average (a concave function); `pass_at_k` estimates the same chance without a bias.

    Args:
        n: samples, at least 1.
        c: right ones among them, 0 to n.
        k: draws, at least 1.

    Returns:
        A probability in [0, 1].
    """
    return 1 - (1 - c / n) ** k


def vote(groups: Sequence[int | None], weights: Sequence[float] | None = None) -> int | None:
    """The answer with most votes: majority, or weighted where samples have weights.

    Args:
        groups: shape (k,), the number of each sample's group of equal answers; None where it has no answer.
        weights: shape (k,), each >= 0; None is 1 each.

    Returns:
        Index of the first sample of the group with the greatest sum of weights, of equal sums the group seen first;
        None where no sample has an answer.
    """
    votes: defaultdict[int, list[float]] = defaultdict(list)
    for group, weight in zip(groups, [1.0] * len(groups) if weights is None else weights, strict=True):
        if group is not None:
            votes[group].append(weight)
    # fsum: the sum, and so a tie, does not hang on the order of the samples
    winner = max(votes, key=lambda group: math.fsum(votes[group]), default=None)
    return None if winner is None else groups.index(winner)


def best_of(scores: Sequence[float | None], groups: Sequence[int | None]) -> int | None:
    """The sample with the highest score among those that have an answer.

    Args:
        scores: shape (k,); a sample without a score can't be chosen.
        groups: shape (k,), None where a sample has no answer.

    Returns:
        Its index, the first of equals; None where there is none.
    """
    pairs = enumerate(zip(scores, groups, strict=True))
    known = {index: score for index, (score, group) in pairs if score is not None and group is not None}
    return max(known, key=lambda index: known[index], default=None)


def best_of_at_k(scores: Sequence[float | None], groups: Sequence[int | None], right: Sequence[bool], k: int) -> float:
    """Chance that `best_of` takes a right sample when it is given k of them, drawn without replacement; exact.

    The sample of rank r, from 0, among those that can be chosen is taken if it is drawn and the r above it are not:
    C(n - 1 - r, k - 1) of the C(n, k) draws.

    Args:
        scores: shape (n,), as of `best_of`.
        groups: shape (n,), as of `best_of`.
        right: shape (n,), whether each sample is right.
        k: draws, 1 to n.

    Returns:
        A probability in [0, 1].
    """
    n = len(scores)
    pairs = enumerate(zip(scores, groups, strict=True))
    ranked = sorted((-score, place) for place, (score, group) in pairs if score is not None and group is not None)
    ways = sum(math.comb(n - 1 - rank, k - 1) for rank, (_, place) in enumerate(ranked) if right[place])
    return ways / math.comb(n, k)


def paired_gain(before: Sequence[float], after: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Gain in accuracy between two attempts at the same problems.

    The interval is Wald's for paired proportions after 0.5 is added to each cell of the 2 x 2 table (Agresti & Min
    2005, Statistics in Medicine 24:729): it keeps near 95 % where changes are few, and has a width where there are
    none. The same added changes, a half up, a half down and one of 0, serve for values between 0 and 1, such as
    pass@k: there the bootstrap over problems is too narrow (tests/unit/test_intervals.py).

    Args:
        before: shape (n,), whether each problem was right, or a value in [0, 1].
        after: shape (n,), the same problems in the same order.

    Returns:
        Mean of after - before in [-1, 1], and its 95 % interval, clamped to [-1, 1]. Of no problems: 0 and (-1, 1).
    """
    changes = [float(now) - float(then) for then, now in zip(before, after, strict=True)]
    if not changes:
        return 0.0, (-1.0, 1.0)
    net, squares, cells = math.fsum(changes), math.fsum(change**2 for change in changes), len(changes) + 2
    centre = net / cells
    spread = Z95 * math.sqrt(squares + 1 - net**2 / cells) / cells
    return net / len(changes), (max(-1.0, centre - spread), min(1.0, centre + spread))


def mcnemar(won: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test: could as many changes go one way if either were equally likely?

    The binomial test of won among won + lost at 1/2 (McNemar 1947, Psychometrika 12:153), in integers. It is cautious:
    where few problems changed it may be above 0.05 while the interval of `paired_gain` leaves 0 out.

    Args:
        won: problems that only the second attempt solved.
        lost: problems that only the first one solved.

    Returns:
        In (0, 1]; 1 where nothing changed.
    """
    changed = won + lost
    tail = sum(math.comb(changed, i) for i in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / (1 << changed))


def auc(problems: Sequence[Sequence[tuple[float, bool]]]) -> Estimate | None:
    """Chance that a right solution scores higher than a wrong one, of whatever problems; equal scores count half.

    The area under the ROC curve, with the interval for clustered data (Obuchowski 1997, Biometrics 53:567): solutions
    of one problem are alike, and count for less than as many of different ones.

    Args:
        problems: of each problem: score and whether right, of each solution.

    Returns:
        The area as `accuracy`; `ci95`, clamped to [0, 1]; `n`, the number of solutions. None where all are right, or
        all wrong.
    """
    right, wrong = _parted(score for rows in problems for score in rows)
    if not right or not wrong:
        return None
    area = _area(right, wrong)
    # of each problem: how far the places of its right ones among all wrong ones are from the mean, and the reverse
    ups = [math.fsum(_below(wrong, s) - area for s, is_right in rows if is_right) for rows in problems]
    downs = [math.fsum(1 - _below(right, s) - area for s, is_right in rows if not is_right) for rows in problems]
    with_right, with_wrong = (sum(any(r is kind for _, r in rows) for rows in problems) for kind in (True, False))
    variance = (
        _unbiased(with_right) * math.fsum(up**2 for up in ups) / len(right) ** 2
        + _unbiased(with_wrong) * math.fsum(down**2 for down in downs) / len(wrong) ** 2
        + 2 * _unbiased(len(problems)) * math.fsum(map(math.prod, zip(ups, downs, strict=True)))
        / (len(right) * len(wrong))
    )  # fmt: skip
    spread = Z95 * math.sqrt(max(0.0, variance))
    return {
        "accuracy": area,
        "ci95": [max(0.0, area - spread), min(1.0, area + spread)],
        "n": len(right) + len(wrong),
    }


def _parted(scores: Iterable[tuple[float, bool]]) -> tuple[list[float], list[float]]:
    """Scores of the right and of the wrong ones, each ascending."""
    parts: tuple[list[float], list[float]] = ([], [])
    for score, is_right in sorted(scores):
        parts[not is_right].append(score)
    return parts


def _area(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Chance that one of the right scores is above one of the wrong ones, both ascending."""
    return math.fsum(_below(wrong, score) for score in right) / len(right)


def _unbiased(clusters: int) -> float:
    """What makes a mean of squares over clusters a variance; of one cluster nothing is known, 1 is taken."""
    return clusters / (clusters - 1) if clusters > 1 else 1.0


def _students(freedom: int) -> float:
    """97.5 % quantile of Student's t, by its expansion around the normal one (Fisher & Cornish 1960) from 3 on."""
    if freedom < 3:
        return 12.706 if freedom == 1 else 4.303
    z, v = Z95, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + math.fsum(term / v ** (i + 1) for i, term in enumerate(terms))


def _below(ordered: Sequence[float], score: float) -> float:
    """Share of ascending scores that are lower, equal ones counted half."""
    return (bisect_left(ordered, score) + bisect_right(ordered, score)) / (2 * len(ordered))


def auc_within(problems: Iterable[Sequence[tuple[float, bool]]]) -> Estimate | None:
    """Mean over problems of the chance that a right solution scores higher than a wrong one of the same problem.

    What counts where one of a problem's solutions is chosen: `auc` also rewards to know which problems are easy.

    Args:
        problems: as of `auc`; those whose solutions are all right or all wrong do not count.

    Returns:
        Over the problems that count; None where there is none.
    """
    parts = [_parted(rows) for rows in problems]
    areas = [_area(right, wrong) for right, wrong in parts if right and wrong]
    return estimate(areas) if areas else None


def calibration_error(claims: Sequence[tuple[float, bool]], bins: int = 10) -> float | None:
    """Expected calibration error: mean distance of probabilities from what came true (Naeini et al. 2015, AAAI).

    Args:
        claims: probability in [0, 1], and whether it came true.
        bins: of equal width, the probabilities of each are compared by their mean.

    Returns:
        In [0, 1]; None of no claims.
    """
    sums: defaultdict[int, list[float]] = defaultdict(list)
    for chance, came_true in claims:
        sums[min(int(chance * bins), bins - 1)].append(chance - came_true)
    return math.fsum(abs(math.fsum(gaps)) for gaps in sums.values()) / len(claims) if claims else None


def told(found: Mapping[str, Any]) -> str:
    """An accuracy with its interval, in words.

    Args:
        found: an `Estimate`, maybe with more in it.
    """
    low, high = found["ci95"]
    return f"{found['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {found['n']})"
