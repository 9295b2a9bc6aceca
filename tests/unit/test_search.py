"""The search alone: no process, no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rstar_cli.config import GenerateConfig
from rstar_cli.engines.scripted import ScriptedPolicy
from rstar_cli.grader import Grader
from rstar_cli.protocols import ExecutionResult, Grade, Sample, Segment
from rstar_cli.recipe import Recipe
from rstar_cli.records import ExecutionStatus, StopReason, Verdict
from rstar_cli.search.driver import Driver
from rstar_cli.search.grow import GradeRequest, Growth
from rstar_cli.search.mcts import Plan, reward
from rstar_cli.search.mcts import _select as select_child
from rstar_cli.search.tree import Aggregation, Node, Tree, aggregate, path, upward
from rstar_cli.stages.tools import Tools, begin, plan_of
from tests.helpers import GROWTH, LineExecutor, scripted_trees

STYLES = ["expand", "complete"]


def shape(tree: Tree) -> list[tuple[object, ...]]:
    """Everything that a tree is, for comparison."""
    nodes = [(n.id, n.parent.id if n.parent else None, n.segment, n.visits, n.value_sum, n.stop) for n in tree.nodes]
    return [*nodes, *((leaf.id, reward) for leaf, reward in tree.rollouts)]


@pytest.mark.parametrize("style", STYLES)
def test_visits_and_values_add_up(style: str) -> None:
    trees, _ = scripted_trees(12, rollouts=12, rollout_style=style)
    assert len(trees) == 12
    for tree in trees.values():
        assert tree.root.visits == len(tree.rollouts) > 0
        assert [n.id for n in tree.nodes] == list(range(len(tree.nodes)))
        for node in tree.nodes:
            through = [r for leaf, r in tree.rollouts if node in upward(leaf)]
            assert node.visits == len(through)
            assert node.value_sum == sum(through)
            assert -1 <= node.q <= 1
            assert node.valid or node.visits == 0, "a dropped candidate is never visited"
            if node.stop not in (StopReason.STEP, StopReason.CODE):
                assert not node.children, "nothing stands below a finished or dropped node"
            texts = [c.segment.text for c in node.children if c.valid and c.segment]
            assert len(texts) == len(set(texts)), "valid siblings differ"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("in_flight", [1, 3, 64])
def test_batch_size_leaves_trees_unchanged(style: str, in_flight: int) -> None:
    usual, _ = scripted_trees(10, rollout_style=style)
    other, _ = scripted_trees(10, rollout_style=style, in_flight=in_flight)
    assert {k: shape(t) for k, t in usual.items()} == {k: shape(t) for k, t in other.items()}


def test_another_seed_gives_other_trees() -> None:
    first, _ = scripted_trees(5, seed=1)
    second, _ = scripted_trees(5, seed=2)
    assert any(shape(first[k]) != shape(second[k]) for k in first)


def test_some_problems_are_solved_and_right_answers_pay() -> None:
    trees, _ = scripted_trees(20)
    rewards = [r for tree in trees.values() for _, r in tree.rollouts]
    assert {1.0, -1.0} == set(rewards)
    for tree in trees.values():
        for leaf, r in tree.rollouts:
            assert (r == 1.0) == (leaf.verdict is Verdict.CORRECT)


def test_generated_tokens_are_all_told_of() -> None:
    trees, policy = scripted_trees(6)
    assert sum(tree.tokens_generated for tree in trees.values()) == policy.usage.generated


def test_depth_limit_ends_a_solution_without_an_answer() -> None:
    trees, _ = scripted_trees(6, growth=Growth(256, 1024, 1))
    stops = {leaf.stop for tree in trees.values() for leaf, _ in tree.rollouts}
    assert stops <= {StopReason.DEPTH, StopReason.STEP}
    assert StopReason.DEPTH in stops
    assert all(node.depth <= 1 for tree in trees.values() for node in tree.nodes)
    assert all(r == -1 for tree in trees.values() for _, r in tree.rollouts)


def test_ucb_is_the_papers() -> None:
    parent = Node(0, None, 0, visits=10)
    child = Node(1, parent, 1, visits=4, value_sum=2.0)
    assert child.ucb(2.0) == pytest.approx(0.5 + 2 * math.sqrt(math.log(10) / 4))
    assert Node(2, parent, 1).ucb(2.0) == math.inf


def test_a_prm_value_is_the_initial_q() -> None:
    """It counts as one visit in the choice, and leaves Q itself, which trains, the mean of rewards."""
    parent = Node(0, None, 0, visits=10)
    fresh = Node(1, parent, 1, prm_score=0.4)
    assert fresh.ucb(0.0) == 0.4
    assert fresh.ucb(2.0) == pytest.approx(0.4 + 2 * math.sqrt(math.log(10)))
    visited = Node(2, parent, 1, visits=3, value_sum=3.0, prm_score=-1.0)
    assert visited.ucb(0.0) == pytest.approx((3 - 1) / 4)
    assert visited.q == 1.0


@pytest.mark.parametrize("style", STYLES)
def test_a_prm_scores_every_step_that_runs(style: str) -> None:
    trees, _ = scripted_trees(8, rollout_style=style, scored=True)
    for tree in trees.values():
        for node in tree.nodes[1:]:
            assert (node.prm_score is not None) == node.valid


def test_the_prm_leads_the_search_to_sound_steps() -> None:
    """The scripted PRM knows slips: with it more rollouts end right."""

    def right(*, scored: bool) -> int:
        trees, _ = scripted_trees(30, rollouts=4, scored=scored)
        return sum(r == 1.0 for tree in trees.values() for _, r in tree.rollouts)

    assert right(scored=True) > right(scored=False)


@pytest.mark.parametrize("in_flight", [1, 5])
def test_batch_size_leaves_scored_trees_unchanged(in_flight: int) -> None:
    usual, _ = scripted_trees(10, scored=True, see_gold=False, in_flight=64)
    other, _ = scripted_trees(10, scored=True, see_gold=False, in_flight=in_flight)
    assert {k: shape(t) for k, t in usual.items()} == {k: shape(t) for k, t in other.items()}


def test_without_gold_the_prm_pays_an_answer() -> None:
    trees, _ = scripted_trees(10, scored=True, see_gold=False)
    answers = [(leaf, r) for tree in trees.values() for leaf, r in tree.rollouts if leaf.stop is StopReason.ANSWER]
    assert answers
    assert all(r == leaf.prm_score and leaf.verdict is None for leaf, r in answers)
    unscored, _ = scripted_trees(10, see_gold=False)
    assert {r for tree in unscored.values() for leaf, r in tree.rollouts if leaf.stop is StopReason.ANSWER} == {0.0}


def test_a_stop_drops_what_is_in_flight() -> None:
    """No request is made after the word: what is spent beyond the budget is what was asked before."""
    policy = ScriptedPolicy({})
    plan = Plan("uct", 8, GROWTH, 4, 1.4, "complete")
    searches = ((i, *begin(f"p{i}", i, plan)) for i in range(50))
    spent_at: list[int] = []

    def stop() -> bool:
        spent_at.append(policy.usage.generated)
        return policy.usage.generated > 2000

    def grade(answers: Sequence[tuple[int, str | None]]) -> list[Grade | None]:
        return [None] * len(answers)

    driver = Driver(policy, LineExecutor(), grade)
    done = list(driver.run(searches, 50, stop))
    assert len(done) < 50
    assert len(done) + len(driver.left) == 50
    assert spent_at[-1] == policy.usage.generated > 2000 >= spent_at[-2]


@pytest.mark.parametrize(
    ("verdict", "value"),
    [
        (Verdict.CORRECT, 1.0),
        (Verdict.INCORRECT, -1.0),
        (Verdict.NO_ANSWER, -1.0),
        (Verdict.TIMEOUT, 0.0),
        (Verdict.ERROR, 0.0),
        (None, -1.0),
    ],
)
def test_reward(verdict: Verdict | None, value: float) -> None:
    assert reward(Node(1, None, 1, verdict=verdict)) == value


OK = ExecutionResult(ExecutionStatus.OK)


def sample(*texts: str) -> Sample:
    segments = tuple(Segment(t, tuple(t.encode())) for t in texts)
    return Sample(segments, (-1.0,) * len(texts), "stop", tuple(len(t) for t in texts))


def test_a_dead_end_is_backed_up_and_left() -> None:
    """Every candidate fails: the node counts as -1 and the search ends, since nothing else is open."""
    _, searching = begin("p", 0, Plan("uct", 5, GROWTH, 2, 1.4, "complete"))
    asked = next(searching)
    assert asked.n == 2
    asked = searching.send([sample("no step at all"), sample("\n1 / 0\n<end_of_step>")])
    assert asked.branches == (("1 / 0",),)
    with pytest.raises(StopIteration) as end:
        searching.send([[ExecutionResult(ExecutionStatus.ERROR)]])
    tree = end.value.value
    assert [n.stop for n in tree.nodes] == [StopReason.STEP, StopReason.MALFORMED, StopReason.FAILED]
    assert [r for _, r in tree.rollouts] == [-1.0]


def test_a_failed_step_in_a_completion_cuts_what_was_sampled_after_it() -> None:
    _, solving = begin("p", 0, Plan("best-of-n", 1, replace(GROWTH, temperature=0.0)))
    next(solving)
    asked = solving.send([sample("\na = 1\n<end_of_step>", "\na / 0\n<end_of_step>", "\nprint(a)\n<end_of_code>")])
    assert asked.branches == (("a = 1", "a / 0", "print(a)"),)
    with pytest.raises(StopIteration) as end:
        solving.send([[OK, ExecutionResult(ExecutionStatus.ERROR)]])
    tree = end.value.value
    assert [n.stop for n in tree.nodes] == [StopReason.STEP, StopReason.STEP, StopReason.FAILED]
    assert tree.rollouts[0][0].id == 1


def test_an_answer_is_asked_for_after_the_output() -> None:
    _, solving = begin("p", 0, Plan("best-of-n", 1, replace(GROWTH, temperature=0.0)))
    next(solving)
    solving.send([sample("\nprint(6*7)\n<end_of_code>")])
    asked = solving.send([[ExecutionResult(ExecutionStatus.OK, stdout="42\n")]])
    assert [s.text for s in asked.prefix] == ["p", "\nprint(6*7)\n<end_of_code>", "\n<output>42<end_of_output>\n"]
    assert asked.stop == ("<end_of_answer>",)
    asked = solving.send([sample("<answer>\\boxed{42}<end_of_answer>")])
    assert asked == GradeRequest("42")
    with pytest.raises(StopIteration) as end:
        solving.send(None)
    tree = end.value.value
    assert [n.stop for n in path(tree.nodes[-1])] == [StopReason.CODE, StopReason.ANSWER]
    assert tree.nodes[-1].verdict is None, "nobody may see gold here"


def test_puct_is_silvers() -> None:
    """Q + c P sqrt(N_parent) / (1 + N)."""
    parent = Node(0, None, 0, visits=16)
    child = Node(1, parent, 1, visits=3, value_sum=1.5)
    assert child.puct(2.0, 0.25) == pytest.approx(0.5 + 2 * 0.25 * 4 / 4)
    assert Node(2, parent, 1).puct(2.0, 0.25) == pytest.approx(0 + 2 * 0.25 * 4 / 1)
    scored = Node(3, parent, 1, visits=3, value_sum=1.5, prm_score=-0.5)
    assert scored.puct(0.0, 0.25) == pytest.approx((1.5 - 0.5) / 4), "the PRM's value is one visit more in Q alone"
    assert scored.puct(2.0, 0.25) == pytest.approx(0.25 + 2 * 0.25 * 4 / 4)
    assert Node(4, Node(0, None, 0), 1).puct(2.0, 0.5) == pytest.approx(1.0), "the first choice is by the prior, too"


def test_a_rollout_in_flight_counts_as_a_loss() -> None:
    parent = Node(0, None, 0, visits=14, in_flight=2)
    child = Node(1, parent, 1, visits=3, value_sum=3.0, in_flight=1)
    assert child.ucb(2.0) == pytest.approx((3 - 1) / 4 + 2 * math.sqrt(math.log(16) / 4))
    assert child.puct(2.0, 0.5) == pytest.approx((3 - 1) / 4 + 2 * 0.5 * math.sqrt(16) / (1 + 3 + 1))
    assert Node(2, parent, 1, in_flight=1).ucb(0.0) == -1.0
    assert child.q == 1.0, "what was backed up stays"


@pytest.mark.parametrize(
    ("how", "value"), [("last", 0.0), ("min", -0.5), ("mean", 0.1), ("product", 2 * (0.9 * 0.25 * 0.5) - 1)]
)
def test_values_of_steps_make_one(how: Aggregation, value: float) -> None:
    assert aggregate([0.8, -0.5, 0.0], how) == pytest.approx(value)
    assert aggregate([0.3], how) == pytest.approx(0.3)
    root = Node(0, None, 0)
    first = Node(1, root, 1, prm_score=0.5)
    leaf = Node(2, first, 2, stop=StopReason.ANSWER, prm_score=-0.1)
    expected = {"last": -0.1, "min": -0.1, "mean": 0.2, "product": 2 * (0.75 * 0.45) - 1}
    assert reward(leaf, how) == pytest.approx(expected[how]), "gold unseen, an answer is worth that"
    leaf.verdict = Verdict.INCORRECT
    assert reward(leaf, how) == -1.0


def test_presets_differ_in_what_an_unvisited_step_is_worth() -> None:
    """Paper: before all others, the likeliest first. Upstream: 0, and of equals the first."""
    paper = Plan("uct", 8, GROWTH, 4, 2.0, rules="paper")
    upstream = replace(paper, rules="upstream")
    root = Node(0, None, 0, visits=2, expanded=True)
    good = Node(1, root, 1, visits=1, value_sum=1.0, prior=-1.0)
    new = Node(2, root, 1, prior=-5.0)
    likely = Node(3, root, 1, prior=-0.5)
    root.children = [good, new, likely]
    assert select_child(root, paper) is likely
    assert select_child(root, upstream) is good
    good.value_sum = -10.0
    assert select_child(root, upstream) is new, "0 beats a loss; of equals the first"
    assert select_child(root, paper) is likely
    root.children = [good]
    assert select_child(root, paper) is good
    good.closed = True
    assert select_child(root, paper) is None


@pytest.mark.parametrize(("name", "rollouts", "candidates"), [("paper", 16, 8), ("upstream", 48, 12)])
def test_presets_are_those_of_paper_and_upstream(name: str, rollouts: int, candidates: int) -> None:
    config = Recipe("", "none").stage(GenerateConfig, "generate", 1, {"preset": name})
    plan = plan_of(config, Tools(ScriptedPolicy({}), LineExecutor(), Grader()))
    assert (plan.method, plan.rollouts, plan.candidates, plan.exploration) == ("uct", rollouts, candidates, 2.0)
    assert (plan.rules, plan.rollout_style, plan.wave, plan.growth.max_depth) == (name, "expand", 1, 16)
