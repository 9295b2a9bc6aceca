"""Updates: which rows they hold, the optimizer's step, the learning rate."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.batches import cut, plan_updates
from rstar_cli.train.checkpoint import load_scorer
from rstar_cli.train.optimizers import linear_schedule, make_optimizer
from tests.unit.test_train_policy import load

pytestmark = pytest.mark.usefixtures("one_thread")


def test_muon_takes_the_inner_matrices_and_its_state_survives_saving(base: Path) -> None:
    import torch

    def grown(steps: int, optimizer: Any, model: Any) -> None:
        for seed in range(steps):
            for i, parameter in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(1000 * seed + i)
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    model, twin = load(base), load(base)
    optimizer = make_optimizer(model, "muon", learning_rate=1e-2, weight_decay=0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_muon = {names[p] for p, state in optimizer.state.items() if "momentum_buffer" in state}
    assert not by_muon
    grown(3, optimizer, model)
    by_muon = {names[p] for p, state in optimizer.state.items() if "momentum_buffer" in state}
    assert by_muon == {name for name in names.values() if name.endswith("proj.weight")}
    assert {names[p] for p in optimizer.state} == set(names.values())

    twin.load_state_dict(model.state_dict())
    fresh = make_optimizer(twin, "muon", learning_rate=1.0, weight_decay=0.0)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    grown(2, optimizer, model)
    grown(2, fresh, twin)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_muon_leaves_the_head_to_adamw(scorer: Path) -> None:
    import torch

    net = load_scorer(scorer, StepTokenizer.load(scorer).hf, dtype=None, attention="sdpa")
    optimizer = make_optimizer(net, "muon", learning_rate=1e-2, weight_decay=0.0)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    names = {parameter: name for name, parameter in net.named_parameters()}
    by_muon = {names[p] for p, state in optimizer.state.items() if "momentum_buffer" in state}
    assert by_muon == {name for name in names.values() if name.endswith("proj.weight")}
    assert {names[p] for p in optimizer.state} == set(names.values())


@pytest.mark.parametrize("warmup", [0.0, 0.25])
def test_the_learning_rate_rises_then_falls_and_is_never_wasted(base: Path, warmup: float) -> None:
    optimizer = make_optimizer(load(base), "muon", learning_rate=2.0, weight_decay=0.0)
    schedule = linear_schedule(optimizer, 12, warmup)
    rates = []
    for _ in range(12):
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    peak = rates.index(max(rates))
    assert max(rates) == 2.0
    assert peak == (2 if warmup else 0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=70)


@settings(deadline=None)
@given(lengths, st.integers(1, 20), st.integers(1, 300), st.floats(0.1, 3), st.integers(0, 9), st.booleans())
def test_every_epoch_shows_every_row_once(
    lengths: list[int], batch_size: int, batch_tokens: int, epochs: float, seed: int, packed: bool
) -> None:
    sizes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "batch_tokens": batch_tokens, "seed": seed}
    plan = plan_updates(lengths, **sizes, packed=packed)
    per_epoch = -(-len(lengths) // batch_size)
    assert len(plan) == max(1, round(epochs * per_epoch))
    for start in range(0, len(plan) - per_epoch + 1, per_epoch):
        shown = [row for update in plan[start : start + per_epoch] for batch in update for row in batch]
        assert sorted(shown) == list(range(len(lengths)))
    for update in plan:
        assert update
        for batch in update:
            assert batch
            tokens = [lengths[row] for row in batch]
            assert len(batch) == 1 or (sum(tokens) if packed else len(batch) * max(tokens)) <= batch_tokens
        if packed:  # any two that fit together are together
            sizes_of = sorted(sum(lengths[row] for row in batch) for batch in update)
            assert len(update) == 1 or sizes_of[0] + sizes_of[1] > batch_tokens
    assert plan == plan_updates(lengths, **sizes, packed=packed)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=9), st.integers(1, 1500))
def test_no_other_cut_is_cheaper(lengths: list[int], batch_tokens: int) -> None:
    from rstar_cli.train.batches import OVERHEAD

    def cost(batch: list[int]) -> float:
        padded = len(batch) * max(batch)
        return padded + OVERHEAD if len(batch) == 1 or padded <= batch_tokens else float("inf")

    ordered = sorted(lengths)
    cheapest = min(
        sum(cost(ordered[a:b]) for a, b in zip([0, *marks], [*marks, len(ordered)], strict=True))
        for mask in range(1 << (len(ordered) - 1))
        for marks in [[i + 1 for i in range(len(ordered) - 1) if mask >> i & 1]]
    )
    got = cut(range(len(lengths)), lengths, batch_tokens)
    assert sum(cost([lengths[row] for row in batch]) for batch in got) == cheapest


def test_updates_of_an_epoch_hold_about_equal_tokens() -> None:
    rng = random.Random(0)
    lengths = [rng.randrange(20, 200) for _ in range(640)]
    plan = plan_updates(lengths, epochs=1, batch_size=32, batch_tokens=4096, seed=0)
    sizes = [sum(lengths[row] for batch in update for row in batch) for update in plan]
    mean = sum(sizes) / len(sizes)
    assert all(0.75 * mean < size < 1.25 * mean for size in sizes)
    padded = sum(len(batch) * max(lengths[row] for row in batch) for update in plan for batch in update)
    assert padded < 1.15 * sum(lengths)
