"""The machine: disks that are full or can't be written, packages, GPUs and hubs that are not there, full memory.

Each is told on one screen, with what helps and its exit code, and before a model is loaded where it can be.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.engines.prm import TransformersScorer
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.errors import MemoryFullError
from rstar_cli.options import TrainPlace
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import SampleRequest, ScoreRequest, Segment
from rstar_cli.stages.train_policy import train
from tests import models
from tests.faults.common import Done, rstar, sh, write_problems
from tests.unit.test_prm_engine import save as save_prm

PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(8)]
ROWS = [{"prompt": f"What is {i} plus {i}?", "completion": f" It is {2 * i}.", "problem_id": str(i)} for i in range(6)]
SCRIPTED = ("--engine", "scripted", "--exec-workers", "1", "--rollouts", "2")
GENERATE = ("generate", "--problems", "p.jsonl", *SCRIPTED)
EVALUATE = ("evaluate", "--benchmark", "p.jsonl", "--output", "ev", "--exec-workers", "1")
TRAIN = ("train-policy", "--input", "rows.jsonl", "--model", "model", "--device", "cpu", "--epochs", "1")
SCREEN = 24
"""Lines of a screen."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def place(tmp_path: Path, tiny: Path) -> Path:
    """A folder with a checkpoint `model`, problems and training rows."""
    (tmp_path / "model").symlink_to(tiny)
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    write_problems(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def refused(done: Done, code: int, *told: str) -> None:
    """Assert that it ended so, on one screen."""
    assert done.code == code, done.stderr
    for part in told:
        assert part in done.stderr
    assert "error: " in done.stderr
    assert len(done.stderr.splitlines()) <= SCREEN


def mounted(line: str, cwd: Path, options: str = "size=1m") -> Done:
    """Run a line of shell in a name space of its own, in which `disk` is a small disk; skips where none can be made."""
    (cwd / "disk").mkdir(exist_ok=True)
    can = ["unshare", "-Urm", "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(cwd / "disk")]
    if shutil.which("unshare") is None or subprocess.run(can, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk (unshare -Urm mount)")
    inner = f"mount -t tmpfs -o {options} tmpfs disk && {line}"
    return sh(f"unshare -Urm sh -c '{inner}'", cwd=cwd)


FULL = "No space left on device"
FREE = "free some space, then run the same command again"


@pytest.mark.parametrize(
    ("command", "filled"),
    [
        ("rstar problems make --count 5000 --output disk/p.jsonl", "disk/p.jsonl"),
        (f"rstar {' '.join(GENERATE)} --output disk/t.jsonl", "disk/t.jsonl.partial"),
        pytest.param(
            f"rstar {' '.join(EVALUATE)} --engine scripted --policy embedded --output disk/ev",
            "disk/ev/",
            marks=pytest.mark.slow,
        ),
        pytest.param(f"rstar {' '.join(GENERATE)} --run disk/run", "disk/run/", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(place: Path, command: str, filled: str) -> None:
    room = "1m" if "make" in command else "16k"
    refused(mounted(command, place, f"size={room}"), 8, filled, FULL, FREE)


def test_a_search_goes_on_once_there_is_room(place: Path) -> None:
    """The disk has room for the manifest and some trees; then it grows."""
    write_problems(place / "p.jsonl", [{**p, "problem": p["problem"] + " " * 3000} for p in PROBLEMS])
    command = f"rstar {' '.join(GENERATE)} --output disk/t.jsonl"
    line = f"{command}; echo ended $?; mount -o remount,size=8m disk; {command}; cp -r disk kept"
    done = mounted(line, place, "size=48k")
    assert done.code == 0, done.stderr
    assert "ended 8" in done.stdout
    assert FULL in done.stderr
    rstar(*GENERATE, "--output", "t.jsonl", cwd=place)
    assert (place / "kept" / "t.jsonl").read_bytes() == (place / "t.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("more", ["", "--save-minutes 0"])
def test_a_full_disk_in_a_training(place: Path, more: str) -> None:
    done = mounted(f"rstar {' '.join(TRAIN)} --output disk/out {more} --batch-size 2", place, "size=200k")
    refused(done, 8, "space", "ree")
    assert "No space left" in done.stderr or "write" in done.stderr


def test_a_limit_of_a_files_size(place: Path) -> None:
    done = sh("ulimit -f 16; rstar problems make --count 2000 --output many.jsonl", cwd=place)
    refused(done, 8, "many.jsonl: can't write it: File too large", "ulimit -f")
    assert not (place / "many.jsonl").exists()


def test_a_device_that_is_full(place: Path) -> None:
    refused(
        rstar("problems", "make", "--output", "/dev/full", cwd=place, code=8), 8, f"/dev/full: can't write it: {FULL}"
    )


@pytest.mark.parametrize(
    "command",
    [
        "rstar problems make --output disk/p.jsonl",
        f"rstar {' '.join(GENERATE)} --output disk/t.jsonl",
        pytest.param(f"rstar {' '.join(TRAIN)} --output disk/out", marks=pytest.mark.slow),
        pytest.param(f"rstar {' '.join(EVALUATE)} --policy embedded --output disk/ev", marks=pytest.mark.slow),
        pytest.param(f"rstar {' '.join(GENERATE)} --run disk/run", marks=pytest.mark.slow),
        pytest.param("rstar init --run disk/run", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_is_read_only(place: Path, command: str) -> None:
    done = mounted(command, place, "ro")
    refused(done, 8, "disk/", "Read-only file system", "another place")


@pytest.mark.parametrize(
    "command",
    [
        (*GENERATE, "--output", "p.jsonl/t.jsonl"),
        ("init", "--run", "p.jsonl/run"),
        pytest.param((*TRAIN, "--output", "p.jsonl/out"), marks=pytest.mark.slow),
        pytest.param((*EVALUATE, "--policy", "embedded", "--output", "p.jsonl/ev"), marks=pytest.mark.slow),
    ],
)
def test_a_place_below_a_file(place: Path, command: Sequence[str]) -> None:
    refused(rstar(*command, cwd=place, code=8), 8, "error: p.jsonl", "choose another place")


def lacking(place: Path, *packages: str) -> dict[str, str]:
    """Environment in which packages can't be imported."""
    for name in packages:
        stub = place / "lacking" / name
        stub.mkdir(parents=True)
        (stub / "__init__.py").write_text(f"raise ImportError('{name} is broken here', name='{name}')")
    return {"PYTHONPATH": str(place / "lacking")}


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ("trl", (*TRAIN, "--output", "out")),
        ("wandb", (*TRAIN, "--output", "out", "--report-to", "wandb")),
        pytest.param("trackio", (*TRAIN, "--output", "out", "--report-to", "trackio"), marks=pytest.mark.slow),
        pytest.param("transformers", (*EVALUATE, "--policy", "embedded"), marks=pytest.mark.slow),
        ("vllm", (*EVALUATE, "--policy", "model", "--engine", "vllm")),
        pytest.param("peft", (*TRAIN, "--output", "out", "--lora-rank", "4"), marks=pytest.mark.slow),
        pytest.param(
            "datasets", ("evaluate", "--policy", "embedded", "--benchmark", "math500"), marks=pytest.mark.slow
        ),
        pytest.param("torch", (*EVALUATE, "--policy", "embedded"), marks=pytest.mark.slow),
        pytest.param("pyarrow", ("problems", "import", "p.parquet", "--output", "q.jsonl"), marks=pytest.mark.slow),
    ],
)
def test_a_package_that_is_not_there(place: Path, package: str, command: Sequence[str]) -> None:
    """No model is loaded before it is told: the weights are damaged, and nobody noticed."""
    (place / "model").unlink()
    damaged = models.save(place / "model") / "model.safetensors"
    damaged.write_bytes(b"")
    (place / "p.parquet").write_bytes(b"PAR1")
    done = rstar(*command, cwd=place, code=5, **lacking(place, package))
    refused(done, 5, package, "nstall")
    assert "safetensors" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        pytest.param((*TRAIN, "--output", "out", "--device", "cuda"), marks=pytest.mark.slow),
        (*EVALUATE, "--policy", "model", "--device", "cuda"),
        pytest.param((*EVALUATE, "--policy", "model", "--device", "cuda:3"), marks=pytest.mark.slow),
        pytest.param((*EVALUATE, "--policy", "model", "--dtype", "4bit"), marks=pytest.mark.slow),
        pytest.param((*TRAIN, "--output", "out", "--dtype", "4bit", "--lora-rank", "4"), marks=pytest.mark.slow),
    ],
)
def test_a_gpu_that_is_not_there(place: Path, command: Sequence[str]) -> None:
    (place / "model").unlink()
    (models.save(place / "model") / "model.safetensors").write_bytes(b"")
    done = rstar(*command, cwd=place, code=5, CUDA_VISIBLE_DEVICES="")
    refused(done, 5, "CUDA" if "cuda" in command[-1] else "GPU", "--d")
    assert "safetensors" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        (*EVALUATE, "--policy", "Qwen/Qwen2.5-Math-1.5B"),
        ("problems", "import", "math500", "--output", "q.jsonl"),
        pytest.param((*TRAIN, "--model", "Qwen/Qwen2.5-Math-1.5B", "--output", "out"), marks=pytest.mark.slow),
        pytest.param((*EVALUATE, "--policy", "model", "--samples", "1", "--prm", "Qwen/X"), marks=pytest.mark.slow),
    ],
)
def test_a_hub_that_is_out_of_reach(place: Path, command: Sequence[str]) -> None:
    done = rstar(*command, cwd=place, code=5, HF_HUB_OFFLINE="1", HF_HOME=str(place / "hub"))
    refused(done, 5, "hub", "Check the network and HF_HUB_OFFLINE")


def test_a_server_that_is_not_there(place: Path) -> None:
    done = rstar(*EVALUATE, "--policy", "m", "--engine", "openai", cwd=place, code=2)
    refused(done, 2, "--base-url")


# --- memory that is full -------------------------------------------------------------------


def full_at(function: Callable[..., Any], *calls: int) -> Callable[..., Any]:
    """The function, out of memory at these of its calls, from 0."""
    import torch

    made = 0

    def wrapped(*args: Any, **named: Any) -> Any:
        nonlocal made
        made += 1
        if made - 1 in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(*args, **named)

    return wrapped


def asked(n: int) -> SampleRequest:
    prompt = Segment(render_prompt("What is 1 plus 1?", 0))
    return SampleRequest((prompt,), n=n, seed=n, max_tokens=12, temperature=1.0, stop=("<end_of_step>",))


@pytest.mark.parametrize("call", [0, 1, 5])
def test_a_search_goes_on_with_a_smaller_batch(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: int
) -> None:
    requests = [asked(n) for n in (3, 1, 2)]
    policy = TransformersPolicy.load(tiny, device="cpu", dtype="float32", max_rows=8)
    expected = policy.sample(requests)
    policy = TransformersPolicy.load(tiny, device="cpu", dtype="float32", max_rows=8)
    monkeypatch.setattr(policy._model, "forward", full_at(policy._model.forward, call))
    with caplog.at_level(logging.WARNING):
        found = policy.sample(requests)
    assert "is full with" in caplog.text
    told = [[[(s.segments, s.finish, s.tokens) for s in each] for each in answers] for answers in (found, expected)]
    assert told[0] == told[1]


def test_a_search_gives_advice_the_second_time(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = TransformersPolicy.load(tiny, device="cpu", dtype="float32")
    monkeypatch.setattr(policy._model, "forward", full_at(policy._model.forward, 0, 1))
    with pytest.raises(MemoryFullError, match="is full") as error:
        policy.sample([asked(2)])
    assert (error.value.exit_code, "--batch" in error.value.remedy) == (5, True)


def test_scores_are_the_same_from_a_smaller_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, step = Segment(render_prompt("What is 1 plus 1?", 0)), Segment("\n# one\na = 1<end_of_step>")
    requests = [ScoreRequest((prompt,), ((step,), (step, step)))]
    scorer = TransformersScorer.load(save_prm(tmp_path / "prm"), device="cpu", dtype="float32")
    expected = scorer.score(requests)
    scorer = TransformersScorer.load(tmp_path / "prm", device="cpu", dtype="float32")
    base = scorer._model.base_model
    monkeypatch.setattr(base, "forward", full_at(base.forward, 0))
    assert scorer.score(requests) == expected
    monkeypatch.setattr(base, "forward", full_at(base.forward, 0))
    with pytest.raises(MemoryFullError):
        scorer.score([ScoreRequest((Segment("other"),), ((step,),))])


def training(place: Path, monkeypatch: pytest.MonkeyPatch, *full: int) -> dict[str, Any]:
    """Train in this process, out of memory at these updates' passes; returns what the summary tells."""
    from rstar_cli.train.plan_trainer import Planned

    monkeypatch.setattr(Planned, "training_step", full_at(Planned.training_step, *full))
    config = TrainPolicyConfig(epochs=1, batch_size=2, device="cpu", dtype="float32", batch_tokens=256)
    target = TrainPlace(input=place / "rows.jsonl", model=str(place / "model"), output=place / "out")
    return train(target, config, None).data


@pytest.mark.parametrize("full", [pytest.param((1,), id="once"), pytest.param((), id="never", marks=pytest.mark.slow)])
def test_a_training_goes_on_with_a_smaller_batch(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, full: tuple[int, ...]
) -> None:
    told = training(place, monkeypatch, *full)
    assert told.get("batch tokens") == (128 if full else None)
    assert told["updates"] == 3
    assert ("going on with --batch-tokens 128" in caplog.text) == bool(full)
    assert f"| batch_tokens | {128 if full else 256} |" in (place / "out" / "README.md").read_text()


def test_a_training_gives_advice_the_second_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MemoryFullError, match="out of memory on cpu at 128 tokens") as error:
        training(place, monkeypatch, 0, 1)
    assert (error.value.exit_code, "--lora-rank 16" in error.value.remedy) == (5, True)
    assert not (place / "out").exists()


def test_what_nobody_foresaw_has_no_traceback_but_with_debug(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import rstar_cli.problems.synthetic as made\ndef broken(*_, **__): raise LookupError('odd')\n"
        "made.make_problems = broken\n"
    )
    args = ("problems", "make", "--output", "p.jsonl")
    done = rstar(*args, cwd=tmp_path, code=1, PYTHONPATH=str(tmp_path))
    refused(done, 1, "error: unforeseen: LookupError: odd", "--debug")
    command = [sys.executable, "-m", "rstar_cli", *args, "--debug"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (shown.returncode, "Traceback" in shown.stderr) == (1, True)
