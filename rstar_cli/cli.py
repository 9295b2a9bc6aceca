"""The `rstar` command. It alone prints, exits, and turns errors into messages."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_cli import __version__, interrupts
from rstar_cli.cli_bench import bench_app
from rstar_cli.config import (
    EvaluateConfig,
    EvolveConfig,
    GenerateConfig,
    SettingsT,
    TrainPolicyConfig,
    TrainPrmConfig,
    VerifyConfig,
)
from rstar_cli.errors import SetupError, UsageError
from rstar_cli.layout import PACKAGED, RunDir, default_run
from rstar_cli.options import (
    EvaluatePlace,
    EvolvePlace,
    ExportPlace,
    GeneratePlace,
    MergePlace,
    Place,
    ReportPlace,
    RunPlace,
    ShowPlace,
    TrainPlace,
    VerifyPlace,
    flags,
)
from rstar_cli.redact import redacted
from rstar_cli.screen import note, show, show_curve, show_report, show_search, tell_stage
from rstar_cli.unforeseen import as_error

if TYPE_CHECKING:
    from rstar_cli.stages.common import Summary

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
problems_app = typer.Typer(no_args_is_help=True, help="Make, import and list problems.")
app.add_typer(problems_app, name="problems", rich_help_panel="Around the rounds")
app.add_typer(bench_app, name="bench", rich_help_panel="Around the rounds")


UNREAD = 141
"""Exit code where whoever read our output has left (`| head`): as a shell tells of SIGPIPE."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rstar {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """A small language model teaches itself mathematics: search over executed steps, verify, fine-tune, repeat.

    The loop:  rstar evolve

    One round of it:  rstar generate  →  verify  →  train-policy  →  train-prm  →  evaluate
    """


@app.command(rich_help_panel="A round")
@flags(GeneratePlace, GenerateConfig)
def generate(place: GeneratePlace, given: dict[str, Any]) -> None:
    """Search every problem of a round over executed steps; writes trees.jsonl.

    [dim]rstar generate --round 1[/dim]
    """
    run, config = _open(place, GenerateConfig, "generate", given, outside=place.output is not None)
    from rstar_cli.stages.dry_run import dry_run_generate
    from rstar_cli.stages.generate import generate as stage

    _show(place, dry_run_generate(place, config, run) if place.dry_run else stage(place, config, run))


@app.command(rich_help_panel="A round")
@flags(VerifyPlace, VerifyConfig)
def verify(place: VerifyPlace, given: dict[str, Any]) -> None:
    """Run every finished trajectory again and grade it; writes solutions and training rows.

    [dim]rstar verify --round 1[/dim]

    [dim]rstar verify --input rows.jsonl --output -[/dim]    grades anybody's outputs
    """
    _refuse_two_streams(place, place.output)
    outside = place.input is not None or place.output is not None
    run, config = _open(place, VerifyConfig, "verify", given, outside=outside)
    from rstar_cli.stages.dry_run import dry_run_verify

    if place.dry_run:
        _show(place, dry_run_verify(place, config, run))
    elif run is None:
        from rstar_cli.stages.verify_rows import verify_rows

        _show(place, verify_rows(place, config))
    else:
        from rstar_cli.stages.verify import verify as stage

        _show(place, stage(place, config, run))


@app.command("train-policy", rich_help_panel="A round")
@flags(TrainPlace, TrainPolicyConfig)
def train_policy(place: TrainPlace, given: dict[str, Any]) -> None:
    """Fine-tune the policy on the best verified trajectories of all rounds so far; writes policy/.

    [dim]rstar train-policy --round 1[/dim]
    """
    outside = place.input is not None or place.output is not None
    run, config = _open(place, TrainPolicyConfig, "train-policy", given, outside=outside)
    from rstar_cli.stages.dry_run import dry_run_train
    from rstar_cli.stages.train_policy import train as stage

    _show(place, dry_run_train(place, config, run) if place.dry_run else stage(place, config, run))


@app.command("train-prm", rich_help_panel="A round")
@flags(TrainPlace, TrainPrmConfig)
def train_prm(place: TrainPlace, given: dict[str, Any]) -> None:
    """Train the process reward model from the round's policy, on labelled steps or pairs of all rounds; writes prm/.

    [dim]rstar train-prm --round 1[/dim]
    """
    outside = place.input is not None or place.output is not None
    run, config = _open(place, TrainPrmConfig, "train-prm", given, outside=outside)
    from rstar_cli.stages.dry_run import dry_run_train_prm
    from rstar_cli.stages.train_prm import train_prm as stage

    _show(place, dry_run_train_prm(place, config, run) if place.dry_run else stage(place, config, run))


@app.command(rich_help_panel="A round")
@flags(EvaluatePlace, EvaluateConfig)
def evaluate(place: EvaluatePlace, given: dict[str, Any]) -> None:
    """Measure a round's policy and PRM on held-out problems, with 95 % intervals; round 0 is the base model.

    [dim]rstar evaluate --round 1[/dim]

    [dim]rstar evaluate --policy embedded --benchmark problems.jsonl[/dim]    needs no run

    [dim]rstar evaluate --compare 1 3[/dim]    tests whether round 3 is better than round 1
    """
    if place.compare is not None:
        from rstar_cli.stages.compare import compare

        _show(place, compare(place.compare, place, given))
        return
    run, config = _open(place, EvaluateConfig, "evaluate", given, outside=place.policy is not None)
    from rstar_cli.stages.dry_run import dry_run_evaluate
    from rstar_cli.stages.evaluate import evaluate as stage

    _show(place, dry_run_evaluate(place, config, run) if place.dry_run else stage(place, config, run))


@app.command(rich_help_panel="The loop")
@flags(EvolvePlace, EvolveConfig)
def evolve(place: EvolvePlace, given: dict[str, Any]) -> None:
    """Run round after round, until all are done, accuracy stops rising, or the budget is spent; goes on where it was.

    [dim]rstar evolve --run runs/mine --recipe my.toml[/dim]
    """
    from rstar_cli.recipe import load_recipe
    from rstar_cli.rounds import evolve as loop
    from rstar_cli.rounds import seconds_by_stage

    if place.dry_run:
        recipe = load_recipe(place.recipe) if place.recipe else None
        run = RunDir(place.run_dir, recipe) if recipe else RunDir.open(place.run_dir, create=False)
    else:
        run = RunDir.create(place.run_dir, place.recipe) if place.recipe else RunDir.open(place.run_dir)
    config = run.recipe.stage(EvolveConfig, "evolve", 0, given)
    if place.dry_run:
        from rstar_cli.stages.dry_run import dry_run_evolve

        _show(place, dry_run_evolve(config, run))
        return
    outcome = loop(run, config, tell_stage)
    show_curve(place, run, outcome, seconds_by_stage(run))
    if outcome.ended == "budget":
        raise typer.Exit(7)


@app.command(rich_help_panel="Around the rounds")
def init(
    run: Annotated[
        Path | None, typer.Option(help=r"Directory of the run. \[default: $RSTAR_RUN, else runs/default]")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe file, or easy-to-hard; the embedded model's where absent.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print a JSON Schema of recipes instead, for editors.")
    ] = False,
) -> None:
    """Make a run from a recipe. A stage makes one from the default recipe by itself where there is none.

    [dim]rstar init --run runs/mine --recipe my.toml[/dim]

    [dim]rstar init --schema > recipe.schema.json[/dim]    then "#:schema ./recipe.schema.json" heads the recipe
    """
    if schema:
        import json

        from rstar_cli.recipe import schema as recipe_schema

        typer.echo(json.dumps(recipe_schema(), indent=2))
        return
    made = RunDir.create(run or default_run(), recipe)
    note(f"The run's recipe is {made.root / 'recipe.toml'}\nnext: {made.command('generate', 1)}")


@app.command(rich_help_panel="Around the rounds")
@flags(MergePlace)
def merge(place: MergePlace, _given: dict[str, Any]) -> None:
    """Join what `--shard 1/4` to `4/4` of a stage wrote: the result is that of one process, byte for byte.

    [dim]rstar merge --round 1[/dim]
    """
    from rstar_cli.stages.merge import merge as stage

    show(place, stage(place, None if place.output else RunDir.find(place.run_dir)))


@app.command(rich_help_panel="Around the rounds")
@flags(ExportPlace)
def export(place: ExportPlace, _given: dict[str, Any]) -> None:
    """Write a run's training rows in a format of TRL's, as JSON lines or parquet; perhaps onto the hub.

    [dim]rstar export --format preference --output pairs.parquet[/dim]
    """
    from rstar_cli.stages.export import export as stage

    show(place, stage(place, RunDir.find(place.run_dir)))


@app.command(rich_help_panel="Around the rounds")
@flags(ReportPlace)
def status(place: ReportPlace, _given: dict[str, Any]) -> None:
    """Tell what a run has done, what it is doing now, and the next command."""
    from rstar_cli.stages.status import status as stage

    show(place, stage(RunDir.find(place.run_dir)))


@app.command(rich_help_panel="Around the rounds")
@flags(ReportPlace)
def report(place: ReportPlace, _given: dict[str, Any]) -> None:
    """Write what a run did and what came of it: report.html, which opens in any browser, report.json, and figures.

    [dim]rstar report --run runs/mine[/dim]
    """
    show_report(place, RunDir.find(place.run_dir))


@app.command("show", rich_help_panel="Around the rounds")
@flags(ShowPlace)
def show_tree(place: ShowPlace, _given: dict[str, Any]) -> None:
    """Show the search of one problem: in the terminal, or as a page with a replay of its rollouts.

    [dim]rstar show --round 2 --problem 7 --best-path[/dim]

    [dim]rstar show --round 2 --problem 7 --html tree.html[/dim]
    """
    from rstar_cli.stages.show import find_tree

    show_search(place, find_tree(place))


@problems_app.command("make")
def problems_make(
    output: Annotated[str, typer.Option(help="File for the rows; - is stdout.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal problems.")] = 0,
    levels: Annotated[str, typer.Option(help="Levels: reasoning steps, 1 to 6.")] = "1-5",
    split: Annotated[str, typer.Option(help="train, validation or test: disjoint sets.")] = "train",
) -> None:
    """Generate problems with exact answers.

    [dim]rstar problems make --count 200 --seed 7 --levels 1-3 --output problems.jsonl[/dim]
    """
    from rstar_cli.stages.problem_files import make

    note(make(output, count, seed, levels, split))


@problems_app.command("import")
def problems_import(
    source: Annotated[str, typer.Argument(help="A file (.json, .jsonl, .csv, .parquet) or a benchmark's name.")],
    output: Annotated[str | None, typer.Option(help="File for the rows; - is stdout.")] = None,
    run: Annotated[Path | None, typer.Option(help="Make them the training pool of this run instead.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take only the first so many.")] = None,
    skip_bad_lines: Annotated[
        bool, typer.Option("--skip-bad-lines", help="Set bad lines aside in a file beside the output, and go on.")
    ] = False,
) -> None:
    """Import problems from a file or a benchmark, into a file or as a run's training pool.

    [dim]rstar problems import train.csv --run runs/mine[/dim]
    """
    from rstar_cli.stages.problem_files import import_

    said, whole = import_(source, output, run, limit, skip_bad_lines=skip_bad_lines)
    note(said)
    if not whole:
        raise typer.Exit(7)


@problems_app.command("list")
def problems_list() -> None:
    """List the benchmarks that are known by name."""
    from rstar_cli.problems.hub import BENCHMARKS

    for name, benchmark in BENCHMARKS.items():
        typer.echo(f"{name:14} {benchmark.hub_id}")


@app.command(rich_help_panel="Around the rounds")
@flags(Place)
def doctor(place: Place, _given: dict[str, Any]) -> None:
    """Tell what this machine has, and attack the sandbox to see whether it holds what its level promises."""
    from rstar_cli.doctor import examine
    from rstar_cli.stages.common import Summary

    found = examine()
    _show(place, Summary("doctor", found.figures(), notes=found.remedies, data=found.data()))
    if found.failure:
        raise SetupError(found.failure)


def _open(
    place: RunPlace, model: type[SettingsT], stage: str, given: dict[str, Any], *, outside: bool
) -> tuple[RunDir | None, SettingsT]:
    """The run that a command works on, made where there is none, and the stage's settings.

    Outside a run the defaults hold, but for the embedded model the limits of its own recipe.
    """
    if outside:
        from rstar_cli.recipe import Recipe, load_recipe

        name = getattr(place, "policy", None) or getattr(place, "model", None) or given.get("policy") or "auto"
        embedded = name in (*PACKAGED, "auto") and given.get("engine") != "openai"
        recipe = load_recipe(None) if embedded else Recipe("", "defaults")
        asked = {"samples": 0, "rollouts": 0, **given} if stage == "evaluate" else given
        return None, recipe.stage(model, stage, 1, asked)
    run = RunDir.open(place.run_dir, create=not place.dry_run)
    return run, run.recipe.stage(model, stage, place.round, given)


def _show(place: Place, summary: Summary) -> None:
    show(place, summary)
    if summary.partial or summary.failed:
        raise typer.Exit(7)


def _refuse_two_streams(place: Place, output: str | None) -> None:
    if place.json_ and output == "-":
        raise UsageError("--json and --output - both want stdout", remedy="Give one of them.")


def _farewell() -> None:
    command = shlex.join(["rstar", *sys.argv[1:]])
    note(f"interrupted; what was finished is kept. To go on: {command}")


def main() -> None:
    """Run the command line; every ending has its exit code (DESIGN section 3)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]  # it may stand anywhere
    interrupts.install(_farewell)
    try:
        code = _run(debug)
        sys.stdout.flush()
    except BrokenPipeError:
        code = UNREAD
    if code == UNREAD:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # what is still in their buffers
            os.dup2(nowhere, stream)
    sys.exit(code)


def _run(debug: bool) -> int | str | None:
    """Run the command line; its exit code."""
    try:
        app()
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - each has its message and exit code
        return _fail(error, debug)
    except SystemExit as end:
        if interrupts.asked():  # it may have come to its end nonetheless: whoever asked wants nothing more to follow
            _farewell()
            return interrupts.exit_code()
        return UNREAD if end.code == 1 else end.code  # so Typer and Rich end it then, and nothing else does
    return 0


def _fail(error: Exception, debug: bool) -> int:
    if debug:
        import traceback

        note(redacted("".join(traceback.format_exception(error))))
    told = as_error(error)
    note(f"error: {told}")
    if told.remedy:
        note(told.remedy)
    return told.exit_code
