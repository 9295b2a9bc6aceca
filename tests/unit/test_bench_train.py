"""What `bench train` measures is whole, on a model of no size; nothing is said of speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rstar_cli.bench.random_model import save_random_model
from rstar_cli.bench.train import describe
from tests.helpers import rstar


@pytest.mark.parametrize("wanted", [2e6, 12e6])
def test_a_random_model_has_the_size_that_was_asked_for(tmp_path: Path, wanted: float) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told = save_random_model(tmp_path, wanted)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert told == model.num_parameters()
    assert 0.7 < told / wanted < 1.4
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == model.config.vocab_size


def test_the_report_is_whole(tmp_path: Path) -> None:
    size = ("--parameters", "0.5", "--rows", "24", "--batch-size", "6", "--repeats", "1", "--device", "cpu")
    told = json.loads(rstar("bench", "train", "--json", *size, cwd=tmp_path).stdout)
    data = told["data"]
    speed = data["tokens_per_second"]
    assert set(speed) == {"rstar", "plain float32", "plain bfloat16", "trl"}
    assert min(speed.values()) > 0
    assert data["ratio"]["trl"] == pytest.approx(speed["rstar"] / speed["trl"], abs=2e-3)
    faster = max(speed["plain float32"], speed["plain bfloat16"])
    assert data["ratio"]["plain"] == pytest.approx(speed["rstar"] / faster, abs=2e-3)
    assert data["rows"] == 24
    assert data["tokens"] > 24 * 20
    assert told["figures"] == describe(data)
    assert not list(tmp_path.iterdir()), "what is written is removed"
