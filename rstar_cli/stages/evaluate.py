"""evaluate: accuracy on held-out problems. Gold is used for the figures only, never to find an answer."""

from __future__ import annotations

import functools
import re
from collections.abc import Container
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from rstar_cli import interrupts
from rstar_cli.config import EvalSetConfig, EvaluateConfig
from rstar_cli.errors import UsageError
from rstar_cli.journal import Journal
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, make_folder, write_bytes
from rstar_cli.locks import held
from rstar_cli.options import EvaluatePlace
from rstar_cli.progress import StageProgress
from rstar_cli.quarantine import counted, notes, open_aside, refuse_without
from rstar_cli.records import EvalRow, EvalSample, Problem, Verdict
from rstar_cli.report import figures_in, write_report
from rstar_cli.search.sampling import derive_seed
from rstar_cli.shards import Shard
from rstar_cli.stages.common import (
    StageRecord,
    Stop,
    Summary,
    failures_told,
    few_shot_of,
    outside_prm,
    partial,
    refuse_run_flags,
)
from rstar_cli.stages.crew import Crew, Models, open_crew
from rstar_cli.stages.figures import figures_of, kind_of
from rstar_cli.stages.problem_sets import content_of, eval_name, eval_problems, read_source
from rstar_cli.stages.sample_log import LOG, write_log
from rstar_cli.stages.solve import Solver, sample_solutions, search_solutions, solve_greedily


@dataclass(frozen=True, slots=True)
class _Models:
    """What is evaluated.

    Attributes:
        policy, prm: as they are loaded; prm None: none.
        policy_name, prm_name: as manifests tell of them.
        seed: of the run.
        folder: where the results go.
        manifest: where they are told of.
        shard: the part of each set that is done; None: all.
    """

    policy: str
    prm: str | None
    policy_name: str
    prm_name: str
    seed: int
    folder: Path
    manifest: Path
    shard: Shard | None


@dataclass(frozen=True, slots=True)
class _Task:
    """One way of solving one set: `kind` is the middle part of the name of its rows' file.

    `bad_lines` of the set's file were set aside.
    """

    name: str
    kind: str
    problems: list[Problem]
    solve: Solver
    bad_lines: int = 0

    @property
    def stage(self) -> str:
        """What manifests and screens call it."""
        return f"evaluate {self.name} {self.kind}"


def evaluate(place: EvaluatePlace, config: EvaluateConfig, run: RunDir | None, stop: Stop | None = None) -> Summary:
    """Evaluate a round's models on the recipe's evaluation sets, or on a benchmark; in a run, renew `report.json`.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--policy` names a model to evaluate outside one.
        stop: the run's budget; once it is spent what is in flight is dropped, and the summary is `partial`.
    """
    if run is None:
        return _without_run(place, config)
    with run.locked("evaluate", place.round, place.part):
        return _of_round(place, config, run, stop)


def _of_round(place: EvaluatePlace, config: EvaluateConfig, run: RunDir, stop: Stop | None) -> Summary:
    number, files = place.round, run.round(place.round)
    policy = run.policy_of(number)
    if number > 0:
        run.require(Path(policy), "train-policy", number)
    prm, prm_name = prm_for(config, run, number)
    models = _Models(
        policy,
        prm,
        run.policy_name(number),
        prm_name,
        run.recipe.run.seed,
        files.evaluations,
        files.manifest,
        place.part,
    )
    refuse_without(place.skip_bad_lines, place.benchmark, "--benchmark")
    next_command = run.command("merge", number) if place.part else run.command("generate", number + 1)
    summary = Summary(f"evaluate {place.which}", next_command=next_command)
    if place.benchmark is not None:
        tasks = _benchmark(place.benchmark, place, config, files.evaluations, summary)
    else:
        tasks = []
        for name, table in run.recipe.eval_sets.items():
            problems = eval_problems(run, name)[: place.limit]
            tasks += _tasks(name, problems, config, _sampled(problems, table, run.recipe.run.seed))
    _evaluate(tasks, models, config, summary, stop, log=place.log_samples)
    if place.benchmark is None and not place.part:
        summary.files.append(write_report(run))
        summary.headline = ", ".join(
            f"{name} {told['greedy']['accuracy']:.1%}" for name, told in summary.data.items() if "greedy" in told
        )
    return summary


def _without_run(place: EvaluatePlace, config: EvaluateConfig) -> Summary:
    refuse_run_flags("evaluate", run=place.run)
    if place.policy is None or place.benchmark is None:
        raise UsageError("without a run, evaluate needs --policy and --benchmark", remedy="Give both, or a --run.")
    folder = place.output or Path("eval") / re.sub(r"[^\w.-]+", "_", place.policy).strip("_.")
    prm = outside_prm(config.prm)
    models = _Models(place.policy, prm, place.policy, prm or "none", 0, folder, folder / "manifest.json", place.part)
    summary = Summary("evaluate")
    tasks = _benchmark(place.benchmark, place, config, folder, summary)
    make_folder(folder)
    lock = folder / ".evaluate.lock"
    with held(place.part.path(lock) if place.part else lock, f"the evaluations in {folder}"):
        _evaluate(tasks, models, config, summary, None, log=place.log_samples)
    return summary


def _benchmark(
    source: str, place: EvaluatePlace, config: EvaluateConfig, folder: Path, summary: Summary
) -> list[_Task]:
    """What is asked for on a benchmark or a file of problems; its bad lines are told in the summary."""
    name = eval_name(source)
    with ExitStack() as stack:
        aside = open_aside(stack, place.skip_bad_lines, folder / f"{name}.quarantine.jsonl")
        problems = read_source(source, place.limit, aside)
    summary.notes, summary.partial = notes(aside), bool(counted(aside))
    tasks = _tasks(name, problems, config, problems)
    return [replace(task, bad_lines=counted(aside).get("bad lines", 0)) for task in tasks]


def prm_for(config: EvaluateConfig, run: RunDir, number: int) -> tuple[str | None, str]:
    """The PRM that samples are scored and searches are guided by, and its name in manifests."""
    if config.prm == "none" or not (config.samples or config.rollouts):
        return None, "none"
    if config.prm in ("auto", "last"):
        if number == 0 and config.prm == "last":
            raise UsageError("round 0 has no PRM", remedy="Give --prm none or a checkpoint directory.")
        if number == 0:
            return None, "none"
        return str(run.prm_of(number)), f"round {number}"
    return config.prm, config.prm


def _sampled(problems: list[Problem], table: EvalSetConfig, seed: int) -> list[Problem]:
    """The problems that get samples and search: of a file not its first ones, since files are often sorted."""
    if table.sampled is None or table.source == "synthetic":
        return problems[: table.sampled]
    drawn = sorted(problems, key=lambda p: derive_seed(seed, "sampled", p.id))[: table.sampled]
    chosen = {p.id for p in drawn}
    return [p for p in problems if p.id in chosen]


def _tasks(name: str, problems: list[Problem], config: EvaluateConfig, sampled: list[Problem]) -> list[_Task]:
    """What is asked for on one set: greedy on all of it, samples and search on some."""
    if config.rollouts and config.method == "best-of-n":
        raise UsageError("best-of-n is no search", remedy="Give --samples, or another --method.")
    tasks = [_Task(name, "greedy", problems, solve_greedily)]
    if config.samples and sampled:
        tasks.append(_Task(name, "samples", sampled, sample_solutions))
    if config.rollouts and sampled:
        tasks.append(_Task(name, f"{config.method}@{config.rollouts}", sampled, search_solutions))
    return tasks


def _evaluate(
    tasks: list[_Task], models: _Models, config: EvaluateConfig, summary: Summary, stop: Stop | None, *, log: bool
) -> None:
    """Do what was not done before, and tell of all; with `log`, write what the policy wrote."""
    if log and models.shard is not None:
        raise UsageError("--log-samples of a shard", remedy="Give it after `rstar merge`, without --shard.")
    summary.done_before = not log
    summary.columns = COLUMNS
    with _LazyCrew(models, config, [p for task in tasks for p in task.problems]) as crew:
        for task in tasks:
            record = _record(task, models, config)
            done = record.is_complete()
            rows = record.outputs[0]
            if not done:
                summary.done_before = False
                record.begin()
                if not _solve(task, models, rows, crew, record, stop):
                    summary.partial = True
                    summary.next_command = None
                    summary.notes.append("The budget is spent; a larger one goes on from here.")
                    return
                summary.failed |= crew.open().failed
            summary.files.append(rows)
            if found := list(read_rows(rows, EvalRow)):  # none: there are more shards than problems
                figures = figures_of(task.kind, found)
                if models.shard is None:
                    write_figures(models.folder, task.name, task.kind, figures)
                _tell(summary, task, figures, record.seconds)
            if log:
                write_log(rows, task.problems, found, config, crew.few_shot)
            interrupts.end_if_asked()
        if log:
            summary.files.append(models.folder / LOG)
    summary.notes += failures_told(summary.failed)


def _record(task: _Task, models: _Models, config: EvaluateConfig) -> StageRecord:
    """The task's entry in the manifest; greedy decoding hangs on none of the settings of samples and search."""
    identity = config.identity()
    searching = {"samples", "method", "rollouts", "candidates", "exploration", "rollout_style", "rules", "wave"}
    searching |= {"temperature", "aggregate", "prm"}
    used = {
        "greedy": set[str](),
        "samples": {"samples", "temperature", "aggregate"},
    }.get(task.kind, searching - {"samples"})
    identity = {key: value for key, value in identity.items() if key not in searching or key in used}
    inputs = {"policy": Path(models.policy)}
    if task.kind != "greedy":
        identity |= {"prm": models.prm_name, "seed": models.seed}
        inputs |= {"prm": Path(models.prm)} if models.prm else {}
    few_shot = few_shot_of(config, models.policy)
    identity |= {"policy": models.policy_name, "few_shot": few_shot, "problems": content_of(task.problems)}
    there = {name: path for name, path in inputs.items() if path.is_dir()}
    rows = models.folder / f"{task.name}.{task.kind}.jsonl"
    return StageRecord(models.manifest, task.stage, identity, there, [rows], told_by_rows=True, shard=models.shard)


class _LazyCrew(ExitStack):
    """The crew of an evaluation, opened when the first task asks for it and shared by all."""

    def __init__(self, models: _Models, config: EvaluateConfig, problems: list[Problem]) -> None:
        super().__init__()
        self.few_shot = few_shot_of(config, models.policy)
        self.samples = config.samples
        self._models = Models(config, models.policy, models.prm, self.few_shot, problems)
        self._crew: Crew | None = None

    def open(self) -> Crew:
        """Who solves the problems."""
        if self._crew is None:
            self._crew = self.enter_context(open_crew(self._models))
        return self._crew


def _solve(
    task: _Task,
    models: _Models,
    output: Path,
    lazy: _LazyCrew,
    record: StageRecord,
    stop: Stop | None,
) -> bool:
    """Solve what is not in the journal yet; whether all is done now."""
    crew = lazy.open()
    record.served_by(crew.info)
    before_it = crew.spent  # by the tasks before this one
    crew.failed.clear()

    def spent() -> bool:
        now = crew.spent.generated
        record.tick(now - before_it.generated)
        return stop is not None and stop(now)  # the budget counts from the beginning of this call

    title = f"{task.stage}, shard {models.shard}" if models.shard else task.stage
    problems = list(models.shard.of(task.problems)) if models.shard else task.problems
    with Journal(partial(output)) as journal:
        todo = [p for p in problems if p.id not in journal.done]
        before = len(problems) - len(todo)
        right = solved = 0
        with (
            StageProgress(title, len(problems), done=before, file=record.progress) as progress,
            interrupts.finishing("the problems in flight"),
        ):
            solve = functools.partial(task.solve, few_shot=lazy.few_shot, seed=models.seed)
            for row in crew.rows(solve, todo, spent):
                journal.append(row)
                solved += 1
                right += any(sample.verdict is Verdict.CORRECT for sample in row.samples)
                progress.update(
                    before + solved,
                    f"{right / solved:.0%} {'right' if task.kind == 'greedy' else 'reached'}",
                    progress.rate(crew.spent.generated - before_it.generated, "tok"),
                )
        solved += _give_up(todo, crew.failed, lazy.samples if task.kind == "samples" else 1, journal)
        tokens = crew.spent.since(before_it)
        if solved < len(todo):
            record.end_if_interrupted(tokens)
            record.stopped(tokens)
            return False
        journal.finish([p.id for p in problems], output)
    counts = {"problems": len(problems)} | ({"bad lines": task.bad_lines} if task.bad_lines else {})
    failed = {"failed": dict(crew.failed)} if crew.failed else {}
    record.complete(counts | failed, tokens)
    return True


def _give_up(problems: list[Problem], failed: Container[str], samples: int, journal: Journal) -> int:
    """Write rows of the problems that the policy refuses, neither right nor wrong; how many they are."""
    nothing = (EvalSample(answer=None, verdict=Verdict.ERROR, tokens=0, logprob=0.0),) * samples
    given_up = [p for p in problems if p.id in failed]
    for p in given_up:
        journal.append(EvalRow(problem_id=p.id, level=p.level, subject=p.subject, tokens=0, samples=nothing))
    return len(given_up)


def write_figures(folder: Path, name: str, kind: str, figures: dict[str, dict[str, Any]]) -> None:
    """Put a kind's methods beside those of other kinds whose rows are there; the file changes only where they do."""
    path = folder / f"{name}.json"
    known = {}
    if path.exists():
        figures_in(path)  # refuses a damaged file
        known = orjson.loads(path.read_bytes())
    others = {
        method: told
        for method, told in known.items()
        if (other := kind_of(method)) != kind and (folder / f"{name}.{other}.jsonl").exists()
    }
    if known != others | figures:
        write_bytes(path, orjson.dumps(others | figures, option=orjson.OPT_INDENT_2) + b"\n")


COLUMNS = ("accuracy %", "95 % interval", "n", "tokens", "per solved", "seconds")
"""Of the table by set and method: generated tokens in all and for each solved problem; the time they took, of what was
done first with that of loading the models."""


def _tell(summary: Summary, task: _Task, figures: dict[str, dict[str, Any]], seconds: float) -> None:
    """Put a kind's methods into the summary; its seconds go to them by their share of the tokens."""
    name, most = task.name, max(found["tokens"] for found in figures.values())
    for method, found in figures.items():
        took = round(seconds * found["tokens"] / most, 1) if most else seconds
        summary.data.setdefault(name, {})[method] = {**found, "seconds": took}
        summary.tables.setdefault(name, {})[method] = _cells(found, took)
        broken = {v: n for v, n in found.get("verdicts", {}).items() if v in (Verdict.TIMEOUT, Verdict.ERROR)}
        if broken:
            summary.notes.append(f"{name} {method}: grading failed on {broken}; these count as not right.")
    if task.kind == "greedy":
        for key in ("level", "subject") if len(summary.tables) == 1 else ("level",):  # subjects of the main set alone
            groups = figures["greedy"].get(f"by_{key}", {})
            if len(groups) > 1:
                shares = (f"{group}: {told['accuracy']:.0%} of {told['n']:,}" for group, told in groups.items())
                summary.figures[f"{name} by {key}"] = ", ".join(shares)
        if not figures["greedy"]["accuracy"]:
            summary.notes.append(f"{name}: no problem was solved; this policy is too weak for it.")


def _cells(found: dict[str, Any], seconds: float) -> tuple[str, ...]:
    low, high = found["ci95"]
    solved = found["tokens_per_solved"]
    return (
        f"{100 * found['accuracy']:.1f}",
        f"{100 * low:.1f} to {100 * high:.1f}",
        f"{found['n']:,}",
        f"{found['tokens']:,}",
        "-" if solved is None else f"{solved:,.0f}",
        f"{seconds:,.1f}",
    )
