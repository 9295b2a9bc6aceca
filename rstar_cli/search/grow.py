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
from rstar_cli.search.tree import Node, Tree, codes, printed, valid_children
from rstar_cli.search.trie import Place, extend, opening, reserve


@dataclass(frozen=True, slots=True)
class GradeRequest:
    """Compare an answer with the problem's gold, which search never sees."""

    answer: str | None


@dataclass(frozen=True, slots=True)
class MoreRequest:
    """Ask whether an unsolved problem may have more rollouts than so many; the answer is a bool."""

    rollouts: int


Question = SampleRequest | ExecuteRequest | ScoreRequest | GradeRequest | MoreRequest
Steps = Generator[Question, Any, None]
Leaf = Generator[Question, Any, Node | None]


@dataclass(frozen=True, slots=True)
class Growth:
    """How steps are drawn.

    Attributes:
        max_step_tokens: token limit of a step.
        max_tokens: token limit of a completion of several steps.
        max_depth: steps of a solution.
        temperature: of sampling; 0 is greedy.
        scored: whether a PRM values every step that runs.
        alternatives: how many of the likeliest tokens a place in the trie may be left by.
    """

    max_step_tokens: int
    max_tokens: int
    max_depth: int
    temperature: float = 1.0
    scored: bool = False
    alternatives: int = 16


def expand(tree: Tree, node: Node, candidates: int, growth: Growth) -> Steps:
    """Draw candidates below `node`, run them side by side, and keep every one with what became of it.

    Below a closed program only the answer is left to write and the output says it: one candidate.
    """
    node.expanded = True
    if node.stop is StopReason.CODE:
        yield from answer(tree, node, growth)
        return
    samples: list[Sample] = yield request(
        tree,
        node,
        n=candidates,
        stop=STEP_STOPS,
        max_tokens=growth.max_step_tokens,
        temperature=growth.temperature,
    )
    drawn: list[Node] = []
    for sample in samples:
        tree.tokens_generated += sum(sample.tokens)
        drawn.append(_candidate(tree, node, sample.segments[0], sample.logprobs[0], sample.tokens[0]))
    runnable = [child for child in drawn if child.valid]
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
    if node.stop is StopReason.STEP:
        (sample,) = yield request(
            tree,
            node,
            n=1,
            stop=COMPLETION_STOPS,
            max_tokens=growth.max_tokens,
            temperature=growth.temperature,
        )
        tree.tokens_generated += sum(sample.tokens)
        node = yield from _follow(tree, node, _chain(sample), growth)
    return (yield from answer(tree, node, growth))


def draw(tree: Tree, start: Node, growth: Growth, *, fresh: bool = False) -> Leaf:
    """Sample one solution below `start` that was not sampled before (`trie.py`), to its end.

    Args:
        tree: the tree.
        start: a step, or the root.
        growth: how steps are drawn.
        fresh: the step next to `start` shall be a new one, too.

    Returns:
        The leaf, as `complete` says; None where nothing is left below `start`, or it was a known step in other tokens.
    """
    place = reserve(start.place, tree.rng, fresh=fresh) if start.place is not None else None
    if place is None:
        return None
    step, tokens, logprob = opening(place)
    node = step or tree.root
    (sample,) = yield request(
        tree,
        node,
        n=1,
        stop=COMPLETION_STOPS,
        max_tokens=growth.max_tokens,
        temperature=growth.temperature,
        opening=tokens,
        alternatives=growth.alternatives,
    )
    taken = len(tokens) > 0  # the token that the trie chose is new, too
    tree.tokens_generated += sum(sample.tokens) + taken
    ends = extend(place, sample.drawn, sample.tokens, growth.temperature)
    chain = _chain(sample, logprob, taken)
    leaf = yield from _follow(tree, node, chain, growth, ends)
    if leaf is node:
        return None if node.children[-1].stop is StopReason.DUPLICATE else leaf
    return (yield from answer(tree, leaf, growth))


def answer(tree: Tree, node: Node, growth: Growth) -> Generator[Question, Any, Node]:
    """Write the answer below a closed program, once; returns its node. A node that is no closed program is returned."""
    if node.stop is not StopReason.CODE:
        return node
    if (known := next(iter(valid_children(node)), None)) is not None:
        return known
    (sample,) = yield request(
        tree,
        node,
        n=1,
        stop=(ANSWER_END,),
        max_tokens=growth.max_step_tokens,
        temperature=growth.temperature,
    )
    tree.tokens_generated += sum(sample.tokens)
    node.expanded = True
    child = _candidate(tree, node, sample.segments[0], sample.logprobs[0], sample.tokens[0])
    if not child.valid:
        return node
    grade: Grade | None = yield GradeRequest(child.answer)
    child.verdict = grade.verdict if grade is not None else None
    if growth.scored:
        yield from _score(tree, node, [[child]])
    return child


Link = tuple[Segment, float, int]
"""A sampled step: its segment, log-probability and new tokens."""


def _chain(sample: Sample, logprob: float = 0.0, tokens: int = 0) -> list[Link]:
    """The sampled steps; the first one with what its opening adds."""
    links = list(zip(sample.segments, sample.logprobs, sample.tokens, strict=True))
    segment, own, count = links[0]
    return [(segment, round(own + logprob, 4), count + tokens), *links[1:]]


def _follow(
    tree: Tree, node: Node, chain: Sequence[Link], growth: Growth, ends: Sequence[Place] = ()
) -> Generator[Question, Any, Node]:
    """Add a sampled chain of steps below `node`, running what is new in one go; returns its last valid node.

    Args:
        tree: the tree.
        node: what it goes on from.
        chain: the steps.
        growth: how steps are drawn.
        ends: where they end in the token trie; then all of them are new.
    """
    begun = 0
    while not ends and begun < len(chain) and (known := _known(node, chain[begun][0])) is not None:
        node = known
        begun += 1
    start = node
    new: list[Node] = []
    for link in chain[begun:]:
        if node.stop is StopReason.STEP and node.depth >= growth.max_depth:
            break
        node = _candidate(tree, node, *link)
        new.append(node)
        if not node.valid:
            break
    to_run = [child for child in new if child.valid]
    if to_run:
        (results,) = yield ExecuteRequest(codes(start), (tuple(child.code for child in to_run),), tree.prompt.text)
        for child, result in zip(to_run, results, strict=False):
            _executed(child, result, growth)
        if not results[-1].ok and len(results) < len(
            new
        ):  # what was sampled after a failed step has no state to run on
            _cut(tree, new[len(results)])
            new = new[: len(results)]
    if ends:
        _settle(new, ends)
    if growth.scored:
        yield from _score(tree, start, [[child for child in new if child.valid]])
    return next((child for child in reversed(new) if child.valid), start)


def _settle(new: Sequence[Node], ends: Sequence[Place]) -> None:
    """Say in the token trie what became of new steps: only below one that ran may something new come."""
    for child, end in zip(new, ends, strict=False):
        if child.valid:
            child.place = end
            end.end_step(child)
    if new[-1].stop is not StopReason.STEP:
        ends[len(new) - 1].close()


def _candidate(tree: Tree, parent: Node, segment: Segment, logprob: float, tokens: int) -> Node:
    """A sampled step as a node, sorted by its form alone; code has not run yet."""
    twin = any(child.segment is not None and child.segment.text == segment.text for child in parent.children)
    child = tree.add(parent, segment, logprob, tokens)
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
