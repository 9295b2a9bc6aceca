"""Packed rows: the same training as row by row, for every architecture that is packed; others are padded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.tokens import IGNORED
from rstar_cli.train import policy
from rstar_cli.train.checkpoint import load_model
from rstar_cli.train.packing import pack_attention, pack_rows
from tests import models
from tests.unit.test_checkpoint import HEADS, OTHERS, SIZE, save
from tests.unit.test_train_policy import fit, weights

pytestmark = pytest.mark.usefixtures("one_thread")


ARCHITECTURES: dict[str, dict[str, Any]] = {
    **OTHERS,
    "qwen2": {**SIZE, **HEADS},
    "llama": {**SIZE, **HEADS},
    "mistral": {**SIZE, **HEADS, "sliding_window": None},
}


def load(path: Path) -> Any:
    return load_model(path, dtype=torch.float32, attention="sdpa").eval()


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_rows_do_not_see_each_other(tmp_path: Path, kind: str) -> None:
    net = load(save(tmp_path, kind, **ARCHITECTURES[kind]))
    rows = [torch.randint(2, 300, (length,)).tolist() for length in (1, 9, 4, 30, 9)]
    with torch.inference_mode():
        alone = [net(torch.tensor([row])).logits[0] for row in rows]
        assert pack_attention(net)
        packed = pack_rows(rows, rows)
        del packed["labels"]
        together = net(**packed, use_cache=False).logits[0].split([len(row) for row in rows])
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("qwen2", {**SIZE, **HEADS, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
        ("mistral", {**SIZE, **HEADS, "sliding_window": 80}),
        ("mamba", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}),
    ],
)
def test_what_can_not_be_packed_is_padded(tmp_path: Path, kind: str, fields: dict[str, Any]) -> None:
    from transformers import AutoModelForCausalLM

    net: Any = AutoModelForCausalLM.from_pretrained(save(tmp_path, kind, **fields))
    before = net.config._attn_implementation
    assert not pack_attention(net)
    assert net.config._attn_implementation == before


def test_no_row_learns_from_the_one_before() -> None:
    packed = pack_rows([[5, 6, 7], [8, 9]], [[5, IGNORED, 7], [8, 9]])
    assert {name: tensor.tolist() for name, tensor in packed.items()} == {
        "input_ids": [[5, 6, 7, 8, 9]],
        "labels": [[IGNORED, IGNORED, 7, IGNORED, 9]],
        "position_ids": [[0, 1, 2, 0, 1]],
        "cu_seq_lens_q": [0, 3, 5],
        "cu_seq_lens_k": [0, 3, 5],
    }


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 4}, {"held_out": 0.3}])
def test_packed_and_padded_trainings_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    base = models.save(tmp_path / "base")
    settings = {"dtype": "float32", "epochs": 2, "batch_tokens": 300, **changes}
    packed = fit(base, tmp_path / "packed", **settings)
    monkeypatch.setattr(policy, "pack_attention", lambda _: False)
    padded = fit(base, tmp_path / "padded", **settings)
    assert (packed.tokens, packed.loss_tokens, packed.updates) == (padded.tokens, padded.loss_tokens, padded.updates)
    assert packed.first_loss == pytest.approx(padded.first_loss, abs=1e-5)
    assert packed.final_loss == pytest.approx(padded.final_loss, abs=1e-3)
    a, b = weights(tmp_path / "packed"), weights(tmp_path / "padded")
    assert all(torch.allclose(a[key], b[key], atol=2e-3) for key in a)
