"""How a tree grows: draw candidate steps below a node, or complete a solution in one generation.

These are generators. They yield questions (`SampleRequest`, `ExecuteRequest`, `ScoreRequest`, `GradeRequest`) and are
sent the answers; `driver.py` answers them for many trees at once. A node comes into the tree once it is known what
became of its code, so that rollouts in flight at the same time meet no step that may yet fail.
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
    tree.tokens_generated += sum(sum(sample.tokens) for sample in samples)
    links = [(sample.segments[0], sample.logprobs[0], sample.tokens[0]) for sample in samples]
    runnable = {link[0].text: code for link in links for code in _to_run(node, [link], growth)}
    results: dict[str, ExecutionResult] = {}
    if runnable:
        branches: list[list[ExecutionResult]] = yield ExecuteRequest(
            codes(node), tuple((code,) for code in runnable.values()), tree.prompt.text
        )
        results = {text: result for text, (result,) in zip(runnable, branches, strict=True)}
    drawn = [_candidate(tree, node, *link) for link in links]
    for child, link in zip(drawn, links, strict=True):
        if child.valid:
            _executed(child, results[link[0].text], growth)
    if growth.scored:
        yield from _score(tree, node, [[child] for child in drawn if child.valid])


def complete(tree: Tree, start: Node, growth: Growth) -> Generator[Question, Any, Node]:
    """Sample one solution from `start` to its end, each step a node.

    Returns:
        The leaf: an answer, or the last valid node where a step failed or a limit was met.
    """
    node = start
    if node.stop is StopReason.STEP:
        (sample,) = yield _whole(tree, node, growth)
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
    (sample,) = yield _whole(tree, node, growth, opening=tokens, alternatives=growth.alternatives)
    taken = len(tokens) > 0  # the token that the trie chose is new, too
    tree.tokens_generated += sum(sample.tokens) + taken
    ends = extend(place, sample.drawn, sample.tokens, growth.temperature)
    chain = _chain(sample, logprob, taken)
    leaf = yield from _follow(tree, node, chain, growth, ends)
    if leaf is node:
        return None if node.children[-1].stop is StopReason.DUPLICATE else leaf
    return (yield from answer(tree, leaf, growth))


def _whole(tree: Tree, node: Node, growth: Growth, **more: Any) -> SampleRequest:
    """Ask for the rest of a program below `node`."""
    tokens, temperature = growth.max_tokens, growth.temperature
    return request(tree, node, n=1, stop=COMPLETION_STOPS, max_tokens=tokens, temperature=temperature, **more)


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
    if (known := next(iter(valid_children(node)), None)) is not None:
        return known  # another rollout in flight was here first
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
    while not ends and chain and (known := _known(node, chain[0][0])) is not None:
        node, chain = known, chain[1:]
    start, code = node, _to_run(node, chain, growth)
    results: list[ExecutionResult] = []
    if code:
        (results,) = yield ExecuteRequest(codes(start), (code,), tree.prompt.text)
    new: list[Node] = []
    for place, link in enumerate(chain):
        if node.stop is not StopReason.STEP:
            break
        if not ends and (known := _known(node, link[0])) is not None:
            node = known  # another rollout in flight was here first
            continue
        if len(results) <= place < len(code):
            break  # and came further: here the step before this one failed, as by a timeout
        child = _candidate(tree, node, *link)
        new.append(child)
        if child.valid:
            _executed(child, results[place], growth)
        if not child.valid:
            break
        node = child
    if ends:
        _settle(new, ends)
    if growth.scored and new:
        yield from _score(tree, new[0].parent or start, [[child for child in new if child.valid]])
    return node


def _to_run(node: Node, chain: Sequence[Link], growth: Growth) -> tuple[str, ...]:
    """The code of sampled steps below `node`, up to the first that is no step, or one that is there already."""
    found: list[str] = []
    for segment, _, _ in chain[: growth.max_depth - node.depth]:
        step = parse_step(segment.text, after_code=node.stop is StopReason.CODE)
        if step.kind not in ("step", "code") or (not found and _is_twin(node, segment)):
            break
        found.append(step.code)
        if step.kind == "code":
            break
    return tuple(found)


def _settle(new: Sequence[Node], ends: Sequence[Place]) -> None:
    """Say in the token trie what became of new steps: only below one that ran may something new come."""
    for child, end in zip(new, ends, strict=False):
        if child.valid:
            child.place = end
            end.end_step(child)
    if new[-1].stop is not StopReason.STEP:
        ends[len(new) - 1].close()


def _candidate(tree: Tree, parent: Node, segment: Segment, logprob: float, tokens: int) -> Node:
    """A sampled step as a node, sorted by its form alone; the caller says at once what its code came to."""
    twin = _is_twin(parent, segment)
    child = tree.add(parent, segment, logprob, tokens)
    step = parse_step(segment.text, after_code=parent.stop is StopReason.CODE)
    child.code = step.code
    child.answer = step.answer
    if twin:
        child.stop = StopReason.DUPLICATE
    else:
        child.stop = StopReason(step.kind)
    return child


def _is_twin(parent: Node, segment: Segment) -> bool:
    """Whether a candidate below `parent`, valid or not, has this very text."""
    return any(child.segment is not None and child.segment.text == segment.text for child in parent.children)


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
