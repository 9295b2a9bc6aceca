"""Layers of settings, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest

from rstar_cli.config import STAGES, EvaluateConfig, GenerateConfig, parse_levels
from rstar_cli.errors import ConfigMismatchError, DataError, UsageError
from rstar_cli.layout import RunDir, check_unchanged
from rstar_cli.recipe import Recipe, load_recipe, schema
from tests.helpers import ROOT

LAYERS = """
[generate]
rollouts = 5
max-depth = 4
[round.2.generate]
rollouts = 7
"""


def test_weak_to_strong() -> None:
    recipe = Recipe(LAYERS, "r.toml")
    assert recipe.stage(GenerateConfig, "generate", 1, {}).candidates == 8, "the default, which is the paper's"
    assert recipe.stage(GenerateConfig, "generate", 1, {}).rollouts == 5
    assert recipe.stage(GenerateConfig, "generate", 2, {}).rollouts == 7
    assert recipe.stage(GenerateConfig, "generate", 2, {}).max_depth == 4
    assert recipe.stage(GenerateConfig, "generate", 2, {"rollouts": 9}).rollouts == 9
    assert recipe.stage(EvaluateConfig, "evaluate", 2, {}).max_depth == 16


def test_defaults_are_the_papers() -> None:
    config = GenerateConfig()
    assert (config.candidates, config.rollouts, config.max_depth, config.exploration) == (8, 16, 16, 2.0)
    assert config.rollout_style == "expand"


def test_the_packaged_recipe_is_sound() -> None:
    recipe = load_recipe(None)
    assert recipe.run.base == "embedded"
    assert next(iter(recipe.eval_sets)) == "test"
    for name, model in STAGES.items():
        recipe.stage(model, name, 1, {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[generate]\nrolouts = 3", "'rollouts'"),
        ("[genrate]", "'generate'"),
        ("[run]\nseeds = 3", "'seed'"),
        ("[round.2.evalute]", "'evaluate'"),
        ("[round.two.generate]", "round number"),
        ("[generate]\nrollouts = 0", "rollouts"),
        ("[generate]\nrollouts = 'x'", "rollouts"),
        ("[run]\nlevels = '0-3'", "levels"),
        ("[eval.test]\nsplit = 'train'", "split"),
        ("[round.3.generate]\ntemperature = -1", "temperature"),
        ("generate = 3", "table"),
        ("[round.2.generate]\nrolouts = 3", "[round.2.generate]"),
        ("[round.02.generate]\nrollouts = 3", "[round.02]"),
        ("[generate", "r.toml"),
    ],
)
def test_mistakes_are_told(text: str, says: str) -> None:
    with pytest.raises(DataError) as refused:
        Recipe(text, "r.toml")
    assert says in f"{refused.value} {refused.value.remedy}"
    assert "r.toml" in str(refused.value)


def test_a_bad_flag_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--max-depth"):
        Recipe("", "r").stage(GenerateConfig, "generate", 1, {"max_depth": 0})


def test_machine_settings_do_not_make_another_run() -> None:
    here, there = GenerateConfig(batch=4, device="cpu", in_flight=2), GenerateConfig(exec_workers=3)
    assert here.identity() == there.identity()
    assert GenerateConfig(rollouts=3).identity() != here.identity()


@pytest.mark.parametrize(("text", "levels"), [("1-5", (1, 2, 3, 4, 5)), ("3", (3,)), ("4,1-2", (1, 2, 4))])
def test_levels(text: str, levels: tuple[int, ...]) -> None:
    assert parse_levels(text) == levels


def test_a_run_keeps_its_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "a.toml"
    recipe.write_text("[run]\nseed = 4\n")
    run = RunDir.create(tmp_path / "run", recipe)
    assert RunDir.open(tmp_path / "run").recipe.run.seed == 4
    assert run.round(2).trees == tmp_path / "run/round_2/trees.jsonl"
    recipe.write_text("[run]\nseed = 5\n")
    with pytest.raises(ConfigMismatchError, match="differs"):
        RunDir.create(tmp_path / "run", recipe)


def test_a_folder_with_other_things_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not a run"):
        RunDir.open(tmp_path)


def test_every_key_that_differs_is_named() -> None:
    with pytest.raises(ConfigMismatchError) as refused:
        check_unchanged({"config": {"a": 1, "b": 2, "c": 3}}, {"a": 1, "b": 5}, "x", "y")
    assert "b: 2 -> 5" in str(refused.value)
    assert "c: 3 -> None" in str(refused.value)


@pytest.mark.parametrize("recipe", [None, Path("easy-to-hard"), *sorted((ROOT / "recipes").glob("*.toml"))], ids=str)
def test_every_recipe_that_we_ship_fits_the_schema(recipe: Path | None) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(tomllib.loads(load_recipe(recipe).text), schema())


@pytest.mark.parametrize(
    "text",
    [
        "[generate]\nrolouts = 3",
        "[genrate]",
        "[round.two.generate]",
        "[run]\ncount = 0",
        "[eval.test]\nsplit = 'train'",
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(text: str) -> None:
    with pytest.raises(DataError):
        Recipe(text, "here")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), schema())


def test_the_schema_tells_of_every_key_what_it_means() -> None:
    """Editors show it; a key without it would be one without help."""
    tables = schema()["properties"]
    tables["eval"] = tables["eval"]["additionalProperties"]
    del tables["round"]
    for table in tables.values():
        for name, key in table["properties"].items():
            assert key["description"], name
            assert key.get("type") or key.get("enum"), name
