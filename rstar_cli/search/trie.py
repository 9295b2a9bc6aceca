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

from rstar_cli.protocols import Drawn

if TYPE_CHECKING:
    from rstar_cli.search.tree import Node

ALTERNATIVES = 16
"""Tokens that a place may be left by."""

LEAST_SHARE = 1e-4
"""Tokens less likely than this are left out, and so never drawn unless the policy itself did."""

NOTHING = 1e-9
"""A step with less than this unexplored below it is left alone: what is left is too unlikely to be worth a draw."""


class Place:
    """A place in the trie: a fork, the end of a step, or the end of what is known.

    Attributes:
        tokens: from the parent's end to here, the first of them one of the parent's `ids`; empty at the root.
        logprob: their log-probability at temperature 1, nats.
        parent: None at the root.
        step: the node whose last token stands here; None within a step, or where no rollout may pass.
        ids: tokens that may come next; empty where the policy was not asked yet, or nothing may come.
        shares: their probabilities at the sampling temperature; they sum to 1.
        logprobs: their log-probabilities at temperature 1, nats.
        children: places below, by first token.
        rho: unexplored share, in [0, 1].
        fresh: share of steps that are not known yet, in [0, 1].
    """

    __slots__ = ("children", "fresh", "ids", "logprob", "logprobs", "parent", "rho", "shares", "step", "tokens")

    def __init__(self, parent: Place | None = None, token: int | None = None) -> None:
        self.parent = parent
        self.tokens: list[int] = []
        self.logprob = 0.0
        if parent is not None and token is not None:
            self.tokens.append(token)
            self.logprob = parent.logprobs[parent.ids.index(token)]
            parent.children[token] = self
        self.step: Node | None = None
        self.ids: tuple[int, ...] = ()
        self.shares: tuple[float, ...] = ()
        self.logprobs: tuple[float, ...] = ()
        self.children: dict[int, Place] = {}
        self.rho = 1.0
        self.fresh = 1.0

    def below(self) -> list[tuple[int, float, float, float]]:
        """(token, share, rho, fresh) of each next token; of one that was never taken rho and fresh are 1."""
        found = []
        for token, share in zip(self.ids, self.shares, strict=True):
            child = self.children.get(token)
            if child is None:
                found.append((token, share, 1.0, 1.0))
            else:
                found.append((token, share, child.rho, 0.0 if child.step is not None else child.fresh))
        return found

    def close(self) -> None:
        """Nothing comes below this place; told to all above it."""
        self.ids, self.shares, self.logprobs, self.children = (), (), (), {}
        self.rho = self.fresh = 0.0
        settle(self.parent)


def settle(place: Place | None) -> None:
    """Reckon the shares of a place and of all above it anew."""
    while place is not None:
        if place.ids:
            below = place.below()
            place.rho = sum(share * rho for _, share, rho, _ in below)
            place.fresh = sum(share * fresh for _, share, _, fresh in below)
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
        weights = [share * (new if fresh else rho) for _, share, rho, new in place.below()]
        if sum(weights) <= 0:
            return None
        (token,) = rng.choices(place.ids, weights)
        child = place.children.get(token)
        if child is None:
            place = Place(place, token)
            break
        place = child
    if place.rho <= 0:
        return None
    place.rho = place.fresh = 0.0
    settle(place.parent)
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
        The place at the end of each step. The caller says what comes of each: `step`, `close`, and `settle`.
    """
    place.rho = place.fresh = 1.0
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
            place, whole = Place(place, each.token), False
        ends.append(place)
        whole = True
    settle(place)
    return ends


def _likely(drawn: Drawn, temperature: float) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """The tokens that may stand in a token's place, the token itself among them; their shares and log-probabilities."""
    scale = 1.0 / temperature if temperature > 0 else 1.0
    first = max(drawn.logprobs)
    weights = [exp((value - first) * scale) for value in drawn.logprobs]
    least = LEAST_SHARE * sum(weights)
    kept = [
        (token, weight, logprob)
        for token, weight, logprob in zip(drawn.ids, weights, drawn.logprobs, strict=True)
        if weight >= least or token == drawn.token
    ]
    total = sum(weight for _, weight, _ in kept)
    ids, _, logprobs = zip(*kept, strict=True)
    return ids, tuple(weight / total for _, weight, _ in kept), logprobs
