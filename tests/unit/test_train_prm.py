"""Training the process preference model on tiny random models: loss, split, what is written, what is refused."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from rstar_cli.config import TrainPrmConfig
from rstar_cli.errors import DataError, SetupError
from rstar_cli.prompts import render_prompt
from rstar_cli.records import PairRow, RowSegment
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train import reward_trainer
from rstar_cli.train.checkpoint import load_scorer
from rstar_cli.train.fit import TrainProgress
from rstar_cli.train.prm import PrmReport, count_updates, is_held_out, train_prm
from rstar_cli.train.prm_report import JudgedPair, pairwise_accuracy
from rstar_cli.train.reward_trainer import TokenPair
from tests.models import save

pytestmark = pytest.mark.usefixtures("one_thread")


def step(i: int, sign: str, extra: str = "") -> RowSegment:
    return RowSegment(text=f"\n# thrice{extra}\na = 3 {sign} {i}<end_of_step>")


def pair(i: int, kind: Literal["step", "solution"] = "step", weight: float = 1.0, problem: str = "") -> PairRow:
    """To multiply is right, to add is wrong."""
    prefix = (RowSegment(text=render_prompt(f"What is three times {i}?")),)
    sides: list[tuple[RowSegment, ...]] = []
    for sign, total in (("*", 3 * i), ("+", 3 + i)):
        steps = (step(i, sign, " the number" * (i % 3)),)
        if kind == "solution":
            steps += (
                RowSegment(text="\n# answer\nprint(a)<end_of_code>"),
                RowSegment(text=f"\n<output>{total}<end_of_output>\n", output=True),
                RowSegment(text=f"<answer>\\boxed{{{total}}}<end_of_answer>"),
            )
        sides.append(steps)
    chosen, rejected = sides
    return PairRow(
        problem_id=problem or f"p{i}",
        kind=kind,
        prompt=prefix[0].text,
        chosen="".join(s.text for s in chosen),
        rejected="".join(s.text for s in rejected),
        q_gap=2.0,
        weight=weight,
        prefix=prefix,
        chosen_steps=chosen,
        rejected_steps=rejected,
    )


PAIRS = [pair(i, kind) for i in range(1, 13) for kind in ("step", "solution")]  # type: ignore[arg-type]
FAST: dict[str, Any] = {
    "min_updates": 3,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "batch_tokens": 1024,
    "held_out": 0.25,
    "device": "cpu",
}


def settings(**changes: Any) -> TrainPrmConfig:
    return TrainPrmConfig(**{**FAST, **changes})


def fit(
    model: Path, output: Path, rows: Sequence[PairRow] = PAIRS, on_progress: Any = None, **changes: Any
) -> PrmReport:
    return train_prm(rows, model=model, output=output, config=settings(**changes), on_progress=on_progress)


def weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {k: v for file in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(file).items()}


def scores(checkpoint: Path, rows: Sequence[PairRow]) -> list[tuple[float, float]]:
    """Scores of both sides, one at a time without padding, each segment of the text tokenised by itself."""
    import torch
    from transformers import AutoModelForSequenceClassification

    net = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=False).eval()
    tokenizer = StepTokenizer.load(checkpoint)
    found: list[list[float]] = []
    for row in rows:
        found.append([])
        for side in (row.chosen_steps, row.rejected_steps):
            ids = [i for segment in (*row.prefix, *side) for i in tokenizer.encode(segment.text)]
            with torch.no_grad():
                found[-1].append(float(net(input_ids=torch.tensor([ids])).logits[0, 0]))
    return [(chosen, rejected) for chosen, rejected in found]


@pytest.mark.parametrize("squash", ["loss", "after"])
@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_loss_is_bradley_terrys_by_the_pairs_weights(
    scorer: Path, tmp_path: Path, squash: str, batch_tokens: int
) -> None:
    """Over the whole update, however it is cut into micro-batches; a scorer to start from keeps its head."""
    rows = [row.model_copy(update={"weight": 1 / (1 + i % 4)}) for i, row in enumerate(PAIRS)]
    report = fit(
        scorer, tmp_path / "out", rows, squash=squash, held_out=0, batch_size=len(rows), min_updates=1,
        batch_tokens=batch_tokens, dtype="float32",
    )  # fmt: skip
    total = 0.0
    for row, (chosen, rejected) in zip(rows, scores(scorer, rows), strict=True):
        gap = math.tanh(chosen) - math.tanh(rejected) if squash == "loss" else chosen - rejected
        total += row.weight * math.log1p(math.exp(-gap))
    assert report.updates == 1
    assert report.first_loss == pytest.approx(total / sum(row.weight for row in rows), abs=1e-4)
    assert report.first_loss != pytest.approx(math.log(2), abs=1e-3)
    scale = json.loads((tmp_path / "out" / "config.json").read_text())["rstar_value_scale"]
    assert scale == {"loss": 1.0, "after": 5.0}[squash]


@pytest.mark.parametrize(("optimizer", "rate"), [("adamw", 1e-2), ("muon", 2e-2)])
def test_it_starts_neutral_and_learns_what_is_better(base: Path, tmp_path: Path, optimizer: str, rate: float) -> None:
    rows = [pair(i, kind) for i in range(1, 40) for kind in ("step", "solution")]  # type: ignore[arg-type]
    report = fit(base, tmp_path / "out", rows, min_updates=40, learning_rate=rate, optimizer=optimizer)
    assert report.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert report.final_loss < 0.3
    assert report.held_out is not None
    assert report.held_out["all"]["accuracy"] > 0.9  # type: ignore[operator]


def test_held_out_accuracy_is_that_of_the_written_checkpoint(base: Path, tmp_path: Path) -> None:
    report = fit(base, tmp_path / "out", min_updates=2, dtype="float32")
    apart = [row for row in PAIRS if is_held_out(row.problem_id, settings())]
    assert 0 < len(apart) < len(PAIRS)
    assert report.rows == len(PAIRS) - len(apart)
    assert report.held_out is not None
    assert set(report.held_out) == {"all", "step", "solution"}
    both = scores(tmp_path / "out", apart)
    won = [(row.kind, chosen > rejected) for row, (chosen, rejected) in zip(apart, both, strict=True)]
    for kind, found in report.held_out.items():
        outcomes = [win for of, win in won if kind in ("all", of)]
        assert found["n"] == len(outcomes)
        assert found["accuracy"] == pytest.approx(sum(outcomes) / len(outcomes))
        low, high = found["ci95"]  # type: ignore[misc]
        assert low < found["accuracy"] < high or found["accuracy"] in (low, high)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"n = {len(apart)})" in card
    assert "dropped as too long | 0" in card


def test_equal_scores_count_half(base: Path) -> None:
    neutral = load_scorer(base, StepTokenizer.load(base).hf, dtype=None, attention="sdpa")
    found = pairwise_accuracy(neutral, [JudgedPair("p", "step", TokenPair([1, 2, 3], [1, 5], 1.0))] * 3, 64)
    assert found is not None
    assert found["all"]["accuracy"] == found["step"]["accuracy"] == 0.5
    assert found["step"]["n"] == 3
    assert pairwise_accuracy(neutral, [], 64) is None


def test_without_held_out_problems_there_is_no_accuracy(base: Path, tmp_path: Path) -> None:
    report = fit(base, tmp_path / "out", held_out=0)
    assert report.held_out is None
    assert report.rows == len(PAIRS)


def test_problems_are_held_out_whole_by_id_and_seed_alone() -> None:
    ids = [f"problem {i}" for i in range(4000)]
    for share in (0.1, 0.5):
        apart = {name for name in ids if is_held_out(name, settings(held_out=share))}
        assert len(apart) / len(ids) == pytest.approx(share, abs=0.03)
        assert apart == {name for name in reversed(ids) if is_held_out(name, settings(held_out=share, epochs=9))}
        assert apart != {name for name in ids if is_held_out(name, settings(held_out=share, seed=1))}
    assert not any(is_held_out(name, settings(held_out=0)) for name in ids)


def test_sides_end_at_the_closing_tag_of_their_last_step(base: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    row = pair(4, "solution")
    cut = row.model_copy(update={"chosen_steps": row.chosen_steps[:3], "rejected_steps": row.rejected_steps[:3]})
    for side, text in zip(tokenizer.pair_ids(cut), (row.chosen_steps, row.rejected_steps), strict=True):
        assert tokenizer.decode(side) == row.prompt + text[0].text + text[1].text
    for side, rest in zip(tokenizer.pair_ids(row), (row.chosen, row.rejected), strict=True):
        assert tokenizer.decode(side) == row.prompt + rest
        assert side[-1] == tokenizer.encode("<end_of_answer>")[-1]


def test_sampled_ids_count_only_where_they_belong_to_the_tokenizer(base: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    text = step(5, "*").text
    spelled = tuple(i for letter in text.removesuffix("<end_of_step>") for i in tokenizer.encode(letter))
    spelled += tokenizer.encode("<end_of_step>")
    sampled = RowSegment(text=text, token_ids=spelled)
    assert len(spelled) > len(tokenizer.encode(text))

    def ids(fingerprint: str) -> tuple[list[int], list[int]]:
        changes = {"prefix": (*pair(5).prefix, sampled), "chosen_steps": (sampled,), "tokenizer": fingerprint}
        return tokenizer.pair_ids(pair(5).model_copy(update=changes))

    prompt = list(tokenizer.encode_prompt(pair(5).prompt))
    plain = list(tokenizer.encode(text))
    rejected = list(tokenizer.encode(pair(5).rejected))
    assert ids(tokenizer.fingerprint) == ([*prompt, *spelled, *spelled], [*prompt, *spelled, *rejected])
    assert ids("another") == (prompt + plain + plain, prompt + plain + rejected)


def test_plain_transformers_loads_it_and_gives_the_score(base: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    fit(base, tmp_path / "out", min_updates=6, learning_rate=1e-2, dtype="float32")
    rows = PAIRS[:3]
    judge = pipeline("text-classification", model=str(tmp_path / "out"), device="cpu")
    tokenizer = StepTokenizer.load(tmp_path / "out")
    for row, both in zip(rows, scores(tmp_path / "out", rows), strict=True):
        for text, score in zip((row.prompt + row.chosen, row.prompt + row.rejected), both, strict=True):
            whole = tokenizer.hf(text)["input_ids"]
            segments = tokenizer.pair_ids(row)
            assert whole in segments  # in this text no merge crosses a seam
            assert judge(text)[0]["score"] == pytest.approx(score, abs=1e-5)
            assert abs(score) > 1e-3


def test_equal_seeds_give_equal_files(base: Path, tmp_path: Path) -> None:
    import torch

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(random.randrange(1 << 30))
        fit(base, tmp_path / name, seed=seed, optimizer="muon")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    files.remove("train_log.jsonl")  # tells seconds
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["rstar_steps"] is True
    assert config["pad_token_id"] is not None
    assert not [path for path in tmp_path.iterdir() if path.name not in "abc"]


def test_micro_batches_keep_their_cap_padding_counted(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []
    real = reward_trainer.stack

    def spy(pairs: Sequence[TokenPair], padding: int) -> Any:
        made = real(pairs, padding)
        sizes.append((len(pairs), made["input_ids"].numel()))
        return made

    monkeypatch.setattr(reward_trainer, "stack", spy)
    lopsided = [pair(i).model_copy(update={"rejected_steps": (step(i, "+"),) * (1 + i % 6)}) for i in range(1, 30)]
    fit(base, tmp_path / "out", lopsided, batch_tokens=900, held_out=0)
    assert max(count for count, _ in sizes) > 1
    assert all(count == 1 or size <= 900 for count, size in sizes)


def test_pairs_with_a_long_side_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    lengths = [max(map(len, tokenizer.pair_ids(row))) for row in PAIRS]
    limit = sorted(lengths)[9]
    report = fit(base, tmp_path / "out", max_length=limit, held_out=0)
    kept = [length for length in lengths if length <= limit]
    assert (report.rows, report.dropped_too_long) == (len(kept), len(PAIRS) - len(kept))
    assert report.dropped_too_long > 0


def test_few_pairs_are_passed_more_often(base: Path, tmp_path: Path) -> None:
    seen: list[TrainProgress] = []
    report = fit(base, tmp_path / "out", on_progress=seen.append, min_updates=7, held_out=0)
    assert [(at.update, at.updates) for at in seen] == [(i + 1, 7) for i in range(7)]
    assert report.updates == 7 == count_updates(PAIRS, settings(min_updates=7, held_out=0))
    assert count_updates(PAIRS, settings(min_updates=1, held_out=0, epochs=4)) == 12
    assert count_updates(PAIRS, settings(min_updates=1, held_out=0.7, epochs=4)) < 12


def test_lora_saves_a_merged_plain_checkpoint(scorer: Path, tmp_path: Path) -> None:
    import torch

    report = fit(scorer, tmp_path / "out", lora_rank=4, learning_rate=2e-2, min_updates=25, optimizer="muon")
    assert report.final_loss < 0.75 * report.first_loss
    before, after = weights(scorer), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if key.endswith("proj.weight")} | {"score.weight"}
    assert not (tmp_path / "out" / "adapter_config.json").exists()


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_shape_of_a_7b_model_takes_the_same_path(tmp_path: Path, lora_rank: int) -> None:
    """Untied head, stored in bfloat16: the output head goes, a score comes, the number format stays."""
    import torch
    from transformers import AutoModelForCausalLM

    source = save(tmp_path / "7b", kind="qwen2.5-math-7b")
    AutoModelForCausalLM.from_pretrained(source).to(torch.bfloat16).save_pretrained(source)
    report = fit(source, tmp_path / "out", lora_rank=lora_rank, learning_rate=1e-2, min_updates=20, dtype="bfloat16")
    assert report.final_loss < report.first_loss
    before, after = weights(source), weights(tmp_path / "out")
    assert set(before) - set(after) == {"lm_head.weight"}
    assert set(after) - set(before) == {"score.weight"}
    assert {value.dtype for value in after.values()} == {torch.bfloat16}
    assert after["score.weight"].abs().max() > 0


def test_a_tokenizer_without_padding_pads_with_its_end_token(base: Path, tmp_path: Path) -> None:
    import shutil

    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    file = bare / "tokenizer_config.json"
    told = json.loads(file.read_text())
    told.pop("pad_token")
    file.write_text(json.dumps(told))
    fit(bare, tmp_path / "out", min_updates=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pad_token_id"] == StepTokenizer.load(base).hf.eos_token_id

    told.pop("eos_token")
    file.write_text(json.dumps(told))
    with pytest.raises(SetupError, match="neither a padding token nor an end token"):
        fit(bare, tmp_path / "out")


def test_nothing_is_printed_nor_reported(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from trl.trainer import base_trainer

    sent: list[str] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *args, **kwargs: sent.append(kwargs["topic"]))
    fit(base, tmp_path / "out")
    assert not sent
    assert capfd.readouterr() == ("", "")


def test_pairs_that_cannot_be_learnt_are_refused_with_a_remedy(base: Path, tmp_path: Path) -> None:
    foreign = pair(1).model_copy(
        update={
            "chosen_steps": (RowSegment(text="x", token_ids=(10**6,)),),
            "tokenizer": StepTokenizer.load(base).fingerprint,
        }
    )
    one = [row for row in PAIRS if is_held_out(row.problem_id, settings())][:2]
    for rows, changes, words in (
        ([], {}, "no pair"),
        (PAIRS, {"max_length": 8}, "all 24 pairs have a side longer than 8"),
        (one, {}, "the problems of all 2 are held out"),
        ([foreign], {"held_out": 0}, "token id 1000000"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            fit(base, tmp_path / "out", rows, **changes)
        assert caught.value.remedy
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_not_a_number_stops_training(scorer: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at update") as caught:
        fit(scorer, tmp_path / "out", min_updates=20, learning_rate=1e30, squash="after", dtype="float32")
    assert "--learning-rate" in caught.value.remedy
    assert not any(tmp_path.iterdir())


def test_an_interrupt_leaves_no_half_checkpoint(base: Path, tmp_path: Path) -> None:
    def stop(at: TrainProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(base, tmp_path / "out", on_progress=stop)
    assert not any(tmp_path.iterdir())


def test_two_trainings_of_one_checkpoint_do_not_mix(tmp_path: Path) -> None:
    """The second one is refused and leaves what the first has written so far."""
    from rstar_cli.errors import LockedError
    from rstar_cli.train.checkpoint import workspace

    with workspace(tmp_path / "prm") as first:
        (first / "half").write_text("written")
        with (
            pytest.raises(LockedError, match=f"process {os.getpid()} on .* is at work on"),
            workspace(tmp_path / "prm"),
        ):
            pass
        assert (first / "half").read_text() == "written"
    assert list(tmp_path.iterdir()) == []
