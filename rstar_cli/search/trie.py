"""Sampling without replacement: the token trie of a tree, and how much of each part of it is still to be seen.

Steps are sequences of tokens, and the policy gives each token a probability; so every solution that was sampled lies in
a trie, with what the policy would have said instead at each of its tokens. A new solution is drawn from what is left:
go down token by token, each in proportion to its probability times its unexplored share, to the first token that was
never taken, and let the policy go on from there. No solution is drawn twice, and only new tokens cost.

`rho` is that unexplored share: 1 of a place that was never gone on from, 0 of one with nothing below it, else the
children's, weighted by probability. `fresh` is the same below one step, for steps that are not known yet.

Places with one likely token only are no forks: their tokens run together, so the trie holds a place a choice, not one
a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp
from random import Random
from typing import TYPE_CHECKING

from rstar_cli.protocols import LEAST_SHARE, Drawn

if TYPE_CHECKING:
    from rstar_cli.search.tree import Node

NOTHING = 1e-9
"""A step with less than this unexplored below it is left alone: what is left is too unlikely to be worth a draw."""


class Place:
    """A place in the trie: a fork, the end of a step, or the end of what is known.

    Attributes:
        tokens: from the parent's end to here, the first of them one of the parent's `ids`; empty at the root.
        logprob: their log-probability at temperature 1, nats.
        parent: None at the root.
        share: probability of the first token after the parent, at the sampling temperature; 1 at the root.
        step: the node whose last token stands here; None within a step, or where no rollout may pass.
        ids: tokens that may come next; empty where the policy was not asked yet, or nothing may come.
        shares: their probabilities at the sampling temperature; they sum to 1.
        logprobs: their log-probabilities at temperature 1, nats.
        children: places below, by first token.
        rho: unexplored share, in [0, 1].
        fresh: share of steps that are not known yet, in [0, 1].
    """

    __slots__ = (
        "children",
        "fresh",
        "ids",
        "logprob",
        "logprobs",
        "parent",
        "rho",
        "share",
        "shares",
        "step",
        "tokens",
    )

    def __init__(self, parent: Place | None = None, number: int = 0) -> None:
        """Plant the root, or the place after one of the parent's next tokens, by its number among them."""
        self.parent = parent
        self.tokens: list[int] = []
        self.logprob = 0.0
        self.share = 1.0
        if parent is not None:
            self.tokens.append(parent.ids[number])
            self.logprob = parent.logprobs[number]
            self.share = parent.shares[number]
            parent.children[parent.ids[number]] = self
        self.step: Node | None = None
        self.ids: tuple[int, ...] = ()
        self.shares: tuple[float, ...] = ()
        self.logprobs: tuple[float, ...] = ()
        self.children: dict[int, Place] = {}
        self.rho = 1.0
        self.fresh = 1.0

    def left(self, *, fresh: bool) -> list[float]:
        """How much of each next token is left, at all or of steps that are not known yet; sums to `rho` or `fresh`."""
        weights = list(self.shares)
        for number, token in enumerate(self.ids):
            if (child := self.children.get(token)) is not None:
                part = (0.0 if child.step is not None else child.fresh) if fresh else child.rho
                weights[number] *= max(0.0, part)
        return weights

    def end_step(self, step: Node) -> None:
        """A step that ran ends here: it is known now."""
        _add(self.parent, 0.0, -self.fresh * self.share)
        self.step = step

    def close(self) -> None:
        """Nothing comes below this place; told to all above it."""
        self.ids, self.shares, self.logprobs, self.children = (), (), (), {}
        _add(self, -self.rho, -self.fresh)


def _add(place: Place | None, rho: float, fresh: float) -> None:
    """Change what is left at a place, and by that at all above it; a known step keeps `fresh` to itself."""
    while place is not None:
        place.rho += rho
        place.fresh += fresh
        rho *= place.share
        fresh = 0.0 if place.step is not None else fresh * place.share
        place = place.parent


def reserve(place: Place, rng: Random, *, fresh: bool) -> Place | None:
    """Draw where to go on below a place, and take it out of what is left until `extend` says what came of it.

    Args:
        place: the root, or the end of a step.
        rng: for the draw.
        fresh: only towards steps that are not known yet.

    Returns:
        A place that the policy goes on from; None where nothing is left.
    """
    while place.ids:
        weights = place.left(fresh=fresh)
        if sum(weights) <= 0:  # what is left by the differences is their rounding
            _add(place, *((0.0, -place.fresh) if fresh else (-place.rho, -place.fresh)))
            return None
        (number,) = rng.choices(range(len(weights)), weights)
        child = place.children.get(place.ids[number])
        if child is None:
            place = Place(place, number)
            break
        place = child
    if place.rho <= 0:
        return None
    _add(place, -place.rho, -place.fresh)
    return place


def opening(place: Place) -> tuple[Node | None, tuple[int, ...], float]:
    """The last whole step above a place (None: the root), the tokens from there to the place, their log-probability."""
    runs: list[list[int]] = []
    logprob = 0.0
    while place.step is None and place.parent is not None:
        runs.append(place.tokens)
        logprob += place.logprob
        place = place.parent
    return place.step, tuple(token for run in reversed(runs) for token in run), logprob


def extend(place: Place, drawn: Sequence[Drawn], segments: Iterable[int], temperature: float) -> list[Place]:
    """Put what the policy sampled below a place.

    Args:
        place: where it went on from.
        drawn: the new tokens.
        segments: how many of them belong to each step.
        temperature: of sampling.

    Returns:
        The place at the end of each step. The caller says what comes of each: `end_step` or `close`.
    """
    _add(place, 1.0 - place.rho, 1.0 - place.fresh)
    ends: list[Place] = []
    tokens = iter(drawn)
    whole = place.step is not None or place.parent is None
    for count in segments:
        for _ in range(count):
            each = next(tokens)
            ids, shares, logprobs = _likely(each, temperature)
            if len(ids) == 1 and not whole:
                place.tokens.append(each.token)
                place.logprob += logprobs[0]
                continue
            place.ids, place.shares, place.logprobs = ids, shares, logprobs
            place, whole = Place(place, ids.index(each.token)), False
        ends.append(place)
        whole = True
    return ends


def _likely(drawn: Drawn, temperature: float) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """The tokens that may stand in a token's place, the token itself among them; their shares and log-probabilities."""
    scale = 1.0 / temperature if temperature > 0 else 1.0
    if drawn.token == drawn.ids[0] and (
        len(drawn.ids) == 1 or exp((drawn.logprobs[1] - drawn.logprobs[0]) * scale) < LEAST_SHARE
    ):
        return (drawn.token,), (1.0,), drawn.logprobs[:1]  # most tokens: no other is likely
    first = max(drawn.logprobs)
    weights = [exp((value - first) * scale) for value in drawn.logprobs]
    least = LEAST_SHARE * max(weights)
    kept = [
        (token, weight, logprob)
        for token, weight, logprob in zip(drawn.ids, weights, drawn.logprobs, strict=True)
        if weight >= least or token == drawn.token
    ]
    total = sum(weight for _, weight, _ in kept)
    ids, _, logprobs = zip(*kept, strict=True)
    return ids, tuple(weight / total for _, weight, _ in kept), logprobs
