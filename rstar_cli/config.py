"""Settings of a run and of its stages.

One declaration per option: a field here is a recipe key (`recipe.py`) and a command-line flag (`options.py`). Defaults
follow the paper (arXiv 2501.04519, section 4.1 and appendix A.2); packaged recipes set what fits the tiny models.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rstar_cli.records import Isolation

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "4bit"]

_DEVICES = r"^(auto|cpu|cuda(:\d+)?)$"


class Settings(BaseModel):
    """Base of every settings table: frozen, unknown keys refused, docstrings are the help texts."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    panel: ClassVar[str] = "Settings"
    """Where help shows the fields that this class declares."""
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
    """Round 0's policy: `embedded`, `embedded-easy`, a checkpoint directory, or a hub id."""
    seed: int = Field(0, ge=0)
    """Seed of the run; every draw derives from it."""
    source: str = "synthetic"
    """Where training problems come from: `synthetic`, a file of problems, or a benchmark's name."""
    count: int = Field(500, ge=1)
    """Training problems a round."""
    levels: str = "1-5"
    """Levels of the generated training problems."""
    level_weights: Literal["equal", "learnability"] = "equal"
    """How often each level is drawn: `equal`, or by p (1 - p), p its first rollouts' share of right ones last round."""

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

    panel: ClassVar[str] = "Sandbox"

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

    panel: ClassVar[str] = "Grading"

    grade_timeout: float = Field(0.6, gt=0)
    """Seconds of processor time that one comparison may take; then its verdict is `timeout`."""
    lenient: bool = False
    """For noisy gold answers: 10% equals 0.1 too, and a decimal equals what it is the rounding of."""


class EngineConfig(Settings):
    """How a policy is run."""

    panel: ClassVar[str] = "Engine"

    engine: Literal["transformers", "vllm", "vllm-server", "openai", "scripted"] = "transformers"
    """`transformers`: any causal language model; `vllm`: the same, where vLLM is installed; `vllm-server`: a vLLM
    server that is started from its own environment; `openai`: a server that speaks OpenAI's interface (vLLM, SGLang,
    llama.cpp, transformers serve); `scripted`: a deterministic stand-in without a model."""
    server_python: str = ""
    """`vllm-server`: Python of the environment that the server starts from."""
    base_url: str = ""
    """`openai`: the server, as `http://HOST:PORT/v1`; several with commas between. Its key is in $RSTAR_API_KEY."""
    concurrency: int = Field(64, ge=1)
    """`openai`: requests under way at once."""
    few_shot: int | None = Field(None, ge=0, le=3)
    """Worked examples before the problem; by default 2 for a foreign model, 0 for one trained on the format."""
    max_step_tokens: int = Field(512, ge=1)
    """Token limit of one step."""
    max_tokens: int = Field(2048, ge=1)
    """Token limit of one completion of several steps."""
    max_depth: int = Field(16, ge=1)
    """Steps that a solution may have."""
    device: str = Field("auto", pattern=_DEVICES)
    """Where the models run: `auto`, `cpu`, `cuda`, or `cuda:N`."""
    dtype: Dtype = "auto"
    """Number format of the models; `4bit` needs a GPU and the package bitsandbytes."""
    batch: int = Field(0, ge=0)
    """Sequences decoded at once; 0: fits the device."""
    trust_remote_code: bool = False
    """Run the code that the policy's checkpoint brings, outside of the sandbox; the manifest tells of it."""


class LaunchConfig(Settings):
    """Who does the work."""

    panel: ClassVar[str] = "Launcher"

    launcher: Literal["local", "ray"] = "local"
    """This process, or the actors of a `ray` cluster, each with its own engine, sandbox and grader (the cluster of
    $RAY_ADDRESS or of `ray start`, else one on this machine)."""
    actors: int = Field(0, ge=0)
    """`ray`: how many; 0: one a GPU of the cluster, or one; to verify: one a machine."""


_LAUNCH = frozenset({"launcher", "actors"})
_MACHINE = frozenset({"device", "batch", "server_python", "base_url", "concurrency", "exec_workers", "isolation"})


def parse_escalation(text: str) -> tuple[int, ...]:
    """Numbers of rollouts from text such as `64,128`, rising; empty: none.

    Raises:
        ValueError: not such a text.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"numbers of rollouts look like 64,128, not {text!r}")
    numbers = tuple(map(int, parts))
    if list(numbers) != sorted(set(numbers)):
        raise ValueError(f"numbers of rollouts must rise, as in 64,128, not {text!r}")
    return numbers


Method = Literal["swor", "mcts", "uct", "puct", "beam", "dvts", "best-of-n"]


class SearchConfig(EngineConfig, SandboxConfig, GradingConfig, LaunchConfig):
    """How a search goes."""

    panel: ClassVar[str] = "Search"
    machine: ClassVar[frozenset[str]] = _MACHINE | _LAUNCH | {"in_flight", "preset", "prm_device"}

    preset: Literal["paper", "upstream"] | None = None
    """Search settings of the `paper`, or of the `upstream` code, where nothing stronger sets them."""
    method: Method = "swor"
    """`swor`: solutions sampled without replacement over the tree; `mcts`: the same below the node that PUCT chooses;
    `uct`: the paper's MCTS; `puct`: that with the policy's priors; `beam`: step beam search; `dvts`: diverse verifier
    tree search; `best-of-n`: independent samples."""
    rollouts: int = Field(16, ge=1)
    """Rollouts a problem."""
    candidates: int = Field(8, ge=1)
    """Candidate steps sampled at a node (uct, puct, beam, dvts)."""
    exploration: float = Field(2.0, ge=0)
    """c in UCB = W/N + c * sqrt(ln N_parent / N), or in PUCT (mcts, uct, puct)."""
    rollout_style: Literal["expand", "complete"] = "expand"
    """How a rollout goes on below the expanded node: `expand` every node down to a leaf (paper), or `complete` one
    candidate in a single generation (cheaper) (uct, puct)."""
    rules: Literal["paper", "upstream"] = "paper"
    """A step that was never visited: is explored first, the likeliest before the others (paper), or scores 0, and of
    equals the first is taken (upstream) (uct)."""
    wave: int = Field(1, ge=1)
    """Rollouts of a tree in flight at once, under a virtual loss: for few problems on a large engine."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    prm: str = "auto"
    """PRM: `auto` (see the command), `none`, `last` (of the round whose policy is used), a checkpoint directory, or
    the hub id of Qwen2.5-Math-PRM or Math-Shepherd."""
    prm_device: str = Field("auto", pattern=_DEVICES)
    """Where the PRM runs; `auto`: where the policy does."""
    aggregate: Literal["last", "min", "product", "mean"] = "last"
    """A solution's value from the PRM's values of its steps: the last one, the least, the product, or the mean."""
    in_flight: int = Field(512, ge=1)
    """Problems searched at once."""


class GenerateConfig(SearchConfig):
    """`[generate]`: Monte Carlo Tree Search over executed steps. `prm = auto`: the last round's from round 3 on."""

    panel: ClassVar[str] = "Settings"
    machine: ClassVar[frozenset[str]] = SearchConfig.machine | {"budget_tokens", "budget_hours"}

    policy: str = "auto"
    """Policy: `auto` (the last round's), `embedded`, a checkpoint directory, or a hub id."""
    enough: int = Field(0, ge=0)
    """Right solutions after which a problem's search ends; 0: all rollouts are used (not beam, dvts)."""
    escalate: str = ""
    """More rollouts for problems that are not solved by then, such as 64,128 (paper, round 4) (not beam, dvts)."""
    allow_contamination: bool = False
    """Search problems that are in an evaluation set, too; the manifest and the report tell of it."""
    budget_tokens: int | None = Field(None, ge=1)
    """Stop searching when so many tokens were generated; what was found by then is kept."""
    budget_hours: float | None = Field(None, gt=0)
    """Stop searching after so many hours; what was found by then is kept."""

    @field_validator("escalate")
    @classmethod
    def _escalation(cls, value: str) -> str:
        parse_escalation(value)
        return value


class VerifyConfig(SandboxConfig, GradingConfig, LaunchConfig):
    """`[verify]`: run every finished trajectory again, grade it, and write training rows."""

    panel: ClassVar[str] = "Settings"
    machine: ClassVar[frozenset[str]] = _MACHINE | _LAUNCH

    top: int = Field(2, ge=1)
    """Correct trajectories kept a problem for training, by mean Q."""
    pairs: Literal["paper", "margin", "likely", "upstream"] = "margin"
    """Preference pairs: `paper`: below each step the 2 best that reach a right answer against the 2 worst that do not,
    and whole solutions, right ones against those of lowest Q; `margin`: of these steps, those whose Q differs by 0.5;
    `likely`: the same steps, and right solutions against the wrong ones that are likeliest under the policy;
    `upstream`: steps that differ by 0.5 and by 20 edits, and no whole solutions."""
    min_likelihood: float = Field(0.0, ge=0, le=1)
    """Against luck: train on right programs of at least this share of the likeliest right one's likelihood."""


class TrainConfig(Settings):
    """How a training goes, whatever is trained."""

    machine: ClassVar[frozenset[str]] = frozenset({"device", "save_minutes", "report_to"})

    data_rounds: Literal["all", "last"] = "all"
    """Training rows of all rounds so far, or of the last one."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the problems whose rows are kept apart, to measure the loss on."""
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
    """Rank of LoRA adapters; 0: full fine-tuning."""
    seed: int = Field(0, ge=0)
    """Seed of the row order, and of what is held out."""
    allow_contamination: bool = False
    """Train on problems that are in an evaluation set, too; the manifest and the report tell of it."""
    device: Device = "auto"
    """Where it trains."""
    dtype: Dtype = "auto"
    """Number format of the forward pass; `4bit`: the matrices below LoRA adapters in four bits (QLoRA), which needs a
    GPU and the package bitsandbytes."""
    trust_remote_code: bool = False
    """Run the code that the checkpoint to start from brings; the manifest tells of it."""
    report_to: Literal["none", "tensorboard", "trackio", "wandb"] = "none"
    """Where the losses are reported to, beside the log in the checkpoint."""
    save_minutes: float = Field(5.0, ge=0)
    """Minutes between two saved states of a training under way, from which a killed one goes on; 0: every update."""


class TrainPolicyConfig(TrainConfig):
    """`[train-policy]`: supervised fine-tuning on the best verified trajectories."""

    start: Literal["base", "previous"] = "base"
    """Start from the run's base (paper), or from the previous round's policy."""
    epochs: float = Field(2.0, gt=0)
    """Passes over the rows."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the problems whose rows are kept apart: their loss is told twice an epoch, and of these weights those of
    the least loss are kept. 0: none, and the last weights are kept."""
    patience: int = Field(0, ge=0)
    """Stop after so many held-out losses in a row that are no lower than the least; 0: never."""
    merge: bool = True
    """Merge LoRA adapters into the checkpoint; without, it holds them alone, and their base is needed beside it."""


class TrainPrmConfig(TrainConfig):
    """`[train-prm]`: the process reward model, from pairs or from labelled solutions."""

    objective: Literal["ppm", "orm", "prm-hard", "prm-soft"] = "ppm"
    """`ppm`: of two steps or solutions the better one scores higher (paper); `orm`: whether a solution is right;
    `prm-hard`: at each step, whether a right answer was reached from it; `prm-soft`: at each step, its Q."""
    negatives: int = Field(0, ge=0)
    """Wrong solutions a problem that are learnt from and measured on, the likeliest under the policy that gave them;
    0: all (orm, prm-hard, prm-soft; pairs: see `verify`)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over them."""
    min_updates: int = Field(200, ge=1)
    """Updates at least: more passes where they are few."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the problems that are kept apart, to measure on."""
    squash: Literal["loss", "after"] = "loss"
    """tanh on the scores `loss`: within the loss (paper), or only `after` training, as tanh(score / 5) (upstream)
    (ppm)."""


class EvaluateConfig(SearchConfig):
    """`[evaluate]`: accuracy on held-out problems. `prm = auto`: this round's, for samples and search."""

    panel: ClassVar[str] = "Settings"
    samples: int = Field(0, ge=0)
    """Solutions sampled a problem, for majority, pass@k and, with a PRM, best-of-N and weighted votes; 0: none."""
    method: Method = "mcts"
    """As of `generate`; `mcts` by default, which heeds the PRM."""
    rollouts: int = Field(0, ge=0)
    """Rollouts a problem of a search guided by the PRM, gold unseen; 0: no search."""


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
