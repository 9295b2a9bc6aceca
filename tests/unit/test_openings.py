"""Openings and alternatives of the transformers engine: what sampling without replacement asks of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.prompts import COMPLETION_STOPS
from rstar_cli.protocols import Sample, SampleRequest, Segment
from tests import models
from tests.unit.test_transformers_engine import ids, load, made_to_write, prompt, request, start_anew

WRITTEN = "\na = 1<end_of_step>\nprint(a)<end_of_code> more"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "single": models.save(root / "single"),
        "several": models.save(root / "several", single_tags=False),
        "llama": models.save(root / "llama", kind="llama"),
    }


def greedy(opening: tuple[int, ...] = (), **more: object) -> SampleRequest:
    return request(1, temperature=0.0, tokens=99, stop=COMPLETION_STOPS, opening=opening, **more)


@pytest.mark.parametrize("kind", ["single", "several"])
def test_an_opening_gets_the_rest(checkpoints: dict[str, Path], kind: str) -> None:
    """Wherever the greedy continuation is cut: within a tag, after a step, at its very end."""
    policy = made_to_write(checkpoints[kind], WRITTEN)
    ((whole,),) = policy.sample([greedy(alternatives=3)])
    assert [segment.text for segment in whole.segments] == ["\na = 1<end_of_step>", "\nprint(a)<end_of_code>"]
    for begun in range(2):
        left = whole.segments[begun:]
        every = [token for segment in left for token in segment.token_ids or ()]
        step = len(left[0].token_ids or ())
        for cut in range(1, step + 1):
            asked = greedy(tuple(every[:cut]), alternatives=3, prefix=(prompt(1), *whole.segments[:begun]))
            for policy_now in (policy, start_anew(policy)):  # with kept states of what was sampled before, and without
                before = policy_now.usage.generated
                ((rest,),) = policy_now.sample([asked])
                assert rest.segments == left
                assert rest.finish == "stop"
                assert rest.tokens == (step - cut, *([len(every) - step] if begun == 0 else []))
                assert [each.token for each in rest.drawn] == every[cut:]
                assert policy_now.usage.generated - before == len(every) - cut + 1, "the opening's last token counts"
    assert (rest.tokens, rest.logprobs, rest.drawn) == ((0,), (0.0,), ()), "its stop tag was there already"


@pytest.mark.parametrize("kind", ["single", "llama"])
def test_logprobs_after_an_opening_are_those_of_a_plain_pass(checkpoints: dict[str, Path], kind: str) -> None:
    policy = load(checkpoints[kind])
    ((whole,),) = policy.sample([request(2, stop=COMPLETION_STOPS)])
    every = ids(whole)
    assert len(every) > 8
    for cut in (1, 3, 7):
        ((rest,),) = policy.sample([request(2, opening=tuple(every[:cut]), stop=COMPLETION_STOPS)])
        assert ids(rest)[:cut] == every[:cut]
        expected = plain(policy, prompt(2), ids(rest))[cut:]
        own = torch.tensor(ids(rest)[cut:])[:, None]
        assert sum(rest.logprobs) == pytest.approx(float(expected.gather(-1, own).sum()), abs=2e-4)


def plain(policy: TransformersPolicy, start: Segment, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities [tokens, vocabulary] of a forward pass over everything."""
    begun = policy._tokenizer.prefix_ids([start])
    with torch.no_grad():
        logits: torch.Tensor = policy._model(torch.tensor([begun + tokens])).logits[0, len(begun) - 1 : -1]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("kind", ["single", "llama"])
@pytest.mark.parametrize("count", [1, 5])
def test_alternatives_are_the_likeliest_tokens(checkpoints: dict[str, Path], kind: str, count: int) -> None:
    policy = load(checkpoints[kind])
    asked = [request(i, n=2, alternatives=count, temperature=2.0, stop=COMPLETION_STOPS) for i in range(5)]
    outside = 0
    for asking, samples in zip(asked, policy.sample(asked), strict=True):
        for sample in samples:
            told = [each.token for each in sample.drawn]
            assert told[: len(ids(sample))] == ids(sample)
            assert len(told) == sum(sample.tokens) == len(ids(sample)) + (sample.finish == "eos")
            expected = plain(policy, asking.prefix[0], told)
            for each, row in zip(sample.drawn, expected, strict=True):
                likely = row.topk(count)
                assert each.token in each.ids
                assert list(each.ids[:count]) == likely.indices.tolist()
                assert len(each.ids) == count + (each.token not in each.ids[:count])
                assert each.logprobs == pytest.approx(row[list(each.ids)].tolist(), abs=2e-4)
                outside += len(each.ids) > count
    assert outside > 5, "the sampled one is told of, too, where it is none of the likeliest"


def test_alternatives_do_not_hang_on_the_batch(checkpoints: dict[str, Path]) -> None:
    asked = [request(i, n=3, alternatives=i % 4) for i in range(10)]
    together = load(checkpoints["single"]).sample(asked)
    apart = load(checkpoints["single"], max_rows=2).sample(list(reversed(asked)))[::-1]
    assert together == apart
    for asking, samples in zip(asked, together, strict=True):
        for sample in samples:
            assert bool(sample.drawn) == (asking.alternatives > 0)
            assert all(len(each.ids) - asking.alternatives in (0, 1) for each in sample.drawn)
    told_nothing = load(checkpoints["single"]).sample([replace(asking, alternatives=0) for asking in asked])
    assert [[ids(s) for s in x] for x in told_nothing] == [[ids(s) for s in x] for x in together]


def test_a_branch_in_mid_step_costs_its_own_token_alone(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["single"])
    ((whole,),) = policy.sample([request(3, stop=("never>",))])
    every = ids(whole)
    assert len(every) > 10
    for cut in (1, 4, 9):
        other = next(token for token in range(5, 300) if token != every[cut])
        before = policy.usage.prefilled
        ((branch,),) = policy.sample([request(3, opening=(*every[:cut], other), stop=("never>",), tokens=6)])
        assert ids(branch)[: cut + 1] == [*every[:cut], other]
        assert policy.usage.prefilled - before == 1
        (fresh,) = load(checkpoints["single"]).sample(
            [request(3, opening=(*every[:cut], other), stop=("never>",), tokens=6)]
        )
        assert [ids(sample) for sample in fresh] == [ids(branch)]


def test_an_end_of_sequence_after_a_whole_step_is_an_empty_segment(checkpoints: dict[str, Path]) -> None:
    policy = made_to_write(checkpoints["single"], "\na = 1<end_of_step>", "<|end|>")

    def check(sample: Sample, given: int) -> None:
        assert [segment.text for segment in sample.segments] == ["\na = 1<end_of_step>", ""]
        assert sample.finish == "eos"
        assert sample.tokens == (step - given, 1)
        assert len(sample.logprobs) == 2
        assert sample.drawn[-1].token in policy._endings.eos

    step = len(policy._tokenizer.encode("\na = 1<end_of_step>"))
    ((whole,),) = policy.sample([greedy(alternatives=2)])
    check(whole, 0)
    for given in range(1, step + 1):
        ((rest,),) = policy.sample([greedy(tuple(ids(whole)[:given]), alternatives=2)])
        check(rest, given)
    (inside,) = made_to_write(checkpoints["single"], "\na = 1", "<|end|>").sample([greedy(alternatives=2)])[0]
    assert [segment.text for segment in inside.segments] == ["\na = 1"]
    assert inside.tokens == (len(inside.drawn),)


def test_n_samples_go_on_from_one_opening(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["single"])
    opening = policy._tokenizer.encode("\n# count")
    (samples,) = policy.sample([request(4, n=6, opening=opening)])
    assert all(tuple(ids(sample)[: len(opening)]) == opening for sample in samples)
    assert len({tuple(ids(sample)) for sample in samples}) > 3
    (closed,) = policy.sample([request(4, n=2, opening=policy._tokenizer.encode("\nprint(1)<end_of_code>"))])
    assert [sample.tokens for sample in closed] == [(0,), (0,)]
    assert [sample.finish for sample in closed] == ["stop", "stop"]
