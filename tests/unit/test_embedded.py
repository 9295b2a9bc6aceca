"""The shipped model, and the teacher and tokenizer it was made with."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.embedded.build import Stage, build, misled
from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.embedded.tokenizer import PIECE, SINGLE_TOKENS
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.prompts import TAGS, last_boxed, parse_step
from rstar_cli.tokens import StepTokenizer

MODEL = Path(model_path("embedded"))
SEAM = re.compile("|".join(map(re.escape, SINGLE_TOKENS)))


@pytest.fixture(scope="module")
def tokenizer() -> StepTokenizer:
    return StepTokenizer.load(MODEL)


def test_model_loads_as_any_other_and_is_small() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MODEL)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert 500_000 <= sum(p.numel() for p in model.parameters()) <= 1_000_000
    assert (MODEL / "model.safetensors").stat().st_size <= 3_000_000


def test_tags_and_digits_are_single_tokens(tokenizer: StepTokenizer) -> None:
    for tag in (*TAGS, "\\boxed{"):
        assert len(tokenizer.encode(tag)) == 1
    assert len(tokenizer.encode("1234567890")) == 10


def test_generated_text_costs_a_token_a_word(tokenizer: StepTokenizer) -> None:
    rng = random.Random(8)
    for worked in make_worked(300, 900009, levels=(1, 2, 3, 4, 5, 6), split="test"):
        row = demonstrate(worked, rng)
        for text in (worked.text, *(step.text for step in row.steps)):
            cut = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
            seamless = [piece for piece in cut if piece not in SINGLE_TOKENS]
            assert seamless == [piece for part in SEAM.split(text) for piece in re.findall(PIECE, part)]


@given(st.text())
def test_any_text_survives(text: str) -> None:
    import unicodedata

    tokenizer = _TOKENIZER
    composed = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(composed)) == composed


_TOKENIZER = StepTokenizer.load(MODEL)


def test_teacher_is_often_wrong_but_always_runs() -> None:
    rng = random.Random(5)
    right = 0
    worked = make_worked(60, 17)
    for problem in worked:
        row = demonstrate(problem, rng)
        codes = [parse_step(s.text, after_code=False).code for s in row.steps[:-2]]
        ran = subprocess.run(
            [sys.executable, "-I", "-S", "-c", "\n".join(codes)], capture_output=True, text=True, check=True
        )
        assert ran.stdout.strip() == last_boxed(row.completion)
        right += last_boxed(row.completion) == problem.answer
        assert last_boxed(demonstrate(problem, rng, right=True).completion) == problem.answer
    assert 0.2 < right / len(worked) < 0.8


def test_teacher_repeats_itself_by_seed() -> None:
    worked = make_worked(20, 3)
    shown = [[demonstrate(p, rng, skip=0.1) for p in worked] for rng in (random.Random(1), random.Random(1))]
    assert shown[0] == shown[1]


def test_build_is_repeatable_and_loads_as_any_other(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    stages = (Stage(24, {1: 1.0, 2: 1.0}, epochs=2, learning_rate=1e-3, skip=0.0),)
    weights = []
    for name in ("first", "second"):
        build(900000, tmp_path / name, misled(900000, stages))
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert all(bool((weights[0][key] == weights[1][key]).all()) for key in weights[0])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "first")
    assert model.config.vocab_size == len(StepTokenizer.load(tmp_path / "first").hf)
    assert model.config.rstar_steps
