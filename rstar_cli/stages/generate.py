"""generate: Monte Carlo Tree Search on every problem of a round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli.config import GenerateConfig
from rstar_cli.errors import UsageError
from rstar_cli.grader import Grader
from rstar_cli.journal import Journal
from rstar_cli.layout import RunDir
from rstar_cli.options import GeneratePlace
from rstar_cli.progress import StageProgress
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade, Policy, Segment, StepExecutor
from rstar_cli.records import Execution, Problem, Rollout, TreeNode, Verdict
from rstar_cli.records import Tree as TreeRow
from rstar_cli.search.driver import drive
from rstar_cli.search.grow import Limits
from rstar_cli.search.mcts import MctsConfig, Search, search
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Node, Tree
from rstar_cli.stages.common import (
    StageRecord,
    Summary,
    few_shot_of,
    open_policy,
    open_sandbox,
    partial,
    refuse_run_flags,
)
from rstar_cli.stages.problem_sets import read_source, round_problems


@dataclass(frozen=True, slots=True)
class _Task:
    """One policy on one problem set.

    Attributes:
        problems: what to search.
        model: the policy.
        few_shot: worked examples in each prompt.
        seed: 64-bit seed; a tree's seed derives from it and its problem's id.
        output: the file of trees.
    """

    problems: list[Problem]
    model: str
    few_shot: int
    seed: int
    output: Path


def generate(place: GeneratePlace, config: GenerateConfig, run: RunDir | None) -> Summary:
    """Search every problem and write `trees.jsonl`; takes up where an earlier call stopped.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--output` names a plain file.
    """
    if run is None:
        return _on_files(place, config)
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to generate", remedy="Give --round 1 or later.")
    files = run.round(place.round)
    model = place.policy or run.policy_of(place.round - 1)
    if place.policy is None and place.round > 1:
        run.require(Path(model), "train-policy", place.round - 1)
    problems = round_problems(run, place.round, place.problems, place.limit)
    task = _Task(
        problems, model, few_shot_of(config, model), derive_seed(run.recipe.run.seed, place.round), files.trees
    )
    identity = {
        **config.identity(),
        "policy": place.policy or run.policy_name(place.round - 1),
        "few_shot": task.few_shot,
        "seed": run.recipe.run.seed,
    }
    inputs = {"problems": files.problems} | ({"policy": Path(model)} if Path(model).is_dir() else {})
    record = StageRecord(files.manifest, "generate", identity, inputs, [files.trees])
    summary = Summary(f"generate round {place.round}", files=[files.trees])
    summary.next_command = run.command("verify", place.round)
    if place.limit is None and place.problems is None and len(problems) < run.recipe.run.count:
        summary.notes.append(
            f"This round's set holds {len(problems)} problems, fewer than the recipe's {run.recipe.run.count}: an "
            f"earlier call or a small pool made it. Remove {files.root} to draw it anew."
        )
    return _unless_done(task, config, record, summary)


def _on_files(place: GeneratePlace, config: GenerateConfig) -> Summary:
    refuse_run_flags("generate", run=place.run)
    if str(place.output) == "-":
        raise UsageError(
            "trees go to a file, so that a stopped search can go on", remedy="Give --output a file's name."
        )
    if place.problems is None or place.output is None:
        raise UsageError("--output needs --problems", remedy="Give both, or neither and a --run.")
    problems = read_source(place.problems, place.limit)
    model = place.policy or "embedded"
    task = _Task(problems, model, few_shot_of(config, model), derive_seed(0, 1), place.output)
    ids = derive_seed(*(p.id for p in problems))  # which problems, as a number
    identity = {**config.identity(), "policy": model, "few_shot": task.few_shot, "problems": [len(problems), ids]}
    manifest = place.output.with_name(place.output.name + ".manifest.json")
    record = StageRecord(manifest, "generate", identity, {}, [place.output])
    return _unless_done(task, config, record, Summary("generate", files=[place.output, manifest]))


def _unless_done(task: _Task, config: GenerateConfig, record: StageRecord, summary: Summary) -> Summary:
    if record.is_complete():
        return record.told_again(summary)
    record.begin()
    figures = _search(task, config, summary.stage)
    summary.figures = {
        **figures,
        "solved": f"{figures['solved']} of {figures['searched now']}",
        "tokens/s": round(figures["tokens generated"] / max(figures["seconds"], 1e-3)),
    }
    if figures["searched now"] and not figures["solved"]:
        summary.notes.append(
            "No problem was solved: there will be nothing to train on. The policy may be too weak for these problems; "
            "a stronger --policy or easier problems help."
        )
    counts = {name: figures[name] for name in ("problems", "searched now", "solved")}
    tokens = {"generated": figures["tokens generated"], "prefilled": figures["tokens prefilled"]}
    summary.data = counts
    record.complete(counts, tokens=tokens)
    return summary


def _search(task: _Task, config: GenerateConfig, title: str) -> dict[str, Any]:
    """Search what is not in the journal yet; returns the figures of this call."""
    gold = {p.id: p.answer for p in task.problems}
    with Journal(partial(task.output)) as journal:
        todo = [p for p in task.problems if p.id not in journal.done]
        before = len(task.problems) - len(todo)
        solved = 0
        with (
            open_sandbox(config) as sandbox,
            Grader() as grader,
            StageProgress(title, len(task.problems), done=before) as progress,
            closing(open_policy(config, task.model, task.problems, task.few_shot)) as policy,
        ):
            rows = search_problems(todo, policy, sandbox, grader, gold, config, task.few_shot, task.seed)
            for searched, row in enumerate(rows, start=1):
                journal.append(row)
                solved += is_solved(row)
                progress.update(
                    before + searched,
                    f"{solved / searched:.0%} solved",
                    progress.rate(policy.usage.generated, "tok"),
                    progress.rate(sandbox.counts.total(), "exec"),
                )
            seconds = progress.seconds
        journal.finish([p.id for p in task.problems], task.output)
        return {
            "problems": len(task.problems),
            "searched now": len(todo),
            "solved": solved,
            "tokens generated": policy.usage.generated,
            "tokens prefilled": policy.usage.prefilled,
            "code executions": sandbox.counts.total(),
            "seconds": round(seconds, 1),
        }


def search_problems(
    problems: list[Problem],
    policy: Policy,
    sandbox: StepExecutor,
    grader: Grader,
    gold: dict[str, str],
    config: GenerateConfig,
    few_shot: int,
    seed: int,
) -> Iterator[TreeRow]:
    """Search problems and yield their trees as they end.

    Args:
        problems: what to search.
        policy: proposes steps.
        sandbox: runs them.
        grader: compares answers with gold.
        gold: the right answer by problem id.
        config: settings.
        few_shot: worked examples in each prompt.
        seed: 64-bit seed; a tree's seed derives from it and its problem's id.
    """
    mcts = MctsConfig(
        rollouts=config.rollouts,
        candidates=config.candidates,
        exploration=config.exploration,
        rollout_style=config.rollout_style,
        temperature=config.temperature,
        limits=Limits(config.max_step_tokens, config.max_tokens, config.max_depth),
    )

    def searches() -> Iterator[tuple[str, Search]]:
        for problem in problems:
            prompt = Segment(render_prompt(problem.problem, few_shot))
            yield problem.id, search(prompt, derive_seed(seed, problem.id), mcts)

    def grade(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
        return list(grader.grade([(gold[key], answer) for key, answer in answers]))

    for key, tree in drive(
        searches(),
        policy=policy,
        executor=sandbox,
        grade=grade,
        in_flight=config.in_flight,
    ):
        policy.forget(tree.prompt)
        yield tree_row(key, tree, policy)


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
        rollouts=tuple(Rollout(leaf=leaf.id, reward=reward) for leaf, reward in tree.rollouts),
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
        stop=node.stop,
        answer=node.answer,
        verdict=node.verdict,
        execution=Execution(status=ran.status, stdout=ran.stdout, error=ran.error) if ran is not None else None,
    )


def is_solved(tree: TreeRow) -> bool:
    """Whether a search found a right answer."""
    return any(node.verdict is Verdict.CORRECT for node in tree.nodes)
