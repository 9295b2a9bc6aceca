"""What generate may spend: by tokens, by hours, and how it is shared between problems."""

from __future__ import annotations

import time

import pytest

from rstar_cli.config import GenerateConfig
from rstar_cli.engines.scripted import ScriptedPolicy
from rstar_cli.grader import Grader
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.prompts import render_prompt
from rstar_cli.records import Tree
from rstar_cli.stages.budget import Budget
from rstar_cli.stages.searching import search_problems
from rstar_cli.stages.tools import Tools
from tests.helpers import LineExecutor


def test_without_a_limit_nothing_is_spent() -> None:
    budget = Budget(GenerateConfig(), 10)
    budget.tokens = 10**12
    assert budget.used == 0
    assert not budget.spent
    assert budget.more()


def test_tokens_of_earlier_calls_count() -> None:
    budget = Budget(GenerateConfig(budget_tokens=1000), 10, before=(400, 0.0))
    budget.tokens = 599
    assert budget.used == pytest.approx(0.999)
    assert not budget.spent
    budget.tokens = 600
    assert budget.spent


def test_hours_go_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = Budget(GenerateConfig(budget_hours=0.5, budget_tokens=100), 10, before=(0, 600.0))
    now += 600
    assert budget.used == pytest.approx(2 / 3)
    budget.tokens = 90
    assert budget.used == pytest.approx(0.9), "the one that is nearer to its end"
    budget.tokens = 0
    now += 599
    assert not budget.spent
    now += 1
    assert budget.spent


@pytest.mark.parametrize(
    ("tokens", "finished", "more"),
    [(0, 0, True), (1, 0, False), (100, 1, False), (99, 1, True), (499, 5, True), (500, 5, False), (999, 10, True)],
)
def test_hard_problems_get_what_the_others_leave(tokens: int, finished: int, more: bool) -> None:
    """At the pace so far, all problems must fit into the budget."""
    budget = Budget(GenerateConfig(budget_tokens=1000), 10)
    budget.tokens, budget.finished = tokens, finished
    assert budget.more() is more


class Searched:
    """Problems for the scripted engine, searched until a budget of tokens is spent."""

    def __init__(self, **settings: object) -> None:
        self.problems = make_problems(20, 3, (1, 2))
        self.config = GenerateConfig(**{"rollouts": 6, "in_flight": 4, **settings})  # type: ignore[arg-type]
        self.policy = ScriptedPolicy({render_prompt(p.problem): p.answer for p in self.problems})
        self.budget = Budget(self.config, len(self.problems))
        self.spent_at: list[int] = []

    def stop(self) -> bool:
        self.budget.tokens = self.policy.usage.generated
        self.spent_at.append(self.policy.usage.generated)
        return self.budget.spent

    def run(self) -> list[Tree]:
        with Grader() as grader:
            tools = Tools(self.policy, LineExecutor(), grader)
            return list(search_problems(self.problems, tools, self.config, self.stop, seed=1, budget=self.budget))


def test_nothing_is_spent_after_the_word() -> None:
    full = Searched()
    whole = {tree.problem_id: tree for tree in full.run()}
    assert len(whole) == full.budget.finished == 20
    half = Searched(budget_tokens=full.policy.usage.generated // 2)
    trees = half.run()
    limit = half.config.budget_tokens
    assert limit is not None
    assert half.spent_at[-1] == half.policy.usage.generated >= limit > half.spent_at[-2], "the first word is the last"
    assert half.budget.finished < len(trees) < 20, "those in flight come as they stand, the others not at all"
    for tree in trees[: half.budget.finished]:
        assert tree == whole[tree.problem_id]
    for tree in trees[half.budget.finished :]:
        done = len(tree.rollouts)
        assert 0 < done < 6
        assert tree.rollouts == whole[tree.problem_id].rollouts[:done]
        assert tree.nodes[0].visits == done


def test_what_easy_problems_leave_goes_to_hard_ones() -> None:
    """With no budget, a wide one, and one that is but for half of the extra rollouts."""

    def searched(escalate: str = "4,40", **settings: object) -> tuple[int, dict[str, int]]:
        search = Searched(rollouts=2, enough=1, escalate=escalate, **settings)
        rollouts = {tree.problem_id: len(tree.rollouts) for tree in search.run()}
        return search.policy.usage.generated, rollouts

    least, _ = searched("")
    most, unlimited = searched()
    assert least < most
    _, wide = searched(budget_tokens=10 * most)
    _, narrow = searched(budget_tokens=(least + most) // 2)
    assert len(unlimited) == len(wide) == len(narrow) == 20, "no problem is left for the sake of a hard one"
    assert all(count <= wide[key] <= unlimited[key] for key, count in narrow.items())
    assert max(wide.values()) > 2
    assert sum(narrow.values()) < sum(unlimited.values())
