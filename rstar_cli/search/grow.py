"""How a tree grows: draw candidate steps below a node, or complete a solution in one generation.

These are generators. They yield questions (`SampleRequest`, `ExecuteRequest`, `ScoreRequest`, `GradeRequest`) and are
sent the answers; `driver.py` answers them for many trees at once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

from rstar_cli.prompts import ANSWER_END, COMPLETION_STOPS, STEP_STOPS, parse_step, render_output
from rstar_cli.protocols import ExecuteRequest, ExecutionResult, Grade, Sample, SampleRequest, ScoreRequest, Segment
from rstar_cli.records import StopReason
from rstar_cli.search.sampling import request
from rstar_cli.search.tree import Node, Tree, codes, printed


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """Compare an answer with the problem's gold, which search never sees."""

    answer: str | None


Question = SampleRequest | ExecuteRequest | ScoreRequest | GradeRequest
Steps = Generator[Question, Any, None]


@dataclass(frozen=True, slots=True)
class Growth:
    """How steps are drawn.

    Attributes:
        max_step_tokens: token limit of a step.
        max_tokens: token limit of a completion of several steps.
        max_depth: steps of a solution.
        temperature: of sampling; 0 is greedy.
        scored: whether a PRM values every step that runs.
    """

    max_step_tokens: int
    max_tokens: int
    max_depth: int
    temperature: float = 1.0
    scored: bool = False


def expand(tree: Tree, node: Node, candidates: int, growth: Growth) -> Steps:
    """Draw candidates below `node`, run them side by side, and keep every one with what became of it.

    Below a closed program only the answer is left to write and the output says it: one candidate.
    """
    after_code = node.stop is StopReason.CODE
    samples: list[Sample] = yield request(
        tree,
        node,
        n=1 if after_code else candidates,
        stop=(ANSWER_END,) if after_code else STEP_STOPS,
        max_tokens=growth.max_step_tokens,
        temperature=growth.temperature,
    )
    node.expanded = True
    drawn: list[Node] = []
    for sample in samples:
        _count(tree, sample)
        child = _candidate(tree, node, sample.segments[0], sample.logprobs[0])
        drawn.append(child)
        if child.stop is StopReason.ANSWER:
            yield from _grade(child)
    runnable = [child for child in drawn if child.valid and child.stop is not StopReason.ANSWER]
    if runnable:
        branches: list[list[ExecutionResult]] = yield ExecuteRequest(
            codes(node), tuple((child.code,) for child in runnable), tree.prompt.text
        )
        for child, (result,) in zip(runnable, branches, strict=True):
            _executed(child, result, growth)
    if growth.scored:
        yield from _score(tree, node, [[child] for child in drawn if child.valid])


def complete(tree: Tree, start: Node, growth: Growth) -> Generator[Question, Any, Node]:
    """Sample one solution from `start` to its end, each step a node.

    Returns:
        The leaf: an answer, or the last valid node where a step failed or a limit was met.
    """
    node = start
    while node.stop in (StopReason.STEP, StopReason.CODE):
        after_code = node.stop is StopReason.CODE
        (sample,) = yield request(
            tree,
            node,
            n=1,
            stop=(ANSWER_END,) if after_code else COMPLETION_STOPS,
            max_tokens=growth.max_step_tokens if after_code else growth.max_tokens,
            temperature=growth.temperature,
        )
        _count(tree, sample)
        node.expanded |= after_code  # one answer is all that is ever drawn below a closed program
        end = yield from _follow(tree, node, sample, growth)
        if end is node or end.stop is StopReason.STEP:  # a failed step, or the token limit: the solution ends here
            return end
        node = end
    return node


def _follow(tree: Tree, node: Node, sample: Sample, growth: Growth) -> Generator[Question, Any, Node]:
    """Add a sampled chain of steps below `node`, running what is new in one go; returns its last valid node."""
    chain = list(zip(sample.segments, sample.logprobs, strict=True))
    while chain and (known := _known(node, chain[0][0])) is not None:
        node = known
        chain.pop(0)
    start = node
    new: list[Node] = []
    for segment, logprob in chain:
        if node.stop is StopReason.STEP and node.depth >= growth.max_depth:
            break
        node = _candidate(tree, node, segment, logprob)
        new.append(node)
        if not node.valid:
            break
    to_run = [child for child in new if child.valid and child.stop is not StopReason.ANSWER]
    if to_run:
        (results,) = yield ExecuteRequest(codes(start), (tuple(child.code for child in to_run),), tree.prompt.text)
        for child, result in zip(to_run, results, strict=False):
            _executed(child, result, growth)
        if len(results) < len(to_run):  # a step failed: what was sampled after it has no state to run on
            _cut(tree, to_run[len(results)])
            new = new[: len(results)]
    for child in new:
        if child.stop is StopReason.ANSWER:
            yield from _grade(child)
    if growth.scored:
        yield from _score(tree, start, [[child for child in new if child.valid]])
    return next((child for child in reversed(new) if child.valid), start)


def _candidate(tree: Tree, parent: Node, segment: Segment, logprob: float) -> Node:
    """A sampled step as a node, sorted by its form alone; code has not run yet."""
    twin = any(child.segment is not None and child.segment.text == segment.text for child in parent.children)
    child = tree.add(parent, segment, logprob)
    step = parse_step(segment.text, after_code=parent.stop is StopReason.CODE)
    child.code = step.code
    child.answer = step.answer
    if twin:
        child.stop = StopReason.DUPLICATE
    else:
        child.stop = StopReason(step.kind)
    return child


def _known(node: Node, segment: Segment) -> Node | None:
    """The valid child that already holds this very step."""
    return next(
        (c for c in node.children if c.valid and c.segment is not None and c.segment.text == segment.text), None
    )


def _executed(child: Node, result: ExecutionResult, growth: Growth) -> None:
    child.execution = result
    if not result.ok:
        child.stop = StopReason.FAILED
    elif child.stop is StopReason.CODE:
        child.output = Segment(render_output(printed(child)))
    elif child.depth >= growth.max_depth:
        child.stop = StopReason.DEPTH


def _grade(child: Node) -> Generator[Question, Any, None]:
    grade: Grade | None = yield GradeRequest(child.answer)
    child.verdict = grade.verdict if grade is not None else None


def _score(tree: Tree, node: Node, chains: Sequence[Sequence[Node]]) -> Steps:
    """Have the PRM value new nodes: chains of steps that go on from `node`."""
    asked = [chain for chain in chains if chain]
    if not asked:
        return
    branches = tuple(tuple(step.segment for step in chain if step.segment is not None) for chain in asked)
    values: list[tuple[float, ...]] = yield ScoreRequest(tree.prefix(node), branches)
    for chain, found in zip(asked, values, strict=True):
        for step, value in zip(chain, found, strict=True):
            step.prm_score = value


def _cut(tree: Tree, first: Node) -> None:
    """Take back the newest nodes, from `first` on: the tail of a chain whose earlier step failed."""
    if first.parent is not None:
        first.parent.children.remove(first)
    del tree.nodes[first.id :]


def _count(tree: Tree, sample: Sample) -> None:
    tree.tokens_generated += sum(sample.tokens)
