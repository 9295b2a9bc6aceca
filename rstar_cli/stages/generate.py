"""generate: Monte Carlo Tree Search on every problem of a round."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli import interrupts
from rstar_cli.config import GenerateConfig
from rstar_cli.errors import UsageError
from rstar_cli.journal import Journal
from rstar_cli.layout import RunDir, make_folder
from rstar_cli.locks import held
from rstar_cli.options import GeneratePlace
from rstar_cli.progress import StageProgress
from rstar_cli.quarantine import beside, counted, notes, open_aside, refuse_without
from rstar_cli.records import Problem
from rstar_cli.search.sampling import derive_seed
from rstar_cli.stages.budget import Budget
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
from rstar_cli.stages.contaminated import refuse_overlaps
from rstar_cli.stages.crew import Models, Spent, open_crew
from rstar_cli.stages.foreign_trees import take_trees, were_taken
from rstar_cli.stages.problem_sets import content_of, read_source, round_problems
from rstar_cli.stages.searching import is_solved, search_problems

FIRST_PRM_ROUND = 3
"""From here on `--prm auto` guides the search by the last round's PRM; rounds before are terminal-guided (paper)."""


@dataclass(frozen=True, slots=True)
class _Task:
    """One policy on one problem set.

    Attributes:
        problems: what to search.
        model: the policy.
        prm: the PRM that gives the initial Q; None: terminal-guided.
        few_shot: worked examples in each prompt.
        seed: 64-bit seed; a tree's seed derives from it and its problem's id.
        output: the file of trees.
    """

    problems: list[Problem]
    model: str
    prm: str | None
    few_shot: int
    seed: int
    output: Path


def generate(place: GeneratePlace, config: GenerateConfig, run: RunDir | None, stop: Stop | None = None) -> Summary:
    """Search every problem and write `trees.jsonl`; takes up where an earlier call stopped.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--output` names a plain file.
        stop: the run's budget; once it is spent the searches in flight are dropped, and the summary is `partial`.
    """
    if place.trees is not None:
        return take_trees(place.trees, place, config, run)
    if run is None:
        return _on_files(place, config)
    if place.part and (config.budget_tokens or config.budget_hours):
        raise UsageError(
            "a budget is for all problems, and --shard does a part",
            remedy="Leave --budget-tokens and --budget-hours out.",
        )
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to generate", remedy="Give --round 1 or later.")
    with run.locked("generate", place.round, place.part):
        return _on_round(place, config, run, stop)


def _on_round(place: GeneratePlace, config: GenerateConfig, run: RunDir, stop: Stop | None) -> Summary:
    files = run.round(place.round)
    if place.problems is None and were_taken(run, place.round):
        summary = Summary(f"generate {place.which}", files=[files.trees], done_before=True)
        summary.headline, summary.next_command = "trees of others, taken before", run.command("verify", place.round)
        return summary
    model, policy_name = policy_for(config, run, place.round)
    prm, prm_name = prm_for(config, run, place.round)
    refuse_without(place.skip_bad_lines, place.problems, "--problems")
    with ExitStack() as stack:
        aside = open_aside(stack, place.skip_bad_lines, beside(files.problems))
        problems = round_problems(run, place.round, place.problems, place.limit, aside)
    contaminated = refuse_overlaps(run, problems, config, place.problems or files.problems)
    few_shot = few_shot_of(config, model)
    seed = run.recipe.run.seed
    named = {"policy": policy_name, "prm": prm_name, "few_shot": few_shot, "seed": seed}
    inputs = {"problems": files.problems}
    inputs |= {name: Path(path) for name, path in (("policy", model), ("prm", prm)) if path and Path(path).is_dir()}
    settings = {**config.identity(), **named}
    record = StageRecord(
        files.manifest, "generate", settings, inputs, [files.trees], told_by_rows=True, shard=place.part
    )
    summary = Summary(f"generate {place.which}", files=record.outputs)
    summary.next_command = run.command("merge" if place.part else "verify", place.round)
    if place.limit is None and place.problems is None and len(problems) < run.recipe.run.count:
        summary.notes.append(
            f"This round's set holds {len(problems)} problems, fewer than the recipe's {run.recipe.run.count}: the "
            f"pool has no more, or an earlier call with --limit made it (then remove {files.root} to draw it anew)."
        )
    if contaminated:
        summary.notes.append(f"{contaminated} of these problems are in an evaluation set, too.")
    summary.notes += notes(aside)
    part = list(place.part.of(problems)) if place.part else problems
    task = _Task(part, model, prm, few_shot, derive_seed(seed, place.round), record.outputs[0])
    more = counted(aside) | ({"contaminated": contaminated} if contaminated else {})
    return _unless_done(task, config, record, summary, stop, more)


def policy_for(config: GenerateConfig, run: RunDir, number: int) -> tuple[str, str]:
    """The policy that a round searches with, and its name in manifests."""
    if config.policy != "auto":
        return config.policy, config.policy
    if number > 1:
        run.require(Path(run.policy_of(number - 1)), "train-policy", number - 1)
    return run.policy_of(number - 1), run.policy_name(number - 1)


def prm_for(config: GenerateConfig, run: RunDir, number: int) -> tuple[str | None, str]:
    """The PRM that a round searches with, and its name in manifests. Rounds 1 and 2 are terminal-guided (paper)."""
    if config.prm == "none" or (config.prm == "auto" and number < FIRST_PRM_ROUND):
        return None, "none"
    if config.prm in ("auto", "last"):
        if number == 1:
            raise UsageError("round 1 has no PRM before it", remedy="Give --prm none or a checkpoint directory.")
        return str(run.prm_of(number - 1)), f"round {number - 1}"
    return config.prm, config.prm


def _on_files(place: GeneratePlace, config: GenerateConfig) -> Summary:
    refuse_run_flags("generate", run=place.run)
    if str(place.output) == "-":
        raise UsageError(
            "trees go to a file, so that a stopped search can go on", remedy="Give --output a file's name."
        )
    if place.problems is None or place.output is None:
        raise UsageError("--output needs --problems", remedy="Give both, or neither and a --run.")
    with ExitStack() as stack:
        aside = open_aside(stack, place.skip_bad_lines, beside(place.output))
        problems = read_source(place.problems, place.limit, aside)
    model = "embedded" if config.policy == "auto" else config.policy
    prm = outside_prm(config.prm)
    few_shot = few_shot_of(config, model)
    named = {"policy": model, "prm": prm or "none", "few_shot": few_shot}
    identity = {**config.identity(), **named, "problems": content_of(problems)}
    manifest = place.output.with_name(place.output.name + ".manifest.json")
    record = StageRecord(manifest, "generate", identity, {}, [place.output], told_by_rows=True, shard=place.part)
    part = list(place.part.of(problems)) if place.part else problems
    task = _Task(part, model, prm, few_shot, derive_seed(0, 1), record.outputs[0])
    summary = Summary("generate", files=[*record.outputs, manifest], notes=notes(aside))
    make_folder(task.output.parent)
    with held(task.output.with_name(f".{task.output.name}.lock"), str(task.output)):
        return _unless_done(task, config, record, summary, None, counted(aside))


def _unless_done(
    task: _Task,
    config: GenerateConfig,
    record: StageRecord,
    summary: Summary,
    stop: Stop | None,
    more: Mapping[str, int],
) -> Summary:
    """Search, unless it was done before.

    Args:
        task: what to search.
        config: settings.
        record: the stage's entry in the manifest.
        summary: is filled in.
        stop: the run's budget.
        more: what was told of the problems before: further counts of the manifest.
    """
    summary.partial = "bad lines" in more
    if record.is_complete():
        return record.told_again(summary)
    record.begin()
    figures = _search(task, config, record, summary.stage, stop)
    summary.failed = figures.pop("failed")
    summary.notes += failures_told(summary.failed)
    summary.figures = {
        **figures,
        "solved": f"{figures['solved']} of {figures['searched now']}",
        "tokens/s": round(figures["tokens generated"] / max(figures["seconds"], 1e-3)),
    }
    summary.headline = (
        f"{figures['solved']} of {figures['searched now']} solved, {figures['tokens generated']:,} tokens"
    )
    counts = {name: figures[name] for name in ("problems", "searched now", "left", "solved", "engine idle")}
    counts |= {**more, **({"failed": summary.failed} if summary.failed else {})}
    tokens = {"generated": figures["tokens generated"], "prefilled": figures["tokens prefilled"]}
    summary.data = counts
    if figures["stopped"]:
        record.stopped(tokens)
        summary.partial = True
        summary.notes.append(
            f"The budget is spent: {figures['left']} problems are left; a larger one goes on from here."
        )
        summary.next_command = None
        return summary
    if figures["left"]:
        summary.notes.append(
            f"The budget of this stage is spent: {figures['left']} problems were not searched. To search them, too, "
            f"remove {task.output} and give a larger one."
        )
    if figures["searched now"] and not figures["solved"]:
        summary.notes.append(
            "No problem was solved: there will be nothing to train on. The policy may be too weak for these problems; "
            "a stronger --policy or easier problems help."
        )
    record.complete(counts, tokens)
    return summary


def _search(task: _Task, config: GenerateConfig, record: StageRecord, title: str, stop: Stop | None) -> dict[str, Any]:
    """Search what is not in the journal yet; returns the figures of this call."""
    with Journal(partial(task.output)) as journal, ExitStack() as stack:
        todo = [p for p in task.problems if p.id not in journal.done]
        before = len(task.problems) - len(todo)
        progress = stack.enter_context(StageProgress(title, len(task.problems), done=before, file=record.progress))
        crew = stack.enter_context(open_crew(Models(config, task.model, task.prm, task.few_shot, todo)))
        record.served_by(crew.info)
        budget = Budget(config, len(todo), record.spent_before)
        stopped = False

        def spent() -> bool:
            nonlocal stopped
            budget.tokens = crew.spent.generated
            record.tick(budget.tokens)
            stopped = stop is not None and stop(budget.tokens)
            return stopped or budget.spent

        own = budget if config.launcher == "local" else None  # an actor does not know what the others have spent
        solve = functools.partial(search_problems, few_shot=task.few_shot, seed=task.seed, budget=own)
        searched = solved = 0
        stack.enter_context(interrupts.finishing("the searches in flight"))
        for row in crew.rows(solve, todo, spent):
            if stopped:  # what is in flight is dropped: a larger budget takes it up from its beginning
                break
            journal.append(row)
            searched += 1
            solved += is_solved(row)
            progress.update(
                before + searched,
                f"{solved / searched:.0%} solved",
                progress.rate(crew.spent.generated, "tok"),
                f"{crew.spent.idle:.0%} idle",
            )
        seconds, account, failed = progress.seconds, crew.spent, crew.failed
        if left := len(todo) - searched - len(failed):
            record.end_if_interrupted(account.since(Spent()))
        if not stopped:
            journal.finish([p.id for p in task.problems if p.id in journal.done], task.output)
        return {
            "problems": len(task.problems),
            "searched now": searched,
            "left": left,
            "failed": failed,
            "stopped": stopped,
            "solved": solved,
            **_figures(account),
            "seconds": round(seconds, 1),
        }


def _figures(account: Spent) -> dict[str, Any]:
    return {
        "tokens generated": account.generated,
        "tokens prefilled": account.prefilled,
        "code executions": account.executed,
        "engine idle": round(account.idle, 3),
    }
