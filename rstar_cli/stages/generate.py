"""generate: Monte Carlo Tree Search on every problem of a round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rstar_cli.config import GenerateConfig
from rstar_cli.errors import UsageError
from rstar_cli.grader import Grader
from rstar_cli.jsonl import Journal
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
    few_shot = few_shot_of(config, model)
    identity = {
        **config.identity(),
        "policy": place.policy or run.policy_name(place.round - 1),
        "few_shot": few_shot,
        "seed": run.recipe.run.seed,
    }
    inputs = {"problems": files.problems} | ({"policy": Path(model)} if Path(model).is_dir() else {})
    record = StageRecord(files.manifest, "generate", identity, inputs, [files.trees])
    summary = Summary(f"generate round {place.round}", files=[files.trees])
    summary.next_command = run.command("verify", place.round)
    seed = derive_seed(run.recipe.run.seed, place.round)
    return _unless_done(record, problems, model, config, few_shot, seed, summary)


def _on_files(place: GeneratePlace, config: GenerateConfig) -> Summary:
    refuse_run_flags("generate", run=place.run)
    if place.problems is None or place.output is None:
        raise UsageError("--output needs --problems", remedy="Give both, or neither and a --run.")
    problems = read_source(place.problems, place.limit)
    model = place.policy or "embedded"
    few_shot = few_shot_of(config, model)
    ids = derive_seed(*(p.id for p in problems))  # which problems, as a number
    identity = {**config.identity(), "policy": model, "few_shot": few_shot, "problems": [len(problems), ids]}
    manifest = place.output.with_name(place.output.name + ".manifest.json")
    record = StageRecord(manifest, "generate", identity, {}, [place.output])
    summary = Summary("generate", files=[place.output, manifest])
    return _unless_done(record, problems, model, config, few_shot, derive_seed(0, 1), summary)


def _unless_done(
    record: StageRecord,
    problems: list[Problem],
    model: str,
    config: GenerateConfig,
    few_shot: int,
    seed: int,
    summary: Summary,
) -> Summary:
    if record.is_complete():
        summary.notes.append("It was done before; nothing was changed.")
        return summary
    record.begin()
    counts, tokens = _search_all(problems, model, config, few_shot, seed, summary.files[0], summary)
    record.complete(counts, tokens=tokens)
    return summary


def _search_all(
    problems: list[Problem],
    model: str,
    config: GenerateConfig,
    few_shot: int,
    seed: int,
    output: Path,
    summary: Summary,
) -> tuple[dict[str, int], dict[str, int]]:
    """Search what is not in the journal yet; returns counts and tokens of this call."""
    gold = {p.id: p.answer for p in problems}
    with Journal(partial(output)) as journal:
        todo = [p for p in problems if p.id not in journal.done]
        solved = 0
        with (
            open_sandbox(config) as sandbox,
            Grader() as grader,
            StageProgress(summary.stage, len(problems), done=len(problems) - len(todo)) as progress,
        ):
            policy = open_policy(config, model, problems, few_shot)
            try:
                for row in search_problems(todo, policy, sandbox, grader, gold, config, few_shot, seed):
                    journal.append(row)
                    solved += is_solved(row)
                    done = len(journal.done)
                    figures = {
                        "solved": f"{solved / max(1, done - len(problems) + len(todo)):.0%}",
                        "tokens": progress.rate(policy.usage.generated),
                        "executions": progress.rate(sandbox.counts.total()),
                    }
                    progress.update(done, figures)
            finally:
                policy.close()
            journal.finish([p.id for p in problems], output)
            summary.figures = {
                "problems": len(problems),
                "searched now": len(todo),
                "solved": f"{solved} of {len(todo)}",
                "tokens generated": policy.usage.generated,
                "tokens prefilled": policy.usage.prefilled,
                "code executions": sandbox.counts.total(),
                "seconds": round(progress.seconds, 1),
                "tokens/s": round(policy.usage.generated / max(progress.seconds, 1e-6)),
            }
            if todo and not solved:
                summary.notes.append(
                    "No problem was solved: there will be nothing to train on. The policy may be too weak for these "
                    "problems; a stronger --policy or easier problems help."
                )
            counts = {"problems": len(problems), "searched": len(todo), "solved": solved}
            return counts, {"generated": policy.usage.generated, "prefilled": policy.usage.prefilled}


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
