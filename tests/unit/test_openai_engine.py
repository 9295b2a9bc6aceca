"""The openai engine against real servers: the samples are the model's, failures pass or are told, no key leaks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.engines import openai_http
from rstar_cli.engines.openai import ServerPolicy
from rstar_cli.engines.openai_answers import (
    Choice,
    Token,
    TokenTable,
    asked_stops,
    put_back,
    read_choices,
    read_sample,
    share_tokens,
)
from rstar_cli.engines.openai_http import read_urls
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.errors import SetupError, UsageError
from rstar_cli.prompts import CODE_END, COMPLETION_STOPS, STEP_END, STEP_STOPS, render_prompt
from rstar_cli.protocols import Sample, SampleRequest, Segment
from tests import models, servers
from tests.asking import answers
from tests.helpers import ROOT, rstar

SECRET = "sk-a-very-secret-key-4711"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return models.save(place / "model")


@pytest.fixture(scope="module")
def local(model: Path) -> TransformersPolicy:
    return TransformersPolicy.load(model, device="cpu")


@pytest.fixture(scope="module")
def server(model: Path, place: Path) -> Iterator[tuple[str, Path]]:
    with servers.serve(model, place, "--key", SECRET) as started:
        yield started


@pytest.fixture(scope="module")
def bare(model: Path, place: Path) -> Iterator[tuple[str, Path]]:
    with servers.serve(model, place, "--bare", "--names", "tiny,other", "--context", "500") as started:
        yield started


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSTAR_API_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(openai_http, "WAIT_SECONDS", 0.01)


@pytest.fixture
def policy(server: tuple[str, Path]) -> Iterator[ServerPolicy]:
    connected = ServerPolicy.connect(server[0], None, concurrency=8)
    yield connected
    connected.close()


def request(number: int, *, n: int = 1, temperature: float = 1.0, tokens: int = 24, **more: object) -> SampleRequest:
    prompt = Segment(render_prompt(f"What is {number} plus {number * number}?"))
    fields = {"prefix": (prompt,), "stop": STEP_STOPS, **more}
    return SampleRequest(n=n, seed=number * 7919, max_tokens=tokens, temperature=temperature, **fields)  # type: ignore[arg-type]


def text(sample: Sample) -> str:
    return "".join(segment.text for segment in sample.segments)


def shape(sample: Sample) -> tuple[object, ...]:
    return tuple(s.text for s in sample.segments), sample.finish, sample.tokens


def test_greedy_samples_are_those_of_the_model_itself(policy: ServerPolicy, local: TransformersPolicy) -> None:
    """Text, cuts, token counts, ends and log-probabilities, tags put back: all as if the model ran here."""
    asked = [request(i, temperature=0.0, tokens=60, stop=STEP_STOPS if i % 2 else COMPLETION_STOPS) for i in range(24)]
    ours, own = answers(policy, asked), answers(local, asked)
    for (got,), (expected,) in zip(ours, own, strict=True):
        assert shape(got) == shape(expected)
        assert got.logprobs == pytest.approx(expected.logprobs, abs=2e-3)
        assert all(segment.token_ids is None for segment in got.segments)
    ends = {sample.finish for (sample,) in ours}
    assert "stop" in ends, "none ended by a tag: the test shows too little"
    assert policy.usage.generated == sum(sum(s.tokens) for (s,) in ours)
    assert policy.usage.prefilled > 0
    info = policy.info
    assert (info.name, info.model, info.tokenizer, info.alternatives) == ("openai", "tiny", "server:tiny", 20)


def test_samples_depend_on_their_request_alone(server: tuple[str, Path], policy: ServerPolicy) -> None:
    asked = [request(i, n=3) for i in range(10)]
    together = answers(policy, asked)
    alone = ServerPolicy.connect(server[0], "tiny", concurrency=1)
    one_by_one = [answers(alone, [each])[0] for each in reversed(asked)][::-1]
    alone.close()
    assert together == one_by_one
    assert len({text(sample) for sample in together[0]}) > 1, "three draws are no copies"
    other = answers(policy, [SampleRequest(asked[0].prefix, 3, 1, STEP_STOPS, 24, 1.0)])
    assert other != together[:1], "another seed draws others"


def test_alternatives_are_the_models_likeliest_and_an_opening_goes_on_from_one(
    policy: ServerPolicy, local: TransformersPolicy
) -> None:
    several = [request(i, temperature=0.0, tokens=12, alternatives=16) for i in range(30)]
    found = zip(several, answers(policy, several), strict=True)
    # the model is a random one, and half of what it writes are parts of characters
    asked, sample = next((a, s) for a, (s,) in found if all(len(d.ids) > 1 for d in s.drawn[:3]))
    assert len(sample.drawn) == sum(sample.tokens)
    for drawn in sample.drawn:
        assert len(drawn.ids) <= 17
        assert drawn.ids[0] == drawn.token, "greedy takes the likeliest"
        assert list(drawn.logprobs) == sorted(drawn.logprobs, reverse=True)
    assert sum(d.logprobs[d.ids.index(d.token)] for d in sample.drawn) == pytest.approx(sum(sample.logprobs), abs=1e-2)
    taken, second = [drawn.token for drawn in sample.drawn[:2]], sample.drawn[2].ids[1]
    ((other,),) = answers(policy, [replace(asked, max_tokens=5, opening=(*taken, second), alternatives=0)])
    opening = "".join(policy._table.text([token]) for token in (*taken, second))
    assert text(other).startswith(opening)
    assert text(other) != text(sample)
    assert sum(other.tokens) <= 5, "the opening is not new"
    (prompt,) = asked.prefix
    joined = (Segment(prompt.text + opening),)
    ((going_on,),) = answers(local, [request(0, temperature=0.0, tokens=5, prefix=joined)])
    assert text(other) == opening + text(going_on)


def test_an_opening_that_ends_the_step_asks_nothing(server: tuple[str, Path], policy: ServerPolicy) -> None:
    before = len(servers.requests(server[1]))
    ids = [policy._table.id(part) for part in ("\nx = 1", CODE_END)]
    ((sample, again),) = answers(policy, [request(1, n=2, opening=tuple(ids))])
    assert sample == again == Sample((Segment(f"\nx = 1{CODE_END}"),), (0.0,), "stop", (0,))
    policy._table.ends.add(end := policy._table.id("<|end|>"))
    ((ended,),) = answers(policy, [request(1, opening=(ids[0], end))])
    assert ended == Sample((Segment("\nx = 1"),), (0.0,), "eos", (0,))
    assert len(servers.requests(server[1])) == before


def test_failures_that_pass_are_tried_again(server: tuple[str, Path], policy: ServerPolicy) -> None:
    asked = [request(i) for i in range(6)]
    expected = answers(policy, asked)
    servers.fail(server[0], 429, "drop", 500, 503, "drop", 429, 502)
    before = len(servers.requests(server[1]))
    assert answers(policy, asked) == expected
    assert len(servers.requests(server[1])) == before + 6 + 7


def test_the_last_failure_is_told_without_the_key(
    server: tuple[str, Path], policy: ServerPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers.fail(server[0], *[503] * openai_http.TRIES)
    policy.submit(1, request(1))
    with pytest.raises(SetupError, match=r"http://127.*/v1/completions answered 503: told to fail with 503"):
        policy.poll()
    assert policy.poll() == []
    monkeypatch.setenv("RSTAR_API_KEY", "")
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}-wrong")
    with pytest.raises(SetupError, match="answered 401: wrong key: Bearer \\*\\*\\*") as caught:
        ServerPolicy.connect(server[0], None, concurrency=1)
    assert "RSTAR_API_KEY" in caught.value.remedy
    assert SECRET not in repr(caught.value)
    assert SECRET not in repr(vars(policy._servers._client))


def test_a_bare_server_gets_single_requests_and_its_totals_are_shared_out(
    bare: tuple[str, Path], local: TransformersPolicy
) -> None:
    """No n, no log-probabilities, no extras, no tokeniser: what is left must do, and the stop tag is known even so."""
    policy = ServerPolicy.connect(bare[0], "tiny", concurrency=4)
    assert policy.info.alternatives == 0
    before = len(servers.requests(bare[1]))
    asked = [request(i, n=3, tokens=40) for i in range(4)]
    found = answers(policy, asked)
    assert len(servers.requests(bare[1])) == before + 12
    assert len({text(sample) for sample in found[0]}) > 1
    assert policy.usage.generated == sum(sum(s.tokens) for samples in found for s in samples)
    assert all(s.logprobs == (0.0,) * len(s.segments) for samples in found for s in samples)
    greedy = [request(i, temperature=0.0, tokens=60, stop=COMPLETION_STOPS) for i in range(12)]
    expected = [shape(sample)[:2] for (sample,) in answers(local, greedy)]
    assert [shape(sample)[:2] for (sample,) in answers(policy, greedy)] == expected
    assert policy.count_tokens(Segment("12345")) == 2
    policy.close()


def test_what_does_not_fit_the_context_is_shortened_then_empty(bare: tuple[str, Path]) -> None:
    policy = ServerPolicy.connect(bare[0], "tiny", concurrency=4)
    short, long = request(1, tokens=4000, stop=("never>",)), request(1, tokens=64, prefix=(Segment("x = 1\n" * 400),))
    ((sample,), (nothing,)) = answers(policy, [short, long])
    assert sum(sample.tokens) > 50
    assert nothing == Sample((Segment(""),), (0.0,), "length", (0,))
    policy.close()


def test_chat_continues_the_assistants_message(model: Path, place: Path, local: TransformersPolicy) -> None:
    with servers.serve(model, place, "--chat-only") as (url, log):
        policy = ServerPolicy.connect(url, None, concurrency=4)
        prompt, step = request(2).prefix[0], Segment(f"\nx = 1\n{STEP_END}")
        asked = [request(2, temperature=0.0), request(2, temperature=0.0, prefix=(prompt, step), alternatives=5)]
        found, own = answers(policy, asked), answers(local, asked)
        assert [shape(s) for (s,) in found] == [shape(s) for (s,) in own], "this server's template adds nothing"
        assert len(found[1][0].drawn) == sum(found[1][0].tokens)
        body = next(r["body"] for r in servers.requests(log) if len(r["body"].get("messages", ())) == 2)
        assert body["messages"][1] == {"role": "assistant", "content": step.text}
        assert body["continue_final_message"] is True
        assert body["add_generation_prompt"] is False
        policy.close()


def test_requests_of_one_prompt_go_to_one_server(server: tuple[str, Path], bare: tuple[str, Path]) -> None:
    both = ServerPolicy.connect(f"{bare[0]}/,{server[0]}", "tiny", concurrency=8)
    logs = [server[1], bare[1]]
    counts = [len(servers.requests(log)) for log in logs]
    asked = [request(number % 4) for number in range(12)]
    assert len(answers(both, asked)) == 12
    both.close()
    prompts = [
        {r["body"]["prompt"] for r in servers.requests(log)[count:] if r["path"] == "/v1/completions"}
        for log, count in zip(logs, counts, strict=True)
    ]
    assert all(prompts)
    assert not prompts[0] & prompts[1]


def test_a_server_that_is_gone_is_replaced_by_the_next(server: tuple[str, Path], policy: ServerPolicy) -> None:
    policy._servers.urls.insert(0, "http://127.0.0.1:9/v1")
    asked = [request(i) for i in range(3)]
    found = answers(policy, asked)
    policy._servers.urls.pop(0)
    assert answers(policy, asked) == found


def test_closing_waits_for_no_answer(model: Path, place: Path) -> None:
    with servers.serve(model, place) as (url, log):
        policy = ServerPolicy.connect(url, None, concurrency=2)
        for ticket in range(8):
            policy.submit(ticket, request(ticket, n=8, tokens=5000, stop=("never>",)))
        begun = time.monotonic()
        while sum(r["body"].get("max_tokens") == 5000 for r in servers.requests(log)) < 2:
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        begun = time.monotonic()
        policy.close()
        policy.close()
        assert time.monotonic() - begun < 1
        assert sum(r["body"].get("max_tokens") == 5000 for r in servers.requests(log)) == 2, "two at once at most"


def test_what_is_not_there_is_told(bare: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="needs a server") as no_url:
        ServerPolicy.connect("", None, concurrency=1)
    assert "--base-url" in no_url.value.remedy
    for wrong in ("127.0.0.1:80", "ftp://x/v1", "http://", "http://x:port/v1"):
        with pytest.raises(UsageError, match="base URL"):
            read_urls(wrong)
    with pytest.raises(UsageError, match="no user, password or query") as password:
        read_urls(f"http://me:{SECRET}@host/v1")
    assert SECRET not in str(password.value)
    assert read_urls("http://a:1, https://b/v1/ ,http://c/x") == ["http://a:1/v1", "https://b/v1", "http://c/x"]
    with pytest.raises(SetupError, match=r"no answer from http://127\.0\.0\.1:9/v1/models"):
        ServerPolicy.connect("http://127.0.0.1:9", None, concurrency=1)
    with pytest.raises(SetupError, match="offers tiny, other"):
        ServerPolicy.connect(bare[0], None, concurrency=1)
    with pytest.raises(
        SetupError, match="model none is not to be had from the server, which names tiny, other"
    ) as none:
        ServerPolicy.connect(bare[0], "none", concurrency=1)
    assert "--policy" in none.value.remedy
    monkeypatch.setenv("RSTAR_API_KEY", "schlüssel")
    with pytest.raises(UsageError, match="RSTAR_API_KEY has characters"):
        ServerPolicy.connect(bare[0], "tiny", concurrency=1)


def test_generate_as_a_user_runs_it(server: tuple[str, Path], tmp_path: Path) -> None:
    rstar(
        "problems", "make", "--count", "3", "--levels", "1", "--output", "p.jsonl", cwd=tmp_path, PYTHONPATH=str(ROOT)
    )
    command = [
        "generate",
        "--engine",
        "openai",
        "--base-url",
        server[0],
        "--problems",
        "p.jsonl",
        "--output",
        "t.jsonl",
    ]
    limits = [
        "--rollouts",
        "2",
        "--candidates",
        "3",
        "--max-step-tokens",
        "24",
        "--max-tokens",
        "40",
        "--few-shot",
        "0",
    ]
    done = rstar("--debug", *command, *limits, cwd=tmp_path, PYTHONPATH=str(ROOT), RSTAR_API_KEY=SECRET)
    assert (tmp_path / "t.jsonl").read_text().count("\n") == 3
    assert '"server:tiny"' in (tmp_path / "t.jsonl").read_text()
    wrong = rstar(*command, *limits, "--output", "u.jsonl", cwd=tmp_path, check=False, RSTAR_API_KEY=f"{SECRET}x")
    assert wrong.returncode == 5, wrong.stderr
    assert "401" in wrong.stderr
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    shown = [done.stdout, done.stderr, wrong.stdout, wrong.stderr]
    assert not [each for each in (*written, *shown) if SECRET in each]
    assert all(r["key"] for r in servers.requests(server[1]))


# The parts, on answers that no server here gives.


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("stop", [STEP_STOPS, COMPLETION_STOPS, STEP_STOPS[2:]])
@pytest.mark.parametrize("written", ["x = 1\n", "if a <", "", "a<e"])
def test_the_tag_that_was_cut_off_is_known(written: str, stop: tuple[str, ...], finish: str) -> None:
    asked = asked_stops(stop)
    assert len(set(asked)) == len(stop)
    for tag in stop:
        whole = f"{written}{tag}"
        cut = whole[: min(whole.find(each) for each in asked if each in whole)]
        assert put_back(cut, "stop", stop) == (whole, "stop")
        assert put_back(whole + " and more", finish, stop) == (whole, "stop"), "left in, gone on behind"
    if finish == "length":
        assert put_back(written, finish, stop) == (written, "length")
    elif not written.endswith(("<", "<e")):
        assert put_back(written, finish, stop) == (written, "eos")


def read(text: str, tokens: list[str], *, finish: str = "stop", alternatives: int = 3, opening: str = "") -> Any:
    table = TokenTable()
    told = [Token(t, -1.0, ((t, -1.0), ("other", -2.0), ("\N{REPLACEMENT CHARACTER}", -3.0))) for t in tokens]
    asked = SampleRequest((Segment("p"),), 1, 1, COMPLETION_STOPS, 9, 1.0, alternatives=alternatives)
    sample = read_sample(Choice(text, finish, told), asked, opening, table)
    return sample, [table._texts[d.token] for d in sample.drawn], table


def test_tokens_are_laid_along_the_text() -> None:
    tags = [STEP_END, CODE_END]
    sample, texts, _ = read("a<end_of_step>\nb<", ["a", tags[0], "\n", "b", tags[1]])
    assert [s.text for s in sample.segments] == ["a<end_of_step>", f"\nb{CODE_END}"]
    assert (sample.tokens, sample.logprobs, texts) == ((2, 3), (-2.0, -3.0), ["a", tags[0], "\n", "b", tags[1]])
    assert [len(d.ids) for d in sample.drawn] == [2] * 5, "what is no text can't be an opening"
    sample, texts, _ = read("b<", ["b"])
    assert (sample.tokens, texts) == ((2,), ["b", CODE_END]), "a tag whose tokens are kept back is one"
    broken = "\N{REPLACEMENT CHARACTER}"
    sample, texts, _ = read("aé = 1", ["a", broken, broken, " =", " 1", "<|end|>"])
    assert (sample.finish, sample.tokens) == ("eos", (6,))
    assert texts == ["a", "", "é", " =", " 1", "<|end|>"]
    assert [len(d.ids) for d in sample.drawn] == [2, 1, 1, 2, 2, 2]
    sample, texts, _ = read("two words", ["two", "words"], finish="length")
    assert (sample.finish, texts) == ("length", ["two", " words"]), "SentencePiece"
    sample, texts, table = read("", [""])
    assert (sample.finish, sample.tokens, texts) == ("eos", (1,), [""])
    assert table.text([table.id("x"), table.id("")]) == "x"
    sample, texts, _ = read("b<", ["b", CODE_END, " and", " more"], opening="a")
    assert (sample.segments[0].text, sample.tokens) == (f"ab{CODE_END}", (2,))


def test_totals_are_shared_out_by_bytes() -> None:
    sample, _, _ = read("aaaa<end_of_step>b<", [], alternatives=0)
    (shared, again) = share_tokens([sample, sample], "", 13)
    assert sum(shared.tokens) + sum(again.tokens) == 13
    assert shared.tokens[0] > shared.tokens[1] > 0


def test_answers_of_another_kind_are_refused() -> None:
    for wrong in ({}, {"choices": [{}]}, [], {"choices": None}):
        with pytest.raises(ValueError, match="not an answer"):
            read_choices(wrong)
