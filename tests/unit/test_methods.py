"""What holds of every method's trees, one rollout or four at a time, with a PRM or without."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rstar_cli.engines.scripted import WAYS, ScriptedPolicy
from rstar_cli.prompts import COMPLETION_STOPS
from rstar_cli.protocols import Drawn, ExecuteRequest, ExecutionResult, Sample, SampleRequest, Segment
from rstar_cli.records import ExecutionStatus, StopReason
from rstar_cli.search.grow import Question
from rstar_cli.search.mcts import Plan, Search
from rstar_cli.search.tree import Node, Tree, codes, path, upward, valid_children
from rstar_cli.stages.tools import begin
from tests.helpers import GROWTH, LineExecutor, scripted_trees

METHODS: dict[str, dict[str, Any]] = {
    "swor": {"method": "swor"},
    "mcts": {"method": "mcts"},
    "uct": {"method": "uct", "rollout_style": "expand"},
    "uct-complete": {"method": "uct", "rollout_style": "complete"},
    "uct-upstream": {"method": "uct", "rollout_style": "expand", "rules": "upstream"},
    "puct": {"method": "puct", "rollout_style": "expand"},
    "puct-complete": {"method": "puct", "rollout_style": "complete"},
    "beam": {"method": "beam"},
    "dvts": {"method": "dvts"},
    "best-of-n": {"method": "best-of-n"},
}
NEW_ONLY = ["swor", "mcts"]
every_method = pytest.mark.parametrize("method", METHODS)
every_wave = pytest.mark.parametrize("wave", [1, 4])
with_and_without_prm = pytest.mark.parametrize("scored", [False, True])


def looks(tree: Tree) -> list[tuple[object, ...]]:
    """All that a search found, its rewards left out."""
    return [
        (n.id, n.parent and n.parent.id, n.segment, n.stop, n.answer, n.tokens, n.prior, n.prm_score)
        for n in tree.nodes
    ]


def shape(tree: Tree) -> list[tuple[object, ...]]:
    """The same with them."""
    told: list[tuple[object, ...]] = [(n.visits, n.value_sum, n.verdict, n.closed) for n in tree.nodes]
    return [*looks(tree), *told, *((leaf.id, reward) for leaf, reward in tree.rollouts)]


def shapes(trees: dict[str, Tree]) -> dict[str, list[tuple[object, ...]]]:
    return {key: shape(tree) for key, tree in trees.items()}


class Counting(LineExecutor):
    """Counts what is run, and minds that nothing is run on top of a step that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: Counter[tuple[str, ...]] = Counter()

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        results = super().execute(requests)
        for request, branches in zip(requests, results, strict=True):
            assert not any("1 / 0" in code for code in request.prefix), "below a step that fails"
            for codes_run, outcome in zip(request.branches, branches, strict=True):
                for end in range(1, len(outcome) + 1):
                    self.ran[request.tree, *request.prefix, *codes_run[:end]] += 1
        return results


@every_method
@every_wave
@with_and_without_prm
def test_trees_are_sound(method: str, wave: int, scored: bool) -> None:
    trees, policy = scripted_trees(16, rollouts=16, wave=wave, scored=scored, executor=Counting(), **METHODS[method])
    assert len(trees) == 16
    assert sum(tree.tokens_generated for tree in trees.values()) == policy.usage.generated
    for tree in trees.values():
        assert tree.root.visits == len(tree.rollouts) > 0
        assert [node.id for node in tree.nodes] == list(range(len(tree.nodes)))
        below = [node for above in tree.nodes for node in above.children]
        assert sorted(node.id for node in below) == list(range(1, len(tree.nodes))), "each below one parent"
        assert all(tree.nodes[node.id] is node for node in below)
        for node in tree.nodes:
            check(node, tree, scored)
        for leaf, reward in tree.rollouts:
            assert -1 <= reward <= 1
            assert leaf.stop is not StopReason.CODE, "every program gets its answer"


def check(node: Node, tree: Tree, scored: bool) -> None:
    through = [reward for leaf, reward in tree.rollouts if node in upward(leaf)]
    assert (node.visits, node.value_sum) == (len(through), sum(through))
    assert -1 <= node.q <= 1
    assert node.in_flight == 0
    assert node.valid or node.visits == 0, "a dropped candidate is never visited"
    if node.stop not in (StopReason.STEP, StopReason.CODE):
        assert not node.children, "nothing stands below a finished or dropped node"
    if node.stop is StopReason.CODE:
        assert len(valid_children(node)) <= 1, "one answer a program"
    texts = [child.segment.text for child in valid_children(node) if child.segment is not None]
    assert len(texts) == len(set(texts)), "valid siblings differ"
    if node.parent is not None:
        assert (node.prm_score is not None) == (scored and node.valid)
        ran = node.stop in (StopReason.STEP, StopReason.CODE, StopReason.DEPTH, StopReason.FAILED)
        assert (node.execution is not None) == ran
        assert node.execution is None or node.execution.ok == node.valid


@every_method
@every_wave
def test_trees_hang_on_nothing_beside_them(method: str, wave: int) -> None:
    how = {"rollouts": 8, "wave": wave, "scored": True, **METHODS[method]}
    usual = shapes(scripted_trees(8, **how)[0])
    for in_flight in (1, 3, 64):
        assert shapes(scripted_trees(8, in_flight=in_flight, **how)[0]) == usual
    assert shapes(scripted_trees(8, in_flight=3, backwards=True, **how)[0]) == usual, "the problems in another order"
    assert shapes(scripted_trees(8, seed=1, **how)[0]) != usual


@every_method
@with_and_without_prm
def test_unseen_gold_changes_nothing(method: str, scored: bool) -> None:
    how = {"rollouts": 8, "wave": 2, "scored": scored, **METHODS[method]}
    seen, unseen = scripted_trees(8, **how)[0], scripted_trees(8, see_gold=False, **how)[0]
    assert shapes(unseen) == shapes(scripted_trees(8, see_gold=False, wrong_gold=True, **how)[0])
    wrong = scripted_trees(8, wrong_gold=True, **how)[0]
    assert shapes(wrong) != shapes(seen)
    if method in ("swor", "beam", "dvts", "best-of-n"):
        for other in (wrong, unseen):
            assert all(looks(other[key]) == looks(seen[key]) for key in seen), "gold leads nowhere"


@pytest.mark.parametrize("method", NEW_ONLY)
@every_wave
@with_and_without_prm
def test_nothing_is_drawn_or_run_twice(method: str, wave: int, scored: bool) -> None:
    executor = Counting()
    trees, _ = scripted_trees(12, rollouts=24, wave=wave, scored=scored, executor=executor, **METHODS[method])
    assert executor.ran
    assert max(executor.ran.values()) == 1
    for tree in trees.values():
        solutions = [codes(leaf) for leaf, _ in tree.rollouts if leaf.stop is StopReason.ANSWER]
        assert len(solutions) == len(set(solutions))


@pytest.mark.parametrize("method", NEW_ONLY)
@every_wave
def test_a_small_tree_is_exhausted(method: str, wave: int) -> None:
    """Every program that the script can write is found, and then the search ends."""
    trees, _ = scripted_trees(2, rollouts=10_000, wave=wave, **METHODS[method])
    for tree in trees.values():
        steps = 1 + len(tree.prompt.text) % 3
        running = 2 * WAYS  # sound steps and slips
        stops = Counter(node.stop for node in tree.nodes)
        above = sum(running**depth for depth in range(steps))
        assert stops[StopReason.ANSWER] == stops[StopReason.CODE] == running**steps
        assert stops[StopReason.FAILED] == stops[StopReason.MALFORMED] == above * WAYS
        assert stops[StopReason.DUPLICATE] == 0
        assert len(tree.rollouts) == running**steps + 2 * above * WAYS, "each of them once"
        assert not tree.root.open


@every_wave
def test_samples_that_begin_alike_share_their_steps(wave: int) -> None:
    """Those of one wave, too: a step that runs has no duplicate beside it."""
    trees, _ = scripted_trees(16, rollouts=24, wave=wave, **METHODS["best-of-n"])
    for tree in trees.values():
        assert len(tree.rollouts) == 24
        for node in tree.nodes:
            running = {child.segment for child in valid_children(node)}
            assert not any(child.segment in running for child in node.children if not child.valid)
    assert any(node.visits > 1 for tree in trees.values() for node in tree.nodes[1:])


@pytest.mark.parametrize("method", ["uct", "uct-complete", "puct"])
def test_what_is_exhausted_is_left(method: str) -> None:
    trees, _ = scripted_trees(6, rollouts=500, **{**METHODS[method], "candidates": 2})
    for tree in trees.values():
        assert len(tree.rollouts) < 500
        assert tree.root.closed
        leaves = [leaf for leaf, _ in tree.rollouts if leaf.stop is StopReason.ANSWER]
        assert len(leaves) == len(set(leaves)), "an answer is not visited again"


@pytest.mark.parametrize("method", ["swor", "mcts", "uct", "puct", "best-of-n"])
@every_wave
@pytest.mark.parametrize("enough", [1, 3])
def test_enough_right_answers_end_a_search(method: str, wave: int, enough: int) -> None:
    trees, _ = scripted_trees(16, rollouts=40, wave=wave, enough=enough, **METHODS[method])
    assert any(tree.right >= enough for tree in trees.values())
    for tree in trees.values():
        right = {leaf for leaf, reward in tree.rollouts if reward == 1}
        assert tree.right == len(right) <= enough + wave - 1
        if right and len(right) >= enough:
            begun = next(i for i, (_, reward) in enumerate(tree.rollouts) if reward == 1)
            if enough == 1:
                assert len(tree.rollouts) - begun <= wave, "it ends with the wave"
        elif method != "uct":
            assert len(tree.rollouts) == 40 or not tree.root.open


@pytest.mark.parametrize("method", ["swor", "mcts", "uct", "best-of-n"])
@every_wave
def test_only_unsolved_problems_get_more_and_only_where_granted(method: str, wave: int) -> None:
    how = {"rollouts": 1, "candidates": 2, "wave": wave, **METHODS[method]}
    plain = scripted_trees(24, **how)[0]
    again = method == "uct"  # what is exhausted is drawn anew
    unsolved = [key for key, tree in plain.items() if not tree.right and (again or tree.root.open)]
    assert 0 < len(unsolved) < len(plain)
    asked: list[bool] = []

    def refuse() -> bool:
        asked.append(False)
        return False

    refused = scripted_trees(24, escalate=(4, 9), more=refuse, **how)[0]
    assert shapes(refused) == shapes(plain)
    assert len(asked) == len(unsolved), "a problem that is solved never asks"

    def grant() -> bool:
        asked.append(True)
        return True

    asked.clear()
    granted = scripted_trees(24, escalate=(4, 9), more=grant, **how)[0]
    steps = 0
    for key, tree in granted.items():
        if key not in unsolved:
            assert shape(tree) == shape(plain[key])
            continue
        first = next((i + 1 for i, (_, reward) in enumerate(tree.rollouts) if reward == 1), math.inf)
        limit = 4 if first <= 4 else 9
        steps += 1 + (len(tree.rollouts) > 4)
        assert len(tree.rollouts) == limit or not tree.root.open or (again and len(tree.rollouts) == 9)
    assert again or len(asked) == steps


def test_an_exhausted_tree_is_drawn_anew_when_it_may_go_on() -> None:
    how = {"method": "uct", "rollouts": 4, "candidates": 1, "rollout_style": "complete"}
    plain, _ = scripted_trees(24, **how)
    closed = [key for key, tree in plain.items() if not tree.right and not tree.root.open]
    granted, _ = scripted_trees(24, escalate=(12,), **how)
    assert closed
    for key in closed:
        assert len(granted[key].rollouts) > len(plain[key].rollouts)
        texts = [child.segment.text for child in granted[key].root.children if child.valid and child.segment]
        assert len(texts) == len(set(texts))
    assert sum(granted[key].right > 0 for key in closed), "new candidates solve some"


def answered(searching: Search, answer: Callable[[Question], Any]) -> Tree:
    """Run a search by hand."""
    told: Any = None
    try:
        while True:
            asked = searching.send(told)
            told = [answer(each) for each in asked] if isinstance(asked, tuple) else answer(asked)
    except StopIteration as end:
        tree: Tree = end.value
        return tree


@pytest.mark.parametrize("method", ["uct", "puct"])
@pytest.mark.parametrize("style", ["expand", "complete"])
def test_rollouts_of_a_wave_go_to_different_places(method: str, style: str) -> None:
    """They are kept apart by a virtual loss, which is taken back."""
    tree, searching = begin("p", 0, Plan(method, 9, GROWTH, 4, 2.0, style, wave=4))  # type: ignore[arg-type]
    executor = LineExecutor()
    waves: list[list[tuple[Segment, ...]]] = []
    told: Any = None
    while not waves or len(waves[-1]) < 4:
        asked = searching.send(told)
        together = asked if isinstance(asked, tuple) else (asked,)
        if isinstance(together[0], SampleRequest) and together[0].stop != ("<end_of_answer>",):
            marked = sum(node.in_flight > 0 for node in tree.nodes)
            assert 0 < tree.root.in_flight <= 4, "each rollout counts once"
            assert marked >= len({request.prefix for request in together if isinstance(request, SampleRequest)})
            waves.append([request.prefix for request in together if isinstance(request, SampleRequest)])
        told = [by_hand(each, executor) for each in together]
        told = told if isinstance(asked, tuple) else told[0]
    assert len(set(waves[-1])) == 4


@pytest.mark.parametrize("method", NEW_ONLY)
def test_no_two_of_a_wave_draw_the_same(method: str) -> None:
    prompt = "A problem: 123"  # of a length that the script answers in several steps
    tree, searching = begin(prompt, 0, Plan(method, 40, GROWTH, exploration=2.0, wave=4))  # type: ignore[arg-type]
    policy, executor, sizes = ScriptedPolicy({prompt: "7"}), LineExecutor(), []
    told: Any = None
    while len(sizes) < 8:
        asked = searching.send(told)
        draws = [each for each in asked if isinstance(each, SampleRequest) and each.stop == COMPLETION_STOPS]
        if draws:
            assert len({(each.prefix, each.opening) for each in draws}) == len(draws)
            sizes.append(len(draws))
        told = [by_script(each, policy, executor) for each in asked]
    assert sizes == [1, *[4] * 7], "at the root of nothing there is one to draw from"
    assert tree.root.visits == len(tree.rollouts)


def by_script(question: Question, policy: ScriptedPolicy, executor: LineExecutor) -> Any:
    if isinstance(question, SampleRequest):
        policy.submit(0, question)
        return policy.poll()[0][1]
    return executor.execute([question])[0] if isinstance(question, ExecuteRequest) else None


def by_hand(question: Question, executor: LineExecutor, counted: list[int] = [0]) -> Any:  # noqa: B006
    """Answers of a policy that never says the same twice."""
    if isinstance(question, ExecuteRequest):
        return executor.execute([question])[0]
    assert isinstance(question, SampleRequest)
    found = []
    for _ in range(question.n):
        counted[0] += 1
        segment = Segment(f"\na = {counted[0]}\n<end_of_step>", (counted[0],))
        found.append(Sample((segment,), (-1.0,), "stop", (1,)))
    return found


SPELLED = {1: "\n1 / 0\n<end_of_step>", 2: "\n2 / 0\n<end_of_step>", 3: "\n1 / 0\n<end_of_step>"}
"""Steps of one token each; the third is the first one again."""


def spelled(question: Question) -> Any:
    if isinstance(question, ExecuteRequest):
        return [[ExecutionResult(ExecutionStatus.ERROR)] for _ in question.branches]
    assert isinstance(question, SampleRequest)
    token, drawn = (question.opening or (1,))[0], () if question.opening else (Drawn(1, (1, 2, 3), (-1.1,) * 3),)
    return [Sample((Segment(SPELLED[token], (token,)),), (-1.1,), "stop", (len(drawn),), drawn)]


@every_wave
@pytest.mark.parametrize("seed", range(6))
def test_a_step_in_other_tokens_is_a_duplicate(wave: int, seed: int) -> None:
    """It is no rollout, and takes away none from those beside it."""
    tree, searching = begin("p", seed, Plan("swor", 5, GROWTH, wave=wave))
    answered(searching, spelled)
    stops = {StopReason.FAILED: 2, StopReason.DUPLICATE: 1}
    assert Counter(node.stop for node in tree.nodes[1:]) == stops
    assert len(tree.rollouts) == 2
    assert tree.tokens_generated == 3
    assert not tree.root.open


@pytest.mark.parametrize(("method", "width"), [("beam", 4), ("dvts", 4)])
@pytest.mark.parametrize("aggregate", ["last", "min", "product", "mean"])
def test_beams_keep_as_many_steps_as_they_may(method: str, width: int, aggregate: str) -> None:
    how = {"rollouts": 16, "candidates": 4, "method": method, "scored": True, "aggregate": aggregate}
    trees, _ = scripted_trees(12, **how)  # type: ignore[arg-type]
    for tree in trees.values():
        assert len(tree.root.children) == 16
        for depth in range(1, max(node.depth for node in tree.nodes)):
            kept = [n for n in tree.nodes if n.depth == depth and n.expanded and n.stop is StopReason.STEP]
            assert len(kept) <= width
            assert all(len(node.children) == 4 for node in kept)
            left = [n for n in tree.nodes if n.depth == depth and n.stop is StopReason.STEP and n not in kept]
            if method == "beam" and kept:
                assert min(worth(n, aggregate) for n in kept) >= max((worth(n, aggregate) for n in left), default=-1)
            elif depth > 1:
                subtrees = [node.parent for node in kept]
                assert len(subtrees) == len(set(subtrees)), "one a subtree"
                for node in kept:
                    assert node.parent is not None
                    beside = [n for n in valid_children(node.parent) if n.stop is StopReason.STEP]
                    assert worth(node, aggregate) == max(worth(n, aggregate) for n in beside)


def worth(node: Node, how: str) -> float:
    values = [step.prm_score for step in path(node) if step.prm_score is not None]
    if how == "product":
        return 2 * math.prod((value + 1) / 2 for value in values) - 1
    return {"last": values[-1], "min": min(values), "mean": sum(values) / len(values)}[how]
