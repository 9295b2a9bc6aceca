"""Searches of training problems: problems in, rows of `trees.jsonl` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rstar_cli.config import GenerateConfig
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade, Policy
from rstar_cli.records import Execution, Problem, Rollout, TreeNode, Verdict
from rstar_cli.records import Tree as TreeRow
from rstar_cli.search.mcts import Search
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Node, Tree
from rstar_cli.stages.budget import Budget
from rstar_cli.stages.tools import Tools, begin, plan_of


def search_problems(
    problems: Iterable[Problem],
    tools: Tools,
    config: GenerateConfig,
    stop: Callable[[], bool] = lambda: False,
    *,
    few_shot: int = 0,
    seed: int,
    budget: Budget | None = None,
) -> Iterator[TreeRow]:
    """Search problems and yield their trees as they end.

    Args:
        problems: what to search, drawn from as places fall free; their answers score the leaves.
        tools: what the search asks of the world; with a scorer its values are the steps' initial Q.
        config: settings.
        stop: once it says so nothing more is asked; trees in flight come as they stand if they have a rollout.
        few_shot: worked examples in each prompt.
        seed: 64-bit seed; a tree's seed derives from it and its problem's id.
        budget: says whether hard problems get more rollouts; is told of what is finished. None: they always do.
    """
    plan = plan_of(config, tools)
    gold: dict[str, str] = {}

    def searches() -> Iterator[tuple[str, Tree, Search]]:
        for problem in problems:
            gold[problem.id] = problem.answer
            yield problem.id, *begin(render_prompt(problem.problem, few_shot), derive_seed(seed, problem.id), plan)

    def grade(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
        return list(tools.grader.grade([(gold[key], answer) for key, answer in answers]))

    driver = tools.driver(grade, budget.more if budget is not None else lambda: True)
    for key, tree in driver.run(searches(), config.in_flight, stop):
        if budget is not None:
            budget.finished += 1
        row = tree_row(key, tree, tools.policy)
        tools.forget(tree)
        del gold[key]
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
