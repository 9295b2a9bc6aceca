"""The `rstar bench` commands."""

from __future__ import annotations

from typing import Any

import typer

from rstar_cli.errors import UsageError
from rstar_cli.options import (
    BenchBudgetPlace,
    BenchEnginePlace,
    BenchGraderPlace,
    BenchPlace,
    BenchSearchPlace,
    BenchTrainPlace,
    flags,
)
from rstar_cli.screen import show

bench_app = typer.Typer(no_args_is_help=True, help="Measure a part's throughput on this machine.")


@bench_app.command("sandbox")
@flags(BenchPlace)
def bench_sandbox(place: BenchPlace, _given: dict[str, Any]) -> None:
    """Measure the sandbox: starts, programs and steps a second, against prefix replay and fresh processes."""
    from rstar_cli.bench.figures import describe, warnings
    from rstar_cli.bench.sandbox import measure
    from rstar_cli.stages.common import Summary

    report = measure(place.workers, place.programs)
    show(place, Summary("bench sandbox", describe(report), notes=warnings(report), data=report))


@bench_app.command("search")
@flags(BenchSearchPlace)
def bench_search(place: BenchSearchPlace, _given: dict[str, Any]) -> None:
    """Measure what a search costs beside engine and sandbox: CPU and memory a node, and memory along a long queue.

    [dim]rstar bench search --problems 20000[/dim]
    """
    from rstar_cli.bench.search import describe, measure
    from rstar_cli.stages.common import Summary

    report = measure(place.trees, place.problems)
    show(place, Summary("bench search", dict(describe(report)), data=report))


@bench_app.command("engine")
@flags(BenchEnginePlace)
def bench_engine(place: BenchEnginePlace, _given: dict[str, Any]) -> None:
    """Measure how much of the engine's decode speed a search keeps, and the engine beside model.generate."""
    from rstar_cli.bench.engine import describe, measure
    from rstar_cli.stages.common import Summary

    report = measure(place)
    show(place, Summary("bench engine", dict(describe(report)), data=report))


@bench_app.command("budget")
@flags(BenchBudgetPlace)
def bench_budget(place: BenchBudgetPlace, _given: dict[str, Any]) -> None:
    """Measure what each search method finds for equal generated tokens, with intervals and a plot.

    [dim]rstar bench budget --count 500 --levels 3-5 --plot curves.svg[/dim]
    """
    from rstar_cli.bench.budget import bench
    from rstar_cli.bench.budget_figures import describe
    from rstar_cli.stages.common import Summary

    report, files = bench(place)
    show(place, Summary("bench budget", dict(describe(report)), files=files, data=report))


@bench_app.command("train")
@flags(BenchTrainPlace)
def bench_train(place: BenchTrainPlace, _given: dict[str, Any]) -> None:
    """Measure the speed of train-policy beside a plain PyTorch loop and TRL's default settings, on the same rows."""
    from rstar_cli.bench.train import describe, measure
    from rstar_cli.stages.common import Summary

    report = measure(place)
    show(place, Summary("bench train", dict(describe(report)), data=report))


@bench_app.command("grader")
@flags(BenchGraderPlace)
def bench_grader(place: BenchGraderPlace, _given: dict[str, Any]) -> None:
    """Measure the grader on labelled cases, side by side with math-verify.

    [dim]rstar bench grader --cases cases.jsonl[/dim]    rows: gold, pred, label, perhaps kind and debatable
    """
    from rstar_cli.bench.grader import describe, measure, read_cases
    from rstar_cli.grader import LENIENT, STRICT
    from rstar_cli.stages.common import Summary

    if place.cases is None:
        raise UsageError("no cases to grade", remedy="Give --cases FILE.")
    report = measure(read_cases(place.cases), LENIENT if place.lenient else STRICT, place.timeout)
    show(place, Summary("bench grader", describe(report), data=report, columns=("rstar", "math-verify")))
