"""Which problems a round draws, and from where."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstar_cli.errors import DataError, MissingArtifactError, UsageError
from rstar_cli.jsonl import read_rows, write_rows
from rstar_cli.layout import RunDir, make_folder
from rstar_cli.recipe import Recipe
from rstar_cli.records import Problem, Rollout, StopReason, Tree, TreeNode, Verdict
from rstar_cli.stages.problem_sets import draw_problems, eval_problems, round_problems


def problems(*numbers: int) -> list[Problem]:
    return [Problem(id=f"p{i}", problem=f"What is {i} plus 1?", answer=str(i + 1)) for i in numbers]


def made(root: Path, count: int = 100) -> RunDir:
    """A run whose source holds 40 problems, of which the evaluation set holds three in other spacing and case."""
    write_rows(root / "train.jsonl", problems(*range(40)))
    held_out = [
        p.model_copy(update={"id": f"e{p.id}", "problem": f"  {p.problem.upper()} "}) for p in problems(3, 5, 8)
    ]
    write_rows(root / "test.jsonl", held_out)
    text = f'[run]\ncount = {count}\nsource = "{root}/train.jsonl"\n[eval.test]\nsource = "{root}/test.jsonl"\n'
    return RunDir(root / "run", Recipe(text, "test"))


def test_held_out_problems_are_never_drawn(tmp_path: Path) -> None:
    drawn = {p.id for p in draw_problems(made(tmp_path), 1)}
    assert drawn == {p.id for p in problems(*range(40))} - {"p3", "p5", "p8"}


def test_rounds_draw_other_problems_by_the_seed(tmp_path: Path) -> None:
    run = made(tmp_path, count=12)
    first, second = draw_problems(run, 1), draw_problems(run, 2)
    assert first == draw_problems(run, 1)
    assert len(first) == len(second) == 12
    assert first != second


def test_a_part_of_a_source_is_drawn_from_all_of_it(tmp_path: Path) -> None:
    write_rows(tmp_path / "all.jsonl", problems(*range(200)))

    def numbers(seed: int) -> list[int]:
        text = f'[run]\nseed = {seed}\n[eval.some]\nsource = "{tmp_path}/all.jsonl"\ncount = 50\n'
        run = RunDir(tmp_path / "run", Recipe(text, "test"))
        return [int(p.id.removeprefix("p")) for p in eval_problems(run, "some", keep=False)]

    assert len(numbers(0)) == 50
    assert numbers(0) == sorted(numbers(0)), "in the order of the source"
    assert max(numbers(0)) > 100
    assert numbers(0) != numbers(1)


def test_a_source_becomes_the_pool_of_the_run(tmp_path: Path) -> None:
    """Later rounds do not hang on a file or a hub that may have changed or gone."""
    run = made(tmp_path, count=12)
    first = round_problems(run, 1, None, None)
    (tmp_path / "train.jsonl").unlink()
    assert len(list(read_rows(run.pool, Problem))) == 40
    assert round_problems(run, 2, None, None) != first


def test_a_pool_that_is_all_held_out_is_refused(tmp_path: Path) -> None:
    run = made(tmp_path)
    write_rows(tmp_path / "train.jsonl", problems(3, 5))
    with pytest.raises(DataError, match="evaluation set"):
        draw_problems(run, 1)


def test_levels_are_weighted_by_what_the_last_round_could_learn(tmp_path: Path) -> None:
    text = '[run]\ncount = 300\nlevels = "1-3"\nlevel-weights = "learnability"\n'
    run = RunDir(tmp_path / "run", Recipe(text, "test"))
    first = draw_problems(run, 1)
    assert {level: sum(p.level == level for p in first) > 70 for level in (1, 2, 3)} == {1: True, 2: True, 3: True}
    with pytest.raises(MissingArtifactError, match="generate"):
        draw_problems(run, 2)
    files = run.round(1)
    make_folder(files.root)
    write_rows(files.problems, first)
    write_rows(
        files.trees, (tree(p.id, right=p.level == 1 or (p.level == 2 and i % 2 == 0)) for i, p in enumerate(first))
    )
    drawn = [p.level for p in draw_problems(run, 2)]
    assert drawn.count(2) > 230, "every first rollout of level 1 was right, none of level 3"
    assert drawn.count(1) > 5
    assert drawn.count(3) > 5


def test_a_pool_has_no_levels_to_weigh(tmp_path: Path) -> None:
    run = made(tmp_path)
    weighted = RunDir(
        run.root, Recipe(run.recipe.text.replace("[run]", '[run]\nlevel-weights = "learnability"'), "test")
    )
    with pytest.raises(UsageError, match="generated problems"):
        draw_problems(weighted, 1)


def tree(problem_id: str, *, right: bool) -> Tree:
    """A tree whose first rollout is right or wrong, and whose second is right."""
    verdicts = (Verdict.CORRECT if right else Verdict.INCORRECT, Verdict.CORRECT)
    answers = (TreeNode(id=i, parent=0, visits=1, stop=StopReason.ANSWER, verdict=v) for i, v in enumerate(verdicts, 1))
    return Tree(
        problem_id=problem_id,
        prompt="P",
        seed=1,
        tokenizer="t",
        tokens_generated=0,
        tokens_prefilled=0,
        rollouts=(Rollout(leaf=1, reward=1.0), Rollout(leaf=2, reward=1.0)),
        nodes=(TreeNode(id=0), *answers),
    )
