"""Settings of a run and of its stages.

One declaration per option: a field here is a recipe key (`recipe.py`) and a command-line flag (`options.py`). Defaults
follow the paper (arXiv 2501.04519, section 4.1 and appendix A.2); the recipe of the embedded model
(`default_recipe.toml`) sets what fits a model of half a million parameters.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rstar_cli.records import Isolation

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
    source: str = "synthetic"
    """Where training problems come from: `synthetic`, a file of problems, or a benchmark's name."""
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
    """How many problems, drawn by the run's seed; all of a file or benchmark where absent."""
    levels: str = "1-5"
    """Levels of generated problems."""
    split: Literal["test", "validation"] = "test"
    """Split of the generator; reports use `test`, decisions `validation`."""
    rare: bool = False
    """Only compositions that are rare in training."""
    sampled: int | None = Field(None, ge=0)
    """How many of its problems get samples and search beside greedy decoding; all where absent."""

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
    isolation: Isolation = "rlimits"
    """Refuse to run untrusted code with less isolation than this; `rstar doctor` tells what this machine has."""


class GradingConfig(Settings):
    """How answers are compared."""

    grade_timeout: float = Field(0.6, gt=0)
    """Seconds of processor time that one comparison may take; then its verdict is `timeout`."""
    lenient: bool = False
    """For noisy gold answers: 10% equals 0.1 too, and a decimal equals what it is the rounding of."""


class EngineConfig(Settings):
    """How a policy is run."""

    engine: Literal["transformers", "vllm", "vllm-server", "scripted"] = "transformers"
    """`transformers`: any causal language model; `vllm`: the same, where vLLM is installed; `vllm-server`: a
    vLLM server that is started from its own environment; `scripted`: a deterministic stand-in without a model."""
    server_python: str = ""
    """Python of the environment that `vllm-server` starts from."""
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


_MACHINE = frozenset({"server_python", "device", "batch", "exec_workers", "isolation"})


class SearchConfig(EngineConfig, SandboxConfig, GradingConfig):
    """How Monte Carlo Tree Search goes."""

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
    prm: str = "auto"
    """PRM: `auto` (see the command), `none`, `last` (of the round whose policy is used), or a checkpoint directory."""
    in_flight: int = Field(512, ge=1)
    """Problems searched at once."""


class GenerateConfig(SearchConfig):
    """`[generate]`: Monte Carlo Tree Search over executed steps. `prm = auto`: the last round's from round 3 on."""

    policy: str = "auto"
    """Policy: `auto` (the last round's), `embedded`, a checkpoint directory, or a hub id."""


class VerifyConfig(SandboxConfig, GradingConfig):
    """`[verify]`: run every finished trajectory again, grade it, and write training rows."""

    machine: ClassVar[frozenset[str]] = _MACHINE

    top: int = Field(2, ge=1)
    """Correct trajectories kept a problem for training, by mean Q."""


class TrainConfig(Settings):
    """How a training goes, whatever is trained."""

    machine: ClassVar[frozenset[str]] = frozenset({"device"})

    learning_rate: float = Field(7e-6, gt=0)
    """Peak learning rate; linear decay to 0."""
    batch_size: int = Field(128, ge=1)
    """Rows or pairs an update, on average at most: updates hold equal tokens."""
    batch_tokens: int = Field(16384, ge=1)
    """Token cap of one forward and backward pass, padding counted."""
    max_length: int = Field(4096, ge=8)
    """Longer rows, and pairs with a longer side, are dropped and counted."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` takes the matrices inside the blocks, AdamW the rest."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay."""
    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    lora_rank: int = Field(0, ge=0)
    """Rank of LoRA adapters (merged into the checkpoint); 0: full fine-tuning."""
    seed: int = Field(0, ge=0)
    """Seed of the row order, and of what is held out."""
    device: Device = "auto"
    """Where it trains."""
    dtype: Dtype = "auto"
    """Number format of the forward pass."""


class TrainPolicyConfig(TrainConfig):
    """`[train-policy]`: supervised fine-tuning on the best verified trajectories."""

    epochs: float = Field(2.0, gt=0)
    """Passes over the rows."""


class TrainPrmConfig(TrainConfig):
    """`[train-prm]`: the process preference model, from pairs of steps and of solutions."""

    data_rounds: Literal["all", "last"] = "all"
    """Pairs of all rounds so far, or of the last one."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the pairs."""
    min_updates: int = Field(200, ge=1)
    """Updates at least: more passes where the pairs are few."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the problems whose pairs are kept apart, to measure pairwise accuracy on."""
    squash: Literal["loss", "after"] = "loss"
    """tanh on the scores `loss`: within the loss (paper), or only `after` training, as tanh(score / 5) (upstream)."""


class EvaluateConfig(SearchConfig):
    """`[evaluate]`: accuracy on held-out problems. `prm = auto`: this round's, for samples and search."""

    samples: int = Field(0, ge=0)
    """Solutions sampled a problem, for majority, pass@k and, with a PRM, best-of-N and weighted votes; 0: none."""
    rollouts: int = Field(0, ge=0)
    """Rollouts a problem of MCTS guided by the PRM, gold unseen; 0: no search."""
    aggregate: Literal["last", "min", "mean"] = "last"
    """A solution's score in votes: the PRM's value of its last step, or the least or the mean of its steps'."""


class EvolveConfig(Settings):
    """`[evolve]`: when the loop ends."""

    rounds: int = Field(4, ge=1)
    """Rounds of self-training after round 0, at most."""
    plateau: int = Field(2, ge=0)
    """Stop after so many rounds in a row without a clear gain on the validation set: the 95 % interval of the paired
    gain is not above 0. 0: never."""
    budget_tokens: int | None = Field(None, ge=1)
    """Stop when the run's searches and evaluations have generated so many tokens."""
    budget_hours: float | None = Field(None, gt=0)
    """Stop when the run's stages have taken so many hours; a training that has begun is finished."""


STAGES: dict[str, type[Settings]] = {
    "generate": GenerateConfig,
    "verify": VerifyConfig,
    "train-policy": TrainPolicyConfig,
    "train-prm": TrainPrmConfig,
    "evaluate": EvaluateConfig,
}
"""The stages in the order of a round."""
TABLES: dict[str, type[Settings]] = {**STAGES, "evolve": EvolveConfig}
"""Every recipe table that is named as a command."""

SettingsT = TypeVar("SettingsT", bound=Settings)
