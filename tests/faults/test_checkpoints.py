"""Checkpoints: safetensors alone, no code that they bring, and every damaged or missing file told by its name."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.engines.transformers import TransformersPolicy
from tests import models
from tests.faults.common import rstar, write_problems

PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(2)]
ROWS = [{"prompt": f"What is {i} plus {i}?", "completion": f" It is {2 * i}.", "problem_id": str(i)} for i in range(6)]
GENERATE = ("generate", "--problems", "p.jsonl", "--output", "t.jsonl", "--rollouts", "1", "--exec-workers", "1")
GENERATE += ("--max-step-tokens", "4", "--max-tokens", "8", "--device", "cpu", "--few-shot", "0", "--policy", "model")
TRAIN = ("train-policy", "--input", "rows.jsonl", "--model", "model", "--output", "out", "--device", "cpu")
TRAIN += ("--epochs", "1", "--batch-size", "2", "--learning-rate", "1e-3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def place(tmp_path: Path, whole: Path) -> Path:
    """A folder with a sound checkpoint `model`, problems and training rows."""
    shutil.copytree(whole, tmp_path / "model")
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    write_problems(tmp_path / "rows.jsonl", ROWS)
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **changes}))


class _Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def into_shards(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def with_pickles(model: Path, *names: str) -> None:
    (model / "model.safetensors").unlink()
    for name in names:
        (model / name).write_bytes(pickle.dumps(_Trap(model.parent / "opened")))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut off": (lambda m: cut(m / "model.safetensors", 100_000), "model/model.safetensors is cut off: it has"),
    "weights cut in the header": (lambda m: cut(m / "model.safetensors", 50), "model/model.safetensors is no whole"),
    "weights empty": (lambda m: cut(m / "model.safetensors", 0), "model/model.safetensors is no whole safetensors"),
    "weights of zeros": (
        lambda m: (m / "model.safetensors").write_bytes(bytes(5000)),
        "model/model.safetensors is no whole safetensors file",
    ),
    "weights too long": (
        lambda m: (m / "model.safetensors").open("ab").write(b"more"),
        "model/model.safetensors is damaged",
    ),
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "model/model.safetensors is missing"),
    "a shard missing": (into_shards, "model/model-00002-of-00002.safetensors is missing"),
    "pickles alone": (lambda m: with_pickles(m, "pytorch_model.bin"), "weights as pickles alone (pytorch_model.bin)"),
    "pickles by other names": (lambda m: with_pickles(m, "consolidated.00.pth"), "pickles alone (consolidated.00.pth)"),
    "config cut off": (lambda m: cut(m / "config.json", 40), "model/config.json is damaged"),
    "config of no object": (lambda m: (m / "config.json").write_text("[]"), "model/config.json is damaged"),
    "config missing": (lambda m: (m / "config.json").unlink(), "model holds no config.json"),
    "config of other sizes": (lambda m: edit(m / "config.json", hidden_size=64), "at model: "),
    "config of no sense": (lambda m: edit(m / "config.json", num_attention_heads="many"), "at model: "),
    "config of no heads": (lambda m: edit(m / "config.json", num_attention_heads=0), "at model: "),
    "config of an unknown kind": (lambda m: edit(m / "config.json", model_type="nobodys"), "at model: "),
    "tokenizer missing": (lambda m: (m / "tokenizer.json").unlink(), "model holds no tokenizer"),
    "tokenizer cut off": (lambda m: cut(m / "tokenizer.json", 5000), "model/tokenizer.json is damaged"),
    "tokenizer of no sense": (lambda m: (m / "tokenizer.json").write_text('{"model": 5}'), "no tokenizer at model: "),
}
FAST = ("weights cut off", "pickles alone")
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in DAMAGES]


@pytest.mark.parametrize("name", EACH)
def test_a_damaged_checkpoint_is_told_by_its_file(place: Path, name: str) -> None:
    damage, told = DAMAGES[name]
    damage(place / "model")
    commands = [GENERATE, TRAIN] if name not in FAST else [GENERATE]
    for command in commands:
        done = rstar(*command, cwd=place, code=5)
        assert f"{told}" in done.stderr
        assert len(done.stderr.splitlines()) <= 24, "one screen"
    assert not (place / "opened").exists(), "no pickle is ever opened"
    assert not (place / "out").exists()
    assert not (place / "t.jsonl").exists()


@pytest.mark.slow
def test_the_search_goes_on_once_the_checkpoint_is_mended(place: Path, whole: Path) -> None:
    cut(place / "model" / "model.safetensors", 1000)
    rstar(*GENERATE, cwd=place, code=5)
    shutil.copy(whole / "model.safetensors", place / "model")
    rstar(*GENERATE, cwd=place)
    assert len((place / "t.jsonl").read_text().splitlines()) == 2


CODE = """
from pathlib import Path
from transformers import Qwen2Config, Qwen2ForCausalLM
Path("ran").touch()
class OurConfig(Qwen2Config):
    model_type = "nobodys"
class OurModel(Qwen2ForCausalLM):
    config_class = OurConfig
"""


def bring_code(model: Path) -> None:
    (model / "ours.py").write_text(CODE)
    names = {"AutoConfig": "ours.OurConfig", "AutoModelForCausalLM": "ours.OurModel"}
    edit(model / "config.json", model_type="nobodys", auto_map=names, architectures=["OurModel"])


def test_code_of_a_checkpoint_runs_only_where_it_is_asked_for(place: Path) -> None:
    bring_code(place / "model")
    done = rstar(*GENERATE, cwd=place, code=5, HF_MODULES_CACHE=str(place / "modules"))
    assert "error: model brings code of its own, which is not run" in done.stderr
    assert "--trust-remote-code" in done.stderr
    assert not (place / "ran").exists()
    (place / "t.jsonl.partial").unlink()
    rstar(*GENERATE, "--trust-remote-code", cwd=place, HF_MODULES_CACHE=str(place / "modules"))
    assert (place / "ran").exists()
    (entry,) = json.loads((place / "t.jsonl.manifest.json").read_bytes())["stages"].values()
    assert entry["config"]["trust_remote_code"] is True


@pytest.mark.slow
def test_a_training_runs_code_only_where_it_is_asked_for(place: Path) -> None:
    bring_code(place / "model")
    done = rstar(*TRAIN, cwd=place, code=5, HF_MODULES_CACHE=str(place / "modules"))
    assert "model brings code of its own, which is not run" in done.stderr
    assert not (place / "ran").exists()
    rstar(*TRAIN, "--trust-remote-code", cwd=place, HF_MODULES_CACHE=str(place / "modules"))
    assert (place / "ran").exists()
    assert "| trust_remote_code | True |" in (place / "out" / "README.md").read_text()


def test_pickles_beside_safetensors_are_left_alone(place: Path, whole: Path) -> None:
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin"):
        (place / "model" / name).write_bytes(pickle.dumps(_Trap(place / "opened")))
    policy = TransformersPolicy.load(place / "model", device="cpu")
    policy.close()
    assert not (place / "opened").exists()


STATES = "saved"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["model.safetensors", "optimizer.pt", "all"])
def test_a_damaged_state_of_a_training_is_passed_over(place: Path, damage: str) -> None:
    """The newest state, or all: the weights come out as those of a training that nothing stopped."""
    rstar(*TRAIN, cwd=place)
    expected = (place / "out" / "model.safetensors").read_bytes()
    shutil.rmtree(place / "out")
    _stop_after_states(place)
    states = sorted((place / ".out.partial" / STATES).iterdir(), key=lambda path: int(path.name))
    assert states
    for state in states if damage == "all" else states[-1:]:
        (state / "model.safetensors" if damage == "all" else state / damage).write_bytes(b"{")
    done = rstar(*TRAIN, "--save-minutes", "0", cwd=place)
    assert f"{states[-1].relative_to(place)} is damaged, and passed over" in done.stderr
    assert (place / "out" / "model.safetensors").read_bytes() == expected


def _stop_after_states(place: Path) -> None:
    """Train, and have the process killed once two states are there: the older one is brought back from a copy."""
    stub = place / "stub"
    stub.mkdir()
    (stub / "sitecustomize.py").write_text(
        "import os, shutil, signal\n"
        "rename = os.rename\n"
        "def stop(source, target, *more, **named):\n"
        "    rename(source, target, *more, **named)\n"
        "    target = str(target)\n"
        "    if os.path.basename(os.path.dirname(target)) == 'saved':\n"
        "        if os.path.basename(target) == '1': shutil.copytree(target, 'first')\n"
        "        if os.path.basename(target) == '2': os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.rename = stop\n"
    )
    rstar(*TRAIN, "--save-minutes", "0", cwd=place, code=-9, PYTHONPATH=str(stub))
    folder = place / ".out.partial" / STATES
    if not (folder / "1").exists():
        shutil.move(place / "first", folder / "1")
