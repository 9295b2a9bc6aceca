"""Public PRMs on tiny checkpoints of their format: the values that their model cards' recipe gives, text by text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rstar_cli.config import SearchConfig
from rstar_cli.engines import prefix
from rstar_cli.engines.prm import BEYOND_CONTEXT, TransformersScorer
from rstar_cli.engines.prm_adapters import PublicPrm, read_scorer
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from rstar_cli.prompts import ANSWER, ANSWER_END, CODE_END, STEP_END, render_output, render_prompt
from rstar_cli.protocols import ScoreRequest, Segment
from rstar_cli.stages.common import open_scorer
from tests import models, public_prms

KINDS = ["qwen", "shepherd", "shepherd-llama"]
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."

Values = list[list[tuple[float, ...]]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("prms")
    return {
        "qwen": public_prms.save_qwen(root / "anything"),
        "shepherd": public_prms.save_shepherd(root / "Math-Shepherd-mistral-7b-prm"),
        "shepherd-llama": public_prms.save_shepherd(root / "math-shepherd-llama", kind="llama"),
    }


def load(path: Path) -> PublicPrm:
    scorer = read_scorer(path, device="cpu")
    assert isinstance(scorer, PublicPrm)
    return scorer


def by_card(path: Path, problem: str, steps: Sequence[str]) -> list[float]:
    """2p - 1 of each step: the recipe of the model card, the whole text in one plain pass, softmax by hand."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Model

    hf = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        if "hepherd" in path.name:
            lines = [f"Step {i}: {step} ки" for i, step in enumerate(steps, 1)]
            ids = torch.tensor([hf.encode(f"{problem} " + "\n".join(lines))])
            plus, minus = hf.encode("+ -")[1:]
            logits = AutoModelForCausalLM.from_pretrained(path)(ids).logits[0][:, [minus, plus]]
            mark = hf.encode("ки")[-1]
        else:
            content = "<extra_0>".join(steps) + "<extra_0>"
            turns = {"system": SYSTEM, "user": problem, "assistant": content}
            chat = [{"role": role, "content": text} for role, text in turns.items()]
            ids = torch.tensor([hf.encode(hf.apply_chat_template(chat, tokenize=False))])
            hidden = Qwen2Model.from_pretrained(path, dtype=torch.float32)(ids).last_hidden_state[0]
            head = load_file(path / "model-00002-of-00002.safetensors")
            inner = (hidden @ head["score.0.weight"].T + head["score.0.bias"]).clamp(min=0)
            logits = inner @ head["score.2.weight"].T + head["score.2.bias"]
            (mark,) = hf.encode("<extra_0>")
        good = logits.double().exp()[:, 1] / logits.double().exp().sum(dim=1)
    found = (2 * good - 1)[ids[0] == mark].tolist()
    assert len(found) == len(steps)
    return found


def problem(number: int) -> str:
    return f"What is {number} plus {number * number}?" + " Think." * (number % 4)


def prompt(number: int) -> Segment:
    return Segment(render_prompt(problem(number), number % 3))


def shown(number: int) -> str:
    return f"# add {number}\nx = {number} + 1{' + 1' * (number % 7)}\ny = 'при'  # 2 - 1"


def step(number: int) -> Segment:
    """With ids of another tokenizer, as a policy's samples have them."""
    return Segment(f"\n{shown(number)}\n{STEP_END}", (1, 2, 3))


CLOSED = Segment(f"\nprint(x)\n{CODE_END}")
PRINTED = Segment(render_output("42\n"))
SAID = Segment(f"{ANSWER}It is \\boxed{{42}}{ANSWER_END}")


def many(seed: int) -> list[ScoreRequest]:
    """Requests of very different lengths, in the order of a search: each goes on from a branch of the one before."""
    rng = random.Random(seed)
    requests: list[ScoreRequest] = []
    for number in range(8):
        before: tuple[Segment, ...] = (prompt(number),)
        for _ in range(rng.randrange(1, 4)):
            branches = tuple(tuple(step(rng.randrange(1000)) for _ in range(rng.choice([1, 1, 3]))) for _ in range(3))
            requests.append(ScoreRequest(before, branches))
            before = (*before, rng.choice(branches)[0])
    return requests


def flat(values: Values) -> list[float]:
    return [value for branches in values for branch in branches for value in branch]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_model_card(checkpoints: dict[str, Path], kind: str) -> None:
    scorer = load(checkpoints[kind])
    requests = [
        ScoreRequest((prompt(n), *(step(n + i) for i in range(depth))), tuple((step(i), step(i + 1)) for i in range(3)))
        for n in range(3)
        for depth in range(3)
    ]
    got = scorer.score(requests)
    for number, (asked, values) in enumerate(zip(requests, got, strict=True)):
        before = [shown(number // 3 + i) for i in range(number % 3)]
        for i, branch in enumerate(values):
            expected = by_card(checkpoints[kind], problem(number // 3), [*before, shown(i), shown(i + 1)])
            assert branch == pytest.approx(expected[len(before) :], abs=1e-4)
        assert len(asked.branches) == len(values)
    values = flat(got)
    assert all(-1 <= value <= 1 for value in values)
    assert max(values) - min(values) > 0.2, "they differ"
    assert values == [round(value, 4) for value in values]


@pytest.mark.parametrize("kind", KINDS)
def test_output_belongs_to_the_step_that_printed_it(checkpoints: dict[str, Path], kind: str) -> None:
    path = checkpoints[kind]
    scorer = load(path)
    whole = (step(1), CLOSED, PRINTED, SAID)
    before = by_card(path, problem(1), [shown(1), "print(x)"])
    after = by_card(path, problem(1), [shown(1), "print(x)\nOutput: 42", "It is \\boxed{42}"])
    expected = [*before, *after[1:]]
    for cut in range(4):  # wherever the prefix ends
        (got,) = scorer.score([ScoreRequest((prompt(1), *whole[:cut]), (whole[cut:], (step(2),)))])
        assert got[0] == pytest.approx(expected[cut:], abs=1e-4)
        assert len(got[1]) == 1
    assert before[1] != pytest.approx(after[1], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_values_do_not_hang_on_the_batch(
    checkpoints: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly: all at once, one by one in the order of a search, shuffled, in small batches, states dropped."""
    requests = many(0)
    together = load(checkpoints[kind]).score(requests)
    scorer = load(checkpoints[kind])
    assert [scorer.score([asked])[0] for asked in requests] == together
    scorer = load(checkpoints[kind])
    shuffled = {i: scorer.score([requests[i]])[0] for i in random.Random(1).sample(range(len(requests)), len(requests))}
    assert [shuffled[i] for i in range(len(requests))] == together
    for asked, values in zip(requests, together, strict=True):
        scorer.forget(asked.prefix[0])
        assert scorer.score([asked]) == [values]
    monkeypatch.setitem(prefix.BATCH_TOKENS, "cpu", 100)
    assert load(checkpoints[kind]).score(requests) == together


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_is_run_once(checkpoints: dict[str, Path], kind: str) -> None:
    """A branch costs its own tokens, a mark for each of its steps, the mark before it, and the prefix's last token."""
    scorer = load(checkpoints[kind])

    def tokens(number: int, at: int) -> int:
        return len(scorer._after_mark(scorer._adapter.step(at, shown(number))))

    before = (prompt(1), step(1))
    scorer.score([ScoreRequest(before, ((step(2),),))])
    alone = scorer.scored
    scorer.score([ScoreRequest(before, tuple((step(i),) for i in range(3, 6)))])
    assert scorer.scored - alone == sum(1 + 1 + tokens(i, 2) + 1 for i in range(3, 6))
    ran = scorer.scored
    scorer.score([ScoreRequest((*before, step(4)), ((step(9),),))])
    assert scorer.scored - ran == 1 + 1 + tokens(9, 3) + 1, "on from a branch"
    assert scorer.scored - ran < alone / 2
    assert scorer._scorer._cache.bytes > 0
    scorer.forget(prompt(1))
    assert scorer._scorer._cache.bytes == 0


def test_the_model_reads_the_problem_alone_and_no_tag_of_ours(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen"])
    line = scorer._opened(prompt(2))
    for segment in (step(1), CLOSED, PRINTED, SAID, Segment("a <extra_0> in a step")):
        scorer._extend(line, segment)
    read = scorer._tokenizer.decode(scorer._tokenizer.prefix_ids(line.segments))
    assert read == "".join(segment.text for segment in line.segments)
    assert read.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{problem(2)}<|im_end|>\n")
    assert read.endswith("<extra_0>print(x)\nOutput: 42<extra_0>It is \\boxed{42}<extra_0>a  in a step")


def test_a_window_is_the_limit_of_the_context(tmp_path: Path) -> None:
    path = public_prms.save_shepherd(tmp_path / "math-shepherd", window=200)
    scorer = load(path)
    assert scorer._scorer._context == 200
    (got,) = scorer.score([ScoreRequest((prompt(1),), (tuple(step(i) for i in range(8)),))])
    expected = by_card(path, problem(1), [shown(i) for i in range(8)])
    read = got[0].index(BEYOND_CONTEXT)
    assert 2 < read < 8
    assert got[0][:read] == pytest.approx(expected[:read], abs=1e-4)
    assert set(got[0][read:]) == {BEYOND_CONTEXT}


def test_the_kind_is_told_by_the_checkpoint(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    own = tmp_path / "own"
    AutoModelForSequenceClassification.from_pretrained(model_path("embedded"), num_labels=1).save_pretrained(own)
    AutoTokenizer.from_pretrained(model_path("embedded")).save_pretrained(own)
    assert isinstance(read_scorer(own, device="cpu"), TransformersScorer)
    renamed = tmp_path / "renamed"
    renamed.symlink_to(checkpoints["shepherd"])
    with pytest.raises(SetupError, match=r"score\.weight"):
        read_scorer(renamed, device="cpu")
    scorer = open_scorer(SearchConfig(device="cuda:7", prm_device="cpu"), str(checkpoints["qwen"]))
    assert isinstance(scorer, PublicPrm)
    assert (scorer.info.device, scorer.info.model) == ("cpu", str(checkpoints["qwen"]))
    with pytest.raises(SetupError, match="CUDA device"):
        open_scorer(SearchConfig(device="cpu", prm_device="cuda:7"), str(checkpoints["qwen"]))
    scorer.close()


def test_code_that_comes_with_a_checkpoint_never_runs(tmp_path: Path) -> None:
    path = public_prms.save_qwen(tmp_path / "model")
    trace = tmp_path / "it ran"
    for name in ("configuration_qwen2_rm", "modeling_qwen2_rm"):
        (path / f"{name}.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    load(path).score([ScoreRequest((prompt(1),), ((step(1),),))])
    assert not trace.exists()


def _edit(path: Path, **changes: Any) -> Path:
    config = path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return path


def test_what_is_not_the_published_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no PRM at"):
        read_scorer(tmp_path / "nothing")
    shard = public_prms.save_qwen(tmp_path / "headless") / "model-00002-of-00002.safetensors"
    weights = load_file(shard)
    save_file({name: w for name, w in weights.items() if name != "score.2.bias"}, shard, metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"lacks 1 weight.*score\.2\.bias"):
        read_scorer(shard.parent, device="cpu")
    save_file({**weights, "score.2.weight": torch.zeros(3, 32)}, shard, metadata={"format": "pt"})
    with pytest.raises(SetupError, match="no model at"):
        read_scorer(shard.parent, device="cpu")
    with pytest.raises(SetupError, match="<extra_0>"):
        read_scorer(public_prms.save_qwen(tmp_path / "unmarked", pieces=()), device="cpu")
    silent = public_prms.save_qwen(tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    with pytest.raises(SetupError, match="no chat template"):
        read_scorer(silent, device="cpu")
    with pytest.raises(SetupError, match=r"'ки'|'\+' and '-'"):
        read_scorer(public_prms.save_shepherd(tmp_path / "math-shepherd", texts=["a b c"]), device="cpu")
    plain = _edit(models.save(tmp_path / "plain"), architectures=["Qwen2ForProcessRewardModel"])
    with pytest.raises(SetupError, match=r"score\.0\.bias"):
        read_scorer(plain, device="cpu")


def test_the_checkpoints_are_what_they_are_said_to_be(checkpoints: dict[str, Path]) -> None:
    """The shapes that the tests hang on: a tag that is one token among pieces of words, no space of its own before."""
    from transformers import AutoTokenizer

    hf = AutoTokenizer.from_pretrained(checkpoints["shepherd"])
    assert hf.tokenize("x\nStep 2 ки")[-1] == "▁ки"
    assert "<0x0A>" in hf.tokenize("x\nStep 2 ки")
    assert len(hf.encode("+ -")) == 3
    with safe_open(checkpoints["qwen"] / "model-00002-of-00002.safetensors", "pt") as head:
        assert sorted(head.keys()) == ["score.0.bias", "score.0.weight", "score.2.bias", "score.2.weight"]


def test_ids_of_a_policy_are_not_read(checkpoints: dict[str, Path]) -> None:
    scorer = load(checkpoints["qwen"])
    asked = ScoreRequest((prompt(1), step(1)), ((step(2),),))
    plain = ScoreRequest((prompt(1), replace(step(1), token_ids=None)), ((replace(step(2), token_ids=None),),))
    assert scorer.score([asked]) == scorer.score([plain])
