"""The transformers engine on tiny random models: right tokens, right states, nothing that hangs on the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rstar_cli.engines.cache import PrefixCache
from rstar_cli.engines.decode import DecodeLoop, pick, uniforms
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.errors import SetupError
from rstar_cli.prompts import COMPLETION_STOPS, STEP_STOPS, render_prompt
from rstar_cli.protocols import Sample, SampleRequest, Segment
from tests import models

KINDS = ["qwen2", "llama", "qwen2.5-math-7b"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = {kind: models.save(root / kind, kind=kind) for kind in KINDS}
    made["several"] = models.save(root / "several", single_tags=False)
    return made


def load(path: Path, **more: int) -> TransformersPolicy:
    return TransformersPolicy.load(path, device="cpu", **more)


def prompt(number: int) -> Segment:
    return Segment(render_prompt(f"What is {number} plus {number * number}?" + " Think." * (number % 4)))


def request(number: int, *, n: int = 1, temperature: float = 1.0, tokens: int = 24, **more: object) -> SampleRequest:
    fields = {"prefix": (prompt(number),), "stop": STEP_STOPS, **more}
    return SampleRequest(n=n, seed=number * 7919, max_tokens=tokens, temperature=temperature, **fields)  # type: ignore[arg-type]


def ids(sample: Sample) -> list[int]:
    return [token for segment in sample.segments for token in segment.token_ids or ()]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_models_own_greedy(checkpoints: dict[str, Path], kind: str) -> None:
    policy = load(checkpoints[kind])
    asked = [request(i, temperature=0.0, tokens=20) for i in range(12)]
    for asking, (got,) in zip(asked, policy.sample(asked), strict=True):
        start = policy._tokenizer.prefix_ids(asking.prefix)
        tensor = torch.tensor([start])
        own = policy._model.generate(tensor, attention_mask=torch.ones_like(tensor), max_new_tokens=20, do_sample=False)
        expected = own[0, len(start) :].tolist()
        assert ids(got) == expected[: len(ids(got))]
        assert len(ids(got)) == 20 or got.finish in ("stop", "eos")


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_are_those_of_a_plain_forward_pass(checkpoints: dict[str, Path], kind: str) -> None:
    policy = load(checkpoints[kind])
    asked = [request(i, n=2, stop=COMPLETION_STOPS) for i in range(6)]
    for asking, samples in zip(asked, policy.sample(asked), strict=True):
        start = policy._tokenizer.prefix_ids(asking.prefix)
        for sample in samples:
            own = ids(sample)
            with torch.no_grad():
                logits = policy._model(torch.tensor([start + own])).logits[0, len(start) - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, torch.tensor(own)[:, None]).sum()
            assert sum(sample.logprobs) == pytest.approx(float(expected), abs=2e-4)


@pytest.mark.parametrize("max_rows", [1, 7])
def test_samples_do_not_hang_on_the_batch(checkpoints: dict[str, Path], max_rows: int) -> None:
    """Neither their tokens nor, on a CPU, their log-probabilities."""
    asked = [request(i, n=3) for i in range(10)]
    together = load(checkpoints["qwen2"]).sample(asked)
    apart = load(checkpoints["qwen2"], max_rows=max_rows).sample(list(reversed(asked)))[::-1]
    assert together == apart
    assert len({tuple(ids(s)) for samples in together for s in samples}) > 20, "the samples differ"


def test_kept_states_give_what_a_fresh_start_gives(checkpoints: dict[str, Path]) -> None:
    """Three steps down a tree: with everything kept, and with nothing."""
    policy = load(checkpoints["qwen2"])
    prefixes = {i: (prompt(i),) for i in range(8)}
    for depth in range(3):
        asked = [request(i + 100 * depth, n=2, prefix=prefix, tokens=10) for i, prefix in prefixes.items()]
        before = policy.usage.prefilled
        got = policy.sample(asked)
        if depth:
            outputs = sum(policy.count_tokens(Segment(f"\n<output>{depth}<end_of_output>\n")) for _ in asked)
            assert policy.usage.prefilled - before == 2 * len(asked) + outputs, "one token a sample, and what is new"
        fresh = load(checkpoints["qwen2"]).sample(asked)
        assert [[ids(s) for s in samples] for samples in got] == [[ids(s) for s in samples] for samples in fresh]
        output = Segment(f"\n<output>{depth + 1}<end_of_output>\n")
        prefixes = {i: (*prefixes[i], got[i][depth % 2].segments[0], output) for i in prefixes}


def test_n_samples_share_one_pass_over_the_prefix(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    policy.sample([request(3, n=16)])
    assert policy.usage.prefilled == policy.count_tokens(prompt(3)) - 1 + 16, "but for its last token"


def test_full_cache_drops_and_computes_again(checkpoints: dict[str, Path]) -> None:
    asked = [request(i, n=2) for i in range(10)]
    small = load(checkpoints["qwen2"])
    small._cache = PrefixCache(20_000)
    first, second = small.sample(asked), small.sample(asked)
    expected = load(checkpoints["qwen2"]).sample(asked)
    for got in (first, second):
        assert [[ids(s) for s in x] for x in got] == [[ids(s) for s in x] for x in expected]
    assert len(small._cache._groups) < 10


def test_forget_frees_a_prompts_states(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    policy.sample([request(1), request(2)])
    held = policy._cache.bytes
    policy.forget(prompt(1))
    assert 0 < policy._cache.bytes < held
    policy.forget(prompt(2))
    assert policy._cache.bytes == 0


def made_to_write(path: Path, *pieces: str) -> TransformersPolicy:
    """A policy that writes the tokens of these pieces below `prompt(1)`: their logits are pushed up, one by one."""
    policy = load(path)
    wanted = [token for piece in pieces for token in policy._tokenizer.encode(piece)]
    start = len(policy._tokenizer.prefix_ids([prompt(1)]))
    forward = policy._forward

    def forced(tokens: torch.Tensor, positions: torch.Tensor, *rest: object) -> torch.Tensor:
        logits = forward(tokens, positions, *rest)  # type: ignore[arg-type]
        for row, position in enumerate(positions[:, -1].tolist()):
            if 0 <= position + 1 - start < len(wanted):
                logits[row, wanted[position + 1 - start]] += 1e4
        return logits

    policy._forward = forced  # type: ignore[method-assign]
    return start_anew(policy)


@pytest.mark.parametrize("kind", ["qwen2", "several"])
def test_a_sample_ends_at_its_stop_tag(checkpoints: dict[str, Path], kind: str) -> None:
    policy = made_to_write(checkpoints[kind], "\na = 1<end_of_step>\nprint(a)<end_of_code> more")
    (step,), (completion,) = policy.sample([request(1, tokens=99), request(1, tokens=99, stop=COMPLETION_STOPS)])
    assert [s.text for s in step.segments] == ["\na = 1<end_of_step>"]
    assert [s.text for s in completion.segments] == ["\na = 1<end_of_step>", "\nprint(a)<end_of_code>"]
    assert len(completion.logprobs) == 2
    assert step.finish == completion.finish == "stop"


def test_a_tag_may_end_within_a_token(tmp_path: Path) -> None:
    """Foreign vocabularies have tokens as `>\\n`: the sampled ids stay, the text is what they say."""
    path = models.save(tmp_path, single_tags=False, pieces=(">\n",))
    policy = made_to_write(path, "\na = 1<end_of_step", ">\n", "print(a)<end_of_code", ">\n", "more")
    assert len(policy._tokenizer.encode(">\n")) == 1
    (step,), (completion,) = policy.sample([request(1, tokens=99), request(1, tokens=99, stop=COMPLETION_STOPS)])
    assert [s.text for s in step.segments] == ["\na = 1<end_of_step>\n"]
    assert [s.text for s in completion.segments] == ["\na = 1<end_of_step>\n", "print(a)<end_of_code>\n"]
    assert completion.segments[0].token_ids == policy._tokenizer.encode("\na = 1<end_of_step>\n")


@pytest.mark.parametrize("stop", ["\n\n", "é.", " is"])
def test_any_text_may_end_a_sample(checkpoints: dict[str, Path], stop: str) -> None:
    policy = made_to_write(checkpoints["several"], f"It follows{stop} and more")
    ((sample,),) = policy.sample([request(1, tokens=99, stop=(stop,))])
    assert sample.finish == "stop"
    assert sample.segments[0].text.startswith(f"It follows{stop}")
    assert len(sample.segments[0].text) <= len(f"It follows{stop}") + 3


def test_a_sequence_ends_with_the_models_context(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    length = policy.count_tokens(prompt(1))
    policy._context = length + 5
    longer = (prompt(1), Segment(" and so on"), Segment(" and on"))
    fits, full = policy.sample([request(1, n=2, tokens=50, stop=("never>",)), request(1, n=2, prefix=longer)])
    assert all(s.finish == "eos" or (s.finish == "length" and len(ids(s)) == 5) for s in fits)
    assert [(s.finish, s.segments, s.logprobs) for s in full] == [("length", (Segment("", ()),), (0.0,))] * 2
    assert policy.sample([request(1, prefix=longer)])[0][0].finish == "length", "with nothing else under way"


def count_rows(policy: TransformersPolicy) -> list[int]:
    """Notes the rows of each forward pass from now on."""
    seen: list[int] = []
    forward = policy._forward

    def counted(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(len(tokens))
        return forward(tokens, *rest)  # type: ignore[arg-type]

    policy._forward = counted  # type: ignore[method-assign]
    start_anew(policy)
    return seen


def test_more_samples_than_rows_are_the_same_samples(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"], max_rows=5)
    seen = count_rows(policy)
    got = policy.sample([request(1, n=13), request(2, n=4)])
    expected = load(checkpoints["qwen2"]).sample([request(1, n=13), request(2, n=4)])
    assert [[ids(s) for s in x] for x in got] == [[ids(s) for s in x] for x in expected]
    assert max(seen) == 5


def test_a_full_memory_holds_rows_back(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    seen = count_rows(policy)
    asked = [request(i, n=1 + 4 * (i % 2)) for i in range(6)]
    longest = max(policy.count_tokens(prompt(i)) for i in range(6)) + 24
    policy._memory = 3 * longest * policy._shape.token_bytes
    got = policy.sample(asked)
    assert [[ids(s) for s in x] for x in got] == [[ids(s) for s in x] for x in load(checkpoints["qwen2"]).sample(asked)]
    assert max(seen) == 3


def test_prefixes_with_a_common_beginning_share_its_pass(checkpoints: dict[str, Path]) -> None:
    """As after a resume: the tree is there, its states are not."""
    policy = load(checkpoints["qwen2"])
    steps = [Segment(f"\nx = {i}<end_of_step>") for i in range(4)]
    prefixes = [(prompt(1), steps[0], step) for step in steps] + [(prompt(1), steps[0])] * 2
    got = policy.sample([request(1, prefix=prefix) for prefix in prefixes])
    rows = len(prefixes)
    once = sum(policy.count_tokens(part) for part in (prompt(1), steps[0], *steps))
    assert policy.usage.prefilled == once - 1 + rows, "each token once, and a prefix's last one for each of its rows"
    for prefix, samples in zip(prefixes, got, strict=True):
        (alone,) = load(checkpoints["qwen2"]).sample([request(1, prefix=prefix)])
        assert [ids(s) for s in samples] == [ids(s) for s in alone]


def test_requests_join_while_others_are_under_way(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    asked = [request(i, n=2, tokens=5 + 3 * i) for i in range(9)]
    answers: dict[int, list[Sample]] = {}
    for ticket, asking in enumerate(asked):
        policy.submit(ticket, asking)
        answers.update(policy.poll() if ticket % 2 else [])
    while got := policy.poll():
        answers.update(got)
    expected = load(checkpoints["qwen2"]).sample(asked)
    assert [[ids(s) for s in answers[i]] for i in range(9)] == [[ids(s) for s in x] for x in expected]
    assert policy.poll() == []


def test_bfloat16_samples_what_the_model_says(checkpoints: dict[str, Path]) -> None:
    policy = TransformersPolicy.load(checkpoints["qwen2"], device="cpu", dtype="bfloat16")
    assert policy._model.dtype is torch.bfloat16
    ((sample,),) = policy.sample([request(1)])
    start = policy._tokenizer.prefix_ids([prompt(1)])
    with torch.no_grad():
        logits = policy._model(torch.tensor([start + ids(sample)])).logits[0, len(start) - 1 : -1].float()
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids(sample))[:, None]).sum()
    assert sum(sample.logprobs) == pytest.approx(float(expected), rel=0.05)


def test_token_limit_and_end_of_sequence(checkpoints: dict[str, Path]) -> None:
    policy = load(checkpoints["qwen2"])
    (limited,), (ended,) = policy.sample([request(1, tokens=3, stop=("never>",)), request(2, stop=("never>",))])
    assert limited.finish in ("length", "eos")
    assert len(ids(limited)) <= 3
    policy._endings = replace(policy._endings, eos=frozenset({ids(ended)[2]}))
    position = ids(ended).index(ids(ended)[2])
    ((again,),) = start_anew(policy).sample([request(2, stop=("never>",))])
    assert again.finish == "eos"
    assert ids(again) == ids(ended)[:position]


def start_anew(policy: TransformersPolicy) -> TransformersPolicy:
    policy._cache = PrefixCache(1 << 30)
    policy._loop = DecodeLoop(policy._forward, policy._shape, policy._endings, policy._keep)
    return policy


def test_uniform_numbers_are_uniform_and_repeat() -> None:
    keys = torch.arange(20_000) * 1_000_003
    numbers = uniforms(keys, torch.full_like(keys, 5))
    assert torch.equal(numbers, uniforms(keys.clone(), torch.full_like(keys, 5)))
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    histogram = torch.histc(numbers.float(), bins=20, min=0, max=1) / len(keys)
    assert float((histogram - 0.05).abs().max()) < 0.01
    both = torch.stack([numbers, uniforms(keys, torch.full_like(keys, 6))])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.03


def test_pick_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(30_000, 3)
    picked = pick(logits, torch.ones(30_000), torch.arange(30_000) * 77_777, torch.zeros(30_000, dtype=torch.int64), 2)
    shares = torch.bincount(picked.tokens, minlength=3) / 30_000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.015)
    assert float(picked.logprobs.exp().max()) == pytest.approx(0.5)
    assert picked.forks.tolist() == list(range(30_000))
    assert picked.likely[0].tolist() == [0, 1]
    assert picked.likely_logprobs[0].exp().tolist() == pytest.approx([0.5, 0.3])


def test_what_is_not_there_is_told(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    with pytest.raises(SetupError, match="no tokenizer"):
        TransformersPolicy.load(tmp_path / "nothing")
    if not torch.cuda.is_available():
        with pytest.raises(SetupError, match="CUDA"):
            TransformersPolicy.load(checkpoints["qwen2"], device="cuda")
