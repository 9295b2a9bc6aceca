"""Compares the vLLM engines with the transformers ones, within vLLM's own environment; run by test_vllm_engine.py.

Arguments: a folder with `policy`, `adapter` and `prm`. Ends with an AssertionError where something is not as it should.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from rstar_cli.engines.prm import BEYOND_CONTEXT, TransformersScorer
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.engines.vllm import VllmPolicy
from rstar_cli.engines.vllm_prm import VllmScorer
from rstar_cli.prompts import CODE_END, COMPLETION_STOPS, STEP_END, STEP_STOPS, render_prompt
from rstar_cli.protocols import Sample, SampleRequest, ScoreRequest, Segment
from tests.asking import answers

PROMPTS = [
    Segment(render_prompt(f"Ana has {n} boxes with {n + 3} apples in each. How many apples?")) for n in range(12)
]


def ask(prompt: Segment, **more: object) -> SampleRequest:
    request = SampleRequest((prompt,), 1, 7, COMPLETION_STOPS, 120, 0.0)
    return replace(request, **more)  # type: ignore[arg-type]


def close(a: Sample, b: Sample, room: float) -> bool:
    return all(abs(x - y) <= room for x, y in zip(a.logprobs, b.logprobs, strict=True))


def check_greedy(ours: TransformersPolicy, policy: VllmPolicy) -> None:
    for stop, limit in ((COMPLETION_STOPS, 120), (STEP_STOPS, 120), (COMPLETION_STOPS, 9)):
        requests = [ask(prompt, stop=stop, max_tokens=limit) for prompt in PROMPTS]
        want = [one for (one,) in answers(ours, requests)]
        got = [one for (one,) in answers(policy, requests)]
        pairs = list(zip(want, got, strict=True))
        same = [a.segments == b.segments and (a.finish, a.tokens) == (b.finish, b.tokens) for a, b in pairs]
        assert sum(same) >= len(same) - 1, same  # one may differ by a near tie
        assert all(close(a, b, 1e-2) for a, b, alike in zip(want, got, same, strict=True) if alike)
        assert {one.finish for one in got} == ({"length"} if limit == 9 else {"stop"}), got


def check_sampling(policy: VllmPolicy) -> None:
    request = ask(PROMPTS[5], n=6, temperature=2.0)
    (first,), (again,) = answers(policy, [request]), answers(policy, [request])
    assert [s.segments for s in first] == [s.segments for s in again], "equal seeds"
    texts = ["".join(segment.text for segment in s.segments) for s in first]
    assert len(set(texts)) > 1, "draws differ"
    others = [ask(prompt, n=3, temperature=1.0) for prompt in PROMPTS]
    (fewer, *_), used = answers(policy, [replace(request, n=2), *others]), policy.usage.generated
    assert [s.segments for s in fewer] == [s.segments for s in first[:2]], "whatever runs beside it"
    assert used > 0
    (other,) = answers(policy, [replace(request, seed=8)])
    assert [s.segments for s in other] != [s.segments for s in first], "another seed"


def check_openings(policy: VllmPolicy) -> None:
    (whole,), *_ = answers(policy, [ask(PROMPTS[2], alternatives=20)])
    ids = [token for segment in whole.segments for token in segment.token_ids or ()]
    assert [drawn.token for drawn in whole.drawn] == ids
    for drawn in whole.drawn:
        assert drawn.token == drawn.ids[0], "greedy takes the likeliest"
        assert len(drawn.ids) == 20
        assert list(drawn.logprobs) == sorted(drawn.logprobs, reverse=True)
    assert abs(sum(d.logprobs[0] for d in whole.drawn) - sum(whole.logprobs)) < 1e-2
    (rest,), *_ = answers(policy, [ask(PROMPTS[2], opening=tuple(ids[:4]))])
    assert rest.segments == whole.segments, "it goes on from the opening"
    assert sum(rest.tokens) == len(ids) - 4
    (branched,), *_ = answers(policy, [ask(PROMPTS[2], opening=(*ids[:3], whole.drawn[3].ids[1]))])
    assert branched.segments != whole.segments
    used = policy.usage.generated
    (step,), *_ = answers(policy, [ask(PROMPTS[2], stop=STEP_STOPS)])
    (first,) = step.segments
    assert first.token_ids is not None
    spent = len(first.token_ids)
    (ended,), *_ = answers(policy, [ask(PROMPTS[2], stop=STEP_STOPS, opening=first.token_ids)])
    assert ended == Sample((first,), (0.0,), "stop", (0,)), "the opening is all of it"
    eos = min(policy._eos)
    (ended,), *_ = answers(policy, [ask(PROMPTS[2], opening=(*ids[:3], eos))])
    text = policy._tokenizer.decode(ids[:3])
    assert (ended.finish, ended.tokens, ended.segments[0].text) == ("eos", (0,), text)
    (more,), *_ = answers(policy, [ask(PROMPTS[2], opening=first.token_ids)])
    assert more.segments == whole.segments, "the opening is the first step"
    assert more.tokens == (0, *whole.tokens[1:])
    assert policy.usage.generated - used == spent + sum(more.tokens) + 3, "an opening's last token counts"
    (sampled,) = answers(policy, [ask(PROMPTS[2], n=8, temperature=2.0, alternatives=2)])
    rare = [drawn for sample in sampled for drawn in sample.drawn if len(drawn.ids) == 3]
    assert rare
    assert all(drawn.token == drawn.ids[2] for drawn in rare), "the sampled one is the last"


def check_split_tags(policy: VllmPolicy) -> None:
    """A stop that is several tokens, ends within one, and that the opening may have begun."""
    stop = ("answer\nprint",)
    (whole,), *_ = answers(policy, [ask(PROMPTS[1])])
    assert stop[0] in "".join(segment.text for segment in whole.segments), whole
    ids = [token for segment in whole.segments for token in segment.token_ids or ()]
    begun = next(i for i in range(len(ids)) if policy._tokenizer.decode(ids[:i]).endswith(" answer"))
    for opening in ((), tuple(ids[: begun - 1]), tuple(ids[:begun])):
        (cut,), *_ = answers(policy, [ask(PROMPTS[1], stop=stop, opening=opening)])
        assert cut.finish == "stop", cut
        assert cut.segments[-1].text.endswith(stop[0]), "the stop belongs to the text, nothing behind it"
        assert cut.segments[-1].token_ids is None, "its last token reached beyond the stop"
        assert sum(cut.tokens) == begun + 1 - len(opening)


def check_cache(policy: VllmPolicy) -> None:
    prompt = Segment(render_prompt("How many apples are in 7 boxes of 91?", 2))
    length, before = policy.count_tokens(prompt), policy.usage.prefilled
    answers(policy, [ask(prompt, n=8, temperature=1.0)])
    first = policy.usage.prefilled - before
    answers(policy, [ask(prompt, n=8, temperature=1.0)])
    again = policy.usage.prefilled - before - first
    assert length > 100
    assert first < length + 8 * 64, (first, length)
    assert again <= 8 * 32, "all but the last block comes from the cache"


def check_scorer(folder: Path) -> None:
    def step(number: int) -> Segment:
        return Segment(f"\n# add {number}\nx = {number} + 1{' + 1' * (number % 7)}\n{STEP_END}")

    ours, scorer = TransformersScorer.load(folder / "prm", device="cpu"), VllmScorer.load(folder / "prm", device="cpu")
    requests = [
        ScoreRequest((prompt, *map(step, range(n % 4))), ((step(n),), (step(n + 1), step(2), Segment(f"1{CODE_END}"))))
        for n, prompt in enumerate(PROMPTS)
    ]
    for round_ in range(2):  # the second time from the cache
        for want, got in zip(ours.score(requests), scorer.score(requests), strict=True):
            for a, b in zip(want, got, strict=True):
                assert len(a) == len(b)
                assert all(abs(x - y) < 1e-2 for x, y in zip(a, b, strict=True)), (round_, a, b)
    values = [v for branches in scorer.score(requests) for branch in branches for v in branch]
    assert max(values) - min(values) > 0.01, "they differ"
    beyond = ScoreRequest((PROMPTS[0],), ((step(1), Segment("x = 1\n" * 2000)),))
    ((near, far),) = scorer.score([beyond])[0]
    assert far == BEYOND_CONTEXT != near
    scorer.close()


def main() -> None:
    folder = Path(sys.argv[1])
    ours, policy = (kind.load(folder / "policy", device="cpu") for kind in (TransformersPolicy, VllmPolicy))
    assert policy.info.tokenizer == ours.info.tokenizer
    check_greedy(ours, policy)
    check_sampling(policy)
    check_openings(policy)
    check_split_tags(policy)
    check_cache(policy)
    policy.close()
    adapted, merged = VllmPolicy.load(folder / "adapter", device="cpu"), TransformersPolicy.load(folder / "merged")
    check_greedy(merged, adapted)
    adapted.close()
    check_scorer(folder)
    print("all as it should be")


if __name__ == "__main__":
    main()
