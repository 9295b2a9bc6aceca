"""What a search costs: the stand-ins answer as a model would, and the report is whole. Nothing is said of speed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.bench import search as bench
from rstar_cli.bench.table import CHOICES, FORKS, STEPS, TOKENS, EqualGrader, LineExecutor, TablePolicy
from rstar_cli.prompts import COMPLETION_STOPS, STEP_STOPS, parse_step
from rstar_cli.protocols import Sample, SampleRequest, Segment
from rstar_cli.records import StopReason
from rstar_cli.search.mcts import Method
from rstar_cli.search.tree import Tree
from rstar_cli.stages.tools import Tools
from tests.helpers import rstar

PROMPT = SampleRequest((Segment("a prompt"),), 1, 12345678901234567, COMPLETION_STOPS, 2048, 1.0, alternatives=CHOICES)


def ask(request: SampleRequest) -> list[Sample]:
    policy = TablePolicy()
    policy.submit(3, request)
    ((ticket, samples),) = policy.poll()
    assert ticket == 3
    assert policy.usage.generated == sum(sum(sample.tokens) for sample in samples)
    return samples


def test_a_completion_is_a_whole_program() -> None:
    (sample,) = ask(PROMPT)
    kinds = [parse_step(segment.text, after_code=False).kind for segment in sample.segments]
    assert kinds == ["step"] * STEPS + ["code"]
    assert (
        [len(segment.token_ids or ()) for segment in sample.segments] == list(sample.tokens) == [TOKENS] * (STEPS + 1)
    )
    assert [each.token for each in sample.drawn] == [i for s in sample.segments for i in s.token_ids or ()]
    assert all(len(each.ids) == len(set(each.ids)) == CHOICES and each.token in each.ids for each in sample.drawn)


def test_an_opening_is_gone_on_from() -> None:
    (whole,) = ask(PROMPT)
    first = whole.drawn[FORKS[1]]
    other = next(token for token in first.ids if token != first.token)
    opening = (*(each.token for each in whole.drawn[: FORKS[1]]), other)
    (sample,) = ask(replace(PROMPT, opening=opening))
    assert (sample.segments[0].token_ids or ())[: len(opening)] == opening
    assert sample.segments[0].text != whole.segments[0].text
    assert sample.tokens[0] == TOKENS - len(opening)
    assert len(sample.drawn) == sum(sample.tokens)


def test_candidates_of_one_node_differ() -> None:
    samples = ask(replace(PROMPT, n=12, stop=STEP_STOPS, alternatives=0))
    assert len({sample.segments[0].text for sample in samples}) == 12
    assert all(len(sample.segments) == 1 and not sample.drawn for sample in samples)


@pytest.mark.parametrize("method", list(bench.METHODS))
def test_trees_grow_by_every_rollout(method: Method) -> None:
    def trees(rollouts: int) -> list[Tree]:
        tools = Tools(TablePolicy(), LineExecutor(), EqualGrader())
        searches = bench._searches(method, rollouts, 3)
        return [tree for _, tree in tools.driver(bench._grade).run(searches, 2)]

    few, many = trees(4), trees(64)
    for tree in few + many:
        assert not any(n.stop in (StopReason.DUPLICATE, StopReason.FAILED, StopReason.MALFORMED) for n in tree.nodes)
        assert {reward for _, reward in tree.rollouts} <= {-1.0, 1.0}
    assert all(len(tree.rollouts) == 64 for tree in many)
    assert sum(len(tree.nodes) for tree in many) > 5 * sum(len(tree.nodes) for tree in few)
    assert any(tree.right for tree in many)


def test_the_report_is_whole(tmp_path: Path) -> None:
    done = rstar("bench", "search", "--json", "--trees", "1", "--problems", "10", cwd=tmp_path)
    told: dict[str, Any] = json.loads(done.stdout)
    data = told["data"]
    assert data["trees"] == 1
    for method, counts in bench.METHODS.items():
        assert list(data["searches"][method]) == [str(count) for count in counts]
        for count, found in data["searches"][method].items():
            assert found["problems"] == bench.MOST // int(count)
            assert 0 < found["cpu_ms_a_node"] < 50
            assert 300 < found["bytes_a_node"] < 30_000
        assert data["growth"][method] > 0
    queue = data["queue"]
    assert list(queue["peak_mb"]) == ["before", "10%", "50%", "100%"]
    assert list(queue["peak_mb"].values()) == sorted(queue["peak_mb"].values())
    assert 0 < queue["peak_mb"]["before"] < 1000
    assert queue["problems"] == queue["trees_in_flight"] == 10
    assert queue["file_mb"] > 0.01
    assert told["figures"] == dict(bench.describe(data))
    assert not list(tmp_path.iterdir()), "what is written is removed"
