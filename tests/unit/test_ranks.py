"""How processes share a training: a row is one process's, all do as many passes, none gets more than its cap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli import ranks
from rstar_cli.errors import SetupError
from rstar_cli.progress import StageProgress
from rstar_cli.stages.common import StageRecord, Summary
from rstar_cli.train.batches import plan_updates
from rstar_cli.train.checkpoint import workspace
from rstar_cli.train.machine import find_machine
from rstar_cli.train.plan_trainer import Updates

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40)


@given(lengths, st.integers(1, 12), st.integers(1, 300), st.integers(2, 5), st.booleans())
def test_more_processes_change_no_update(
    lengths: list[int], batch_size: int, batch_tokens: int, count: int, packed: bool
) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": batch_size, "seed": 1, "packed": packed}
    alone = plan_updates(lengths, batch_tokens=batch_tokens, **settings)
    shared = plan_updates(lengths, batch_tokens=batch_tokens, ranks=count, **settings)
    assert [sorted(sum(update, ())) for update in shared] == [sorted(sum(update, ())) for update in alone]
    for batch in () if packed else (batch for update in shared for batch in update):
        for mine in (batch[at::count] for at in range(count)):
            assert len(mine) <= 1 or len(mine) * max(lengths[row] for row in mine) <= batch_tokens


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_row_is_one_processs_and_all_do_as_many_passes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    plan = [((5, 1, 0, 2), (3,)), ((4, 6),)]
    monkeypatch.setenv("WORLD_SIZE", str(count))
    seen: list[list[tuple[tuple[int, ...], bool]]] = []
    for number in range(count):
        monkeypatch.setenv("RANK", str(number))
        assert ranks.is_main() == (number == 0)
        updates: Any = Updates(plan, lambda batch: batch)  # type: ignore[arg-type, return-value]
        seen.append([(part.tensors, part.counts) for i in range(len(plan)) for part in updates[i]])
    assert {len(parts) for parts in seen} == {3}
    for at, batch in enumerate(batch for update in plan for batch in update):
        counted = [row for parts in seen for row in parts[at][0] if parts[at][1]]
        assert sorted(counted) == sorted(batch)
        assert all(parts[at][0] for parts in seen)


def test_one_process_needs_no_other() -> None:
    assert (ranks.world_size(), ranks.rank(), ranks.local_rank(), ranks.is_sharded()) == (1, 0, 0, False)
    assert ranks.agree(True)
    assert not ranks.agree(False)
    ranks.wait()


def test_the_others_write_and_show_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from rstar_cli.options import Place
    from rstar_cli.screen import show

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    record = StageRecord(tmp_path / "manifest.json", "train-policy", {}, {}, [tmp_path / "policy"])
    record.begin()
    with StageProgress("train", 3, file=tmp_path / "progress.json") as progress:
        progress.update(2, "loss 1")
    with workspace(tmp_path / "out") as work:
        assert not work.exists()
    show(Place(json=True), Summary("train-policy"))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_four_bits_are_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SetupError, match="4bit trains in one process"):
        find_machine("auto", "4bit")
