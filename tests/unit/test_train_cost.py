"""What a training is said to take: sizes without weights, activations as PyTorch keeps them, a rate to go by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.config import TrainPolicyConfig, TrainPrmConfig
from rstar_cli.engines import checkpoint
from rstar_cli.records import PairRow, RowSegment, SftRow, StepLabelRow
from rstar_cli.stages import train_cost
from rstar_cli.stages.train_cost import cost_figures, count_tokens, shape_of, tell_memory, training_memory
from rstar_cli.train.machine import Machine
from tests.models import save

GPU = Machine("cuda", True, "sdpa")
CPU = Machine("cpu", False, "sdpa")
SEVEN_B = 7_615_616_512
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("7b")
    (path / "config.json").write_text(json.dumps(QWEN_7B))
    return str(path)


def shape(model: str) -> train_cost.Shape:
    found = shape_of(model)
    assert found is not None
    return found


def test_a_config_tells_all_sizes(seven: str) -> None:
    found = shape(seven)
    assert (found.parameters, found.layers, found.guessed) == (SEVEN_B, 28, False)
    assert found.layer * 28 + 2 * 3584 * 152064 + 3584 == SEVEN_B
    assert found.adapters(16) == 40_370_176, "as peft tells it of this model"
    assert shape("embedded").parameters == 680_832


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("Qwen/Qwen2.5-Math-7B", 7e9), ("x/llama-3.2-1B", 1e9), ("z/Big_72b-Instruct", 72e9)],
)
def test_a_name_tells_the_size_where_the_hub_is_out_of_reach(name: str, parameters: float) -> None:
    found = shape(name)
    assert found.guessed
    assert found.parameters == pytest.approx(parameters, rel=0.1)
    assert shape_of("some/model-v2.5") is None


def test_states_by_parameter(seven: str) -> None:
    def states(**settings: Any) -> float:
        told = training_memory(shape(seven), TrainPolicyConfig(**settings), GPU, scores=False)
        return told["weights"] + told["gradients"] + told["optimizer"]

    assert states() == 18 * SEVEN_B  # 16, and autocast's copy
    inner = shape(seven).inner
    assert states() - states(optimizer="muon") == 4 * inner
    assert states(lora_rank=16) == 2 * SEVEN_B + 18 * 40_370_176
    four_bits = states(lora_rank=16, dtype="4bit")
    assert four_bits == 0.5625 * inner + 2 * (SEVEN_B - inner) + 18 * 40_370_176
    free = training_memory(shape(seven), TrainPrmConfig(), GPU, scores=True)["activations"]
    assert training_memory(shape(seven), TrainPolicyConfig(), GPU, scores=False)["activations"] - free == 671_088_640


@pytest.mark.parametrize("bfloat16", [False, True])
def test_activations_are_those_that_pytorch_keeps(bfloat16: bool) -> None:
    from transformers import Qwen2Config, Qwen2Model

    def kept(layers: int, rows: int) -> int:
        config = Qwen2Config(
            vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=layers, num_attention_heads=4,
            num_key_value_heads=4,
        )  # fmt: skip
        net = Qwen2Model(config).train()
        found: dict[int, torch.Tensor] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        keep = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with keep, torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            out = net(input_ids=torch.zeros(rows, 64, dtype=torch.long), use_cache=False).last_hidden_state
        assert out.requires_grad
        return sum(tensor.untyped_storage().nbytes() for tensor in found.values())

    a_layer = (kept(2, 4) - kept(2, 2)) - (kept(1, 4) - kept(1, 2))
    sizes = train_cost.Shape(Qwen2Config(hidden_size=128, intermediate_size=512), False, 0, 0, ())
    assert train_cost._activations(sizes, bfloat16) == pytest.approx(a_layer / 128, rel=0.05)


def test_what_would_fit_is_named(seven: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(free: float, **settings: Any) -> str:
        monkeypatch.setattr(checkpoint, "free_memory", lambda device: int(free * 1e9))
        return tell_memory(shape(seven), TrainPolicyConfig(**settings), GPU, scores=False)

    assert told(200).endswith("of 200.0 GB that are free: fits")
    assert told(80).endswith("does not fit; --lora-rank 16 or 3 such GPUs (recipes/accelerate/fsdp.yaml) would")
    assert told(80, lora_rank=16).endswith("fits")
    assert told(145, batch_tokens=65536, max_length=4096).count("--batch-tokens 4096") == 1
    assert told(19).endswith("does not fit; --lora-rank 16 --dtype 4bit would")
    assert told(19, lora_rank=8).endswith("does not fit; --lora-rank 8 --dtype 4bit would")
    assert told(5).endswith("does not fit")


def test_an_earlier_rounds_rate_is_taken_before_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainPolicyConfig(device="cpu", dtype="float32")
    told = cost_figures("embedded", config, 600_000, 100, {"tokens": 50_000, "seconds": 5.0})
    assert told["time"] == "about 60 seconds: 600,000 tokens at 10,000.0 tokens/s, as an earlier round had"
    assert told["memory on cpu"].endswith("fits")
    measured = cost_figures("embedded", config, 1e9, 100, None)["time"]
    assert "from one layer's" in measured
    assert measured.startswith("about ")
    monkeypatch.setattr(checkpoint, "free_memory", lambda device: 1000)
    assert "not even one layer fits" in cost_figures("embedded", config, 1e6, 100, None)["time"]
    assert cost_figures("no-size", config, 1, 1, None)["memory"].startswith("not known")


def test_tokens_of_all_kinds_of_rows(tmp_path: Path) -> None:
    model = str(save(tmp_path))
    segment = (RowSegment(text="a = 1"),)
    rows = [
        SftRow(problem_id="p", prompt="what", completion="a = 1", steps=segment),
        PairRow(
            problem_id="p", kind="step", prompt="what", chosen="a = 1", rejected="a = 1", q_gap=1, weight=1,
            prefix=(RowSegment(text="what"),), chosen_steps=segment, rejected_steps=segment,
        ),
        StepLabelRow(
            problem_id="p", prompt="what", completions=("a = 1",), labels=(True,), values=(1.0,), steps=segment
        ),
    ]  # fmt: skip
    sft, pair, labelled = count_tokens(rows, model)
    assert pair == 2 * sft == 2 * labelled > 0
    guessed = count_tokens(rows, "no/such-7B")
    assert guessed == [3, 6, 3]
