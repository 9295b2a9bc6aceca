"""The loop's decisions: plateau and budget, on made-up results. The loop itself: tests/integration/test_evolve.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstar_cli.config import EvolveConfig
from rstar_cli.errors import UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir, write_manifest
from rstar_cli.recipe import Recipe
from rstar_cli.records import EvalRow, EvalSample, Verdict
from rstar_cli.rounds import Budget, rounds_without_gain, seconds_by_stage, validation_set

RECIPE = """
[eval.test]
[eval.apart]
split = "validation"
"""


def made(root: Path, recipe: str = RECIPE) -> RunDir:
    return RunDir(root, Recipe(recipe, "test"))


def evaluated(run: RunDir, number: int, right: int, n: int = 200) -> None:
    """A round whose greedy answers to the first `right` of `n` problems are right."""
    folder = run.round(number).evaluations
    folder.mkdir(parents=True)
    rows = (
        EvalRow(
            problem_id=str(i),
            tokens=1,
            samples=(EvalSample(answer="1", group=0, verdict=VERDICTS[i < right], tokens=1, logprob=0.0),),
        )
        for i in range(n)
    )
    write_rows(folder / "apart.greedy.jsonl", rows)


VERDICTS = (Verdict.INCORRECT, Verdict.CORRECT)


def test_decisions_look_at_the_validation_set(tmp_path: Path) -> None:
    assert validation_set(made(tmp_path)) == "apart"
    with pytest.raises(UsageError, match="no validation set") as error:
        validation_set(made(tmp_path, "[eval.test]\n"))
    assert "--plateau 0" in error.value.remedy


@pytest.mark.parametrize(
    ("right", "without"),
    [
        ([60], 0),
        ([60, 120], 0),
        ([60, 120, 122], 1),
        ([60, 120, 122, 121], 2),
        ([60, 120, 122, 121, 180], 0),
        ([60, 50], 1),  # a fall is no gain
        ([60, 60, 60], 2),
    ],
)
def test_rounds_without_a_clear_gain_are_counted(tmp_path: Path, right: list[int], without: int) -> None:
    run = made(tmp_path)
    for number, count in enumerate(right):
        evaluated(run, number, count)
    assert rounds_without_gain(run, len(right) - 1, "apart") == without


def test_a_gain_is_clear_by_its_paired_interval(tmp_path: Path) -> None:
    """13 problems more of 200: the intervals of the two accuracies overlap widely, the paired one is clear of 0."""
    run = made(tmp_path)
    evaluated(run, 0, 100)
    evaluated(run, 1, 113)
    assert rounds_without_gain(run, 1, "apart") == 0


def test_a_budget_counts_every_stage_of_every_round(tmp_path: Path) -> None:
    run = made(tmp_path)
    greedy = "evaluate test greedy"
    for number, stage, tokens in ((0, greedy, 30), (1, "generate", 50), (1, greedy, 15)):
        entry = {"tokens": {"generated": tokens, "prefilled": 7}, "seconds": 1800.0}
        write_manifest(run.round(number).manifest, stage, entry)
    write_manifest(run.round(1).manifest, "train-policy", {"seconds": 1800.0})
    assert not Budget(run, EvolveConfig()).spent(10**9)
    budget = Budget(run, EvolveConfig(budget_tokens=100))
    assert not budget.spent(4)
    assert budget.spent(5)
    assert "100 tokens" in budget.told
    assert Budget(run, EvolveConfig(budget_hours=2)).spent(0)
    assert not Budget(run, EvolveConfig(budget_hours=2.1)).spent(0)
    assert seconds_by_stage(run) == {"generate": 1800.0, "train-policy": 1800.0, "evaluate": 3600.0}
