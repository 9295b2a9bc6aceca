"""Slurm templates and `gpus.sh`, with stand-ins of `sbatch`, `scontrol` and `rstar` that note what they are told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT, rstar

SBATCH = """#!/bin/sh
# numbers the job, writes down how it was submitted, and runs it at once, an array task by task
number=$(($(cat count 2>/dev/null || echo 0) + 1)); echo $number > count
echo "sbatch $*" >> log
tasks=
while [ $# -gt 0 ]; do
  case $1 in
    --array=*) tasks=${1#--array=1-} ;;
    --*) ;;
    *) break ;;
  esac
  shift
done
export SLURM_JOB_ID=$number
if [ -n "$tasks" ]; then
  for task in $(seq "$tasks"); do
    SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=$tasks sh "$@" || exit 1
  done
else
  sh "$@" || exit 1
fi
echo "$number;cluster"
"""
NOTED = '#!/bin/sh\necho "$(basename "$0") $*" >> log\n'


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tool(tmp_path, "sbatch", SBATCH)
    tool(tmp_path, "scontrol", NOTED)
    tool(tmp_path, "rstar", NOTED)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RSTAR_RUN", "r")
    return tmp_path


def tool(root: Path, name: str, text: str) -> None:
    path = root / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def log(place: Path, program: str) -> list[str]:
    lines = (place / "log").read_text().splitlines()
    return [line.removeprefix(f"{program} ") for line in lines if line.startswith(f"{program} ")]


def test_rounds_as_jobs_that_wait_for_each_other(place: Path) -> None:
    script = str(ROOT / "recipes/slurm/rounds.sh")
    environment = {**os.environ, "SHARDS": "2", "SBATCH_GPU": "--gres=gpu:1"}
    subprocess.run(["sh", script, "1"], cwd=place, check=True, capture_output=True, env=environment)
    on = "--round {} --run r"
    assert log(place, "rstar") == [
        *(f"evaluate {on.format(0)} --shard {i}/2" for i in (1, 2)),
        f"merge {on.format(0)}",
        *(f"generate {on.format(1)} --shard {i}/2" for i in (1, 2)),
        f"merge {on.format(1)}",
        *(f"verify {on.format(1)} --shard {i}/2" for i in (1, 2)),
        f"merge {on.format(1)}",
        f"train-policy {on.format(1)}",
        f"train-prm {on.format(1)}",
        *(f"evaluate {on.format(1)} --shard {i}/2" for i in (1, 2)),
        f"merge {on.format(1)}",
        "report --run r",
    ]
    jobs = log(place, "sbatch")
    waits = [re.search(r"--dependency=afterok:(\d+)", job) for job in jobs]
    assert [int(found[1]) if found else 0 for found in waits] == list(range(len(jobs)))
    models = ("evaluate", "generate", "train-policy", "train-prm")
    assert all(("gpu:1" in job) == any(f" {stage} " in job for stage in models) for job in jobs)


def test_a_job_out_of_time_is_stopped_and_queued_again(place: Path) -> None:
    """Slurm sends SIGTERM to the batch script alone (`--signal=B:TERM@120`)."""
    waits = "trap 'echo stopped >> log; exit 143' TERM\ntouch begun\nwhile :; do sleep 0.05; done\n"
    tool(place, "rstar", f"#!/bin/sh\n{waits}")
    job = subprocess.Popen(
        ["sh", str(ROOT / "recipes/slurm/stage.sbatch"), "generate"], cwd=place, env={**os.environ, "SLURM_JOB_ID": "7"}
    )
    while not (place / "begun").exists():
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 143
    assert (place / "log").read_text().splitlines() == ["stopped", "scontrol requeue 7"]


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_ends_as_its_command_does(place: Path, code: int) -> None:
    tool(place, "rstar", f"#!/bin/sh\nexit {code}\n")
    done = subprocess.run(["sh", str(ROOT / "recipes/slurm/stage.sbatch"), "generate"], cwd=place, check=False)
    assert done.returncode == code
    assert not (place / "log").exists(), "nothing is queued again"


def test_an_engine_on_each_gpu(place: Path) -> None:
    tool(place, "rstar", '#!/bin/sh\necho "rstar on ${CUDA_VISIBLE_DEVICES:-all}: $*" >> log\n')
    script = str(ROOT / "recipes/gpus.sh")
    subprocess.run(["sh", script, "generate", "2"], cwd=place, check=True, env={**os.environ, "GPUS": "2"})
    told = log(place, "rstar")
    assert sorted(told[:2]) == [f"on {i}: generate --round 2 --run r --shard {i + 1}/2" for i in (0, 1)]
    assert told[2:] == ["on all: merge --round 2 --run r"]


def test_a_gpu_that_fails_ends_it_without_a_merge(place: Path) -> None:
    tool(place, "rstar", '#!/bin/sh\necho "rstar $*" >> log\ncase $* in *2/2) exit 5 ;; esac\n')
    script = str(ROOT / "recipes/gpus.sh")
    done = subprocess.run(["sh", script, "generate", "2"], cwd=place, check=False, env={**os.environ, "GPUS": "2"})
    assert done.returncode == 5
    assert not any("merge" in line for line in log(place, "rstar"))


def test_a_model_from_scratch(tmp_path: Path) -> None:
    """The first steps of gpu_small.sh, with a small model and few demonstrations."""
    python = [sys.executable, "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for command in (
        ["rstar_cli.bench.random_model", "--millions", "1", "--output", "random"],
        ["rstar_cli.embedded.build", "--rows", "rows.jsonl"],
    ):
        subprocess.run([*python, *command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    assert len(rows) > 10_000
    (tmp_path / "few.jsonl").write_text("".join(rows[:48]))
    train = ("train-policy", "--input", "few.jsonl", "--model", "random", "--output", "base", "--optimizer", "muon")
    rstar(*train, "--learning-rate", "1e-3", "--batch-size", "16", "--batch-tokens", "2048", cwd=tmp_path)
    recipe = (ROOT / "recipes/gpu_small.toml").read_text().replace("runs/gpu_small-base", "base")
    (tmp_path / "recipe.toml").write_text(recipe)
    told = rstar("evolve", "--run", "r", "--recipe", "recipe.toml", "--dry-run", cwd=tmp_path).stderr
    assert "base" in told
