"""Recipes: the layers that settings come from.

A recipe is sparse TOML, its tables named as the commands, its keys as their flags; layers from weak to strong::

    defaults (`config.py`)  <  preset  <  [stage]  <  [round.N.stage]  <  --preset  <  other flags
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rstar_cli.config import STAGES, TABLES, EvalSetConfig, RunConfig, Settings, SettingsT
from rstar_cli.errors import DataError, StorageError, UsageError, did_you_mean

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "method": "uct",
        "rollouts": 16,
        "candidates": 8,
        "exploration": 2.0,
        "rollout_style": "expand",
        "rules": "paper",
        "max_depth": 16,
        "temperature": 1.0,
        "wave": 1,
    },
    "upstream": {
        "method": "uct",
        "rollouts": 48,
        "candidates": 12,
        "exploration": 2.0,
        "rollout_style": "expand",
        "rules": "upstream",
        "max_depth": 16,
        "temperature": 1.0,
        "wave": 1,
    },
}
"""Search settings by preset: arXiv 2501.04519, section 4.1 and appendix A.2; microsoft/rStar, branch rStar-math,
`config/sample_mcts.yaml`."""


_EVAL_NAME = re.compile(r"\w[\w.-]{0,63}")


class Recipe:
    """A parsed recipe.

    Attributes:
        run: the `[run]` table.
        eval_sets: the `[eval.NAME]` tables in order; the first is the main set.
    """

    def __init__(self, text: str, origin: str) -> None:
        """Parse and check a recipe.

        Args:
            text: TOML.
            origin: the file's name, for messages.

        Raises:
            DataError: not TOML, an unknown table or key, or a value out of range.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise DataError(str(error), path=origin, remedy="Mend the TOML at the place named.") from error
        _refuse_unknown(tables, ["run", "eval", "round", *TABLES], origin, "table")
        for name in _tables(tables.get("eval", {}), origin, "[eval]"):
            if not _EVAL_NAME.fullmatch(name):
                why = f"[eval.{name!r}]: a set's name becomes a file's"
                raise DataError(why, path=origin, remedy="Write letters, digits, - and _, at most 64.")
        self.text = text
        self.origin = origin
        self.run = _validated(RunConfig, tables.get("run", {}), origin, "[run]")
        self.eval_sets = {
            name: _validated(EvalSetConfig, table, origin, f"[eval.{name}]")
            for name, table in _tables(tables.get("eval", {}), origin, "[eval]").items()
        }
        self._stages = _tables({name: tables.get(name, {}) for name in TABLES}, origin, "[generate]")
        self._rounds = _tables(tables.get("round", {}), origin, "[round]")
        for number, stages in self._rounds.items():
            if not number.isdecimal() or number != str(int(number)):
                raise DataError(
                    f"[round.{number}] is not a round number", path=origin, remedy="Write [round.2.generate]."
                )
            _refuse_unknown(stages, list(STAGES), origin, f"table in [round.{number}]")
            for name, table in _tables(stages, origin, f"[round.{number}]").items():
                _refuse_unknown(
                    _keys(table), list(STAGES[name].model_fields), origin, f"key in [round.{number}.{name}]"
                )
        for name, model in TABLES.items():  # a bad value is told when the recipe is read, not hours later
            for number in ("0", *self._rounds):
                self.stage(model, name, int(number), {})

    def stage(self, model: type[SettingsT], stage: str, round_number: int, given: Mapping[str, Any]) -> SettingsT:
        """Settings of a stage in a round.

        Args:
            model: the stage's settings class.
            stage: its name, as the table's.
            round_number: the round.
            given: what the user gave as flags, by field name.

        Raises:
            DataError: a bad key or value in the recipe.
            UsageError: a bad value in a flag.
        """
        table = f"[{stage}]"
        recipe = {**_keys(self._stages[stage]), **_keys(self._rounds.get(str(round_number), {}).get(stage, {}))}
        recipe = {**_preset(model, recipe), **recipe}
        _validated(model, recipe, self.origin, table)
        try:
            return model(**{**recipe, **_preset(model, given), **given})
        except ValidationError as error:
            raise UsageError(_explain(error, "--"), remedy=f"See `rstar {stage} --help`.") from error


PACKAGED = {"easy-to-hard": "easy_to_hard.toml"}
"""Recipes that come with the package, by name, beside the default one of the embedded model."""


def load_recipe(path: Path | None) -> Recipe:
    """Read a recipe file; None is the packaged recipe of the embedded model, a name in `PACKAGED` another one."""
    if path is None or (str(path) in PACKAGED and not path.exists()):
        file, origin = ("default_recipe.toml", "default recipe") if path is None else (PACKAGED[str(path)], str(path))
        return Recipe(resources.files("rstar_cli").joinpath(file).read_text(), origin)
    try:
        return Recipe(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise DataError(
            "no such recipe",
            path=path,
            remedy=f"Give a recipe file, {' or '.join(PACKAGED)}, or none for the default recipe.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", path=path) from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def schema() -> dict[str, Any]:
    """A JSON Schema of recipes, for editors (draft 2020-12): every table and key, its type, default and meaning."""
    tables = {name: _table_schema(model) for name, model in TABLES.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rstar recipe",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "run": _table_schema(RunConfig),
            "eval": {
                "type": "object",
                "description": "Held-out sets by name; the first is the main one.",
                "additionalProperties": _table_schema(EvalSetConfig),
            },
            **tables,
            "round": {
                "type": "object",
                "description": "What differs in single rounds, as [round.2.generate].",
                "additionalProperties": False,
                "patternProperties": {
                    r"^(0|[1-9]\d*)$": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {name: tables[name] for name in STAGES},
                    }
                },
            },
        },
    }


def _table_schema(model: type[Settings]) -> dict[str, Any]:
    told = model.model_json_schema()
    return {
        "type": "object",
        "description": told.get("description", ""),
        "additionalProperties": False,
        "properties": {name.replace("_", "-"): _plain(field) for name, field in told["properties"].items()},
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    """A key's schema: TOML has no null, so what may be None is what may be absent."""
    kinds = [kind for kind in field.get("anyOf", []) if kind.get("type") != "null"]
    rest = {name: value for name, value in field.items() if name not in ("anyOf", "title")}
    if rest.get("default", 0) is None:
        del rest["default"]
    return {**(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}), **rest}


def _keys(table: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe keys are flag names: `max-depth` is the field `max_depth`."""
    return {key.replace("-", "_"): value for key, value in table.items()}


def _preset(model: type[Settings], layer: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset that a layer names sets in a stage; nothing where it names none."""
    return {name: v for name, v in PRESETS.get(layer.get("preset") or "", {}).items() if name in model.model_fields}


def _tables(value: object, origin: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise DataError(f"a table is wanted, such as {where}, and a plain value stands there", path=origin)
    return value


def _refuse_unknown(table: Mapping[str, Any], known: list[str], origin: str, what: str) -> None:
    for key in table:
        if key not in known:
            raise DataError(f"unknown {what} {key!r}", path=origin, remedy=did_you_mean(key, known))


def _validated(model: type[SettingsT], table: object, origin: str, where: str) -> SettingsT:
    if not isinstance(table, dict):
        raise DataError(f"{where} must be a table", path=origin)
    values = _keys(table)
    known = list(model.model_fields)
    _refuse_unknown(values, known, origin, f"key in {where}")
    try:
        return model(**values)
    except ValidationError as error:
        raise DataError(f"{where} {_explain(error, '')}", path=origin, remedy="Mend the value.") from error


def _explain(error: ValidationError, prefix: str) -> str:
    return "; ".join(
        f"{prefix}{'.'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']} (got {e['input']!r})"
        for e in error.errors()
    )
