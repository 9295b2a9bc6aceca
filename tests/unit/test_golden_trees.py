"""Whole searches against stored trees, one file a method, with the scripted engine.

A change in a search shows here as a change in a tree. If it is meant, store the new trees with RSTAR_STORE_GOLDEN=1.
"""

from __future__ import annotations

import os

import pytest

from rstar_cli.config import GenerateConfig
from rstar_cli.engines.scripted import ScriptedPolicy
from rstar_cli.grader import Grader
from rstar_cli.recipe import Recipe
from rstar_cli.search.tree import Node, Tree
from rstar_cli.stages.tools import Tools, plan_of
from tests.helpers import GROWTH, ROOT, LineExecutor, scripted_trees

SEARCHES: dict[str, dict[str, object]] = {
    "swor": {"method": "swor"},
    "swor-wave": {"method": "swor", "wave": 4},
    "swor-escalate": {"method": "swor", "rollouts": 2, "enough": 2, "escalate": (4, 12)},
    "mcts": {"method": "mcts"},
    "mcts-wave": {"method": "mcts", "wave": 3},
    "mcts-prm": {"method": "mcts", "scored": True},
    "uct-complete": {"method": "uct", "rollout_style": "complete"},
    "uct-wave": {"method": "uct", "rollout_style": "expand", "wave": 3},
    "puct": {"method": "puct", "rollout_style": "expand"},
    "best-of-n": {"method": "best-of-n"},
    "beam": {"method": "beam", "scored": True, "aggregate": "product"},
    "dvts": {"method": "dvts", "scored": True, "aggregate": "min"},
}


def drawn(tree: Tree) -> str:
    """A tree as text: a line a node, below its parent."""

    def lines(node: Node) -> list[str]:
        text = node.segment.text.strip().partition("\n")[0] if node.segment is not None else "root"
        told = [f"N={node.visits}", f"Q={node.q:+.2f}", node.stop.value]
        told += [f"prm={node.prm_score:+.2f}"] if node.prm_score is not None else []
        told += [node.verdict.value] if node.verdict is not None else []
        own = f"{'  ' * node.depth}{node.id} {' '.join(told)} {text}"
        return [own, *(line for child in node.children for line in lines(child))]

    backed_up = ", ".join(f"{leaf.id}: {reward:+.2f}" for leaf, reward in tree.rollouts)
    return "\n".join([*lines(tree.root), f"rollouts {backed_up}", f"{tree.tokens_generated} tokens", ""])


@pytest.mark.parametrize("name", [*SEARCHES, "preset-paper", "preset-upstream"])
def test_trees_are_the_stored_ones(name: str) -> None:
    if name.startswith("preset-"):
        preset = {"preset": name.removeprefix("preset-"), "rollouts": 6, "max_depth": 8}
        tools = Tools(ScriptedPolicy({}), LineExecutor(), Grader())
        plan = plan_of(Recipe("", "none").stage(GenerateConfig, "generate", 1, preset), tools)
        settings = {key: getattr(plan, key) for key in type(plan).__slots__} | {"growth": GROWTH}
    else:
        settings = {"rollouts": 6, "candidates": 3, **SEARCHES[name]}
    trees, _ = scripted_trees(3, seed=4, **settings)  # type: ignore[arg-type]
    got = "\n".join(drawn(tree) for _, tree in sorted(trees.items()))
    path = ROOT / "tests" / "golden" / f"{name}.txt"
    if os.environ.get("RSTAR_STORE_GOLDEN"):
        path.write_text(got)
    assert got == path.read_text()
