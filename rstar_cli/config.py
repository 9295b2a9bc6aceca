"""Settings of a run and of its stages, and the layers that they come from.

One declaration per option: a field here is a recipe key and a command-line flag (`options.py`). A recipe is sparse
TOML; layers from weak to strong::

    defaults below  <  [stage]  <  [round.N.stage]  <  flags

Defaults follow the paper (arXiv 2501.04519, section 4.1 and appendix A.2); the recipe of the embedded model
(`default_recipe.toml`) sets what fits a model of half a million parameters.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rstar_cli.errors import DataError, StorageError, UsageError

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]


class Settings(BaseModel):
    """Base of every settings table: frozen, unknown keys refused, docstrings are the help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    machine: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the machine is used. They may change between a stop and a resume; results do not hang on
    them."""

    def identity(self) -> dict[str, Any]:
        """The settings that results hang on, as plain values."""
        return self.model_dump(mode="json", exclude=set(self.machine))


def parse_levels(text: str) -> tuple[int, ...]:
    """Levels from text such as `1-5`, `3` or `1,2,4-6`; each 1 to 6.

    Raises:
        ValueError: not such a text.
    """
    levels: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ValueError(f"levels look like 1-5 or 1,2,4, not {text!r}")
        levels.update(range(int(first), int(last or first) + 1))
    if not levels or min(levels) < 1 or max(levels) > 6:
        raise ValueError(f"levels are 1 to 6, not {text!r}")
    return tuple(sorted(levels))


class RunConfig(Settings):
    """`[run]`: what every round shares."""

    base: str = "embedded"
    """Round 0's policy: `embedded`, a checkpoint directory, or a hub id."""
    seed: int = Field(0, ge=0)
    """Seed of the run; every draw derives from it."""
    count: int = Field(500, ge=1)
    """Training problems a round."""
    levels: str = "1-5"
    """Levels of the generated training problems."""

    @field_validator("levels")
    @classmethod
    def _levels(cls, value: str) -> str:
        parse_levels(value)
        return value


class EvalSetConfig(Settings):
    """`[eval.NAME]`: a held-out set, made once for the run."""

    source: str = "synthetic"
    """`synthetic`, a file of problems, or a benchmark's name."""
    count: int | None = Field(None, ge=1)
    """How many problems; all of a file or benchmark where absent."""
    levels: str = "1-5"
    """Levels of generated problems."""
    split: Literal["test", "validation"] = "test"
    """Split of the generator; reports use `test`, decisions `validation`."""
    rare: bool = False
    """Only compositions that are rare in training."""

    @field_validator("levels")
    @classmethod
    def _levels(cls, value: str) -> str:
        parse_levels(value)
        return value


class SandboxConfig(Settings):
    """How untrusted code is run."""

    exec_timeout: float = Field(10.0, gt=0)
    """Seconds of wall clock that a step may run."""
    exec_memory: int = Field(1024, ge=64)
    """MiB of memory that a step may take."""
    exec_workers: int = Field(0, ge=0)
    """Sandbox processes; 0: one a core."""


class EngineConfig(Settings):
    """How a policy is run."""

    engine: Literal["transformers", "scripted"] = "transformers"
    """`transformers`: any causal language model; `scripted`: a deterministic stand-in without a model."""
    few_shot: int | None = Field(None, ge=0, le=3)
    """Worked examples before the problem; by default 2 for a foreign model, 0 for one trained on the format."""
    max_step_tokens: int = Field(512, ge=1)
    """Token limit of one step."""
    max_tokens: int = Field(2048, ge=1)
    """Token limit of one completion of several steps."""
    max_depth: int = Field(16, ge=1)
    """Steps that a solution may have."""
    device: Device = "auto"
    """Where the model runs."""
    dtype: Dtype = "auto"
    """Number format of the model."""
    batch: int = Field(0, ge=0)
    """Sequences decoded at once; 0: fits the device."""


_MACHINE = frozenset({"device", "batch", "exec_workers"})


class GenerateConfig(EngineConfig, SandboxConfig):
    """`[generate]`: Monte Carlo Tree Search over executed steps."""

    machine: ClassVar[frozenset[str]] = _MACHINE | {"in_flight"}

    rollouts: int = Field(16, ge=1)
    """Rollouts a problem."""
    candidates: int = Field(8, ge=1)
    """Candidate steps sampled at a node."""
    exploration: float = Field(2.0, ge=0)
    """c in UCB = W/N + c * sqrt(ln N_parent / N)."""
    rollout_style: Literal["expand", "complete"] = "expand"
    """How a rollout goes on below the expanded node: `expand` every node down to a leaf (paper), or `complete` one
    candidate in a single generation (cheaper)."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    in_flight: int = Field(512, ge=1)
    """Problems searched at once."""


class VerifyConfig(SandboxConfig):
    """`[verify]`: run every finished trajectory again, grade it, and write training rows."""

    machine: ClassVar[frozenset[str]] = _MACHINE

    top: int = Field(2, ge=1)
    """Correct trajectories kept a problem for training, by mean Q."""
    grade_timeout: float = Field(5.0, gt=0)
    """Seconds that grading one answer may take."""


class TrainPolicyConfig(Settings):
    """`[train-policy]`: supervised fine-tuning on the best verified trajectories."""

    machine: ClassVar[frozenset[str]] = frozenset({"device"})

    epochs: float = Field(2.0, gt=0)
    """Passes over the rows."""
    learning_rate: float = Field(7e-6, gt=0)
    """Peak learning rate; linear decay to 0."""
    batch_size: int = Field(128, ge=1)
    """Rows an update, on average at most: updates hold equal tokens."""
    batch_tokens: int = Field(16384, ge=1)
    """Token cap of one forward and backward pass, padding counted."""
    max_length: int = Field(4096, ge=8)
    """Longer rows are dropped and counted."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` takes the matrices inside the blocks, AdamW the rest."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    lora_rank: int = Field(0, ge=0)
    """Rank of LoRA adapters (merged into the checkpoint); 0: full fine-tuning."""
    seed: int = Field(0, ge=0)
    """Seed of the row order."""
    device: Device = "auto"
    """Where it trains."""
    dtype: Dtype = "auto"
    """Number format of the forward pass."""


class EvaluateConfig(EngineConfig, SandboxConfig):
    """`[evaluate]`: accuracy on held-out problems by greedy decoding."""

    machine: ClassVar[frozenset[str]] = _MACHINE | {"in_flight"}

    in_flight: int = Field(512, ge=1)
    """Problems solved at once."""
    grade_timeout: float = Field(5.0, gt=0)
    """Seconds that grading one answer may take."""


STAGES: dict[str, type[Settings]] = {
    "generate": GenerateConfig,
    "verify": VerifyConfig,
    "train-policy": TrainPolicyConfig,
    "evaluate": EvaluateConfig,
}
"""The stages in the order of a round."""

SettingsT = TypeVar("SettingsT", bound=Settings)


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
        _refuse_unknown(tables, ["run", "eval", "round", *STAGES], origin, "table")
        self.text = text
        self.origin = origin
        self.run = _validated(RunConfig, tables.get("run", {}), origin, "[run]")
        self.eval_sets = {
            name: _validated(EvalSetConfig, table, origin, f"[eval.{name}]")
            for name, table in _tables(tables.get("eval", {}), origin, "[eval]").items()
        }
        self._stages = _tables({name: tables.get(name, {}) for name in STAGES}, origin, "[generate]")
        self._rounds = _tables(tables.get("round", {}), origin, "[round]")
        for number, stages in self._rounds.items():
            if not number.isdecimal():
                raise DataError(
                    f"[round.{number}] is not a round number", path=origin, remedy="Write [round.2.generate]."
                )
            _refuse_unknown(stages, list(STAGES), origin, f"table in [round.{number}]")
            _tables(stages, origin, f"[round.{number}]")
        for name in STAGES:  # a bad value is told when the recipe is read, not hours later
            for number in ("0", *self._rounds):
                self.stage(STAGES[name], name, int(number), {})

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
        _validated(model, recipe, self.origin, table)
        try:
            return model(**{**recipe, **given})
        except ValidationError as error:
            raise UsageError(_explain(error, "--"), remedy=f"See `rstar {stage} --help`.") from error


def load_recipe(path: Path | None) -> Recipe:
    """Read a recipe file; None is the packaged recipe of the embedded model."""
    if path is None:
        return Recipe(resources.files("rstar_cli").joinpath("default_recipe.toml").read_text(), "default recipe")
    try:
        return Recipe(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise DataError(
            "no such recipe", path=path, remedy="Give a recipe file, or none for the default recipe."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", path=path) from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error


def _keys(table: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe keys are flag names: `max-depth` is the field `max_depth`."""
    return {key.replace("-", "_"): value for key, value in table.items()}


def _tables(value: object, origin: str, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise DataError(f"a table is wanted, such as {where}, and a plain value stands there", path=origin)
    return value


def did_you_mean(word: str, known: list[str]) -> str:
    """A sentence with the nearest known word, or the list of them."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


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
