"""The synthetic generator."""

import itertools
import subprocess
import sys
import time
from collections import Counter

import pytest

from rstar_cli.errors import UsageError
from rstar_cli.problems.synthetic import LEVELS, RARE, make_problems, make_worked, split_of

FAMILIES = {
    "word problems", "money", "rates", "linear equations", "systems", "quadratics", "number theory", "counting",
    "sequences", "areas", "fractions",
}  # fmt: skip


def program(worked):
    """The right solution as one Python program."""
    names = [f"v{i}" for i in range(worked.level)]
    lines = []
    for name, step in zip(names, worked.steps, strict=True):
        lines += [step.right.op.imported, f"{name} = {step.right.render(names)}"]
    return "\n".join([*lines, f"print({names[-1]})"])


def test_right_programs_really_print_the_answers():
    made = make_worked(600, 900001, levels=(1, 2, 3, 4, 5, 6), split="test")
    code = "\n".join(program(worked) for worked in made)
    ran = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n")[:-1] == [worked.answer for worked in made]


def test_equal_seeds_make_equal_sets_and_other_seeds_others():
    assert make_problems(50, 900002) == make_problems(50, 900002)
    assert make_problems(50, 900002) != make_problems(50, 900003)


def test_a_set_does_not_depend_on_the_hash_seed():
    code = "from rstar_cli.problems.synthetic import make_problems; print(make_problems(20, 900002)[-1].id)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "77"}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == make_problems(20, 900002)[-1].id


def test_splits_are_disjoint_whatever_the_seeds():
    sets = {
        split: {p.problem for seed in (900004, 900005) for p in make_problems(500, seed, split=split)}
        for split in ("train", "validation", "test")
    }
    assert not sets["train"] & sets["test"]
    assert not sets["train"] & sets["validation"]
    assert not sets["validation"] & sets["test"]


def test_split_shares():
    shares = Counter(split_of(str(i)) for i in range(20_000))
    assert shares["test"] / 20_000 == pytest.approx(0.2, abs=0.02)
    assert shares["validation"] / 20_000 == pytest.approx(0.1, abs=0.02)


def test_levels_are_equally_likely_and_mixed():
    found = [p.level for p in make_problems(1000, 900006)]
    assert all(150 < found.count(level) < 250 for level in LEVELS)
    assert found != sorted(found)


def test_levels_can_be_weighted():
    found = Counter(w.level for w in make_worked(400, 900006, levels={1: 3.0, 6: 1.0}))
    assert set(found) == {1, 6}
    assert found[1] == pytest.approx(300, abs=40)


def test_every_family_is_there():
    assert {p.subject for p in make_problems(500, 900007)} == FAMILIES


def test_rare_compositions_are_rare_in_train_and_present_in_test():
    rare = {
        split: sum(p.model_extra["rare"] for p in make_problems(1500, 900008, split=split)) / 1500
        for split in ("train", "test")
    }
    assert 0 < rare["train"] < 0.012
    assert 0.03 < rare["test"] < 0.15


def test_rare_means_two_consecutive_steps_of_a_listed_pair():
    for worked in make_worked(300, 900008, split="test"):
        kinds = [step.kind for step in worked.steps]
        assert worked.rare == any((a, b) in RARE for a, b in itertools.pairwise(kinds))


def test_a_row_has_the_fields_of_a_problem():
    problem = make_problems(1, 900009, levels=(3,), split="test")[0]
    assert problem.id.startswith("syn-")
    assert len(problem.id) == 16
    assert (problem.source, problem.level) == ("synthetic", 3)
    assert problem.model_extra.keys() == {"rare", "program"}


def test_misconceptions_differ_from_the_right_formula():
    for worked in make_worked(300, 900009):
        for step in worked.steps:
            assert step.right not in step.wrong


def test_two_thousand_problems_take_a_few_seconds_at_most():
    start = time.process_time()
    assert len(make_problems(2000, 900009)) == 2000
    assert time.process_time() - start < 5


def test_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr("rstar_cli.problems.synthetic._PATIENCE", 0)
    with pytest.raises(UsageError, match="distinct test problems"):
        make_worked(10, 900009, levels=(1,), split="test")


@pytest.mark.parametrize("level", [0, 7])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(UsageError, match="out of range"):
        make_worked(1, 900009, levels=(level,))
