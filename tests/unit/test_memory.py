"""Whether models fit, told from headers alone: checkpoints of a 7B model's shapes whose weights are holes in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rstar_cli.config import SearchConfig
from rstar_cli.engines import checkpoint
from rstar_cli.engines.prm import memory_beside
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.errors import SetupError
from rstar_cli.stages.memory import count_weights, memory_figures
from tests import models
from tests.helpers import rstar

LAYERS, WIDTH, INNER, HEADS, VOCABULARY = 28, 3584, 18944, 512, 152064  # of Qwen2.5-Math-7B
TOTAL = 7_615_616_512  # its parameters, as it is published


def shapes() -> dict[str, list[int]]:
    found = {"model.embed_tokens.weight": [VOCABULARY, WIDTH], "lm_head.weight": [VOCABULARY, WIDTH]}
    found["model.norm.weight"] = [WIDTH]
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name, rows in (("q", WIDTH), ("k", HEADS), ("v", HEADS)):
            found[f"{layer}self_attn.{name}_proj.weight"] = [rows, WIDTH]
            found[f"{layer}self_attn.{name}_proj.bias"] = [rows]
        found[f"{layer}self_attn.o_proj.weight"] = [WIDTH, WIDTH]
        found[f"{layer}mlp.gate_proj.weight"] = found[f"{layer}mlp.up_proj.weight"] = [INNER, WIDTH]
        found[f"{layer}mlp.down_proj.weight"] = [WIDTH, INNER]
        found[f"{layer}input_layernorm.weight"] = found[f"{layer}post_attention_layernorm.weight"] = [WIDTH]
    return found


def save_holes(path: Path) -> Path:
    """Two shards and their index, 15 GB to look at, some KB on the disk."""
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "tokenizer.json").write_text("{}")
    weight_map: dict[str, str] = {}
    names = list(shapes())
    for number, part in enumerate((names[:150], names[150:]), 1):
        shard = f"model-{number:05}-of-00002.safetensors"
        header, end = {}, 0
        for name in part:
            first, end = end, end + 2 * torch.Size(shapes()[name]).numel()
            header[name] = {"dtype": "BF16", "shape": shapes()[name], "data_offsets": [first, end]}
            weight_map[name] = shard
        told = json.dumps(header).encode()
        told += b" " * (-len(told) % 8)
        with (path / shard).open("wb") as file:
            file.write(len(told).to_bytes(8, "little") + told)
            file.truncate(8 + len(told) + end)
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_holes(tmp_path_factory.mktemp("holes") / "7b"))


Machine = Callable[[float | None, float], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Have a GPU with so many GB free, or none, and a CPU with so many."""

    def have(gpu: float | None, cpu: float) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu is not None))
        free = {"cpu": cpu, "cuda": gpu or 0.0}
        monkeypatch.setattr(checkpoint, "free_memory", lambda device: int(free[device] * 1e9))

    return have


def test_parameters_are_counted_in_headers(large: str) -> None:
    found = count_weights(large)
    assert found is not None
    assert found.matrices + found.others == TOTAL
    assert found.others == 2 * VOCABULARY * WIDTH + (LAYERS * 2 + 1) * WIDTH + LAYERS * (WIDTH + 2 * HEADS)
    assert found.size("cuda", "auto") == found.size("cpu", "bfloat16") == 2 * TOTAL
    assert found.size("cpu", "auto") == 4 * TOTAL
    assert found.size("cuda", "4bit") == pytest.approx(5.85e9, rel=0.01)


def test_a_model_is_counted_as_it_is_loaded(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = count_weights(str(models.save(tmp_path)))
    assert found is not None
    assert found.matrices + found.others == AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters()


def test_two_large_models_on_one_small_gpu(large: str, machine: Machine) -> None:
    machine(24, 64)
    # (24 - 15.2) / 2 for the policy, nothing is left for the PRM
    expected = (
        "policy 15.2 GB + PRM 15.2 GB + cache 4.4 GB of 24.0 GB that are free: does not fit; "
        "--prm-device cpu or --dtype 4bit would"
    )
    assert memory_figures(SearchConfig(), large, large) == {"memory on cuda": expected}
    assert memory_figures(SearchConfig(device="cuda:0", prm_device="cuda"), large, large) == {
        "memory on cuda": expected
    }
    machine(24, 16)
    assert memory_figures(SearchConfig(), large, large)["memory on cuda"].endswith("fit; --dtype 4bit would")
    machine(8, 16)
    assert memory_figures(SearchConfig(), large, large)["memory on cuda"].endswith("does not fit")


def test_what_was_said_to_fit_fits(large: str, machine: Machine) -> None:
    machine(24, 64)
    assert memory_figures(SearchConfig(prm_device="cpu"), large, large) == {
        "memory on cuda": "policy 15.2 GB + cache 4.4 GB of 24.0 GB that are free: fits",
        "memory on cpu": "PRM 30.5 GB + cache 8.4 GB of 64.0 GB that are free: fits",
    }
    machine(80, 64)
    told = memory_figures(SearchConfig(), large, large)["memory on cuda"]
    assert told.endswith("+ cache 44.8 GB of 80.0 GB that are free: fits")
    machine(48, 64)
    told = memory_figures(SearchConfig(), large, large)["memory on cuda"]
    assert "that are free: fits, but full caches would not; --prm-device cpu or --dtype 4bit would" in told


def test_four_bits_are_checked(large: str, machine: Machine) -> None:
    machine(None, 64)
    with pytest.raises(SetupError, match="4bit needs a GPU"):
        memory_figures(SearchConfig(dtype="4bit"), large, None)


def test_without_a_gpu_it_is_the_cpus_memory(large: str, machine: Machine) -> None:
    machine(None, 32)
    told = memory_figures(SearchConfig(), large, large)
    assert told == {
        "memory on cpu": "policy 30.5 GB + PRM 30.5 GB + cache 0.8 GB of 32.0 GB that are free: does not fit"
    }
    assert memory_figures(SearchConfig(), large, None)["memory on cpu"].endswith("free: fits")
    assert memory_figures(SearchConfig(device="cuda:1"), large, None) == {
        "memory on cuda:1": "policy 15.2 GB; no such device is to be seen here"
    }
    machine(None, 62)
    assert memory_figures(SearchConfig(), large, large)["memory on cpu"].endswith("not; --dtype bfloat16 would")


def test_the_rule_is_the_engines(tmp_path: Path, machine: Machine) -> None:
    """What engines promise themselves of the free memory, kept and in work, is what is told of."""
    machine(None, 0.05)
    path = str(models.save(tmp_path))
    weights = count_weights(path)
    assert weights is not None
    policy = TransformersPolicy.load(path, device="cpu")._memory
    expected = 2 * (policy + memory_beside("cpu"))  # of a free memory that does not fall while models are loaded
    size = weights.size("cpu", "auto")
    told = memory_figures(SearchConfig(device="cpu"), path, path)["memory on cpu"]
    cache = re.search(r"cache ([\d.]+) MB of 50.0 MB", told)
    assert cache is not None
    assert float(cache[1]) == pytest.approx((expected - (0.5 + 2 * 0.25) * size) / 1e6, abs=0.1)


def test_what_is_not_there_is_told(tmp_path: Path, large: str) -> None:
    told = memory_figures(SearchConfig(), "Qwen/Qwen2.5-Math-7B", large)
    assert told == {"memory": "not known: the weights of Qwen/Qwen2.5-Math-7B are not on this disk"}
    assert "a/b/c and x" in memory_figures(SearchConfig(), "a/b/c", "x")["memory"]
    models.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(SetupError, match="can't be read"):
        memory_figures(SearchConfig(), str(tmp_path), None)


def test_a_dry_run_tells_it(tmp_path: Path, large: str) -> None:
    rstar("problems", "make", "--count", "2", "--output", "p.jsonl", cwd=tmp_path)
    flags = ("--dry-run", "--json", "--policy", large, "--prm", large, "--device", "cpu")
    asked = {"generate": ("--problems", "p.jsonl", "--output", "t.jsonl"), "evaluate": ("--benchmark", "p.jsonl")}
    for stage, more in asked.items():
        figures = json.loads(rstar(stage, *more, *flags, cwd=tmp_path).stdout)["figures"]
        assert figures["memory on cpu"].startswith("policy 30.5 GB + PRM 30.5 GB + cache ")
    refused = rstar("generate", *asked["generate"], *flags, "--dtype", "4bit", cwd=tmp_path, check=False)
    assert (refused.returncode, "needs a GPU" in refused.stderr) == (5, True)
    refused = rstar("generate", *asked["generate"], *flags, "--prm-device", "gpu", cwd=tmp_path, check=False)
    assert (refused.returncode, "--prm-device" in refused.stderr) == (2, True)
