"""One training in two processes on a CPU (gloo): the updates of one, and one checkpoint, summary and manifest."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_worked
from tests.helpers import ROOT

SETTINGS = ("--learning-rate", "1e-3", "--batch-size", "7", "--device", "cpu", "--dtype", "float32", "--json")

RECIPES = ROOT / "recipes/accelerate"
LAUNCH = ("-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", "2", "--config_file")
ALONE = ("-m", "rstar_cli")
WHOLE = (*LAUNCH, str(RECIPES / "ddp.yaml"), "-m", "rstar_cli")
SHARDED = (*LAUNCH, str(RECIPES / "fsdp.yaml"), str(ROOT / "tests/sharded.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def run(command: Sequence[str], cwd: Path) -> dict[str, Any]:
    """What a command tells on stdout, as one JSON object: several processes tell it once."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    told: dict[str, Any] = json.loads(done.stdout or "{}")
    return told


def weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(checkpoint / "model.safetensors"))


def log_of(checkpoint: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (checkpoint / "train_log.jsonl").read_text().splitlines()]


def compare(one: Path, two: Path, start: Path) -> None:
    """Equal up to the order of sums: losses and gradients of every update, and the weights."""
    assert len(log_of(one)) == len(log_of(two)) > 3
    for alone, shared in zip(log_of(one), log_of(two), strict=True):
        assert alone["tokens"] == shared["tokens"]
        assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-2, abs=1e-5)
        assert shared["grad_norm"] == pytest.approx(alone["grad_norm"], rel=2e-2)
    first, other = log_of(one)[0], log_of(two)[0]
    assert other["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    before, expected, got = weights(start), weights(one), weights(two)
    assert {name: weight.dtype for name, weight in got.items()} == {n: w.dtype for n, w in expected.items()}
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    moved = sum(float((expected[name] - before.get(name, 0)).norm() ** 2) for name in expected)
    apart = sum(float((expected[name] - got[name]).norm() ** 2) for name in expected)
    assert 0 <= apart < 0.03**2 * moved, "AdamW makes much of rounding where gradients are next to nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("files")
    rng = random.Random(0)
    shown = [demonstrate(worked, rng, right=True) for worked in make_worked(33, 0)]
    write_rows(root / "sft.jsonl", shown)
    pairs = [{"prompt": r.prompt, "chosen": r.completion, "rejected": r.steps[-2].text} for r in shown]
    (root / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    labelled = [
        {"prompt": r.prompt, "completions": [s.text for s in r.steps if not s.output], "labels": labels}
        for i, r in enumerate(shown)
        if (labels := [i % 3 > 0] * sum(not s.output for s in r.steps))
    ]
    (root / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    return root


POLICY = ("train-policy", "sft", ("--epochs", "2", "--batch-tokens", "400", "--held-out", "0.2"))
LORA = ("train-policy", "sft", ("--epochs", "1", "--lora-rank", "4", "--save-minutes", "0"))
PAIRS = ("train-prm", "pairs", ("--objective", "ppm", "--min-updates", "5", "--batch-tokens", "700"))
LABELS = ("train-prm", "labels", ("--min-updates", "5", "--objective", "prm-hard"))


def call(how: tuple[str, ...], case: tuple[str, str, tuple[str, ...]], folder: Path, output: Path) -> list[str]:
    stage, file, more = case
    return [*how, stage, "--input", str(folder / f"{file}.jsonl"), "--output", str(output), *SETTINGS, *more]


@pytest.mark.parametrize(
    ("how", "case"),
    [
        pytest.param(WHOLE, POLICY, id="policy"),
        pytest.param(WHOLE, LORA, id="lora", marks=pytest.mark.slow),
        pytest.param(WHOLE, PAIRS, id="pairs", marks=pytest.mark.slow),
        pytest.param(WHOLE, LABELS, id="labels", marks=pytest.mark.slow),
        pytest.param(SHARDED, POLICY, id="sharded policy", marks=pytest.mark.slow),
        pytest.param(SHARDED, LORA, id="sharded lora", marks=pytest.mark.slow),
        pytest.param(SHARDED, PAIRS, id="sharded pairs", marks=pytest.mark.slow),
        pytest.param(SHARDED, LABELS, id="sharded labels", marks=pytest.mark.slow),
    ],
)
def test_two_processes_do_what_one_does(
    folder: Path, tmp_path: Path, how: tuple[str, ...], case: tuple[str, str, tuple[str, ...]]
) -> None:
    alone = run(call(ALONE, case, folder, tmp_path / "1"), tmp_path)["data"]
    both = run(call(how, case, folder, tmp_path / "2"), tmp_path)["data"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
    for name in ("updates", "tokens", "rows", "pairs", "solutions", "rows held out", "weights of update"):
        assert alone.get(name) == both.get(name)
    compare(tmp_path / "1", tmp_path / "2", Path(model_path("embedded")))


@pytest.mark.slow
@pytest.mark.parametrize("how", [WHOLE, SHARDED], ids=["whole", "sharded"])
def test_killed_processes_go_on(folder: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    case = ("train-policy", "sft", ("--epochs", "6", "--save-minutes", "0"))
    run(call(ALONE, case, folder, tmp_path / "1"), tmp_path)
    begun = subprocess.Popen(
        [sys.executable, *call(how, case, folder, tmp_path / "2")],
        cwd=tmp_path,
        env=ENVIRONMENT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not list(tmp_path.glob(".2.partial/saved/[3-9]")):
        assert begun.poll() is None, "it ended before it was killed"
        time.sleep(0.02)
    workers = psutil.Process(begun.pid).children(recursive=True)
    for process in (*workers, begun):
        process.kill()
    psutil.wait_procs(workers, timeout=10)
    begun.wait(10)
    run(call(how, case, folder, tmp_path / "2"), tmp_path)
    compare(tmp_path / "1", tmp_path / "2", Path(model_path("embedded")))


def test_a_round_has_one_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`train-policy` of a run in two processes: what it leaves is what one process leaves."""
    monkeypatch.setitem(ENVIRONMENT, "RSTAR_RUN", "r")
    search = ("generate", "--engine", "scripted", "--rollouts", "4", "--limit", "12", "--json")
    run([*ALONE, *search], tmp_path)
    run([*ALONE, "verify", "--json"], tmp_path)
    train = [*WHOLE, "train-policy", "--epochs", "1", "--device", "cpu", "--json"]
    done = run(train, tmp_path)
    entry = json.loads((tmp_path / "r/round_1/manifest.json").read_text())["stages"]["train-policy"]
    assert entry["status"] == "complete"
    assert entry["counts"]["tokens"] == done["data"]["tokens"]
    assert list(entry["outputs"]["policy"]["files"]) == ["model.safetensors"]
    assert not list((tmp_path / "r/round_1").glob(".*"))
    assert run(train, tmp_path)["done_before"]
