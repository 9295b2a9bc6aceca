"""The decode loop against a plain one, on a model whose next token depends on every token before it."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rstar_cli.engines import decode
from rstar_cli.engines.cache import BatchStates, Entry, PrefixCache
from rstar_cli.engines.decode import DecodeLoop, Endings, Picked, Prefix, Row, Shape, pick, signed64, uniforms
from rstar_cli.protocols import LEAST_SHARE

VOCABULARY = 11
EOS, STOP = 0, 1
SHAPE = Shape((2, 1, 1), torch.float32, torch.device("cpu"))
MASK64 = (1 << 64) - 1

ids_lists = st.lists(st.integers(2, VOCABULARY - 1), min_size=1, max_size=9)
draws = st.tuples(ids_lists, st.integers(0, MASK64), st.integers(1, 12), st.sampled_from([0.0, 0.7, 1.0]))


def splitmix64(number: int) -> int:
    """The mixing function of Steele et al. (2014), in plain integers."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK64
    return number ^ (number >> 31)


def uniform(key: int, step: int) -> float:
    return (splitmix64((key + (step + 1) * 0x9E3779B97F4A7C15) & MASK64) >> 11) * 2.0**-53


def next_logits(history: list[int]) -> list[float]:
    """Logits after some tokens: they change with any token and any place."""
    code = sum((i + 1) * (token + 3) ** 2 for i, token in enumerate(history))
    return [((code * (v + 2) + 7 * v) % 23) / 5 for v in range(VOCABULARY)]


def forward(tokens: Tensor, positions: Tensor, states: BatchStates) -> Tensor:
    """A model whose keys are the tokens and whose values are the places; it sees what cache and mask let it see."""
    cache, mask = states.at(positions)
    shape = (*tokens.shape[:1], 1, tokens.shape[1], 1)
    for layer in range(2):
        keys, values = cache.update(tokens.float().view(shape), positions.float().view(shape), layer)
    logits = []
    for row in range(len(tokens)):
        seen = mask[row, 0, -1] == 0
        assert values[row, 0, seen, 0].tolist() == list(range(int(seen.sum()))), "each place holds its own state"
        logits.append(next_logits([int(token) for token in keys[row, 0, seen, 0]]))
    return torch.tensor(logits)


def plain(prefix: list[int], key: int, limit: int, temperature: float) -> tuple[list[int], str]:
    """One sample by the definition."""
    written: list[int] = []
    while len(written) < limit:
        logits = torch.tensor(next_logits(prefix + written))
        if temperature == 0:
            token = int(logits.argmax())
        else:
            shares = (logits.log_softmax(-1) / temperature).softmax(-1).double().cumsum(-1)
            token = int((shares <= uniform(key, len(written)) * shares[-1]).sum())
        if token == EOS:
            return written, "eos"
        written.append(token)
        if token == STOP:
            return written, "stop"
    return written, "length"


def entry(prefix: list[int]) -> Entry | None:
    """States of a prefix but for its last token, kept in two parts where it is long enough."""
    made: Entry | None = None
    for begin, end in ((0, len(prefix) // 2), (len(prefix) // 2, len(prefix) - 1)):
        if end > begin:
            part = torch.tensor([prefix[begin:end], range(begin, end)]).float()
            made = Entry(tuple(prefix[begin:end]), made, part[None, :, None, :, None].repeat(2, 1, 1, 1, 1))
    return made


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(draws, st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=8))
def test_rows_come_out_as_if_alone(plan: list[tuple[tuple[list[int], int, int, float], int, int]]) -> None:
    """Rows join at any step, end at any step, and share a prefix or not: each is what the plain loop gives."""
    kept: dict[tuple[int, int], Tensor] = {}
    endings = Endings(lambda row: row.ids[-1] == STOP, torch.arange(VOCABULARY) == STOP, frozenset({EOS}))
    loop = DecodeLoop(forward, SHAPE, endings, lambda row, states: kept.__setitem__((row.ticket, row.draw), states))
    ended: list[Row] = []
    for ticket, ((prefix, seed, limit, temperature), n, steps) in enumerate(plan):
        rows = [Row(ticket, i, signed64(seed + i), temperature, ("1",), limit, len(prefix)) for i in range(n)]
        loop.add([Prefix(len(prefix), prefix[-1], entry(prefix), tuple(rows))])
        for _ in range(steps if loop.live else 0):
            ended += loop.step() if loop.live else []
    while loop.live:
        ended += loop.step()
    assert len(ended) == sum(n for _, n, _ in plan)
    assert loop._states.room == (0, 0), "an idle loop holds no memory"
    for row in ended:
        (prefix, seed, limit, temperature), _, _ = plan[row.ticket]
        ids, finish = plain(prefix, (seed + row.draw) & MASK64, limit, temperature)
        assert (row.ids, row.finish) == (ids, finish)
        states = kept[row.ticket, row.draw]
        assert states[0, 0, 0, :, 0].tolist() == [prefix[-1], *ids][: len(ids)], "kept: all that was run, no more"


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=20), st.integers(0, 5000))
def test_uniform_numbers_are_splitmix64(keys: list[int], step: int) -> None:
    got = uniforms(torch.tensor(keys), torch.full((len(keys),), step)).tolist()
    assert got == [uniform(key & MASK64, step) for key in keys]
    assert all(0 <= number < 1 for number in got)


logit_rows = st.lists(
    st.lists(st.one_of(st.floats(-30, 30), st.just(float("-inf"))), min_size=7, max_size=7).filter(
        lambda row: max(row) > -30
    ),
    min_size=1,
    max_size=12,
)


@given(logit_rows, st.integers(0, MASK64), st.sampled_from([0.0, 0.3, 1.0, 2.0]), st.integers(7, 40))
def test_pick_is_the_same_in_parts_and_never_takes_the_impossible(
    rows: list[list[float]], seed: int, temperature: float, cells: int
) -> None:
    logits = torch.tensor(rows)
    keys = torch.tensor([signed64(seed + i) for i in range(len(rows))])
    asked = (logits, torch.full((len(rows),), temperature), keys, torch.zeros_like(keys))
    whole = pick(*asked, 3)
    tokens, logprobs = whole.tokens, whole.logprobs
    usual, decode.PICK_CELLS = decode.PICK_CELLS, cells
    try:
        parts = pick(*asked, 3)
    finally:
        decode.PICK_CELLS = usual
    assert all(torch.equal(getattr(whole, name), getattr(parts, name)) for name in Picked.__slots__)
    assert torch.isfinite(logprobs).all()
    assert torch.equal(logprobs, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0])
    if temperature == 0:
        assert torch.equal(tokens, logits.argmax(-1))
    told = logits.log_softmax(-1)
    worth = told >= told.amax(-1, keepdim=True) + math.log(LEAST_SHARE) * temperature
    alone = (worth.sum(-1) == 1) & (told.argmax(-1) == tokens)
    assert sorted(whole.forks.tolist()) == whole.forks.tolist() == (~alone).nonzero()[:, 0].tolist()
    assert torch.equal(whole.likely_logprobs, told[whole.forks].topk(3, -1).values)


operations = st.lists(
    st.tuples(
        st.sampled_from(["keep", "forget", "longest"]), st.integers(0, 3), st.lists(st.integers(0, 1), max_size=6)
    ),
    max_size=40,
)


def entries(cache: PrefixCache) -> list[Entry]:
    """Everything that a cache holds."""
    found = [entry for group in cache._groups.values() for entry in group.values()]
    for entry in found:
        assert all(child.parent is entry and first == child.ids[0] for first, child in entry.children.items())
        found += entry.children.values()
    return found


def tokens_of(entry: Entry) -> tuple[int, ...]:
    return (*(tokens_of(entry.parent) if entry.parent is not None else ()), *entry.ids)


@given(operations, st.integers(0, 400))
def test_prefix_cache_counts_its_bytes_and_finds_the_longest(
    plan: list[tuple[str, int, list[int]]], max_bytes: int
) -> None:
    cache = PrefixCache(max_bytes)
    taken: list[tuple[Entry, tuple[int, ...]]] = []
    for what, number, more in plan:
        prompt = (number,)
        ids = (number, *more)
        if what == "keep":
            parent = cache.longest(prompt, ids)
            begin = parent.covered if parent is not None else 0
            states = torch.tensor(ids[begin:], dtype=torch.float32).expand(1, 2, 1, -1).unsqueeze(-1)
            taken.append((cache.keep(prompt, ids, parent, states), ids))
        elif what == "forget":
            cache.forget(prompt)
        held = entries(cache)
        assert cache.bytes == sum(found.bytes for found in held)
        assert cache.bytes <= max_bytes or len(cache._groups) == 1
        for found in held:
            assert found.states[0, 0, 0, :, 0].tolist() == list(found.ids), "states stay with their tokens"
        known = {tokens_of(found)[:end] for found in held for end in range(1, found.covered + 1)}
        expected = max((len(some) for some in known if some == ids[: len(some)]), default=0)
        longest = cache.longest(prompt, ids)
        assert (longest.covered if longest is not None else 0) == expected
        if longest is not None:
            assert tokens_of(longest) == ids[:expected]
        for entry, its in taken:  # whoever holds an entry holds its prefix, however it is split or dropped meanwhile
            assert tokens_of(entry) == its
            assert entry.covered == len(its)


def test_states_whose_beginning_was_dropped_are_of_use_but_not_kept() -> None:
    cache = PrefixCache(1 << 20)
    first = cache.keep((1,), (1, 2), None, torch.zeros(1, 2, 1, 2, 1))
    cache.forget((1,))
    later = cache.keep((1,), (1, 2, 3), first, torch.zeros(1, 2, 1, 1, 1))
    assert tokens_of(later) == (1, 2, 3)
    assert cache.bytes == 0
    assert cache.longest((1,), (1, 2, 3)) is None
