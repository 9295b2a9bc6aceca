"""Sampling without replacement over the token trie, against a small language model whose solutions are all listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import exp, log
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rstar_cli.protocols import Drawn
from rstar_cli.search.mcts import Plan
from rstar_cli.search.tree import Node
from rstar_cli.search.trie import LEAST_SHARE, NOTHING, Place, extend, opening, reserve
from rstar_cli.stages.tools import begin
from tests.helpers import GROWTH

END, STEP = 0, 1
LONGEST = 6
Ids = tuple[int, ...]


class Model:
    """Next-token probabilities by table: up to 5 tokens, of which END ends a solution and STEP a step."""

    def __init__(self, seed: int, tokens: int, rare: float = 0.2) -> None:
        self._seed, self._tokens, self._rare = seed, tokens, rare

    def logprobs(self, prefix: Ids) -> dict[int, float]:
        """Of the next token at temperature 1, rounded as engines round them."""
        rng = Random(f"{self._seed} {prefix}")
        ids = [END] if len(prefix) == LONGEST - 1 else rng.sample(range(self._tokens), rng.randint(1, self._tokens))
        weights = {token: self._rare if rng.random() < 0.3 else rng.uniform(0.2, 1) for token in ids}
        return {token: round(log(weight / sum(weights.values())), 4) for token, weight in weights.items()}

    def shares(self, prefix: Ids, temperature: float) -> dict[int, float]:
        weights = {token: exp(value / temperature) for token, value in self.logprobs(prefix).items()}
        return {token: weight / sum(weights.values()) for token, weight in weights.items()}

    def all(self, temperature: float, prefix: Ids = (), share: float = 1.0) -> Iterator[tuple[Ids, float]]:
        """Every solution with its probability."""
        for token, own in self.shares(prefix, temperature).items():
            if token == END:
                yield (*prefix, token), share * own
            else:
                yield from self.all(temperature, (*prefix, token), share * own)

    def write(self, prefix: Ids, given: int, temperature: float, rng: Random) -> tuple[list[Drawn], list[int]]:
        """Go on from a prefix whose last tokens are the opening: the new tokens, and how many each step has of them."""
        drawn, counts, ids = [], [0], prefix
        while not ids or ids[-1] != END:
            if ids and ids[-1] == STEP and (given or drawn):
                counts.append(0)
            shares, logprobs = self.shares(ids, temperature), self.logprobs(ids)
            (token,) = rng.choices(list(shares), list(shares.values()))
            likely = sorted(logprobs, key=lambda t: -logprobs[t])
            drawn.append(Drawn(token, tuple(likely), tuple(logprobs[t] for t in likely)))
            counts[-1] += 1
            ids = (*ids, token)
        return drawn, counts


class Sampler:
    """What a search does with the trie, and what it should come to."""

    def __init__(self, model: Model, temperature: float, seed: int) -> None:
        self.model, self.temperature, self.rng = model, temperature, Random(seed)
        self.root = Place()
        self.steps: dict[Node, Ids] = {}
        self.reserved: dict[Place, Ids] = {}
        self.drawn: list[Ids] = []

    def reserve(self, start: Node | None = None, *, fresh: bool = False) -> bool:
        place = reserve(start.place if start and start.place else self.root, self.rng, fresh=fresh)
        if place is None:
            return False
        step, tokens, logprob = opening(place)
        begun = self.steps.get(step, ()) if step else ()
        expected = sum(self.model.logprobs((*begun, *tokens[:i]))[token] for i, token in enumerate(tokens))
        assert logprob == pytest.approx(expected)
        whole = self.steps[start] if start else ()
        assert (*begun, *tokens)[: len(whole)] == whole, "it lies below where it was asked for"
        assert not fresh or step is start, "the step next to it is a new one"
        self.reserved[place] = (*begun, *tokens)
        return True

    def sample(self) -> None:
        place = self.rng.choice(list(self.reserved))
        prefix = self.reserved.pop(place)
        _, tokens, _ = opening(place)
        drawn, counts = self.model.write(prefix, len(tokens), self.temperature, self.rng)
        ids = (*prefix, *(each.token for each in drawn))
        ends = extend(place, drawn, counts, self.temperature)
        assert len(ends) == len(counts)
        length = len(prefix)
        for end, count in zip(ends, counts, strict=True):
            length += count
            above, tokens, _ = opening(end)
            begun = self.steps[above] if above else ()
            assert (*begun, *tokens) == ids[:length], "the places from the last step on spell the tokens"
            if end is not ends[-1]:
                step = Node(len(self.steps) + 1, None, 1, place=end)
                end.end_step(step)
                self.steps[step] = ids[:length]
        ends[-1].close()
        self.drawn.append(ids)

    def left(self, solution: Ids) -> bool:
        taken = any(solution[: len(prefix)] == prefix for prefix in self.reserved.values())
        return solution not in self.drawn and not taken


def first_step(solution: Ids) -> Ids:
    return solution[: solution.index(STEP) + 1] if STEP in solution else solution


def places(place: Place) -> Iterator[Place]:
    yield place
    for child in place.children.values():
        yield from places(child)


def check(sampler: Sampler, solutions: dict[Ids, float]) -> None:
    left = {ids: share for ids, share in solutions.items() if sampler.left(ids)}
    known = {first_step(ids) for ids in sampler.drawn}
    assert sampler.root.rho == pytest.approx(sum(left.values()), abs=1e-6)
    fresh = sum(share for ids, share in left.items() if first_step(ids) not in known)
    assert sampler.root.fresh == pytest.approx(fresh, abs=1e-6)
    for place in places(sampler.root):
        assert -1e-12 <= place.fresh <= 1 + 1e-12
        assert -1e-12 <= place.rho <= 1 + 1e-12
        assert not place.ids or sum(place.shares) == pytest.approx(1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.5, 1.0, 2.0]), st.integers(1, 4), st.booleans())
def test_every_solution_is_drawn_once(seed: int, tokens: int, temperature: float, width: int, fresh: bool) -> None:
    model = Model(seed, tokens)
    solutions = {}
    for ids, share in model.all(temperature):
        solutions[ids] = share
        assume(len(solutions) <= 60)
    sampler = Sampler(model, temperature, seed)
    check(sampler, solutions)
    while sampler.root.rho > NOTHING or sampler.reserved:
        while len(sampler.reserved) < width:
            start = sampler.rng.choice([None, *sampler.steps]) if fresh else None
            if not sampler.reserve(start, fresh=fresh and sampler.rng.random() < 0.5) and start is None:
                break
            check(sampler, solutions)
        if sampler.reserved:
            sampler.sample()
            check(sampler, solutions)
    assert len(set(sampler.drawn)) == len(sampler.drawn), "none twice"
    assert set(sampler.drawn) <= set(solutions)
    assert sum(share for ids, share in solutions.items() if ids not in sampler.drawn) <= 2 * NOTHING
    assert not sampler.reserve() or sampler.root.rho <= NOTHING


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_definition(temperature: float) -> None:
    """The first draw as the model says, the second as it says of all but the first."""
    model = Model(31, 4)
    shares = dict(model.all(temperature))
    assert len(shares) == 29
    count = 6000
    pairs: Counter[tuple[Ids, Ids]] = Counter()
    for seed in range(count):
        sampler = Sampler(model, temperature, seed)
        for _ in range(2):
            assert sampler.reserve()
            sampler.sample()
        pairs[sampler.drawn[0], sampler.drawn[1]] += 1
    firsts: Counter[Ids] = Counter()
    seconds: Counter[Ids] = Counter()
    for (first, second), number in pairs.items():
        firsts[first] += number
        seconds[second] += number
    then = {b: sum(p * shares[b] / (1 - p) for a, p in shares.items() if a != b) for b in shares}
    likely = {(a, b): p * q / (1 - p) for a, p in shares.items() for b, q in shares.items() if a != b}
    for found, expected in ((firsts, shares), (seconds, then), (pairs, likely)):
        tested = {key: share * count for key, share in expected.items() if share * count >= 8}
        assert len(tested) > 5
        square = sum((found[key] - mean) ** 2 / mean for key, mean in tested.items())  # type: ignore[index]
        assert square < len(tested) + 4 * (2 * len(tested)) ** 0.5, "4 standard deviations of a chi-square"


def test_what_is_too_unlikely_is_drawn_by_the_policy_alone() -> None:
    rare = LEAST_SHARE / 10
    likely = (log(0.7), log(0.3 - rare), log(rare))
    for token, ids in ((5, (5, 6)), (7, (5, 6, 7))):
        place = Place()
        assert reserve(place, Random(0), fresh=False) is place
        (end,) = extend(place, [Drawn(token, (5, 6, 7), likely)], [1], 1.0)
        end.close()
        assert place.ids == ids
        assert place.rho == pytest.approx(1 - exp(likely[ids.index(token)]), abs=1e-4)
    (end,) = extend(Place(), [Drawn(5, (5, 6, 7), likely)], [1], 10.0)
    assert end.parent is not None
    assert end.parent.ids == (5, 6, 7), "a high temperature makes it likely enough"


def test_tokens_without_a_choice_make_no_places() -> None:
    forks = {0, 3}
    drawn = [Drawn(5, (5, 6) if i in forks else (5,), (log(0.5),) * 2 if i in forks else (0.0,)) for i in range(6)]
    root = Place()
    ends = extend(root, drawn, [2, 4], 1.0)
    assert [len(place.tokens) for place in places(root)] == [0, 2, 1, 3], "a step's end, a fork's end, a step's end"
    assert [opening(end)[1] for end in ends] == [(5,) * 2, (5,) * 6]


def test_a_search_ends_where_what_is_left_is_split_into_specks() -> None:
    """Each part is below what is worth a draw, all of them together are not: nothing may wait for the other."""
    tree, searching = begin("p", 0, Plan("mcts", 5, GROWTH, 2, 1.4))
    node = tree.root
    for _ in range(2):  # a step with a speck below it, beside a speck of new steps
        place = node.place
        assert place is not None
        place.ids, place.shares, place.logprobs = (5, 6), (1 - 9e-10, 9e-10), (0.0, -20.0)
        node = tree.add(node, tree.prompt, 0.0, 1)
        node.place = Place(place, 0)
        node.place.end_step(node)
    assert node.place is not None
    node.place.close()
    assert tree.root.place is not None
    assert tree.root.place.rho > NOTHING > tree.root.place.fresh
    asked = next(searching)
    assert asked.opening == (6,)  # type: ignore[union-attr]
