"""generate: Monte Carlo Tree Search on every problem of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli.config import GenerateConfig
from rstar_cli.errors import UsageError
from rstar_cli.journal import Journal
from rstar_cli.layout import RunDir
from rstar_cli.options import GeneratePlace
from rstar_cli.progress import StageProgress
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade, Policy
from rstar_cli.records import Execution, Problem, Rollout, TreeNode, Verdict
from rstar_cli.records import Tree as TreeRow
from rstar_cli.search.driver import Flow
from rstar_cli.search.mcts import Search
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Node, Tree
from rstar_cli.stages.budget import Budget
from rstar_cli.stages.common import (
    StageRecord,
    Stop,
    Summary,
    few_shot_of,
    open_grader,
    open_policy,
    open_sandbox,
    open_scorer,
    outside_prm,
    partial,
    refuse_run_flags,
)
from rstar_cli.stages.contaminated import refuse_overlaps
from rstar_cli.stages.problem_sets import read_source, round_problems
from rstar_cli.stages.tools import Tools, begin, plan_of

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
    if run is None:
        return _on_files(place, config)
    if place.part and (config.budget_tokens or config.budget_hours):
        raise UsageError(
            "a budget is for all problems, and --shard does a part",
            remedy="Leave --budget-tokens and --budget-hours out.",
        )
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to generate", remedy="Give --round 1 or later.")
    files = run.round(place.round)
    model, policy_name = policy_for(config, run, place.round)
    prm, prm_name = prm_for(config, run, place.round)
    problems = round_problems(run, place.round, place.problems, place.limit)
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
    part = list(place.part.of(problems)) if place.part else problems
    task = _Task(part, model, prm, few_shot, derive_seed(seed, place.round), record.outputs[0])
    return _unless_done(task, config, record, summary, stop, contaminated)


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
    problems = read_source(place.problems, place.limit)
    model = "embedded" if config.policy == "auto" else config.policy
    prm = outside_prm(config.prm)
    few_shot = few_shot_of(config, model)
    ids = derive_seed(*(p.id for p in problems))  # which problems, as a number
    named = {"policy": model, "prm": prm or "none", "few_shot": few_shot}
    identity = {**config.identity(), **named, "problems": [len(problems), ids]}
    manifest = place.output.with_name(place.output.name + ".manifest.json")
    record = StageRecord(manifest, "generate", identity, {}, [place.output], told_by_rows=True, shard=place.part)
    part = list(place.part.of(problems)) if place.part else problems
    task = _Task(part, model, prm, few_shot, derive_seed(0, 1), record.outputs[0])
    return _unless_done(task, config, record, Summary("generate", files=[*record.outputs, manifest]), None)


def _unless_done(
    task: _Task,
    config: GenerateConfig,
    record: StageRecord,
    summary: Summary,
    stop: Stop | None,
    contaminated: int = 0,
) -> Summary:
    if record.is_complete():
        return record.told_again(summary)
    record.begin()
    figures = _search(task, config, record, summary.stage, stop)
    summary.figures = {
        **figures,
        "solved": f"{figures['solved']} of {figures['searched now']}",
        "tokens/s": round(figures["tokens generated"] / max(figures["seconds"], 1e-3)),
    }
    summary.headline = (
        f"{figures['solved']} of {figures['searched now']} solved, {figures['tokens generated']:,} tokens"
    )
    counts = {name: figures[name] for name in ("problems", "searched now", "left", "solved", "engine idle")}
    counts |= {"contaminated": contaminated} if contaminated else {}
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
    gold = {p.id: p.answer for p in task.problems}
    with Journal(partial(task.output)) as journal, ExitStack() as stack:
        todo = [p for p in task.problems if p.id not in journal.done]
        before = len(task.problems) - len(todo)
        sandbox = stack.enter_context(open_sandbox(config, tree=True))
        grader = stack.enter_context(open_grader(config))
        progress = stack.enter_context(StageProgress(title, len(task.problems), done=before, file=record.progress))
        policy = stack.enter_context(closing(open_policy(config, task.model, task.problems, task.few_shot)))
        scorer = stack.enter_context(closing(open_scorer(config, task.prm))) if task.prm is not None else None
        record.served_by(policy.info)
        tools = Tools(policy, sandbox, grader, scorer)
        budget = Budget(config, len(todo), record.spent_before)
        flow, stopped = Flow(), False

        def spent() -> bool:
            nonlocal stopped
            budget.tokens = policy.usage.generated
            record.tick(policy.usage.generated)
            stopped = stop is not None and stop(policy.usage.generated)
            return stopped or budget.spent

        searched = solved = 0
        for row in search_problems(todo, tools, gold, config, task.few_shot, task.seed, spent, budget, flow):
            if stopped:  # what is in flight is dropped: a larger budget takes it up from its beginning
                break
            journal.append(row)
            searched += 1
            solved += is_solved(row)
            progress.update(
                before + searched,
                f"{solved / searched:.0%} solved",
                progress.rate(policy.usage.generated, "tok"),
                f"{flow.idle:.0%} idle",
            )
        seconds = progress.seconds
        if not stopped:
            journal.finish([p.id for p in task.problems if p.id in journal.done], task.output)
        return {
            "problems": len(task.problems),
            "searched now": searched,
            "left": len(todo) - searched,
            "stopped": stopped,
            "solved": solved,
            "tokens generated": policy.usage.generated,
            "tokens prefilled": policy.usage.prefilled,
            "code executions": sandbox.counts.total(),
            "engine idle": round(flow.idle, 3),
            "seconds": round(seconds, 1),
        }


def search_problems(
    problems: list[Problem],
    tools: Tools,
    gold: dict[str, str],
    config: GenerateConfig,
    few_shot: int,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
    budget: Budget | None = None,
    flow: Flow | None = None,
) -> Iterator[TreeRow]:
    """Search problems and yield their trees as they end.

    Args:
        problems: what to search.
        tools: what the search asks of the world; with a scorer its values are the steps' initial Q.
        gold: the right answer by problem id.
        config: settings.
        few_shot: worked examples in each prompt.
        seed: 64-bit seed; a tree's seed derives from it and its problem's id.
        stop: once it says so nothing more is asked; trees in flight come as they stand if they have a rollout.
        budget: says whether hard problems get more rollouts; is told of what is finished.
        flow: is kept up to date.
    """
    plan = plan_of(config, tools)
    budget = budget or Budget(config, len(problems))

    def searches() -> Iterator[tuple[str, Tree, Search]]:
        for problem in problems:
            yield problem.id, *begin(render_prompt(problem.problem, few_shot), derive_seed(seed, problem.id), plan)

    def grade(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
        return list(tools.grader.grade([(gold[key], answer) for key, answer in answers]))

    driver = tools.driver(grade, budget.more, flow)
    for key, tree in driver.run(searches(), config.in_flight, stop):
        budget.finished += 1
        row = tree_row(key, tree, tools.policy)
        tools.forget(tree)
        yield row
    for key, tree in driver.left:
        if tree.rollouts:
            yield tree_row(key, tree, tools.policy)


def tree_row(problem_id: str, tree: Tree, policy: Policy) -> TreeRow:
    """A finished tree as the row of `trees.jsonl`."""
    read = [tree.prompt, *(node.output for node in tree.nodes if node.output is not None)]
    return TreeRow(
        problem_id=problem_id,
        prompt=tree.prompt.text,
        seed=tree.seed,
        tokenizer=policy.info.tokenizer,
        tokens_generated=tree.tokens_generated,
        tokens_prefilled=sum(policy.count_tokens(segment) for segment in read),
        rollouts=tuple(
            Rollout(leaf=leaf.id, reward=reward, tokens=tokens)
            for (leaf, reward), tokens in zip(tree.rollouts, tree.spent, strict=True)
        ),
        nodes=tuple(_node_row(node) for node in tree.nodes),
    )


def _node_row(node: Node) -> TreeNode:
    ran = node.execution
    return TreeNode(
        id=node.id,
        parent=node.parent.id if node.parent is not None else None,
        depth=node.depth,
        text=node.segment.text if node.segment is not None else "",
        token_ids=node.segment.token_ids if node.segment is not None else None,
        visits=node.visits,
        q=node.q,
        prior=node.prior,
        prm_score=node.prm_score,
        stop=node.stop,
        answer=node.answer,
        verdict=node.verdict,
        execution=Execution(status=ran.status, stdout=ran.stdout, error=ran.error) if ran is not None else None,
    )


def is_solved(tree: TreeRow) -> bool:
    """Whether a search found a right answer."""
    return any(node.verdict is Verdict.CORRECT for node in tree.nodes)
