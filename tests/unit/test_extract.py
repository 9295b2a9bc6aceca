"""From a tree to training rows, on a tree made by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from rstar_cli.extract import (
    PairRule,
    choose,
    merge_rounds,
    pair_rows,
    sft_rows,
    solution,
    step_label_rows,
    trajectories,
)
from rstar_cli.protocols import ExecutionResult, Grade
from rstar_cli.records import (
    Choice,
    Execution,
    ExecutionStatus,
    PairRow,
    Rollout,
    RowSegment,
    SolutionRow,
    StopReason,
    Tree,
    TreeNode,
    Verdict,
)

OK = Execution(status=ExecutionStatus.OK)


def node(i: int, parent: int, text: str, q: float, stop: StopReason = StopReason.STEP, **more: object) -> TreeNode:
    fields = {"visits": 1, "execution": OK, **more}
    return TreeNode(id=i, parent=parent, depth=1, text=text, q=q, stop=stop, **fields)  # type: ignore[arg-type]


def finish(i: int, parent: int, answer: str, q: float) -> list[TreeNode]:
    ran = Execution(status=ExecutionStatus.OK, stdout=f"{answer}\n")
    text = f"<answer>\\boxed{{{answer}}}<end_of_answer>"
    return [
        node(i, parent, f"\nprint({answer})<end_of_code>", q, StopReason.CODE, execution=ran),
        node(i + 1, i, text, q, StopReason.ANSWER, answer=answer, execution=None),
    ]


TREE = Tree(
    problem_id="p",
    prompt="P<code>",
    seed=1,
    tokenizer="t",
    tokens_generated=0,
    tokens_prefilled=0,
    rollouts=(Rollout(leaf=5, reward=1.0),),
    nodes=(
        TreeNode(id=0, visits=4),
        node(1, 0, "\n# good\na = 1<end_of_step>", 0.8),
        node(2, 0, "\n# bad\na = 2<end_of_step>", -1.0),
        node(3, 0, "\n# failed<end_of_step>", 0.0, StopReason.FAILED, visits=0),
        *finish(4, 1, "42", 1.0),
        *finish(6, 2, "41", -1.0),
        *finish(8, 1, "42.0", 0.5),
        node(10, 0, "\n# other words\na = 1<end_of_step>", 0.6),
        *finish(11, 10, "42", 0.9),
    ),
)
VERDICTS = {5: Verdict.CORRECT, 7: Verdict.INCORRECT, 9: Verdict.CORRECT, 12: Verdict.CORRECT}


def rows() -> list[SolutionRow]:
    return [
        solution(TREE, t, ExecutionResult(ExecutionStatus.OK, t.output), Grade(VERDICTS[t.nodes[-1].id], "string"))
        for t in trajectories(TREE)
    ]


def test_every_finished_trajectory_once() -> None:
    found = trajectories(TREE)
    assert [t.nodes[-1].id for t in found] == [5, 7, 9, 12]
    assert found[0].program == "# good\na = 1\nprint(42)\n"
    assert found[0].output == "42\n"


def test_a_program_that_does_not_repeat_is_no_solution() -> None:
    found = trajectories(TREE)[0]
    right = Grade(Verdict.CORRECT, "string")
    for rerun in (
        ExecutionResult(ExecutionStatus.OK, "43\n"),
        ExecutionResult(ExecutionStatus.TIMEOUT),
        ExecutionResult(ExecutionStatus.ERROR, "42\n"),
    ):
        row = solution(TREE, found, rerun, right)
        assert (row.verdict, row.decided_by) == (Verdict.ERROR, "execution")
    row = solution(TREE, found, ExecutionResult(ExecutionStatus.OK, "42\n"), right)
    assert row.verdict is Verdict.CORRECT
    assert row.mean_q == (0.8 + 1 + 1) / 3


def test_best_right_trajectories_train_the_policy() -> None:
    kept = sft_rows(TREE, choose(TREE, rows(), 2))
    assert [row.completion.count("42.0") for row in kept] == [0, 3], "by mean Q; a copy in other words is no second one"
    assert kept[0].steps[-2].output
    assert kept[0].steps[-2].text == "\n<output>42<end_of_output>\n"
    assert len(sft_rows(TREE, choose(TREE, rows(), 1))) == 1
    assert sft_rows(TREE, [row for row in choose(TREE, rows(), 2) if row.verdict is not Verdict.CORRECT]) == []


def test_a_reason_stands_with_every_trajectory() -> None:
    chosen = choose(TREE, rows(), 2)
    assert [row.choice for row in chosen] == [Choice.KEPT, Choice.NOT_RIGHT, Choice.KEPT, Choice.DUPLICATE]
    assert [row.choice for row in choose(TREE, rows(), 1)] == [
        Choice.KEPT,
        Choice.NOT_RIGHT,
        Choice.SURPLUS,
        Choice.DUPLICATE,
    ]


def test_a_program_in_other_names_is_a_duplicate() -> None:
    renamed = TREE.nodes[10].model_copy(update={"text": "\nb  =  1<end_of_step>"})
    other = TREE.nodes[10].model_copy(update={"text": "\na = 3<end_of_step>"})
    for node, choice in ((renamed, Choice.DUPLICATE), (other, Choice.KEPT)):
        tree = TREE.model_copy(update={"nodes": (*TREE.nodes[:10], node, *TREE.nodes[11:])})
        assert choose(tree, rows(), 2)[-1].choice is choice


def test_rounds_that_searched_the_same_problem_give_it_no_more_rows() -> None:
    first = sft_rows(TREE, choose(TREE, rows(), 2))
    other = first[0].model_copy(
        update={"steps": (RowSegment(text="\nc = 9<end_of_step>"), *first[0].steps[1:]), "completion": "other"}
    )
    assert merge_rounds([first], 2) == (first, Counter())
    merged, left_out = merge_rounds([first, [other, first[1]]], 2)
    assert merged == [other, first[1]], "the later round's come first"
    assert left_out == {Choice.SURPLUS: 1, Choice.DUPLICATE: 1}
    assert merge_rounds([first, [other]], 0) == ([*first, other], Counter())
    elsewhere = [row.model_copy(update={"problem_id": "q"}) for row in first]
    assert merge_rounds([first, elsewhere], 2) == ([*first, *elsewhere], Counter())


def test_equal_q_is_settled_by_the_prm() -> None:
    found = [row for row in rows() if row.verdict is Verdict.CORRECT]
    same = [row.model_copy(update={"mean_q": 0.5, "min_q": 0.5, "min_prm": i / 10}) for i, row in enumerate(found)]
    best = max(choose(TREE, same, 1), key=lambda row: row.choice is Choice.KEPT)
    assert best.min_prm == 0.2


def test_rules_of_pairs() -> None:
    def steps(rule: PairRule, q: float) -> list[PairRow]:
        good = TREE.nodes[1].model_copy(update={"q": q})
        tree = TREE.model_copy(update={"nodes": (TREE.nodes[0], good, *TREE.nodes[2:10])})
        return pair_rows(tree, rows()[:3], rule)

    assert {p.kind for p in steps("paper", -0.9)} == {"step", "solution"}
    assert {p.kind for p in steps("margin", -0.9)} == {"solution"}
    assert {p.kind for p in steps("margin", 0.8)} == {"step", "solution"}
    assert steps("upstream", 0.8) == [], "the two steps are nearly the same text"
    far = TREE.nodes[2].model_copy(update={"text": "\n# something else entirely\na = 2<end_of_step>"})
    tree = TREE.model_copy(update={"nodes": (*TREE.nodes[:2], far, *TREE.nodes[3:])})
    assert {p.kind for p in pair_rows(tree, rows(), "upstream")} == {"step"}


def with_priors(**chances: float) -> Tree:
    """The tree with a probability for each answer node's whole path, on its program's closing step."""
    priors = {int(name.removeprefix("n")): math.log(chance) for name, chance in chances.items()}
    return TREE.model_copy(
        update={"nodes": tuple(n.model_copy(update={"prior": priors.get(n.id, 0.0)}) for n in TREE.nodes)}
    )


@pytest.mark.parametrize(("least", "kept"), [(0.0, 2), (0.06, 2), (0.07, 1), (1.0, 1)])
def test_right_programs_that_the_policy_hardly_believes_in_are_luck(least: float, kept: int) -> None:
    tree = with_priors(n4=0.2, n6=0.4, n8=0.02, n11=0.1)  # 4 and 11 write one program: 0.3; 8 another; 6 is wrong
    other = Choice.KEPT if kept == 2 else Choice.UNLIKELY
    chosen = choose(tree, rows(), 2, least)
    assert [row.choice for row in chosen] == [Choice.KEPT, Choice.NOT_RIGHT, other, Choice.DUPLICATE]
    assert len(sft_rows(tree, chosen)) == kept
    assert choose(tree, [], 2, least) == []


def test_pairs_set_right_steps_against_wrong_ones() -> None:
    pairs = [p for p in pair_rows(TREE, rows()) if p.kind == "step"]
    assert {(p.chosen, p.rejected) for p in pairs} == {
        (TREE.nodes[1].text, TREE.nodes[2].text),
        (TREE.nodes[10].text, TREE.nodes[2].text),
    }
    assert all(p.prompt == "P<code>" and p.weight == 0.5 for p in pairs)
    assert pairs[0].q_gap == 1.8


def test_pairs_set_right_solutions_against_wrong_ones() -> None:
    pairs = [p for p in pair_rows(TREE, rows()) if p.kind == "solution"]
    assert [(p.chosen.count("42.0"), "41" in p.rejected) for p in pairs] == [(0, True), (0, True)], "the 2 best by Q"
    assert all(p.prompt == "P<code>" and p.weight == 0.5 for p in pairs)
    assert all(p.chosen.endswith("<end_of_answer>") for p in pairs)


def test_a_pair_holds_its_texts_segment_by_segment() -> None:
    for p in pair_rows(TREE, rows()):
        for text, parts in ((p.prompt, p.prefix), (p.chosen, p.chosen_steps), (p.rejected, p.rejected_steps)):
            assert text == "".join(part.text for part in parts)
        assert not p.chosen_steps[-1].output


def test_labels_tell_whether_a_right_answer_was_reached() -> None:
    labelled = step_label_rows(TREE, rows())
    assert [row.labels for row in labelled] == [(True,) * 3, (False,) * 3, (True,) * 3, (True,) * 3]
    assert labelled[1].values == (-1.0, -1.0, -1.0)


def test_likely_pairs_hold_the_wrong_solutions_that_the_policy_would_give() -> None:
    """Of five wrong solutions the least likely one is left out; the pairs of steps are those of `margin`."""
    root = TREE.nodes[0]
    priors = {1: -0.5, 2: -9.0, 3: -1.0, 4: -2.0, 5: -3.0, 6: -4.0, 7: -0.1}
    nodes = [root] + [
        TreeNode(id=i, parent=0, depth=1, text=f"<answer>{i}", visits=1, q=-1 + 2 * (i in (1, 7)), prior=prior,
                 stop=StopReason.ANSWER, answer=str(i))
        for i, prior in priors.items()
    ]  # fmt: skip
    tree = TREE.model_copy(update={"nodes": tuple(nodes)})
    found = [
        solution(
            tree, each, ExecutionResult(ExecutionStatus.OK, ""),
            Grade(Verdict.CORRECT if each.answer in ("1", "7") else Verdict.INCORRECT, "string"),
        )
        for each in trajectories(tree)
    ]  # fmt: skip
    pairs = pair_rows(tree, found, "likely")
    assert [(p.chosen[-1], p.rejected[-1]) for p in pairs] == [(r, w) for r in "71" for w in "3456"]
    assert {p.weight for p in pairs} == {1 / 8}
    assert [row.logprob for row in step_label_rows(tree, found)] == list(priors.values())
    lost = tree.model_copy(update={"nodes": (*nodes[:-1], nodes[-1].model_copy(update={"prior": None}))})
    assert step_label_rows(lost, found)[-1].logprob is None
    assert pair_rows(TREE, rows(), "likely")[:2] == pair_rows(TREE, rows(), "margin")[:2]
