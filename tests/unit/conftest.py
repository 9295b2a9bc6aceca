"""What tests of trainings share: one thread, a tiny base, a scorer made from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub import serving
from tests.models import save


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch on one thread, so that equal trainings give equal weights whatever the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A stand-in of the Hugging Face hub."""
    with serving(monkeypatch) as server:
        yield server


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal language model."""
    return save(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def scorer(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scorer whose head is random and large."""
    import torch

    from rstar_cli.tokens import StepTokenizer
    from rstar_cli.train.checkpoint import load_scorer

    path = tmp_path_factory.mktemp("scorer")
    tokenizer = StepTokenizer.load(base).hf
    net = load_scorer(base, tokenizer, dtype=torch.float32, attention="sdpa")
    torch.manual_seed(7)
    net.score.weight.data.normal_(0, 0.1)
    net.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
