"""The `rstar` command. It alone prints, exits, and turns errors into messages."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rstar_cli import __version__, interrupts, ranks
from rstar_cli.cli_bench import bench_app
from rstar_cli.cli_examples import add_examples
from rstar_cli.cli_problems import problems_app
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
    """Search every problem of a round over executed steps; writes trees.jsonl."""
    run, config = _open(place, GenerateConfig, "generate", given, outside=place.output is not None)
    from rstar_cli.stages.dry_run import dry_run_generate
    from rstar_cli.stages.generate import generate as stage

    _show(place, dry_run_generate(place, config, run) if place.dry_run else stage(place, config, run))


@app.command(rich_help_panel="A round")
@flags(VerifyPlace, VerifyConfig)
def verify(place: VerifyPlace, given: dict[str, Any]) -> None:
    """Run every finished trajectory again and grade it; writes solutions and training rows."""
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
    """Fine-tune the policy on the best verified trajectories of all rounds so far; writes policy/."""
    outside = place.input is not None or place.output is not None
    run, config = _open(place, TrainPolicyConfig, "train-policy", given, outside=outside)
    from rstar_cli.stages.dry_run import dry_run_train
    from rstar_cli.stages.train_policy import train as stage

    _show(place, dry_run_train(place, config, run) if place.dry_run else stage(place, config, run))


@app.command("train-prm", rich_help_panel="A round")
@flags(TrainPlace, TrainPrmConfig)
def train_prm(place: TrainPlace, given: dict[str, Any]) -> None:
    """Train the process reward model from the round's policy, on labelled steps or pairs of all rounds; writes prm/."""
    outside = place.input is not None or place.output is not None
    run, config = _open(place, TrainPrmConfig, "train-prm", given, outside=outside)
    from rstar_cli.stages.dry_run import dry_run_train_prm
    from rstar_cli.stages.train_prm import train_prm as stage

    _show(place, dry_run_train_prm(place, config, run) if place.dry_run else stage(place, config, run))


@app.command(rich_help_panel="A round")
@flags(EvaluatePlace, EvaluateConfig)
def evaluate(place: EvaluatePlace, given: dict[str, Any]) -> None:
    """Measure a round's policy and PRM on held-out problems, with 95 % intervals; round 0 is the base model."""
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
    """Run round after round until all are done, accuracy stops rising or the budget is spent; goes on where it was."""
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
    """Make a run from a recipe. A stage makes one from the default recipe by itself where there is none."""
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
    """Join what `--shard 1/4` to `4/4` of a stage wrote: the result is that of one process, byte for byte."""
    from rstar_cli.stages.merge import merge as stage

    show(place, stage(place, None if place.output else RunDir.find(place.run_dir)))


@app.command(rich_help_panel="Around the rounds")
@flags(ExportPlace)
def export(place: ExportPlace, _given: dict[str, Any]) -> None:
    """Write a run's training rows in a format of TRL's, as JSON lines or parquet; perhaps onto the hub."""
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
    """Write what a run did and what came of it: report.html, which opens in any browser, report.json, and figures."""
    show_report(place, RunDir.find(place.run_dir))


@app.command("show", rich_help_panel="Around the rounds")
@flags(ShowPlace)
def show_tree(place: ShowPlace, _given: dict[str, Any]) -> None:
    """Show the search of one problem: in the terminal, or as a page with a replay of its rollouts."""
    from rstar_cli.stages.show import find_tree

    show_search(place, find_tree(place))


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


add_examples(app)
add_examples(problems_app)


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
        if not code:
            ranks.leave()
        sys.stdout.flush()
    except BrokenPipeError:
        code = UNREAD
    if code == UNREAD:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # what is still in their buffers
            os.dup2(nowhere, stream)
    if interrupts.asked():
        interrupts.ignore()
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
