"""The PRM engine on tiny random models: plain transformers' values, each token run once, whatever runs beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.engines import prefix
from rstar_cli.engines.cache import PrefixCache
from rstar_cli.engines.prm import BEYOND_CONTEXT, TransformersScorer
from rstar_cli.engines.scripted import ScriptedScorer
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import ScoreRequest, Segment
from tests import models

KINDS = ["qwen2", "llama", "qwen2.5-math-7b"]
SCALE = 2.5

Values = list[list[tuple[float, ...]]]


def save(path: Path, *, kind: str = "qwen2", labels: int = 1, scale: object = SCALE) -> Path:
    """A random classifier with its tokenizer, or the packaged policy with a random head (kind `embedded`).

    With a scale of None, config.json does not tell of it.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    policy = model_path("embedded") if kind == "embedded" else models.save(path, kind=kind)
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(policy, num_labels=labels)
    if scale is not None:
        model.config.rstar_value_scale = scale
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(policy).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("prms")
    return {kind: save(root / kind, kind=kind) for kind in (*KINDS, "embedded")}


def load(path: Path) -> TransformersScorer:
    return TransformersScorer.load(path, device="cpu")


def prompt(number: int) -> Segment:
    return Segment(render_prompt(f"What is {number} plus {number * number}?" + " Think." * (number % 4)))


def step(number: int) -> Segment:
    return Segment(f"\n# add {number}\nx = {number} + 1{' + 1' * (number % 7)}\n<end_of_step>")


def request(number: int, depth: int = 0) -> ScoreRequest:
    """Branches of one to three segments below a prefix of so many steps."""
    before = (prompt(number), *(step(number + i) for i in range(depth)))
    return ScoreRequest(before, tuple(tuple(step(10 * number + i + j) for j in range(i)) for i in range(1, 4)))


def many(seed: int) -> list[ScoreRequest]:
    """Requests of very different lengths, in the order of a search: each goes on from a branch of the one before."""
    rng = random.Random(seed)
    requests: list[ScoreRequest] = []
    for number in range(12):
        few_shot = number % 3 if number < 6 else 0  # prompts of some 50 to 1,000 tokens
        before: tuple[Segment, ...] = (Segment(render_prompt("Add." * (1 + 3 * number), few_shot)),)
        for _ in range(rng.randrange(1, 4)):
            branches = tuple(tuple(step(rng.randrange(1000)) for _ in range(rng.choice([1, 1, 3]))) for _ in range(3))
            requests.append(ScoreRequest(before, branches))
            before = (*before, rng.choice(branches)[0])
    return requests


def plain(scorer: TransformersScorer, asked: ScoreRequest, scale: float = SCALE) -> Values:
    """What the classifier itself says of each segment, one sequence at a time."""
    values: Values = [[]]
    for branch in asked.branches:
        ends = [(*asked.prefix, *branch[: i + 1]) for i in range(len(branch))]
        with torch.no_grad():
            scores = [scorer._model(torch.tensor([scorer._tokenizer.prefix_ids(end)])).logits[0, 0] for end in ends]
        values[0].append(tuple(float(torch.tanh(score / scale)) for score in scores))
    return values


def flat(values: Values) -> list[float]:
    return [value for branches in values for branch in branches for value in branch]


def tokens(scorer: TransformersScorer, segments: Sequence[Segment]) -> int:
    return len(scorer._tokenizer.prefix_ids(segments))


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_plain_transformers(checkpoints: dict[str, Path], kind: str) -> None:
    scorer = load(checkpoints[kind])
    requests = [request(number, depth) for number in range(5) for depth in range(3)]
    for asked, got in zip(requests, scorer.score(requests), strict=True):
        assert [len(branch) for branch in got] == [1, 2, 3]
        assert flat([got]) == pytest.approx(flat(plain(scorer, asked)), abs=1e-4)
    values = flat(scorer.score(requests))
    assert max(values) - min(values) > 0.5, "they differ"
    assert values == [round(value, 4) for value in values]


def test_sampled_ids_are_kept(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen2"])
    spelled = tuple(scorer._tokenizer.encode(letter)[0] for letter in "x=1")
    asked = ScoreRequest((prompt(1), Segment("x=1", spelled)), ((Segment("x=1", spelled),), (Segment("x=1"),)))
    (got,) = scorer.score([asked])
    assert flat([got]) == pytest.approx(flat(plain(scorer, asked)), abs=1e-4)


def test_a_foreign_reward_model_has_a_scale_of_one(tmp_path: Path) -> None:
    scorer = load(save(tmp_path, scale=None))
    assert flat(scorer.score([request(1)])) == pytest.approx(flat(plain(scorer, request(1), scale=1.0)), abs=1e-4)


def test_values_do_not_hang_on_the_batch(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly: all at once, one by one in the order of a search, shuffled, and in small batches."""
    path = checkpoints["qwen2.5-math-7b"]
    requests = many(0)
    together = load(path).score(requests)
    scorer = load(path)
    assert [scorer.score([asked])[0] for asked in requests] == together
    order = random.Random(1).sample(range(len(requests)), len(requests))
    scorer = load(path)
    shuffled = {i: scorer.score([requests[i]])[0] for i in order}
    assert [shuffled[i] for i in range(len(requests))] == together
    monkeypatch.setitem(prefix.BATCH_TOKENS, "cpu", 100)
    assert load(path).score(requests) == together


@pytest.mark.parametrize(("length", "beside"), [(110, 200), (150, 250), (170, 300), (200, 340), (240, 900), (650, 750)])
def test_kept_states_do_not_hang_on_a_longer_neighbour(checkpoints: dict[str, Path], length: int, beside: int) -> None:
    """To the last bit: rounding hides most of such differences, but not all."""
    asked, longer = (ScoreRequest((Segment("~" * n),), ((step(1), step(2)),)) for n in (length, beside))

    def kept(requests: list[ScoreRequest]) -> list[torch.Tensor]:
        scorer = load(checkpoints["embedded"])  # tiny matrices have other kernels than those of common sizes
        scorer.score(requests)
        (group,) = [group for ids, group in scorer._cache._groups.items() if len(ids) == tokens(scorer, asked.prefix)]
        return [entry.states for entry in group.values()]

    for alone, together in zip(kept([asked]), kept([longer, asked]), strict=True):
        assert torch.equal(alone, together)


def test_values_are_the_same_once_states_are_dropped(checkpoints: dict[str, Path]) -> None:
    path = checkpoints["qwen2.5-math-7b"]
    requests = many(2)
    expected = load(path).score(requests)
    scorer = load(path)
    for asked, values in zip(requests, expected, strict=True):
        scorer.forget(asked.prefix[0])
        assert scorer.score([asked]) == [values]
    small = load(path)
    small._cache = PrefixCache(50_000)
    small._room = 1000
    for _ in range(2):
        assert small.score(requests) == expected
    assert len(small._cache._groups) < 12


def test_a_prefix_is_run_once(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen2"])
    before = (prompt(1), step(1))
    branches = tuple((step(i), step(i + 1)) for i in range(4))
    scorer.score([ScoreRequest(before, branches[:2]), ScoreRequest(before, branches[2:])])
    new = sum(tokens(scorer, branch) for branch in branches)
    assert scorer.scored == tokens(scorer, before) - 1 + 4 + new, "once, but for its last token"
    for depth in range(2):  # on from a branch
        ran = scorer.scored
        scorer.score([ScoreRequest((*before, *branches[2][: depth + 1]), ((step(9),),))])
        assert scorer.scored - ran == 1 + tokens(scorer, [step(9)])


def test_forget_frees_a_prompts_states(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen2"])
    scorer.score([request(1), request(2)])
    held = scorer._cache.bytes
    scorer.forget(prompt(1))
    assert 0 < scorer._cache.bytes < held
    scorer.forget(prompt(2))
    assert scorer._cache.bytes == 0


def test_batches_are_cut_by_tokens_and_memory(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(checkpoints["qwen2"])
    seen: list[tuple[int, ...]] = []
    forward = scorer._forward

    def noted(ids: torch.Tensor, positions: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((ids.numel(), len(ids) * (1 + int(positions.max()))))
        return forward(ids, positions, *rest)

    monkeypatch.setattr(scorer, "_forward", noted)
    requests = [request(number) for number in range(12)]
    monkeypatch.setitem(prefix.BATCH_TOKENS, "cpu", 400)
    scorer.score(requests)
    assert max(new for new, _ in seen) <= 400
    seen.clear()
    scorer._cache = PrefixCache(1 << 30)
    scorer._room = 600
    scorer.score(requests)
    assert max(held for _, held in seen) <= 600


def test_segments_beyond_the_context_count_as_wrong(checkpoints: dict[str, Path]) -> None:
    """The last place of the context can be read; padding beside it does no harm."""
    scorer = load(checkpoints["qwen2"])
    assert scorer._context == 512
    branch = tuple(step(i) for i in range(4))
    before = (prompt(1), step(5))
    asked = ScoreRequest(before, (branch, branch[:1], (step(0), step(0))))
    (expected,) = plain(scorer, asked)
    scorer._context = tokens(scorer, (*before, *branch[:2]))
    got, over = scorer.score([asked, ScoreRequest((*before, *branch), ((step(1),), (step(2), step(3))))])
    assert got[0][:2] == pytest.approx(expected[0][:2], abs=1e-4)
    assert got[0][2:] == (BEYOND_CONTEXT, BEYOND_CONTEXT)
    assert got[1] == pytest.approx(expected[1], abs=1e-4)
    assert over == [(-1.0,), (-1.0, -1.0)]
    scorer._context = 512
    deeper = ScoreRequest((*before, *branch[:2]), (branch[2:],))
    assert scorer.score([deeper])[0][0] == pytest.approx(expected[0][2:], abs=1e-4), "its states are right"


def test_bfloat16_gives_nearly_the_same(checkpoints: dict[str, Path]) -> None:
    requests = [request(number) for number in range(4)]
    scorer = TransformersScorer.load(checkpoints["qwen2"], device="cpu", dtype="bfloat16")
    assert scorer._model.dtype is torch.bfloat16
    assert flat(scorer.score(requests)) == pytest.approx(flat(load(checkpoints["qwen2"]).score(requests)), abs=0.1)


def test_nothing_asked_is_nothing_answered(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen2"])
    assert scorer.score([]) == []
    assert scorer.score([ScoreRequest((prompt(1),), ())]) == [[]]
    assert scorer.scored == 0
    assert scorer.info.tokenizer == scorer._tokenizer.fingerprint
    scorer.close()


def test_what_cannot_be_scored_is_told(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = load(checkpoints["qwen2"])
    with pytest.raises(SetupError, match="token 99999"):
        scorer.score([ScoreRequest((prompt(1),), ((Segment("x", (99_999,)),),))])

    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(scorer, "_forward", full)
    with pytest.raises(SetupError, match="memory of cpu is full"):
        scorer.score([request(1)])
    monkeypatch.undo()
    torch.nn.init.constant_(scorer._model.score.weight, torch.nan)
    with pytest.raises(SetupError, match="not finite"):
        scorer.score([request(1)])


def test_what_is_no_prm_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no tokenizer"):
        TransformersScorer.load(tmp_path / "nothing")
    with pytest.raises(SetupError, match=r"lacks 1 weight.*score\.weight"):
        TransformersScorer.load(models.save(tmp_path / "causal"))
    with pytest.raises(SetupError, match="3 label"):
        TransformersScorer.load(save(tmp_path / "labels", labels=3))
    cut = save(tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1000])
    with pytest.raises(SetupError, match=r"model\.safetensors is cut off"):
        TransformersScorer.load(cut.parent)


@pytest.mark.parametrize("scale", [0, -1.0, "5", True, None])
def test_a_scale_is_a_positive_number(tmp_path: Path, scale: object) -> None:
    config = save(tmp_path) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rstar_value_scale": scale}))
    with pytest.raises(SetupError, match="must be a positive number"):
        load(tmp_path)


def test_the_scripted_scorer_knows_slips_by_their_comments() -> None:
    scorer = ScriptedScorer()
    sound, slip = (
        Segment("\n# step 1: sound\nv1 = 2\n<end_of_step>"),
        Segment("\n# step 1: slip\nv1 = 2\n<end_of_step>"),
    )
    named = Segment("\n# slippery\nslip = 2\n<end_of_step>")
    before = (Segment("# a paper slip costs 2"),)
    (got,) = scorer.score([ScoreRequest(before, ((sound, slip, sound), (sound,), (named,)))])
    assert [value > 0 for value in got[0]] == [True, False, False]
    assert got[1] == got[0][:1]
    assert got[2][0] > 0
    assert len(set(got[0])) == 3, "with some noise"
    assert scorer.score([ScoreRequest((*before, sound), ((slip,),))]) == [[(got[0][1],)]]
    assert all(-1 <= value <= 1 for branch in got for value in branch)
    assert scorer.scored == sum(len(s.text.encode()) for s in (sound, slip, sound, sound, named, slip))
    assert scorer.info.tokenizer == "bytes"
