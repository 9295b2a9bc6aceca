"""From a settings model to command-line flags: one declaration per option.

A flag that is not given stays out of the settings, so that the recipe's value, then the default, holds.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import typer
from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from rstar_cli.config import Settings
from rstar_cli.errors import UsageError
from rstar_cli.layout import default_run
from rstar_cli.shards import Shard


class Place(Settings):
    """What a command works on, and how it answers."""

    json_: bool = Field(False, alias="json")
    """One JSON object on stdout instead of the summary."""


class RunPlace(Place):
    """A stage of a round of a run."""

    run: Path | None = None
    """Directory of the run. [default: $RSTAR_RUN, else runs/default]"""
    round: int = Field(1, ge=0)
    """Round of self-training; round 0 is the base model."""
    dry_run: bool = False
    """Check all inputs, show settings, a prompt and an estimate; write nothing."""

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return self.run or default_run()


class ShardedPlace(RunPlace):
    """A stage whose problems may be dealt out to several processes or machines."""

    shard: str | None = None
    """Do only this part of the problems, as 1/4; `rstar merge` joins the parts when all are done."""

    @field_validator("shard")
    @classmethod
    def _shard(cls, value: str | None) -> str | None:
        if value is not None:
            Shard.parse(value)
        return value

    @property
    def part(self) -> Shard | None:
        """The shard; None: all problems."""
        return Shard.parse(self.shard) if self.shard else None

    @property
    def which(self) -> str:
        """The round, and the shard of it, for messages."""
        return f"round {self.round}" + (f", shard {self.shard}" if self.shard else "")


class GeneratePlace(ShardedPlace):
    """Where `generate` reads and writes."""

    problems: str | None = None
    """Problems to search instead of the round's own: a file (.json, .jsonl, .csv, .parquet) or a benchmark's name."""
    limit: int | None = Field(None, ge=1)
    """Take only the first so many problems."""
    trees: Path | None = None
    """Trees of microsoft/rStar to take as the round's, instead of searching: the file that its main.py writes."""
    output: Path | None = None
    """Write trees to this file, outside any run."""
    skip_bad_lines: bool = False
    """Set bad lines of --problems or --trees aside in a file beside the output, and go on; the exit code is 7 then."""


class VerifyPlace(ShardedPlace):
    """Where `verify` reads and writes."""

    input: str | None = None
    """Rows to check instead of a round's trees: `answer` and one of `prediction`, `solution`, `code`, or samples that
    lm-evaluation-harness logged, or trees of microsoft/rStar; `-` is stdin."""
    output: str | None = None
    """Where checked rows go; `-` is stdout."""
    skip_bad_lines: bool = False
    """Set bad lines of --input aside in a file beside the output, and go on; the exit code is 7 then."""


class TrainPlace(RunPlace):
    """Where the trainings read and write."""

    input: Path | None = None
    """Training rows instead of the run's."""
    model: str | None = None
    """Checkpoint to start from instead of the run's base (policy) or the round's policy (PRM)."""
    output: Path | None = None
    """Directory of the trained checkpoint."""
    skip_bad_lines: bool = False
    """Set bad lines of --input aside in a file beside the output, and go on; the exit code is 7 then."""
    push_to_hub: str | None = None
    """Upload the checkpoint to this repository of the Hugging Face hub, OWNER/NAME: private where it is new."""


class EvaluatePlace(ShardedPlace):
    """Where `evaluate` reads and writes."""

    benchmark: str | None = None
    """A benchmark's name or a file of problems instead of the recipe's evaluation sets."""
    limit: int | None = Field(None, ge=1)
    """Take only the first so many problems."""
    policy: str | None = None
    """Policy to evaluate, with no run needed: `embedded`, a checkpoint directory, or a hub id."""
    output: Path | None = None
    """Folder for the results when no run is used. [default: eval/POLICY]"""
    skip_bad_lines: bool = False
    """Set bad lines of --benchmark aside in a file beside the results, and go on; the exit code is 7 then."""
    log_samples: bool = False
    """Write what the model wrote and how it was graded into log/, in the format of lm-evaluation-harness."""
    compare: tuple[str, str] | None = None
    """Compare two evaluations, problem by problem: each a round of the run (3), of another one (runs/other:3), a folder
    of results, or a file of rows."""


class EvolvePlace(Place):
    """What `evolve` works on."""

    run: Path | None = None
    """Directory of the run. [default: $RSTAR_RUN, else runs/default]"""
    recipe: Path | None = None
    """Recipe of a run that does not exist yet: a file, or `easy-to-hard`; the embedded model's where absent."""
    dry_run: bool = False
    """Check the recipe, show every round's settings, a prompt and an estimate; write nothing."""

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return self.run or default_run()


class ReportPlace(Place):
    """The run that `report` and `status` look at."""

    run: Path | None = None
    """Directory of the run. [default: $RSTAR_RUN, else runs/default]"""

    @property
    def run_dir(self) -> Path:
        """The run's directory."""
        return self.run or default_run()


class MergePlace(ReportPlace):
    """Which shards `merge` joins."""

    round: int = Field(1, ge=0)
    """Round of self-training; round 0 is the base model."""
    output: Path | None = None
    """Outside a run: the file of trees, or the folder of the evaluation, that the shards are of."""


class ShowPlace(ReportPlace):
    """Which tree `show` shows, and how."""

    round: int = Field(1, ge=1)
    """Round of self-training."""
    trees: Path | None = None
    """A file of trees instead of a round's."""
    problems: Path | None = None
    """Their problems, whose statements and answers a file of trees lacks."""
    problem: str | None = None
    """Id of the problem, or its number in the file. [default: the first]"""
    best_path: bool = False
    """Only the best solution, with all its code and output."""
    prm: str | None = None
    """Have a PRM value every step: `last`, the one that the round ended with, or a checkpoint directory or hub id.
    [default: the values that the search had, if any]"""
    depth: int | None = Field(None, ge=1)
    """Steps below the problem that are shown. [default: all]"""
    html: Path | None = None
    """Write the tree as a page instead, which opens in any browser and needs no network."""


class ExportPlace(ReportPlace):
    """Which training rows `export` writes, and where."""

    round: int | None = Field(None, ge=1)
    """The last round whose rows are taken. [default: the last verified]"""
    data_rounds: Literal["all", "last"] = "all"
    """The rows of all rounds so far, merged as train-policy merges them, or of that round alone."""
    format: Literal["prompt-completion", "conversational", "preference", "stepwise"] = "prompt-completion"
    """TRL's format: the first two of sft.jsonl, the others of pairs.jsonl and step_labels.jsonl."""
    output: Path = Path("train.jsonl")
    """File to write, .jsonl or .parquet."""
    push_to_hub: str | None = None
    """Upload it, with a card, to this data set of the Hugging Face hub, OWNER/NAME: private where it is new."""
    allow_contamination: bool = False
    """Export problems that are in an evaluation set, too; the card tells."""


class BenchPlace(Place):
    """How much `bench` measures."""

    workers: int | None = Field(None, ge=1)
    """Sandbox processes. [default: one a core]"""
    programs: int = Field(40, ge=1)
    """Programs a measurement, of five steps each; as many steps are held at a time."""


class BenchSearchPlace(Place):
    """How much `bench search` measures."""

    trees: int = Field(16, ge=1)
    """Trees searched at once, for the cost a node."""
    problems: int = Field(500, ge=1)
    """Problems queued, for the memory."""


class BenchGraderPlace(Place):
    """What `bench grader` grades."""

    cases: Path | None = None
    """JSON lines with gold, pred and label (true or false), perhaps kind and debatable."""
    lenient: bool = False
    """Grade with the lenient policy."""
    timeout: float = Field(5.0, gt=0)
    """Seconds after which math-verify is stopped; the grader keeps its own deadline."""


class BenchEnginePlace(Place):
    """What `bench engine` runs."""

    policy: str = "embedded"
    """Policy: `embedded`, a checkpoint directory, or a hub id."""
    count: int = Field(200, ge=1)
    """Generated problems to search."""
    method: Literal["swor", "mcts", "uct"] = "swor"
    """Search method."""
    rollouts: int = Field(16, ge=1)
    """Rollouts a problem."""
    replayed: int = Field(8, ge=1)
    """Rounds of requests that `model.generate` is given, too: it is slow."""
    device: str = "auto"
    """Where the policy runs."""
    batch: int = Field(0, ge=0)
    """Sequences decoded at once; 0: fits the device."""
    seed: int = Field(0, ge=0)
    """Seed of the problems."""


class BenchTrainPlace(Place):
    """What `bench train` trains."""

    parameters: float = Field(30, gt=0)
    """Millions of parameters of the model, which is random."""
    rows: int = Field(64, ge=2)
    """Training rows: solutions of generated problems."""
    batch_size: int = Field(16, ge=1)
    """Rows an update; TRL's defaults have their own."""
    repeats: int = Field(2, ge=1)
    """Times that each is measured, by turns."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it trains."""


class BenchBudgetPlace(Place):
    """What `bench budget` searches."""

    policy: str = "embedded"
    """Policy: `embedded`, a checkpoint directory, or a hub id."""
    prm: str | None = None
    """PRM: a checkpoint directory or hub id; adds the accuracy of the solution that it chooses."""
    problems: str | None = None
    """A file of problems or a benchmark's name instead of generated ones."""
    count: int = Field(100, ge=1)
    """Problems."""
    levels: str = "3-5"
    """Levels of generated problems."""
    seed: int = Field(0, ge=0)
    """Seed of the generated problems and of all draws."""
    methods: str = "greedy,best-of-n,swor,mcts,uct,beam,dvts"
    """Methods to compare, with commas between."""
    rollouts: int = Field(64, ge=1)
    """Rollouts a problem; the widest beam."""
    candidates: int = Field(4, ge=1)
    """Candidate steps at a node (uct, puct, beam, dvts)."""
    exploration: float = Field(1.4, ge=0)
    """Exploration constant (mcts, uct, puct)."""
    aggregate: Literal["last", "min", "product", "mean"] = "mean"
    """A solution's value from the PRM's values of its steps."""
    plot: Path | None = None
    """Write the curves to this .svg or .png file."""


PlaceT = TypeVar("PlaceT", bound=Place)
Command = Callable[[PlaceT, dict[str, Any]], None]


def flags(
    place: type[PlaceT], settings: type[Settings] | None = None
) -> Callable[[Command[PlaceT]], Callable[..., None]]:
    """Make a Typer command of a function of (place, given settings).

    Args:
        place: model of what the command works on.
        settings: model of the stage's settings; their flags stand in a panel of their own.
    """

    def wrap(function: Command[PlaceT]) -> Callable[..., None]:
        parameters = [_parameter(name, field, None) for name, field in place.model_fields.items()]
        if settings is not None:
            parameters += [_parameter(name, settings.model_fields[name], panel) for name, panel in _panels(settings)]

        @functools.wraps(function)
        def command(**values: Any) -> None:
            given = {name: value for name, value in values.items() if value is not None}
            where = {_alias(place, name): given.pop(name) for name in list(given) if name in place.model_fields}
            try:
                function(place(**where), given)
            except ValidationError as error:
                first = error.errors()[0]
                flag = "--" + ".".join(map(str, first["loc"])).replace("_", "-")
                raise UsageError(f"{flag}: {first['msg']} (got {first['input']!r})") from error

        signed = cast(Any, command)
        signed.__signature__ = inspect.Signature(parameters)
        signed.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return wrap


def _panels(settings: type[Settings]) -> Iterator[tuple[str, str]]:
    """(field, panel of the help) of each setting: a command's own first, then those that it shares with others."""
    shown: set[str] = set()
    for model in settings.__mro__:
        if issubclass(model, Settings):
            fresh = [name for name in model.model_fields if name in inspect.get_annotations(model)]
            yield from ((name, model.panel) for name in fresh if name not in shown)
            shown.update(fresh)


def _alias(model: type[Settings], name: str) -> str:
    return model.model_fields[name].alias or name


def _parameter(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    flag = "--" + name.strip("_").replace("_", "-")
    boolean = field.annotation is bool
    text = field.description or ""
    default = field.get_default()
    if not boolean and default not in (None, "") and "[default" not in text:
        text += f" [default: {default}]"
    if boolean and panel is not None:  # a recipe may have set it
        flag, boolean = f"{flag}/--no-{flag[2:]}", False
    option = typer.Option(
        flag, help=text.replace("\n", " ").replace("[", r"\["), show_default=False, rich_help_panel=panel
    )
    annotation = bool if boolean else _plain(field.annotation) | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if boolean else None,
        annotation=Annotated[annotation, option],
    )


def _plain(annotation: Any) -> Any:
    """The annotation as Typer understands it: `X | None` is X, choices stay choices."""
    if get_origin(annotation) is Literal:
        return annotation
    options = [a for a in get_args(annotation) if a is not type(None)]
    return options[0] if options else annotation
