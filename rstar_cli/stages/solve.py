"""Solutions of held-out problems: greedy, sampled, searched. No gold steers anything: answers are graded afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from rstar_cli.config import EvaluateConfig
from rstar_cli.grader import group_answers
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade
from rstar_cli.records import EvalRow, EvalSample, Problem, StopReason
from rstar_cli.search.mcts import Plan, Search
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Aggregation, Node, Tree, aggregate, path, prm_values, segments
from rstar_cli.stages.tools import Tools, begin, growth, plan_of


class Solver(Protocol):
    """A way to solve problems: yields a row a problem, as they are finished."""

    def __call__(
        self,
        problems: Iterable[Problem],
        tools: Tools,
        config: EvaluateConfig,
        stop: Callable[[], bool],
        *,
        few_shot: int,
        seed: int,
    ) -> Iterator[EvalRow]:
        """Solve them."""


def solve_greedily(
    problems: Iterable[Problem],
    tools: Tools,
    config: EvaluateConfig,
    stop: Callable[[], bool],
    *,
    few_shot: int,
    seed: int,  # noqa: ARG001 - nothing is drawn
) -> Iterator[EvalRow]:
    """One greedy solution a problem."""
    plan = Plan("best-of-n", 1, replace(growth(config, tools, temperature=0.0), scored=False))
    by_id: dict[str, Problem] = {}
    searches = ((p.id, *begin(_prompt(p, few_shot), 0, plan)) for p in _noted(problems, by_id))
    for key, tree in tools.driver(_no_gold).run(searches, config.in_flight, stop):
        row = _row(by_id.pop(key), [tree.rollouts[0][0]], tree.tokens_generated, tools, config)
        tools.forget(tree)
        yield row


def sample_solutions(
    problems: Iterable[Problem],
    tools: Tools,
    config: EvaluateConfig,
    stop: Callable[[], bool],
    *,
    few_shot: int,
    seed: int,
) -> Iterator[EvalRow]:
    """`config.samples` independent solutions a problem, each scored where there is a PRM."""
    plan = Plan("best-of-n", 1, growth(config, tools, temperature=config.temperature))
    by_id: dict[str, Problem] = {}

    def searches() -> Iterator[tuple[tuple[str, int], Tree, Search]]:
        for problem in _noted(problems, by_id):
            for draw in range(config.samples):
                own = derive_seed(seed, problem.id, "sample", draw)
                yield (problem.id, draw), *begin(_prompt(problem, few_shot), own, plan)

    found: defaultdict[str, dict[int, Tree]] = defaultdict(dict)
    for (key, draw), tree in tools.driver(_no_gold).run(searches(), config.in_flight, stop):
        trees = found[key]
        trees[draw] = tree
        if len(trees) == config.samples:
            leaves = [trees[i].rollouts[0][0] for i in range(config.samples)]
            row = _row(by_id.pop(key), leaves, sum(t.tokens_generated for t in trees.values()), tools, config)
            for each in found.pop(key).values():
                tools.forget(each)
            yield row


def search_solutions(
    problems: Iterable[Problem],
    tools: Tools,
    config: EvaluateConfig,
    stop: Callable[[], bool],
    *,
    few_shot: int,
    seed: int,
) -> Iterator[EvalRow]:
    """Every finished trajectory of a search once, in order of its first visit."""
    plan = plan_of(config, tools)
    by_id: dict[str, Problem] = {}
    searches = (
        (p.id, *begin(_prompt(p, few_shot), derive_seed(seed, p.id, "mcts"), plan)) for p in _noted(problems, by_id)
    )
    for key, tree in tools.driver(_no_gold).run(searches, config.in_flight, stop):
        leaves = dict.fromkeys(leaf for leaf, _ in tree.rollouts if leaf.stop is StopReason.ANSWER)
        row = _row(by_id.pop(key), list(leaves), tree.tokens_generated, tools, config)
        tools.forget(tree)
        yield row


def _noted(problems: Iterable[Problem], by_id: dict[str, Problem]) -> Iterator[Problem]:
    """The problems as they are drawn, each noted by its id."""
    for problem in problems:
        by_id[problem.id] = problem
        yield problem


def _prompt(problem: Problem, few_shot: int) -> str:
    return render_prompt(problem.problem, few_shot)


def _no_gold(answers: list[tuple[Any, str | None]]) -> list[Grade | None]:
    return [None] * len(answers)


def _row(problem: Problem, leaves: Sequence[Node], tokens: int, tools: Tools, config: EvaluateConfig) -> EvalRow:
    """The row of a problem from the ends of its solutions; here, after the fact, gold comes in."""
    answers = [leaf.answer if leaf.stop is StopReason.ANSWER else None for leaf in leaves]
    groups = group_answers(answers, tools.grader)
    grades = tools.grader.grade([(problem.answer, answer) for answer in answers])
    samples = (
        EvalSample(
            answer=answer,
            group=group,
            verdict=grade.verdict,
            tokens=sum(step.tokens for step in path(leaf)),
            logprob=round(sum(step.prior or 0.0 for step in path(leaf)), 4),
            score=_score(leaf, config.aggregate) if answer is not None else None,
            text=_text(leaf),
        )
        for leaf, answer, group, grade in zip(leaves, answers, groups, grades, strict=True)
    )
    return EvalRow(
        problem_id=problem.id, level=problem.level, subject=problem.subject, tokens=tokens, samples=tuple(samples)
    )


def _text(leaf: Node) -> str:
    """What was written down to a leaf, and below it the step that ended the solution because it failed."""
    dropped = [child.segment for child in leaf.children[-1:] if child.segment is not None]
    return "".join(segment.text for segment in (*segments(leaf), *dropped))


def _score(leaf: Node, how: Aggregation) -> float | None:
    """A solution's value from those of its steps; None without a PRM."""
    values = prm_values(leaf)
    return round(aggregate(values, how), 4) if values else None
