"""evaluate: accuracy on held-out problems. Gold is used for the figures only, never to find an answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from rstar_cli.config import EvaluateConfig
from rstar_cli.errors import UsageError
from rstar_cli.grader import Grader
from rstar_cli.journal import Journal
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, write_bytes
from rstar_cli.metrics import accuracy, accuracy_by_level
from rstar_cli.options import EvaluatePlace
from rstar_cli.progress import StageProgress
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade, Policy, Segment
from rstar_cli.records import EvalRow, EvalSample, Problem, StopReason, Verdict
from rstar_cli.sandbox import Sandbox
from rstar_cli.search.driver import drive
from rstar_cli.search.grow import Limits
from rstar_cli.search.mcts import Search, greedy
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Tree
from rstar_cli.stages.common import (
    StageRecord,
    Summary,
    few_shot_of,
    open_policy,
    open_sandbox,
    partial,
    refuse_run_flags,
)
from rstar_cli.stages.problem_sets import eval_name, eval_problems, read_source

METHOD = "greedy"


@dataclass(frozen=True, slots=True)
class _Task:
    """One policy on one set.

    Attributes:
        name: of the set.
        problems: its problems.
        model: the policy, as it is loaded.
        model_name: the policy, as manifests tell of it.
        folder: where the results go.
        manifest: where they are told of.
    """

    name: str
    problems: list[Problem]
    model: str
    model_name: str
    folder: Path
    manifest: Path

    @property
    def rows(self) -> Path:
        """Samples."""
        return self.folder / f"{self.name}.{METHOD}.jsonl"

    @property
    def summary(self) -> Path:
        """Accuracy by method."""
        return self.folder / f"{self.name}.json"


def evaluate(place: EvaluatePlace, config: EvaluateConfig, run: RunDir | None) -> Summary:
    """Evaluate a round's policy on the recipe's evaluation sets, or on a benchmark.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--policy` names a model to evaluate outside one.
    """
    if run is None:
        return _without_run(place, config)
    files = run.round(place.round)
    model = run.policy_of(place.round)
    if place.round > 0:
        run.require(Path(model), "train-policy", place.round)
    if place.benchmark is not None:
        sets = {eval_name(place.benchmark): read_source(place.benchmark, place.limit)}
    else:
        sets = {name: eval_problems(run, name)[: place.limit] for name in run.recipe.eval_sets}
    summary = Summary(f"evaluate round {place.round}", next_command=run.command("generate", place.round + 1))
    for name, problems in sets.items():
        policy_name = run.policy_name(place.round)
        _evaluate(_Task(name, problems, model, policy_name, files.evaluations, files.manifest), config, summary)
    return summary


def _without_run(place: EvaluatePlace, config: EvaluateConfig) -> Summary:
    refuse_run_flags("evaluate", run=place.run)
    if place.policy is None or place.benchmark is None:
        raise UsageError("without a run, evaluate needs --policy and --benchmark", remedy="Give both, or a --run.")
    problems = read_source(place.benchmark, place.limit)
    folder = place.output or Path("eval") / re.sub(r"[^\w.-]+", "_", place.policy).strip("_.")
    summary = Summary("evaluate")
    task = _Task(eval_name(place.benchmark), problems, place.policy, place.policy, folder, folder / "manifest.json")
    _evaluate(task, config, summary)
    return summary


def _evaluate(task: _Task, config: EvaluateConfig, summary: Summary) -> None:
    """Evaluate one set, if that was not done before, and tell of it."""
    few_shot = few_shot_of(config, task.model)
    ids = derive_seed(*(p.id for p in task.problems))  # which problems, as a number
    identity = {
        **config.identity(),
        "policy": task.model_name,
        "few_shot": few_shot,
        "problems": [len(task.problems), ids],
    }
    inputs = {"policy": Path(task.model)} if Path(task.model).is_dir() else {}
    record = StageRecord(task.manifest, f"evaluate {task.name} {METHOD}", identity, inputs, [task.rows, task.summary])
    if record.is_complete():
        figures = orjson.loads(task.summary.read_bytes())[METHOD]
        summary.done_before = True
    else:
        record.begin()
        _solve(task, config, few_shot, summary.stage)
        figures = summarise(list(read_rows(task.rows, EvalRow)))
        methods = orjson.loads(task.summary.read_bytes()) if task.summary.exists() else {}
        methods[METHOD] = figures
        write_bytes(task.summary, orjson.dumps(methods, option=orjson.OPT_INDENT_2) + b"\n")
        record.complete({"problems": len(task.problems)}, tokens=figures["tokens"])
    _tell(summary, task.name, figures)
    summary.data[task.name] = {METHOD: figures}
    summary.files += [task.summary, task.rows]


def _solve(task: _Task, config: EvaluateConfig, few_shot: int, title: str) -> None:
    """Solve what is not in the journal yet."""
    with Journal(partial(task.rows)) as journal:
        todo = [p for p in task.problems if p.id not in journal.done]
        before = len(task.problems) - len(todo)
        right = 0
        with (
            open_sandbox(config) as sandbox,
            Grader(timeout=config.grade_timeout) as grader,
            StageProgress(f"{title} {task.name}", len(task.problems), done=before) as progress,
            closing(open_policy(config, task.model, task.problems, few_shot)) as policy,
        ):
            for solved, row in enumerate(solve_greedily(todo, policy, sandbox, grader, config, few_shot), start=1):
                journal.append(row)
                right += row.samples[0].verdict is Verdict.CORRECT
                progress.update(
                    before + solved, f"{right / solved:.0%} right", progress.rate(policy.usage.generated, "tok")
                )
        journal.finish([p.id for p in task.problems], task.rows)


def solve_greedily(
    problems: list[Problem],
    policy: Policy,
    sandbox: Sandbox,
    grader: Grader,
    config: EvaluateConfig,
    few_shot: int,
) -> Iterator[EvalRow]:
    """One greedy solution a problem; answers are graded after they were found, and steer nothing."""
    by_id = {p.id: p for p in problems}
    limits = Limits(config.max_step_tokens, config.max_tokens, config.max_depth)

    def searches() -> Iterator[tuple[str, Search]]:
        for problem in problems:
            yield problem.id, greedy(Segment(render_prompt(problem.problem, few_shot)), 0, limits)

    def no_gold(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
        return [None] * len(answers)

    for key, tree in drive(
        searches(),
        policy=policy,
        executor=sandbox,
        grade=no_gold,
        in_flight=config.in_flight,
    ):
        policy.forget(tree.prompt)
        problem = by_id[key]
        answer = _answer(tree)
        (grade,) = grader.grade([(problem.answer, answer)])
        sample = EvalSample(
            answer=answer,
            group=None if answer is None else 0,
            verdict=grade.verdict,
            tokens=tree.tokens_generated,
        )
        yield EvalRow(problem_id=key, level=problem.level, samples=(sample,))


def _answer(tree: Tree) -> str | None:
    leaf, _ = tree.rollouts[0]
    return leaf.answer if leaf.stop is StopReason.ANSWER else None


def summarise(rows: list[EvalRow]) -> dict[str, Any]:
    """Accuracy with its interval, by level, verdict counts and tokens of a method with one sample a problem."""
    right = [row.samples[0].verdict is Verdict.CORRECT for row in rows]
    verdicts = [row.samples[0].verdict for row in rows]
    return {
        **accuracy(right),
        "by_level": accuracy_by_level((row.level, ok) for row, ok in zip(rows, right, strict=True)),
        "verdicts": {verdict.value: verdicts.count(verdict) for verdict in Verdict if verdict in verdicts},
        "tokens": sum(row.samples[0].tokens for row in rows),
    }


def _tell(summary: Summary, name: str, figures: dict[str, Any]) -> None:
    low, high = figures["ci95"]
    summary.figures[f"{name} {METHOD}"] = (
        f"{figures['accuracy']:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {figures['n']})"
    )
    levels = ", ".join(f"{level}: {f['accuracy']:.0%}" for level, f in figures["by_level"].items())
    if len(figures["by_level"]) > 1:
        summary.figures[f"{name} by level"] = levels
    broken = {v: n for v, n in figures["verdicts"].items() if v in (Verdict.TIMEOUT, Verdict.ERROR)}
    if broken:
        summary.notes.append(f"{name}: grading failed on {broken}; these count as not right.")
    if not figures["accuracy"]:
        summary.notes.append(f"{name}: no problem was solved; this policy is too weak for it.")
