"""What the README says to type is typed here, on a recipe of a dozen problems; so is its example of the API."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT

README = (ROOT / "README.md").read_text()
RECIPE = """
[run]
count = 12
levels = "1-2"
[evolve]
rounds = 2
plateau = 0
[eval.test]
count = 6
[generate]
rollouts = 4
[train-policy]
epochs = 0.5
[train-prm]
epochs = 0.1
min-updates = 2
batch-size = 16
[evaluate]
samples = 2
rollouts = 2
"""
ELSEWHERE = {
    "sh recipes/quickstart.sh": "test_round.py, on two seeds",
    "sh tests/run.sh": "runs this test",
    "rstar evaluate --policy Qwen/": "needs the hub",
    "sh recipes/gpus.sh": "test_launch_recipes.py, with a stand-in",
    "SHARDS=8": "test_launch_recipes.py, with stand-ins",
}
"""Lines that are not run here, by how they begin, and why."""


def blocks() -> Iterator[list[str]]:
    """The commands of each of the README's blocks of shell."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        lines = [shlex.join(shlex.split(line, comments=True)) for line in block.splitlines()]
        yield [line for line in lines if line and not line.startswith(tuple(ELSEWHERE))]


@pytest.mark.slow
def test_its_commands_run_as_they_stand(tmp_path: Path) -> None:
    files = {"my.toml": RECIPE}
    files["train.jsonl"] = files["math500.json"] = "".join(
        f'{{"problem": "What is {i} + {i}?", "answer": "{2 * i}"}}\n' for i in range(8)
    )
    files["rows.jsonl"] = '{"prediction": "\\\\frac{1}{2}", "answer": "0.5"}\n'
    files["cases.jsonl"] = '{"gold": "0.5", "pred": "1/2", "label": true}\n'
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def run(block: list[str]) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        script = "set -eu\n" + "\n".join(block)
        done = subprocess.run(["sh", "-xc", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    for block in blocks():
        text = "\n".join(block)
        environment.pop("RSTAR_RUN", None)
        if "RSTAR_RUN=runs/mine" in text:  # stage by stage what evolve did before
            shutil.move(tmp_path / "runs/mine", tmp_path / "runs/quickstart")
            run(["rstar init --run runs/mine --recipe my.toml"])
        if "--shard" in text:
            run(["rstar init --run runs/parts --recipe my.toml", "rstar init --run runs/ray --recipe my.toml"])
            part, merge, ray = block
            parts = [part, *(part.replace("2/8", f"{i}/8") for i in (1, 3, 4, 5, 6, 7, 8))]
            block = ["export RSTAR_RUN=runs/parts", *parts, merge, "export RSTAR_RUN=runs/ray", ray]
        if "runs/quickstart" in text:
            assert (tmp_path / "runs/quickstart/round_1/prm").is_dir()
        run(block)
    assert (tmp_path / "runs/quickstart/report.html").exists()
    assert (tmp_path / "runs/mine/round_2/trees.jsonl").exists()
    merged, by_actors = (tmp_path / f"runs/{name}/round_1/trees.jsonl" for name in ("parts", "ray"))
    assert merged.read_bytes() == by_actors.read_bytes()


@pytest.mark.slow
def test_the_example_from_python(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rounds = [line.split() for line in done.stdout.splitlines()]
    assert [number for number, _ in rounds] == ["0", "1"]
    before, after = (float(accuracy) for _, accuracy in rounds)
    assert after > before
