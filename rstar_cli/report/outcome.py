"""What a search came to, in words: whether it found a right solution, and where its wrong ones first went wrong.

A tree can tell where a solution went wrong only where others did better: at the first step below which every finished
solution is wrong, while the step before it has a right one below it. That is evidence, no proof: few solutions may
all be wrong below a sound step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from rstar_cli.records import StopReason, Tree, TreeNode, Verdict

WRONG = (Verdict.INCORRECT, Verdict.NO_ANSWER)
FEW = 3
"""Wrong solutions below a step up to which the words say that they are few."""
TIES = 4
"""Answers that tie which are named."""
DOUBTS = 3
"""Steps named that the PRM holds for right although all below them is wrong."""
FALL = 0.5
"""Of the PRM's value from one step to the next, in [0, 2], that is worth a word."""


@dataclass(slots=True)
class Below:
    """Finished solutions at or below a node: right, wrong, and those without a verdict (ungraded, error, timeout)."""

    right: int = 0
    wrong: int = 0
    other: int = 0

    @property
    def all_wrong(self) -> bool:
        """There are some, and each is known to be wrong."""
        return self.wrong > 0 and not self.right and not self.other


def finished(tree: Tree) -> list[TreeNode]:
    """The answers that rollouts came to."""
    return [node for node in tree.nodes if node.stop is StopReason.ANSWER and node.visits]


def below(tree: Tree) -> list[Below]:
    """Of every node, the finished solutions at or below it."""
    found = [Below() for _ in tree.nodes]
    for node in finished(tree):
        counts = found[node.id]
        counts.right += node.verdict is Verdict.CORRECT
        counts.wrong += node.verdict in WRONG
        counts.other += node.verdict is not Verdict.CORRECT and node.verdict not in WRONG
    for node in reversed(tree.nodes):  # a parent stands before its children
        if node.parent is not None:
            above, own = found[node.parent], found[node.id]
            above.right, above.wrong, above.other = (
                above.right + own.right,
                above.wrong + own.wrong,
                above.other + own.other,
            )
    return found


def turns(tree: Tree, found: list[Below]) -> list[int]:
    """The steps where solutions first went wrong: all below them are wrong, some below the step before are right."""
    return [
        node.id
        for node in tree.nodes
        if node.parent is not None and found[node.id].all_wrong and found[node.parent].right
    ]


def told(tree: Tree, gold: str) -> str:
    """What the search came to, in a sentence or two; `gold`: the right answer, empty where it is not known."""
    answers = finished(tree)
    if not answers:
        return "No rollout came to an answer."
    right = sum(node.verdict is Verdict.CORRECT for node in answers)
    if all(node.verdict is None for node in answers):
        return f"{_many(len(answers), 'finished solution')}, not graded."
    if right:
        return f"Solved: {right} of {_many(len(answers), 'finished solution')} {'is' if right == 1 else 'are'} right."
    ungraded = sum(node.verdict not in WRONG for node in answers)
    parts = [f"Not solved: none of {_many(len(answers), 'finished solution')} is right."]
    if ungraded:
        parts.append(f"{ungraded} of them could not be graded.")
    return " ".join([*parts, *([f"The right answer is {gold}."] if gold else []), _commonest(answers)])


def _commonest(answers: list[TreeNode]) -> str:
    counts = Counter(node.answer if node.answer is not None else "none" for node in answers)
    most = max(counts.values())
    tied = [answer for answer, times in counts.items() if times == most]
    if len(tied) == 1:
        return f"The commonest answer is {tied[0]} ({_many(most, 'time')})."
    if most == 1:
        return f"All {len(tied)} answers differ."
    named = ", ".join(tied[:TIES]) + (", …" if len(tied) > TIES else "")
    return f"{len(tied)} answers tie for the commonest, {most} times each: {named}."


def told_of_best(tree: Tree, best: TreeNode, gold: str) -> str:
    """What there is to know of the solution that is shown as the best one, where it is not right; else empty."""
    if best.verdict is Verdict.CORRECT:
        return ""
    answers = finished(tree)
    if all(node.verdict is None for node in answers):
        return "Nothing was graded: whether this solution is right is not known."
    right = f", the right one is {gold}" if gold else ""
    answer = best.answer if best.answer is not None else "none"
    return f"No solution is right; this one {rank_of_best(tree, best)}. Its answer is {answer}{right}."


def rank_of_best(tree: Tree, best: TreeNode) -> str:
    """What makes a solution the best one where none is right; words that follow its name."""
    answers = finished(tree)
    if best.prm_score is not None:
        trust = ": the PRM trusts none of them" if best.prm_score < 0 and len(answers) > 1 else ""
        return f"has the highest PRM value ({_two(best.prm_score)}){trust}"
    if len(answers) > 1 and all(node.q == best.q for node in answers):
        return f"is the first of them, which all have Q {_two(best.q)}"
    return f"has the highest Q ({_two(best.q)})"


def doubted(tree: Tree, found: list[Below]) -> str:
    """In words, where the PRM seems to err: steps that it holds for right, below which every solution is wrong.

    Of steps below one another the first stands for all; the surest ones are named. Empty where there is none.
    """
    held = {n.id for n in tree.nodes if found[n.id].all_wrong and n.prm_score is not None and n.prm_score > 0}
    first = [n for n in tree.nodes if n.id in held and n.parent not in held and n.stop is not StopReason.ANSWER]
    first.sort(key=lambda n: -(n.prm_score or 0.0))
    named = ", ".join(f"#{n.id} ({_two(n.prm_score or 0.0)})" for n in first[:DOUBTS])
    if not first:
        return ""
    if len(first) == 1:
        return f"The PRM holds {named} for right, and every solution below it is wrong ({found[first[0].id].wrong})."
    more = f" and {len(first) - DOUBTS} more" if len(first) > DOUBTS else ""
    return f"The PRM holds {named}{more} for right, and every solution below them is wrong."


def went_wrong(tree: Tree, leaf: TreeNode, found: list[Below]) -> tuple[str, int | None]:
    """Where a wrong solution went wrong, as far as the tree can tell.

    Returns:
        Words, empty for a solution that is right or has no verdict, and the step they speak of, if any.
    """
    if leaf.verdict not in WRONG:
        return "", None
    way = [leaf]
    while (parent := way[-1].parent) is not None:
        way.append(tree.nodes[parent])
    way.reverse()
    for above, node in pairwise(way):
        if found[node.id].all_wrong and found[above.id].right:
            return _turn(above, node, found), node.id
        if not found[node.id].right:
            break
    if found[0].right or found[0].other:
        return "The tree can't tell where it went wrong: solutions below its steps have no verdict.", None
    wrong = found[0].wrong
    alone = (
        f"all {wrong} finished solutions are wrong, so no step stands out"
        if wrong > 1
        else "there is no other solution"
    )
    words = f"The tree can't tell where it went wrong: {alone}."
    fell = _fall(way)
    if fell is None:
        return words, None
    before, node = fell
    fall = f"from {_two(before)} to {_two(node.prm_score or 0.0)}"
    return f"{words} The PRM's value falls most at step #{node.id}, {fall}: a hint, for a PRM can err.", node.id


def _turn(above: TreeNode, node: TreeNode, found: list[Below]) -> str:
    own, others = found[node.id], found[above.id]
    if node.stop is StopReason.ANSWER:
        return f"It went wrong at its answer #{node.id}: others that went on from step #{above.id} are right."
    place = "the problem" if above.id == 0 else f"the step before it (#{above.id})"
    total = others.right + others.wrong + others.other
    few = " So few are a hint, no proof." if own.wrong <= FEW else ""
    right = f"{others.right} of {total} below {place} {'is' if others.right == 1 else 'are'} right"
    return (
        f"It first went wrong at step #{node.id}: every finished solution below this step is wrong ({own.wrong} of "
        f"{own.wrong}), while {right}.{few}"
    )


def _fall(way: list[TreeNode]) -> tuple[float, TreeNode] | None:
    """The largest fall of the PRM's value along a solution: the value before it, and the step; None: no large one."""
    steps = [(a.prm_score, b) for a, b in pairwise(way) if a.prm_score is not None and b.prm_score is not None]
    falls = [(before - (node.prm_score or 0.0), before, node) for before, node in steps]
    fall, before, node = max(falls, key=lambda f: (f[0], -f[2].id), default=(0.0, 0.0, way[0]))
    return (before, node) if fall >= FALL else None


def _two(value: float) -> str:
    """A figure in a sentence, with the minus sign that the page's columns have."""
    return f"{value:z.2f}".replace("-", "−")


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
