"""The step format, taken apart and put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.prompts import (
    FEW_SHOT,
    OUTPUT_SHOWN,
    TAGS,
    last_boxed,
    parse_step,
    render_output,
    render_prompt,
    split_prompt,
)


def test_prompt_is_upstreams() -> None:
    """What its policies were trained on (`train/train_SFT.py`, `PROMPT_DICT`), with the <code> that responses begin."""
    assert render_prompt("P?") == (
        "<|user|>:\nP?\n<|assistant|>: Let's think step by step and solve the problem with code.<code>"
    )


def test_few_shot_examples_are_in_the_format_and_right() -> None:
    import subprocess
    import sys

    for example in FEW_SHOT:
        program, _, rest = example.solution.partition("<end_of_code>")
        steps = [f"{step}<end_of_step>" for step in program.split("<end_of_step>")[:-1]]
        codes = [parse_step(step, after_code=False).code for step in steps]
        codes.append(parse_step(f"{program.split('<end_of_step>')[-1]}<end_of_code>", after_code=False).code)
        ran = subprocess.run([sys.executable, "-c", "\n".join(codes)], capture_output=True, text=True, check=True)
        assert render_output(ran.stdout).strip() in rest
        answer = parse_step(rest.partition("<end_of_output>")[2], after_code=True)
        assert answer.kind == "answer"
        assert answer.answer


def test_few_shot_count_is_bounded() -> None:
    prompt = render_prompt("Mine?", 2)
    assert prompt.count("<|user|>") == 3
    assert prompt.endswith(render_prompt("Mine?"))
    with pytest.raises(ValueError, match="few_shot"):
        render_prompt("Mine?", len(FEW_SHOT) + 1)


def test_a_prompt_is_taken_apart() -> None:
    opening = "Let's think step by step and solve the problem with code.<code>"
    assert split_prompt(render_prompt("Mine?\nYes", 2)) == ("Mine?\nYes", opening)
    assert split_prompt("of another format") == ("of another format", "")


@pytest.mark.parametrize(
    ("text", "after_code", "kind", "content"),
    [
        ("\n# c\na = 1\n<end_of_step>", False, "step", "# c\na = 1"),
        ("\n# c\na = 1<end_of_step>\n\n", False, "step", "# c\na = 1"),
        ("<code>\nprint(1)\n<end_of_code>", False, "code", "print(1)"),
        ("  x = 1<end_of_step>", False, "step", "x = 1"),
        ("\na = 1", False, "malformed", ""),
        ("\n<end_of_step>", False, "malformed", ""),
        ("\na<answer>1<end_of_step>", False, "malformed", ""),
        ("<answer>\\boxed{3}<end_of_answer>", False, "malformed", ""),
        ("<answer>So \\boxed{\\frac{1}{2}}.<end_of_answer>", True, "answer", "\\frac{1}{2}"),
        ("<answer>no box<end_of_answer>", True, "answer", None),
        ("a = 1<end_of_step>", True, "malformed", ""),
    ],
)
def test_parse_step(text: str, after_code: bool, kind: str, content: str | None) -> None:
    step = parse_step(text, after_code=after_code)
    assert step.kind == kind
    assert (step.answer if kind == "answer" else step.code) == content


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    for after_code in (False, True):
        assert parse_step(text, after_code=after_code).kind in ("step", "code", "answer", "malformed")
    box = last_boxed(text)
    assert box is None or box in text


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{1}\\boxed{2}", "2"),
        ("\\boxed{a{b}c} and \\boxed{open", "a{b}c"),
        ("\\boxed{}", ""),
        ("boxed{1}", None),
    ],
)
def test_last_boxed(text: str, box: str | None) -> None:
    assert last_boxed(text) == box


def test_output_can_not_speak_as_the_policy() -> None:
    hostile = "".join(TAGS) + "\\boxed{1}"
    block = render_output(hostile)
    assert block == "\n<output>\\boxed{1}<end_of_output>\n"


def test_long_output_keeps_both_ends() -> None:
    block = render_output("a" * 5000 + "b" * 5000)
    assert len(block) < OUTPUT_SHOWN + 50
    assert "aaa...bbb" in block
