"""The stages as functions: what they leave is what the commands leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstar_cli.api import Run
from rstar_cli.errors import ConfigMismatchError, MissingArtifactError, UsageError
from tests.helpers import rstar

RECIPE = """
[run]
count = 6
levels = "1-2"
[eval.test]
count = 5
[generate]
engine = "scripted"
rollouts = 3
[evaluate]
engine = "scripted"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def test_functions_leave_what_the_commands_leave(recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "api", recipe)
    assert run.evaluate().data["test"]["greedy"]["n"] == 5
    assert run.generate(rollouts=4, limit=3).data["problems"] == 3
    assert run.verify().files[0].name == "solutions.jsonl"
    rstar("init", "--run", "cli", "--recipe", "recipe.toml", cwd=tmp_path)
    rstar("evaluate", "--round", "0", "--run", "cli", cwd=tmp_path)
    rstar("generate", "--round", "1", "--rollouts", "4", "--limit", "3", "--run", "cli", cwd=tmp_path)
    rstar("verify", "--round", "1", "--run", "cli", cwd=tmp_path)
    for name in ("round_0/eval/test.greedy.jsonl", "round_1/trees.jsonl", "round_1/solutions.jsonl"):
        assert (tmp_path / "api" / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
    assert len(list(run.trees())) == 3
    assert sum(s.choice == "kept" for s in run.solutions()) == len(list(run.sft()))
    assert [len(row.labels) for row in run.step_labels()]
    assert all(pair.weight > 0 for pair in run.pairs())
    assert run.report()["rounds"][0]["eval"]["test"]["greedy"]["n"] == 5
    assert run.generate(rollouts=4, limit=3).done_before
    assert run.export("stepwise", tmp_path / "steps.jsonl").data["rows"] == len(list(run.step_labels()))


def test_shards(recipe: Path, tmp_path: Path) -> None:
    whole, parts = Run(tmp_path / "whole", recipe), Run(tmp_path / "parts", recipe)
    whole.generate()
    for shard in ("1/2", "2/2"):
        parts.generate(shard=shard)
    parts.merge()
    assert list(parts.trees()) == list(whole.trees())


def test_what_is_wrong_is_raised_as_the_command_tells_it(recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "api", recipe)
    with pytest.raises(MissingArtifactError, match="generate"):
        run.verify()
    with pytest.raises(UsageError, match="rollouts"):
        run.generate(rollouts=0)
    with pytest.raises(UsageError, match="rollots"):
        run.generate(rollots=3)
    run.generate()
    with pytest.raises(ConfigMismatchError, match="rollouts: 3 -> 5"):
        run.generate(rollouts=5)
