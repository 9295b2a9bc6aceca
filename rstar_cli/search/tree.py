"""The search tree: nodes, paths, backup."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from rstar_cli.protocols import ExecutionResult, Segment
from rstar_cli.records import StopReason, Verdict
from rstar_cli.search.trie import NOTHING, Place

Aggregation = Literal["last", "min", "product", "mean"]
"""How the PRM's values of a solution's steps make one value."""

VALID = frozenset({StopReason.STEP, StopReason.CODE, StopReason.ANSWER, StopReason.DEPTH})
"""Reasons of a node that a rollout may pass or end in; any other node is a dropped candidate of 0 visits."""


@dataclass(slots=True, eq=False)
class Node:
    """One step of a solution and what is known of it.

    Attributes:
        id: position in `Tree.nodes`; the root is 0.
        parent: None for the root.
        depth: steps from the root.
        segment: the step as sampled; None for the root.
        stop: why the node is as it is.
        code: the step's Python, without tags.
        execution: what became of that code; None for the root and for answers.
        output: the output block that follows a closed program, else None.
        answer: what an answer boxes; None elsewhere.
        verdict: of the answer.
        tokens: that were sampled for the step; those that it shares with an earlier one count there.
        prior: the policy's log-probability of the step, nats.
        prm_score: the PRM's value in [-1, 1]; None where no PRM is used.
        children: every candidate, dropped ones too.
        visits: N, backups through this node.
        value_sum: W, their rewards' sum.
        in_flight: rollouts under way through this node; each counts as a loss until it is backed up (virtual loss).
        expanded: candidates were drawn for it; a node met inside a completion is not yet.
        closed: nothing new can come below it; selection never enters it.
        draws: sample requests made at this node; the next one's draw index.
        place: the end of the step in the token trie; None where the search samples with replacement.
    """

    id: int
    parent: Node | None
    depth: int
    segment: Segment | None = None
    stop: StopReason = StopReason.STEP
    code: str = ""
    execution: ExecutionResult | None = None
    output: Segment | None = None
    answer: str | None = None
    verdict: Verdict | None = None
    tokens: int = 0
    prior: float | None = None
    prm_score: float | None = None
    children: list[Node] = field(default_factory=list)
    visits: int = 0
    value_sum: float = 0.0
    in_flight: int = 0
    expanded: bool = False
    closed: bool = False
    draws: int = 0
    place: Place | None = None

    @property
    def q(self) -> float:
        """Mean reward W/N in [-1, 1]; 0 before the first visit."""
        return self.value_sum / self.visits if self.visits else 0.0

    @property
    def valid(self) -> bool:
        """Whether a rollout may pass or end here."""
        return self.stop in VALID

    @property
    def open(self) -> bool:
        """Whether a rollout may still find something new here."""
        return self.valid and not self.closed and (self.place is None or self.place.rho > NOTHING)

    def ucb(self, exploration: float) -> float:
        """W/N + c * sqrt(ln N_parent / N); infinite before the first visit (paper, equation 1).

        With a PRM its value is the initial Q (paper, section 3.3): it counts as one visit more, here alone, so that `q`
        stays the mean of rewards.
        """
        visits, value_sum = self._believed
        if not visits or self.parent is None:
            return math.inf
        tried = max(1, self.parent.visits + self.parent.in_flight)
        return value_sum / visits + exploration * math.sqrt(math.log(tried) / visits)

    def puct(self, exploration: float, share: float) -> float:
        """Q + c * P * sqrt(N_parent) / (1 + N), P being the policy's share of the step among its siblings.

        Silver et al. 2017 (arXiv 1712.01815); Q of an unvisited step is its PRM value, else 0.
        """
        visits, value_sum = self._believed
        tried = self.parent.visits + self.parent.in_flight if self.parent is not None else 1
        q = value_sum / visits if visits else 0.0
        return q + exploration * share * math.sqrt(max(1, tried)) / (1 + self.visits + self.in_flight)

    @property
    def _believed(self) -> tuple[int, float]:
        """(visits, sum of values) with the PRM's value as one visit and each rollout in flight as a loss."""
        visits, value_sum = self.visits + self.in_flight, self.value_sum - self.in_flight
        if self.prm_score is not None:
            visits, value_sum = visits + 1, value_sum + self.prm_score
        return visits, value_sum


@dataclass(slots=True)
class Tree:
    """The search of one problem.

    Attributes:
        prompt: the segment that every prefix starts with.
        seed: 64-bit seed of this tree; every request's seed derives from it.
        nodes: all nodes in order of creation.
        rollouts: (leaf, reward) in the order of backup.
        spent: tokens generated by the time of each backup.
        tokens_generated: tokens sampled for this tree.
        right: right answers among its leaves, each counted once.
        rng: for draws that the tree makes itself, in the order in which it makes them.
    """

    prompt: Segment
    seed: int
    nodes: list[Node] = field(default_factory=lambda: [Node(0, None, 0)])
    rollouts: list[tuple[Node, float]] = field(default_factory=list)
    spent: list[int] = field(default_factory=list)
    tokens_generated: int = 0
    right: int = 0
    rng: Random = field(init=False)

    def __post_init__(self) -> None:
        """Seed the tree's own draws, and plant its token trie."""
        self.rng = Random(self.seed)
        self.root.place = Place()

    @property
    def root(self) -> Node:
        """The problem, with no step."""
        return self.nodes[0]

    def add(self, parent: Node, segment: Segment, prior: float, tokens: int) -> Node:
        """A new candidate below `parent`; the caller says what became of it."""
        node = Node(len(self.nodes), parent, parent.depth + 1, segment, prior=prior, tokens=tokens)
        self.nodes.append(node)
        parent.children.append(node)
        return node

    def prefix(self, node: Node) -> tuple[Segment, ...]:
        """Every segment that the policy reads before it goes on from `node`, the prompt first."""
        return (self.prompt, *segments(node))

    def backup(self, leaf: Node, reward: float) -> None:
        """Count one rollout: N and W of the leaf and of every node above it, the root included."""
        self.rollouts.append((leaf, reward))
        self.spent.append(self.tokens_generated)
        self.right += leaf.verdict is Verdict.CORRECT and not leaf.visits
        for node in upward(leaf):
            node.visits += 1
            node.value_sum += reward

    def close(self, node: Node) -> None:
        """Mark a node as exhausted, and each node above it whose candidates are all exhausted by that."""
        node.closed = True
        for above in upward(node.parent):
            if not above.expanded or open_children(above):
                break
            above.closed = True

    def free(self) -> None:
        """Let go of all below the root: trees are made of circles, which the garbage collector would find late."""
        places = [place for place in (self.root.place,) if place is not None]
        for node in self.nodes:
            node.parent, node.children, node.place = None, [], None
        while places:
            place = places.pop()
            places += place.children.values()
            place.parent, place.children, place.step = None, {}, None


def valid_children(node: Node) -> list[Node]:
    """The candidates below `node` that a rollout may take."""
    return [child for child in node.children if child.valid]


def open_children(node: Node) -> list[Node]:
    """Those with something new below them."""
    return [child for child in node.children if child.open]


def upward(node: Node | None) -> Iterator[Node]:
    """The node, its parent, ..., the root."""
    while node is not None:
        yield node
        node = node.parent


def path(node: Node) -> list[Node]:
    """The steps from the first one down to `node`; empty for the root."""
    return [step for step in upward(node) if step.parent is not None][::-1]


def codes(node: Node) -> tuple[str, ...]:
    """The code of the steps down to `node`, each as it was executed."""
    return tuple(step.code for step in path(node))


def printed(node: Node) -> str:
    """What the program down to `node` has printed."""
    return "".join(step.execution.stdout for step in path(node) if step.execution is not None)


def segments(node: Node) -> list[Segment]:
    """The solution down to `node` as the policy reads it: its steps, and the output block after a closed program."""
    return [segment for step in path(node) for segment in (step.segment, step.output) if segment is not None]


def aggregate(values: Sequence[float], how: Aggregation) -> float:
    """One value in [-1, 1] of a solution from the PRM's values of its steps, at least one.

    `product` is that of the steps' chances (v + 1) / 2, as value again (Lightman et al. 2023, arXiv 2305.20050).
    """
    if how == "last":
        return values[-1]
    if how == "min":
        return min(values)
    if how == "mean":
        return sum(values) / len(values)
    return 2 * math.prod((value + 1) / 2 for value in values) - 1


def prm_values(node: Node) -> list[float]:
    """The PRM's values of the steps down to `node`; empty without a PRM."""
    return [step.prm_score for step in path(node) if step.prm_score is not None]
