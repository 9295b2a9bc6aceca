"""The loop as a subprocess: a scripted policy writes, everything else is real: sandbox, grader, both trainings."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT, rstar

RECIPE = """
[run]
seed = 5
count = 12
levels = "1-2"
[evolve]
rounds = 2
plateau = 0
[eval.test]
count = 10
sampled = 6
[eval.validation]
count = 8
split = "validation"
sampled = 0
[generate]
engine = "scripted"
rollouts = 6
candidates = 4
rollout-style = "complete"
in-flight = 3
[round.2.generate]
prm = "last"
[train-policy]
epochs = 1
learning-rate = 1e-4
[train-prm]
min-updates = 2
batch-size = 16
learning-rate = 1e-4
[evaluate]
engine = "scripted"
samples = 4
rollouts = 4
rollout-style = "complete"
in-flight = 2
"""
CLOCKED = (
    "manifest.json",
    "report.html",
    "train_log.jsonl",
    *(f"{what}_by_stage.{kind}" for what in ("time", "tokens") for kind in ("svg", "png")),
)
RECIPES = sorted((ROOT / "recipes").glob("*.toml"))
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def artifacts(run: Path) -> dict[str, str]:
    """Every file of a run by its hash; those that hold clock times are left out."""
    files = (p for p in run.rglob("*") if p.is_file() and p.name not in CLOCKED)
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the loop that nothing stopped."""
    root = tmp_path_factory.mktemp("whole")
    (root / "recipe.toml").write_text(RECIPE)
    done = rstar("evolve", "--run", "r", "--recipe", "recipe.toml", cwd=root)
    assert "all 2 rounds are done" in done.stderr
    return root / "r"


def test_the_report_tells_of_every_round(whole: Path) -> None:
    report = json.loads((whole / "report.json").read_text())
    assert [entry["round"] for entry in report["rounds"]] == [0, 1, 2]
    for entry in report["rounds"]:
        assert list(entry["eval"]) == ["test", "validation"], "the main set first"
        methods = {"greedy", "majority@4", "pass@1", "pass@4", "mcts@4"}
        scored = {"best_of_n@4", "weighted@4", "mcts_top4@4"} if entry["round"] else set()
        assert set(entry["eval"]["test"]) == methods | scored
        assert entry["eval"]["test"]["greedy"]["n"] == 10
        assert entry["eval"]["test"]["mcts@4"]["n"] == 6
        assert ("prm" in entry) == bool(entry["round"])
    assert (whole / "figures/accuracy_by_round.svg").stat().st_size > 1000


def test_the_prm_of_a_round_guides_the_next_search(whole: Path) -> None:
    def scores(number: int) -> list[float | None]:
        rows = (whole / f"round_{number}/trees.jsonl").read_text().splitlines()
        return [node["prm_score"] for row in rows for node in json.loads(row)["nodes"][1:] if node["visits"]]

    assert all(score is None for score in scores(1))
    assert all(score is not None for score in scores(2))


def test_a_second_call_does_nothing_and_shows_the_curve(whole: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.jsonl")}
    done = rstar("evolve", "--run", str(whole), "--json", cwd=whole.parent)
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("*.jsonl")} == before
    told = json.loads(done.stdout)
    assert told["ended"] == "rounds"
    assert told["report"] == json.loads((whole / "report.json").read_text())


def test_the_five_commands_leave_the_same_artifacts(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    rstar("init", "--run", "r", "--recipe", "recipe.toml", cwd=tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **ENV, "PATH": path, "RSTAR_RUN": "r"}
    script = ROOT / "recipes/round_loop.sh"
    subprocess.run(["sh", str(script), "2"], cwd=tmp_path, env=env, check=True, capture_output=True, timeout=600)
    assert artifacts(tmp_path / "r") == artifacts(whole)


def killed_until_done(root: Path, moments: list[Callable[[Path], bool]]) -> int:
    """Run the loop, kill -9 at each moment in turn, start again; how many kills it took."""
    (root / "recipe.toml").write_text(RECIPE)
    command = [sys.executable, "-m", "rstar_cli", "evolve", "--run", "r", "--recipe", "recipe.toml"]
    kills, waiting = 0, list(moments)
    for _ in range(len(moments) + 1):
        with subprocess.Popen(command, cwd=root, env={**os.environ, **ENV}, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None:
                if waiting and waiting[0](root / "r"):
                    process.send_signal(signal.SIGKILL)
                    waiting.pop(0)
                    kills += 1
                    break
                time.sleep(0.002)
        if process.returncode == 0:
            break
    assert process.returncode == 0
    return kills


def rows(path: str, count: int) -> Callable[[Path], bool]:
    """When a journal holds so many rows."""
    return lambda run: (run / path).exists() and (run / path).read_bytes().count(b"\n") >= count


def there(path: str) -> Callable[[Path], bool]:
    """When a file or folder is there."""
    return lambda run: (run / path).exists()


def test_killed_and_started_again_ends_with_the_same_artifacts(whole: Path, tmp_path: Path) -> None:
    moments = [
        rows("round_0/eval/test.samples.jsonl.partial", 2),
        rows("round_1/trees.jsonl.partial", 4),
        there("round_1/.prm.partial"),
        there("round_2/solutions.jsonl"),
    ]
    assert killed_until_done(tmp_path, moments) == len(moments)
    assert artifacts(tmp_path / "r") == artifacts(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_any_time_ends_with_the_same_artifacts(whole: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def after(seconds: float) -> Callable[[Path], bool]:
        begun: list[float] = []

        def passed(_: Path) -> bool:
            begun.append(time.monotonic())
            return begun[-1] - begun[0] > seconds

        return passed

    killed_until_done(tmp_path, [after(rng.uniform(2, 25)) for _ in range(12)])
    assert artifacts(tmp_path / "r") == artifacts(whole)


def test_a_spent_budget_stops_the_loop_and_a_larger_one_goes_on(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    generated = spent(whole)
    budget = generated // 3
    stopped = rstar(
        "evolve", "--run", "r", "--recipe", "recipe.toml", "--budget-tokens", str(budget), cwd=tmp_path, check=False
    )
    assert stopped.returncode == 7, stopped.stderr
    assert f"the budget of {budget:,} tokens is spent" in stopped.stderr
    assert budget <= spent(tmp_path / "r") < budget + generated // 10, "at most what was in flight beyond it"
    again = rstar("evolve", "--run", "r", "--budget-tokens", str(budget), cwd=tmp_path, check=False)
    assert again.returncode == 7
    assert spent(tmp_path / "r") < budget + generated // 10, "a spent budget buys nothing more"
    rstar("evolve", "--run", "r", cwd=tmp_path)
    assert artifacts(tmp_path / "r") == artifacts(whole)


def spent(run: Path) -> int:
    """Tokens generated by the account of the manifests."""
    stages = [json.loads(p.read_text())["stages"] for p in run.glob("round_*/manifest.json")]
    return sum(entry.get("tokens", {}).get("generated", 0) for entries in stages for entry in entries.values())


def test_a_plateau_stops_the_loop(tmp_path: Path) -> None:
    """The scripted policy never gets better: after one round without a gain the loop ends."""
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("samples = 4\nrollouts = 4", ""))
    done = rstar("evolve", "--run", "r", "--recipe", "recipe.toml", "--plateau", "1", "--rounds", "3", cwd=tmp_path)
    assert "no clear gain on validation in the last 1 rounds" in done.stderr
    assert (tmp_path / "r/round_1/eval").exists()
    assert not (tmp_path / "r/round_2").exists()


def test_a_plateau_needs_a_validation_set(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text("[eval.test]\ncount = 3\n")
    failed = rstar("evolve", "--run", "r", "--recipe", "recipe.toml", cwd=tmp_path, check=False)
    assert failed.returncode == 2
    assert "validation set" in failed.stderr


@pytest.mark.parametrize(
    ("recipe", "rollouts"),
    [(ROOT / "rstar_cli/default_recipe.toml", 16), ("easy-to-hard", 0), *((path, 16) for path in RECIPES)],
    ids=lambda value: value.stem if isinstance(value, Path) else value,
)
def test_every_recipe_has_a_dry_run(tmp_path: Path, recipe: Path | str, rollouts: int) -> None:
    done = rstar("evolve", "--recipe", str(recipe), "--dry-run", "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)["figures"]
    assert f"rollouts {rollouts}," in figures["evaluate"]
    assert "at most" in figures["tokens to generate, round 1"]
    assert list(tmp_path.iterdir()) == []
    if Path(recipe).stem == "gpu_small":  # its base is made by a command of its script
        assert "not known" in figures["disk"]
        return
    assert "at least" in figures["time to generate, round 1"]
    assert re.search(r"^[\d,.]+ [MG]B for policies and PRMs of \d+ rounds, .* that are free", figures["disk"])


def test_a_dry_run_of_a_run_under_way_goes_by_its_last_round(whole: Path) -> None:
    done = rstar("evolve", "--run", str(whole), "--rounds", "5", "--dry-run", "--json", cwd=whole.parent)
    figures = json.loads(done.stdout)["figures"]
    last = max(int(path.name.removeprefix("round_")) for path in whole.glob("round_*"))
    entries = json.loads((whole / f"round_{last}/manifest.json").read_bytes())["stages"]
    took = sum(entry["seconds"] for entry in entries.values())
    told = re.fullmatch(
        r"about (\d+) (\w+), as round (\d+) took \(.*\); .* for the (\d+) to come", figures["time of a round"]
    )
    assert told, figures["time of a round"]
    assert float(told[1]) * {"seconds": 1, "minutes": 60}[told[2]] == pytest.approx(took, abs=30 if took > 120 else 1)
    assert (int(told[3]), int(told[4])) == (last, 5 - last)
    assert f"as round {last} takes" in figures["disk of a round"]
    assert f"as round {last} had" in figures[f"time to generate, round {last}"]
