"""One search tree to look at: as plain data, in the terminal, and as a page that opens from the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.syntax import Syntax
from rich.text import Text
from rich.tree import Tree as Branches

from rstar_cli.prompts import parse_step
from rstar_cli.records import ExecutionStatus, Problem, StopReason, Tree, TreeNode, Verdict
from rstar_cli.report.outcome import below, doubted, finished, rank_of_best, told, told_of_best, turns, went_wrong
from rstar_cli.report.page import as_json, assemble

_MARKS = {
    StopReason.STEP: "",
    StopReason.CODE: "program closed",
    StopReason.FAILED: "failed",
    StopReason.MALFORMED: "no step",
    StopReason.DUPLICATE: "duplicate",
    StopReason.DEPTH: "depth limit",
}
VALID = (StopReason.STEP, StopReason.CODE, StopReason.ANSWER, StopReason.DEPTH)
"""Steps that ran, and answers; other candidates were dropped."""
UNNAMED = "not named"
"""What is told of the PRM of steps that have values while nothing tells of a PRM, such as those of upstream's trees."""
STEERED = ("uct", "puct", "mcts")
"""Methods whose choice of a step the PRM's value has a part in; the others draw by the policy alone."""
_STYLES = {Verdict.CORRECT: "bold green", Verdict.INCORRECT: "bold red", Verdict.NO_ANSWER: "bold red"}


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown: a tree, its problem where that is known, and how it was searched.

    Attributes:
        tree: the search.
        problem: its statement and gold answer; None: not known.
        settings: of the search, as a manifest holds them; empty: not known.
        name: where it comes from, such as `round 2`.
        prm: the PRM that was asked for the steps' values after the search; empty: none was.
        verified: verdicts on solutions that were run again from scratch, by leaf; empty: none was.
    """

    tree: Tree
    problem: Problem | None
    settings: Mapping[str, Any]
    name: str
    prm: str = ""
    verified: Mapping[int, str] = field(default_factory=dict)


def best_leaf(tree: Tree) -> TreeNode | None:
    """The answer of the best solution: a right one, then by highest PRM value, then Q, then age; None: no answer."""
    return max(
        finished(tree),
        key=lambda n: (n.verdict is Verdict.CORRECT, n.prm_score if n.prm_score is not None else -2.0, n.q, -n.id),
        default=None,
    )


def way_to(tree: Tree, node: TreeNode) -> list[TreeNode]:
    """The steps from the first one down to a node."""
    steps: list[TreeNode] = []
    while node.parent is not None:
        steps.append(node)
        node = tree.nodes[node.parent]
    return steps[::-1]


def code_of(tree: Tree, node: TreeNode) -> str:
    """The Python of a step, as it was run; empty for answers and for what is no step."""
    after_code = node.parent is not None and tree.nodes[node.parent].stop is StopReason.CODE
    return parse_step(node.text, after_code=after_code).code


def tree_page(shown: Shown) -> str:
    """The page of a tree: one HTML file that needs nothing else."""
    return assemble("tree", DATA=as_json(page_data(shown)))


def page_data(shown: Shown) -> dict[str, Any]:
    """What the page holds: facts to show, nodes by id, rollouts in order, the best solution's leaf.

    `prm`: steps have values by a PRM; `asked`: after the search; `guided`: a PRM's values are part of the search's own
    arithmetic. `told`: what the search came to; `rank`: what makes the best solution the best one; `turns`: steps where
    solutions first went wrong, each with its wrong solutions; `why`: of each wrong solution, by leaf, where it went
    wrong in words, and the step that they speak of; `doubted`: where the PRM seems to err.
    """
    tree, problem = shown.tree, shown.problem
    best, gold, found = best_leaf(tree), _gold(shown), below(tree)
    return {
        "title": f"{tree.problem_id}, {shown.name}",
        "problem": problem.problem if problem is not None else tree.prompt,
        "facts": [[name, value] for name, value in _facts(shown).items()],
        "method": shown.settings.get("method", ""),
        "gold": gold,
        "told": told(tree, gold),
        "told_of_best": told_of_best(tree, best, gold) if best is not None else "",
        "rank": rank_of_best(tree, best) if best is not None else "",
        "doubted": doubted(tree, found),
        "turns": {str(node): found[node].wrong for node in turns(tree, found)},
        "why": {str(leaf.id): why for leaf in finished(tree) if (why := went_wrong(tree, leaf, found))[0]},
        "prm": _valued(tree),
        "asked": bool(shown.prm),
        "guided": _steering(shown),
        "rules": shown.settings.get("rules", ""),
        "exploration": shown.settings.get("exploration", 0.0),
        "best": best.id if best is not None else None,
        "verified": {str(leaf): verdict for leaf, verdict in shown.verified.items()},
        "nodes": [_page_node(tree, node) for node in tree.nodes],
        "rollouts": [rollout.model_dump() for rollout in tree.rollouts],
    }


def _valued(tree: Tree) -> bool:
    return any(node.prm_score is not None for node in tree.nodes)


def _searched_with(shown: Shown) -> str:
    """The PRM that valued steps while the search went on; empty: none did."""
    named = str(shown.settings.get("prm", "none"))
    if named == "none":
        return UNNAMED if _valued(shown.tree) and not shown.prm else ""
    return named


def _steering(shown: Shown) -> bool:
    """Whether a PRM's values are part of what the search chose by."""
    return bool(_searched_with(shown)) and shown.settings.get("method", STEERED[0]) in STEERED


def _prm_told(shown: Shown) -> str:
    """Which PRMs there were, and the part of each; empty: none."""
    during = _searched_with(shown)
    if during == UNNAMED:  # a search that was not made here: nothing tells what the PRM did in it
        return during
    part = "which steered the search" if _steering(shown) else "asked in the search, which it didn't steer"
    parts = [f"{shown.prm}, asked after the search"] if shown.prm else []
    return "; ".join([*parts, *([f"{during}, {part}"] if during else [])])


def _gold(shown: Shown) -> str:
    return shown.problem.answer if shown.problem is not None else ""


def _page_node(tree: Tree, node: TreeNode) -> dict[str, Any]:
    ran = node.execution
    told = {
        "parent": node.parent,
        "depth": node.depth,
        "text": "",
        "code": code_of(tree, node),
        "stop": node.stop.value,
        "visits": node.visits,
        "q": round(node.q, 4),
        "prior": node.prior,
        "prm_score": node.prm_score,
        "answer": node.answer,
        "verdict": node.verdict.value if node.verdict is not None else None,
    }
    if not told["code"]:
        told["text"] = node.text
    if ran is not None and (ran.stdout or ran.error or ran.status is not ExecutionStatus.OK):
        told |= {"stdout": ran.stdout, "error": ran.error, "status": ran.status.value}
    return told


def _facts(shown: Shown) -> dict[str, str]:
    """What there is to say of a search in a line."""
    tree = shown.tree
    answers = finished(tree)
    right = sum(n.verdict is Verdict.CORRECT for n in answers)
    dropped = sum(n.stop not in VALID for n in tree.nodes)
    lost = sum(tree.nodes[rollout.leaf].stop is not StopReason.ANSWER for rollout in tree.rollouts)
    facts = {"gold answer": shown.problem.answer} if shown.problem is not None and shown.problem.answer else {}
    facts |= {"method": str(shown.settings["method"])} if "method" in shown.settings else {}
    facts |= {"PRM": prm} if (prm := _prm_told(shown)) else {}
    return facts | {
        "rollouts": f"{len(tree.rollouts):,}" + (f", {lost:,} of them came to no answer" if lost else ""),
        "solutions": f"{len(answers):,}, {right:,} of them right",
        "candidates": f"{len(tree.nodes) - 1:,}, {dropped:,} of them dropped",
        "tokens generated": f"{tree.tokens_generated:,}",
    }


def tree_text(shown: Shown, depth: int | None = None) -> Group:
    """The tree for a terminal: a line a step, dropped candidates counted.

    Args:
        shown: what to show.
        depth: steps below the problem that are shown; None: all.
    """
    tree, found = shown.tree, below(shown.tree)
    wrong = {node: found[node].wrong for node in turns(tree, found)}
    children: dict[int, list[TreeNode]] = {}
    for node in tree.nodes:
        if node.parent is not None:
            children.setdefault(node.parent, []).append(node)
    root = Branches(Text(f"{tree.problem_id}", style="bold"), guide_style="dim")
    branches = {0: root}
    for node in tree.nodes:  # a parent stands before its children
        branch = branches.get(node.id)
        if branch is None or (depth is not None and node.depth >= depth):
            continue
        inner = sorted(children.get(node.id, []), key=lambda n: (-n.visits, n.id))
        for child in inner:
            if child.stop in VALID:
                branches[child.id] = branch.add(_line(tree, child, wrong=wrong.get(child.id, 0)))
        if dropped := [child.stop for child in inner if child.stop not in VALID]:
            counts = ", ".join(f"{dropped.count(stop)} {_MARKS[stop]}" for stop in dict.fromkeys(dropped))
            branch.add(Text(f"dropped: {counts}", style="dim"))
    return Group(_head(shown), root)


def best_text(shown: Shown) -> Group:
    """The best solution for a terminal: each step's figures, code and output, then the answer."""
    tree, leaf = shown.tree, best_leaf(shown.tree)
    if leaf is None:
        return Group(_head(shown))
    parts: list[Any] = [_head(shown)]
    words = (told_of_best(tree, leaf, _gold(shown)), went_wrong(tree, leaf, below(tree))[0])
    parts += [Text(text, style="yellow") for text in words if text]
    for node in way_to(tree, leaf):
        parts.append(_line(tree, node, code=False))
        if code := code_of(tree, node):
            parts.append(Syntax(code, "python", background_color="default", word_wrap=True))
        if node.execution is not None and node.execution.stdout:
            parts.append(Text(node.execution.stdout.rstrip("\n"), style="cyan"))
    if verdict := shown.verified.get(leaf.id):
        style = _STYLES.get(Verdict(verdict), "yellow")
        parts.append(Text(f"run again from scratch by verify: {verdict.replace('_', ' ')}", style=style))
    return Group(*parts)


def _head(shown: Shown) -> Text:
    statement = shown.problem.problem if shown.problem is not None else shown.tree.prompt
    facts = ", ".join(f"{name} {value}" for name, value in _facts(shown).items())
    outcome = told(shown.tree, _gold(shown))
    style = "green" if outcome.startswith("Solved") else "yellow"
    return Text.assemble(statement, "\n", (f"{shown.name}: {facts}", "dim"), "\n", (outcome, style))


def _line(tree: Tree, node: TreeNode, *, code: bool = True, wrong: int = 0) -> Text:
    """A step in a line: its number, N, Q, prior, PRM value, then its verdict or, where asked for, its code.

    `wrong`: where solutions first went wrong with this step, how many are wrong below it: all that there are.
    """
    line = Text(f"#{node.id} ", style="dim")
    line.append(f"N {node.visits} ", style="bold" if node.visits else "dim")
    if node.visits:
        line.append(f"Q {node.q:+z.2f} ", style="green" if node.q > 0 else "red" if node.q < 0 else "")
    if node.prior is not None:
        line.append(f"logP {node.prior:z.2f} ", style="dim")
    if node.prm_score is not None:
        line.append(f"PRM {node.prm_score:+z.2f} ", style="blue")
    if node.stop is StopReason.ANSWER:
        verdict = node.verdict
        line.append(f"answer {node.answer} ", style="bold")
        line.append(verdict.value.replace("_", " ") if verdict else "", style=_STYLES.get(verdict, "yellow"))  # type: ignore[arg-type]
        return line
    if wrong:
        line.append(f"wrong from here ({wrong} of {wrong}) ", style="red")
    line.append(f"{_MARKS[node.stop]} ", style="yellow")
    if code:
        line.append("  ".join(part.strip() for part in code_of(tree, node).splitlines() if part.strip()))
        line.no_wrap, line.overflow = True, "ellipsis"
    return line
