"""Monte Carlo Tree Search over executed steps (rStar-Math, arXiv 2501.04519, section 3.2).

One rollout: select down the tree by UCB, expand the node reached with candidate steps (those whose code fails are
dropped), go on to a leaf, back the leaf's reward up. Terminal-guided: the reward is +1 for a right answer, -1 for a
wrong one, for none, and for a solution that can't go on; 0 where grading itself failed. Where gold may not be seen the
reward of an answer is its PRM value, or 0 without a PRM.

`search` is a generator that yields questions and is sent the answers. It reads no clock, no file and no gold.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

from rstar_cli.protocols import Segment
from rstar_cli.records import StopReason, Verdict
from rstar_cli.search.grow import Growth, Question, complete, expand
from rstar_cli.search.tree import Node, Tree, open_children, valid_children


@dataclass(frozen=True, slots=True)
class MctsConfig:
    """Settings of one search; see `config.GenerateConfig` for each."""

    rollouts: int
    candidates: int
    exploration: float
    rollout_style: Literal["expand", "complete"]
    growth: Growth


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


def single(prompt: Segment, seed: int, growth: Growth) -> Search:
    """One solution without search (greedy at temperature 0), as a tree with a single rollout."""
    tree = Tree(prompt, seed)
    leaf = yield from complete(tree, tree.root, growth)
    tree.backup(leaf, reward(leaf))
    return tree


def reward(leaf: Node) -> float:
    """Reward of a rollout that ended at `leaf`, in [-1, 1]."""
    if leaf.verdict is Verdict.CORRECT:
        return 1.0
    if leaf.stop is StopReason.ANSWER and leaf.verdict is None:
        return leaf.prm_score or 0.0
    return 0.0 if leaf.verdict in (Verdict.TIMEOUT, Verdict.ERROR) else -1.0


def _rollout(tree: Tree, config: MctsConfig) -> Generator[Question, Any, Node | None]:
    """Go down from the root to a leaf; None where the way down met a node with nothing new below it."""
    node = tree.root
    while node.stop in (StopReason.STEP, StopReason.CODE):
        fresh = not node.expanded
        if fresh:
            yield from expand(tree, node, config.candidates, config.growth)
        child = _select(node, config.exploration)
        if child is None:
            if not valid_children(node):
                return node  # a dead end: no candidate runs
            tree.close(node)  # all that runs below it is known already: nothing to back up
            return None
        if fresh and config.rollout_style == "complete":
            return (yield from complete(tree, child, config.growth))
        node = child
    return node


def _select(node: Node, exploration: float) -> Node | None:
    """The open child of the highest UCB; of equals, the likelier step, then the older one."""
    return max(open_children(node), key=lambda c: (c.ucb(exploration), c.prior or 0.0, -c.id), default=None)
