"""The shipped model, and the teacher and tokenizer it was made with."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_problems, make_worked
from rstar_cli.prompts import TAGS, last_boxed, parse_step, render_prompt
from rstar_cli.tokens import StepTokenizer

MODEL = Path(model_path("embedded"))


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
    for problem in make_problems(300, 41, levels=(1, 2, 3, 4, 5, 6), split="test"):
        prompt = render_prompt(problem.problem)
        pieces = [tokenizer.decode([i]) for i in tokenizer.encode(prompt)]
        assert "".join(pieces) == prompt
        words = [p for p in pieces if len(p) == 1 and p.isalpha()]
        assert len(words) <= problem.problem.count(" x") + problem.problem.count(" y") + 8, pieces


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
        ran = subprocess.run([sys.executable, "-c", "\n".join(codes)], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == last_boxed(row.completion)
        right += last_boxed(row.completion) == problem.answer
        assert last_boxed(demonstrate(problem, rng, right=True).completion) == problem.answer
    assert 0.2 < right / len(worked) < 0.8


def test_teacher_repeats_itself_by_seed() -> None:
    worked = make_worked(20, 3)
    shown = [[demonstrate(p, rng, skip=0.1) for p in worked] for rng in (random.Random(1), random.Random(1))]
    assert shown[0] == shown[1]
