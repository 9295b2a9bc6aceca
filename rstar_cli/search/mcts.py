"""Monte Carlo Tree Search over executed steps (rStar-Math, arXiv 2501.04519, section 3.2).

One rollout: select down the tree by what is known of its steps, draw a new solution from there, run its steps, back the
reward of its leaf up. Terminal-guided: the reward is +1 for a right answer, -1 for a wrong one, for none, and for a
solution that can't go on; 0 where grading itself failed. Where gold may not be seen the reward of an answer is its PRM
value, or 0 without a PRM.

Rules of where a rollout goes, `Plan.method` (beam search and DVTS are in `beam.py`):

- `swor`: by the policy's own probabilities, never to what was sampled before (`trie.py`).
- `mcts`: PUCT chooses the node, sampling without replacement what is drawn below it.
- `uct`: the paper's. A node reached for the first time is expanded with `candidates` steps; UCB chooses among them.
- `puct`: the same with the policy's probability of a step in the place of "unvisited first".
- `best-of-n`: nowhere; each is an independent sample (greedy decoding is one at temperature 0).

`search` is a generator that yields questions and is sent the answers. It reads no clock, no file and no gold.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rstar_cli.records import StopReason, Verdict
from rstar_cli.search.grow import Growth, Leaf, MoreRequest, Question, complete, draw, expand
from rstar_cli.search.tree import Aggregation, Node, Tree, aggregate, open_children, prm_values, upward, valid_children
from rstar_cli.search.wave import Questions, together

Method = Literal["swor", "mcts", "uct", "puct", "beam", "dvts", "best-of-n"]
Search = Generator[Question | Questions, Any, Tree]


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of one search; see `config.SearchConfig` for each."""

    method: Method
    rollouts: int
    growth: Growth
    candidates: int = 8
    exploration: float = 2.0
    rollout_style: Literal["expand", "complete"] = "expand"
    rules: Literal["paper", "upstream"] = "paper"
    wave: int = 1
    enough: int = 0
    escalate: tuple[int, ...] = ()
    aggregate: Aggregation = "last"


def search(tree: Tree, plan: Plan) -> Search:
    """Search one problem; returns the tree.

    It ends after `plan.rollouts` rollouts, or before that where `plan.enough` right answers were found or nothing is
    left to explore. A problem that is not solved by then goes on to each of the numbers in `plan.escalate`, where
    `MoreRequest` is granted.
    """
    for limit in (plan.rollouts, *plan.escalate):
        if limit > plan.rollouts:
            seen_all = not tree.root.open and plan.method in ("swor", "mcts")
            if tree.right or seen_all or not (yield MoreRequest(len(tree.rollouts))):
                break
            _reopen(tree)
        while len(tree.rollouts) < limit and tree.root.open and not _is_enough(tree, plan):
            width = min(plan.wave, limit - len(tree.rollouts))
            if width == 1:  # nobody to share a batch with: no tuple, no virtual loss
                leaves = [(yield from _rollout(tree, plan))]
            else:
                leaves = yield from together(_rollouts(tree, plan, width))
            _land(tree.root)
            for leaf in leaves:
                if leaf is not None:
                    backup(tree, leaf, plan)
    return tree


def _reopen(tree: Tree) -> None:
    """Have candidates drawn anew below every step, with new seeds, where nothing is left of those that were drawn."""
    if not tree.root.open:
        for node in tree.nodes:
            if node.stop is StopReason.STEP:
                node.expanded = node.closed = False


def _is_enough(tree: Tree, plan: Plan) -> bool:
    return 0 < plan.enough <= tree.right


def backup(tree: Tree, leaf: Node, plan: Plan) -> None:
    """Count a rollout that ended at `leaf`, and close what is exhausted by it."""
    tree.backup(leaf, reward(leaf, plan.aggregate))
    if leaf.stop in (StopReason.ANSWER, StopReason.DEPTH) or (leaf.expanded and not open_children(leaf)):
        tree.close(leaf)


def reward(leaf: Node, how: Aggregation = "last") -> float:
    """Reward of a rollout that ended at `leaf`, in [-1, 1]."""
    if leaf.verdict is Verdict.CORRECT:
        return 1.0
    if leaf.stop is StopReason.ANSWER and leaf.verdict is None:
        values = prm_values(leaf)
        return aggregate(values, how) if values else 0.0
    return 0.0 if leaf.verdict in (Verdict.TIMEOUT, Verdict.ERROR) else -1.0


def _rollouts(tree: Tree, plan: Plan, width: int) -> Iterator[Leaf]:
    """Rollouts to have in flight at once, each begun before the next is made."""
    for _ in range(width):
        yield _rollout(tree, plan)
        if not tree.root.open:
            break


def _rollout(tree: Tree, plan: Plan) -> Leaf:
    """One rollout; its leaf, or None where it met nothing new."""
    if plan.method == "swor":
        return draw(tree, tree.root, plan.growth)
    if plan.method == "best-of-n":
        return complete(tree, tree.root, plan.growth)
    if plan.method == "mcts":
        return _draw_below_best(tree, plan)
    return _expand_and_go_on(tree, plan)


def _draw_below_best(tree: Tree, plan: Plan) -> Leaf:
    """Go down by PUCT to a node whose best continuation is a step that is not known yet, and draw from there."""
    node = tree.root
    while True:
        tried = math.sqrt(max(1, node.visits))
        place = node.place
        fresh = place.fresh if place is not None else 0.0
        best, value = None, -math.inf
        for child in open_children(node):
            score = child.puct(plan.exploration, share(child))
            if score > value:
                best, value = child, score
        if fresh > 0 and node.q + plan.exploration * fresh * tried >= value:
            _set_off(node, plan)
            return (yield from draw(tree, node, plan.growth, fresh=True))
        if best is None:
            return None
        node = best


def share(node: Node) -> float:
    """The policy's probability of the step below its parent, by the token trie."""
    found, place = 1.0, node.place
    while place is not None and place.parent is not None:
        found *= place.share
        place = place.parent
        if place.step is not None:
            break
    return found


def _expand_and_go_on(tree: Tree, plan: Plan) -> Leaf:
    """Go down by UCB, expand the node reached, and go on below it to a leaf."""
    node, marked = tree.root, None
    while node.stop in (StopReason.STEP, StopReason.CODE):
        fresh = not node.expanded
        if fresh:
            marked = _set_off(node, plan, marked)
            yield from expand(tree, node, plan.candidates, plan.growth)
        elif not node.children:
            return None  # another rollout in flight is expanding it
        child = _select(node, plan)
        if child is None and not fresh and node.in_flight:
            return None  # the same: what was there before is exhausted, what comes is not known yet
        if child is None:
            if not valid_children(node):
                return node  # a dead end: no candidate runs
            tree.close(node)  # all that runs below it is known already: nothing to back up
            return None
        if fresh and plan.rollout_style == "complete":
            return (yield from complete(tree, child, plan.growth))
        node = child
    return node


def _select(node: Node, plan: Plan) -> Node | None:
    """The open child of the highest score; of equals, the likelier step, then the older one."""
    children = open_children(node)
    if plan.method == "puct":
        weights = [math.exp(child.prior or 0.0) for child in children]
        total = sum(weights) or 1.0
        score = {c.id: c.puct(plan.exploration, w / total) for c, w in zip(children, weights, strict=True)}
    else:
        score = {c.id: c.ucb(plan.exploration) for c in children}
        if plan.rules == "upstream":
            return max(children, key=lambda c: (0.0 if score[c.id] == math.inf else score[c.id], -c.id), default=None)
    return max(children, key=lambda c: (score[c.id], c.prior or 0.0, -c.id), default=None)


def _land(root: Node) -> None:
    """Unmark every way down that a wave had in flight, and look at no node beside them."""
    marked = [root]
    while marked:
        node = marked.pop()
        if node.in_flight:
            node.in_flight = 0
            marked += node.children


def _set_off(node: Node, plan: Plan, marked: Node | None = None) -> Node:
    """Mark the way down to a node as in flight, for the rollouts that are begun beside this one.

    Args:
        node: where the rollout is.
        plan: settings; without waves nothing is marked.
        marked: how far this rollout marked its way before.

    Returns:
        The node: so far it is marked now.
    """
    if plan.wave > 1:
        for step in upward(node):
            if step is marked:
                break
            step.in_flight += 1
    return node
