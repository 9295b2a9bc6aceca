"""Monte Carlo Tree Search over executed steps (rStar-Math, arXiv 2501.04519, section 3.2).

One rollout: select down the tree by UCB, expand the node reached with candidate steps (those whose code fails are
dropped), go on to a leaf, back the leaf's reward up. Terminal-guided: the reward is +1 for a right answer, -1 for a
wrong one, for none, and for a solution that can't go on; 0 where grading itself failed.

`search` is a generator that yields questions and is sent the answers. It reads no clock, no file and no gold.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

from rstar_cli.protocols import Segment
from rstar_cli.records import StopReason, Verdict
from rstar_cli.search.grow import Limits, Question, complete, expand
from rstar_cli.search.tree import Node, Tree, open_children, valid_children


@dataclass(frozen=True, slots=True)
class MctsConfig:
    """Settings of one search; see `config.GenerateConfig` for each."""

    rollouts: int
    candidates: int
    exploration: float
    rollout_style: Literal["expand", "complete"]
    temperature: float
    limits: Limits


Search = Generator[Question, Any, Tree]


def search(prompt: Segment, seed: int, config: MctsConfig) -> Search:
    """Search one problem.

    Args:
        prompt: the problem as the policy reads it.
        seed: 64-bit seed of this tree.
        config: settings.

    Returns:
        The tree after `config.rollouts` rollouts, or fewer if nothing is left to explore.
    """
    tree = Tree(prompt, seed)
    while len(tree.rollouts) < config.rollouts and not tree.root.closed:
        leaf = yield from _rollout(tree, config)
        if leaf is None:
            continue
        tree.backup(leaf, reward(leaf))
        if leaf.stop in (StopReason.ANSWER, StopReason.DEPTH) or (leaf.expanded and not open_children(leaf)):
            tree.close(leaf)
    return tree


def greedy(prompt: Segment, seed: int, limits: Limits) -> Search:
    """One solution by greedy decoding, as a tree with a single rollout."""
    tree = Tree(prompt, seed)
    leaf = yield from complete(tree, tree.root, 0.0, limits)
    tree.backup(leaf, reward(leaf))
    return tree


def reward(leaf: Node) -> float:
    """Reward of a rollout that ended at `leaf`, in [-1, 1]."""
    if leaf.verdict is Verdict.CORRECT:
        return 1.0
    return 0.0 if leaf.verdict in (Verdict.TIMEOUT, Verdict.ERROR) else -1.0


def _rollout(tree: Tree, config: MctsConfig) -> Generator[Question, Any, Node | None]:
    """Go down from the root to a leaf; None where the way down met a node with nothing new below it."""
    node = tree.root
    while node.stop in (StopReason.STEP, StopReason.CODE):
        fresh = not node.expanded
        if fresh:
            yield from expand(tree, node, config.candidates, config.temperature, config.limits)
        child = _select(node, config.exploration)
        if child is None:
            if not valid_children(node):
                return node  # a dead end: no candidate runs
            tree.close(node)  # all that runs below it is known already: nothing to back up
            return None
        if fresh and config.rollout_style == "complete":
            return (yield from complete(tree, child, config.temperature, config.limits))
        node = child
    return node


def _select(node: Node, exploration: float) -> Node | None:
    """The open child of the highest UCB; of equals, the likelier step, then the older one."""
    return max(open_children(node), key=lambda c: (c.ucb(exploration), c.prior or 0.0, -c.id), default=None)
