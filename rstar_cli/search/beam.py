"""Step beam search and diverse verifier tree search (DVTS), guided by the PRM; without one, by likelihood.

The first step is drawn `rollouts` times, every later one `candidates` times below each step that is kept, and
`rollouts // candidates` steps are kept: as many draws a step as in Beeching et al. 2024, "Scaling test-time compute
with open models". A beam keeps the best steps wherever they stand; DVTS keeps the best one of each subtree, so that the
subtrees stay different. Every program that is closed on the way is a solution.
"""

from __future__ import annotations

from collections.abc import Iterable

from rstar_cli.records import StopReason
from rstar_cli.search.grow import complete, expand
from rstar_cli.search.mcts import Plan, Search, backup
from rstar_cli.search.tree import Node, Tree, aggregate, path, prm_values, valid_children
from rstar_cli.search.wave import together


def beam_search(tree: Tree, plan: Plan) -> Search:
    """Search one problem; every solution, and every step that nothing follows, is a rollout. Returns the tree."""
    width = max(1, plan.rollouts // plan.candidates)
    kept = [tree.root]
    while kept:
        draws = {tree.root: plan.rollouts}
        yield from together(expand(tree, node, draws.get(node, plan.candidates), plan.growth) for node in kept)
        for node in kept:
            if not valid_children(node):
                backup(tree, node, plan)
        closed = [c for node in kept for c in valid_children(node) if c.stop is not StopReason.STEP]
        for leaf in (yield from together(complete(tree, node, plan.growth) for node in closed)):
            backup(tree, leaf, plan)
        if plan.method == "dvts" and kept != [tree.root]:
            kept = [step for node in kept for step in _best([node], 1, plan)]
        else:
            kept = _best(kept, width, plan)
    return tree


def _best(nodes: Iterable[Node], width: int, plan: Plan) -> list[Node]:
    """The best steps that the solution can go on from, of all those below some nodes."""
    steps = [child for node in nodes for child in valid_children(node) if child.stop is StopReason.STEP]
    return sorted(steps, key=lambda step: (-_worth(step, plan), step.id))[:width]


def _worth(node: Node, plan: Plan) -> float:
    """What a partial solution is worth: by the PRM, else by its mean log-probability a token."""
    values = prm_values(node)
    if values:
        return aggregate(values, plan.aggregate)
    steps = path(node)
    return sum(step.prior or 0.0 for step in steps) / max(1, sum(step.tokens for step in steps))
