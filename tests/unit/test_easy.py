"""The base of the easy-to-hard recipe: what it was shown, and what it can."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

from rstar_cli.embedded.build import build, easy
from rstar_cli.embedded.easy import LONGEST, chains, join, lessons, statement
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import QUESTIONS, make_problems, make_worked
from rstar_cli.prompts import last_boxed
from rstar_cli.recipe import load_recipe
from rstar_cli.tokens import StepTokenizer
from tests.helpers import rstar


def test_solutions_shown_are_short_and_right() -> None:
    short = make_worked(40, 7, levels={1: 0.4, 2: 0.6}, split="train", rare_share=0.0)
    rows = lessons(40, 7)
    assert len(rows) == 40 + 40 + 20
    for worked, row in zip(short, rows, strict=False):
        assert worked.level <= 2
        assert worked.text in row.prompt
        assert last_boxed(row.completion) == worked.answer


def test_problems_are_joined_without_a_step_across() -> None:
    first, second = make_worked(2, 3, levels=[2])
    joined = join([first, second], random.Random(1))
    assert joined.text.startswith(f"{statement(first)} {statement(second)} ")
    assert joined.answer == second.answer
    values = []
    for step in joined.steps:
        values.append(step.right.value(values))
    assert str(values[1]) == first.answer
    assert str(values[-1]) == second.answer
    assert [ref.index for step in joined.steps[2:] for ref in step.right.operands if not isinstance(ref, int)] == [2]


def test_chains_ask_nothing_and_take_their_numbers_from_the_text() -> None:
    words = make_worked(60, 3, levels=range(1, 6))
    made = chains(words, 60, random.Random(2))
    assert {len(chain.steps) for chain in made} == set(range(1, LONGEST + 1))
    for chain in made:
        assert not any(question in chain.text for question in QUESTIONS)
        told = set(map(int, re.findall(r"\d+", chain.text)))
        used = {x for step in chain.steps for x in step.right.operands if isinstance(x, int)}
        assert used <= told


def test_every_operation_of_short_problems_is_shown() -> None:
    def formulas(levels: list[int], seed: int) -> set[str]:
        return {s.right.op.template for w in make_worked(7000, seed, levels=levels, rare_share=0.0) for s in w.steps}

    assert formulas([1, 2], 1000) == formulas([1, 2], 99)


def test_building_it_is_repeatable(tmp_path: Path) -> None:
    for name in ("first", "second"):
        build(0, tmp_path / name, easy(0, 8), Path(model_path("embedded")))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second
    assert StepTokenizer.load(tmp_path / "first").fingerprint == StepTokenizer.load(model_path("embedded")).fingerprint


def test_the_shipped_base_is_small_and_reads_the_same_tokens() -> None:
    own, other = (Path(model_path(name)) for name in ("embedded-easy", "embedded"))
    assert (own / "model.safetensors").stat().st_size <= 3_000_000
    assert StepTokenizer.load(own).fingerprint == StepTokenizer.load(other).fingerprint


def test_the_shipped_base_knows_short_problems_only(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.jsonl", make_problems(300, 31, split="test"))
    done = rstar("evaluate", "--policy", "embedded-easy", "--benchmark", "t.jsonl", "--json", cwd=tmp_path)
    by_level = json.loads(done.stdout)["data"]["t"]["greedy"]["by_level"].values()
    right = [level["accuracy"] * level["n"] for level in by_level]
    count = [level["n"] for level in by_level]
    assert sum(right[:2]) >= 0.95 * sum(count[:2])
    assert sum(right[2:]) <= 0.10 * sum(count[2:])


def test_the_recipe_is_found_by_its_name(tmp_path: Path) -> None:
    recipe = load_recipe(Path("easy-to-hard"))
    assert recipe.run.base == "embedded-easy"
    assert recipe.run.level_weights == "learnability"
    rstar("init", "--run", "r", "--recipe", "easy-to-hard", cwd=tmp_path)
    assert (tmp_path / "r/recipe.toml").read_text() == recipe.text


def test_verify_tells_the_share_of_genuine_programs(tmp_path: Path) -> None:
    rstar("init", "--run", "r", "--recipe", "easy-to-hard", cwd=tmp_path)
    write_rows(tmp_path / "p.jsonl", make_problems(12, 5, [1, 2]))
    rstar("generate", "--run", "r", "--problems", "p.jsonl", cwd=tmp_path)
    told = json.loads(rstar("verify", "--run", "r", "--json", cwd=tmp_path).stdout)
    kept = [told["data"][f"kept level {level}"] for level in (1, 2)]
    genuine = [told["data"][f"genuine level {level}"] for level in (1, 2)]
    assert sum(kept) == told["data"]["sft"]
    assert sum(kept) - 1 <= sum(genuine) <= sum(kept)
    assert told["figures"]["genuine programs"].startswith(f"{sum(genuine) / sum(kept):.1%}; by level 1: ")
