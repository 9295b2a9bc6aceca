"""Training on a GPU: 100 million parameters by the gpu recipe, what it takes beside what was said, bits and shards."""

from __future__ import annotations

import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.bench.random_model import save_random_model
from rstar_cli.bench.train import describe, measure
from rstar_cli.config import TrainPolicyConfig
from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import model_path
from rstar_cli.options import BenchTrainPlace
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.recipe import load_recipe
from rstar_cli.records import SftRow
from rstar_cli.stages.train_cost import shape_of, training_memory
from rstar_cli.train.machine import find_machine
from rstar_cli.train.policy import TrainReport, train_policy
from tests.helpers import ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE: Any = "cuda"
MILLIONS = 100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_random_model(path, MILLIONS * 1e6)
    return path


@pytest.fixture(scope="module")
def rows() -> list[SftRow]:
    rng = random.Random(0)
    return [demonstrate(worked, rng, right=True) for worked in make_worked(2048, 0)]


def settings(**other: Any) -> TrainPolicyConfig:
    given = {"learning_rate": 5e-4, "device": DEVICE, "held_out": 0.0, **other}  # a random model can take more
    return load_recipe(ROOT / "recipes/gpu.toml").stage(TrainPolicyConfig, "train-policy", 1, given)


def told(name: str, report: TrainReport) -> None:
    losses = f"loss {report.first_loss:.3f} to {report.final_loss:.3f}"
    print(f"\n{name}: {report.updates} updates, {losses}, {report.tokens / report.seconds:,.0f} tokens/s")


def test_a_policy_of_100_million_trains_in_bfloat16(model: Path, rows: list[SftRow], tmp_path: Path) -> None:
    machine, config = find_machine(DEVICE, "auto"), settings()
    assert machine.bfloat16
    torch.cuda.reset_peak_memory_stats()
    report = train_policy(rows, model=model, output=tmp_path / "out", config=config)
    peak, shape = torch.cuda.max_memory_allocated(), shape_of(str(model))
    told(f"{MILLIONS} M, full", report)
    assert shape is not None
    parts = training_memory(shape, config, machine, scores=False)
    print(f"memory: peak {peak / 1e9:.2f} GB; said {sum(parts.values()) / 1e9:.2f} GB, {parts}")
    assert report.final_loss < 0.5 * report.first_loss
    assert 0.5 * peak < sum(parts.values()) < 2 * peak


@pytest.mark.parametrize("dtype", ["auto", "4bit"])
def test_adapters_train(model: Path, rows: list[SftRow], tmp_path: Path, dtype: str) -> None:
    if dtype == "4bit" and find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    config = settings(lora_rank=16, learning_rate=2e-3, dtype=dtype, epochs=1)
    report = train_policy(rows[:1024], model=model, output=tmp_path / "out", config=config)
    told(f"{MILLIONS} M, LoRA, {dtype}", report)
    assert report.final_loss < report.first_loss


def test_it_is_as_fast_as_a_plain_loop(capsys: pytest.CaptureFixture[str]) -> None:
    report = measure(BenchTrainPlace(parameters=MILLIONS, rows=1024, batch_size=64, repeats=2, device=DEVICE))
    with capsys.disabled():
        print("", *(f"{name}: {value}" for name, value in describe(report).items()), sep="\n")
    assert report["ratio"]["plain"] >= 0.9
    assert report["ratio"]["trl"] >= 1.0


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_all_gpus_train_together(rows: list[SftRow], tmp_path: Path, how: str) -> None:
    """One GPU is enough to go through accelerate's path; with several the shares are real."""
    write_rows(tmp_path / "rows.jsonl", rows[:256])
    config = str(ROOT / f"recipes/accelerate/{how}.yaml")
    launch = ["accelerate.commands.launch", "--config_file", config, "--num_processes", str(torch.cuda.device_count())]
    train = ["rstar_cli", "train-policy", "--input", "rows.jsonl", "--output", "out", "--model", model_path("embedded")]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--main_process_port", "0", "-m", *train, "--epochs", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert (tmp_path / "out/model.safetensors").exists()
