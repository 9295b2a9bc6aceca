"""What a search came to in words, on trees made by hand."""

from __future__ import annotations

import pytest

from rstar_cli.records import StopReason, Tree, TreeNode, Verdict
from rstar_cli.report.outcome import below, doubted, rank_of_best, told, told_of_best, turns, went_wrong
from rstar_cli.report.tree import best_leaf

RIGHT, WRONG, TIMEOUT = Verdict.CORRECT, Verdict.INCORRECT, Verdict.TIMEOUT
Leaf = tuple[str, Verdict | None]


def tree(ways: dict[int, list[Leaf]], *, prm: dict[int, float] | None = None) -> Tree:
    """Steps 1, 2, ... below the problem, each with answers below it, numbered after them; and PRM values by node."""
    nodes = [TreeNode(id=0, visits=9), *(TreeNode(id=i, parent=0, depth=1, visits=1) for i in ways)]
    for parent, leaves in ways.items():
        for answer, verdict in leaves:
            fields = {"stop": StopReason.ANSWER, "answer": answer, "verdict": verdict}
            q = 1.0 if verdict is RIGHT else -1.0
            nodes.append(TreeNode(id=len(nodes), parent=parent, depth=2, visits=1, q=q, **fields))  # type: ignore[arg-type]
    valued = tuple(n.model_copy(update={"prm_score": (prm or {}).get(n.id)}) for n in nodes)
    names = ("tokens_generated", "tokens_prefilled", "seed")
    return Tree(problem_id="p", prompt="P", tokenizer="", rollouts=(), nodes=valued, **dict.fromkeys(names, 0))  # type: ignore[arg-type]


MIXED = tree({1: [("4", RIGHT), ("5", WRONG)], 2: [("6", WRONG)] * 4, 3: [("7", WRONG), ("8", TIMEOUT)]})
LOST = tree({1: [("5", WRONG)], 2: [("6", WRONG), ("6", WRONG)]}, prm={1: 0.9, 2: -0.4, 3: -0.2, 4: -0.9, 5: -0.95})


def test_solutions_below_a_step_are_counted() -> None:
    found = below(MIXED)
    assert [(b.right, b.wrong, b.other) for b in found[:4]] == [(1, 6, 1), (1, 1, 0), (0, 4, 0), (0, 1, 1)]
    assert turns(MIXED, found) == [2, 5], "not step 3, one solution below which has no verdict"
    assert turns(LOST, below(LOST)) == []


def test_where_a_solution_went_wrong() -> None:
    found = below(MIXED)
    words, step = went_wrong(MIXED, MIXED.nodes[6], found)
    assert step == 2
    assert "every finished solution below this step is wrong (4 of 4), while 1 of 8 below the problem is right" in words
    assert "hint" not in words
    words, step = went_wrong(MIXED, MIXED.nodes[5], found)
    assert (words, step) == ("It went wrong at its answer #5: others that went on from step #1 are right.", 5)
    words, step = went_wrong(MIXED, MIXED.nodes[10], found)
    assert "the tree can't tell" in words.lower()
    assert step is None
    assert went_wrong(MIXED, MIXED.nodes[4], found) == ("", None), "it is right"
    assert went_wrong(MIXED, MIXED.nodes[11], found) == ("", None), "it has no verdict"


def test_few_solutions_are_no_proof() -> None:
    few = tree({1: [("4", RIGHT)], 2: [("6", WRONG)]})
    assert "So few are a hint, no proof." in went_wrong(few, few.nodes[4], below(few))[0]


def test_where_nothing_is_right_the_prm_is_asked() -> None:
    words, step = went_wrong(LOST, LOST.nodes[3], below(LOST))
    assert "all 3 finished solutions are wrong, so no step stands out" in words
    assert "falls most at step #3, from 0.90 to −0.20" in words
    assert step == 3
    assert went_wrong(LOST, LOST.nodes[5], below(LOST))[1] == 5


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ([], "No rollout came to an answer."),
        ([("4", None)], "1 finished solution, not graded."),
        ([("4", RIGHT), ("5", WRONG)], "Solved: 1 of 2 finished solutions is right."),
        ([("5", WRONG), ("5", WRONG), ("6", WRONG)], "The right answer is 4. The commonest answer is 5 (2 times)."),
        ([(a, WRONG) for a in "55667"], "2 answers tie for the commonest, 2 times each: 5, 6."),
        ([(a, WRONG) for a in "567"], "All 3 answers differ."),
        ([("5", WRONG), ("6", TIMEOUT)], "1 of them could not be graded."),
    ],
)
def test_what_a_search_came_to(leaves: list[Leaf], words: str) -> None:
    assert words in told(tree({1: leaves}), "4")


def test_the_best_one_is_not_always_right() -> None:
    for made, words in (
        (MIXED, ""),
        (
            LOST,
            "No solution is right; this one has the highest PRM value (−0.20): the PRM trusts none of them. "
            "Its answer is 5, the right one is 4.",
        ),
        (tree({1: [("5", WRONG), ("6", WRONG)]}), "No solution is right; this one is the first of them"),
        (tree({1: [("5", None)]}), "Nothing was graded: whether this solution is right is not known."),
    ):
        best = best_leaf(made)
        assert best is not None
        told_words = told_of_best(made, best, "4")
        assert told_words.startswith(words)
        assert bool(told_words) == bool(words)


def test_what_makes_it_the_best_one() -> None:
    assert rank_of_best(LOST, LOST.nodes[3]) == "has the highest PRM value (−0.20): the PRM trusts none of them"
    trusted = tree({1: [("5", WRONG), ("6", WRONG)]}, prm={2: 0.3, 3: -0.4})
    assert rank_of_best(trusted, trusted.nodes[2]) == "has the highest PRM value (0.30)"
    plain = tree({1: [("5", WRONG), ("6", WRONG)]})
    assert rank_of_best(plain, plain.nodes[2]) == "is the first of them, which all have Q −1.00"


def test_steps_that_the_prm_holds_for_right_though_all_below_is_wrong() -> None:
    assert doubted(LOST, below(LOST)) == "The PRM holds #1 (0.90) for right, and every solution below it is wrong (1)."
    values = {1: 0.2, 2: 0.8, 3: 0.4, 4: 0.6, 5: -0.1, 6: 0.9, 7: 0.7}
    many = tree({i: [("6", WRONG)] for i in range(1, 6)}, prm=values)
    words = (
        "The PRM holds #2 (0.80), #4 (0.60), #3 (0.40) and 1 more for right, and every solution below them is wrong."
    )
    assert doubted(many, below(many)) == words, "the answer #6 hangs on step #1, #7 on #2"
    assert doubted(MIXED, below(MIXED)) == ""
    sound = tree({1: [("4", RIGHT)]}, prm={1: 0.9})
    assert doubted(sound, below(sound)) == ""
