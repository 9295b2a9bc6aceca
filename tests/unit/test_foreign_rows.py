"""Rows of known data sets and of upstream's trainings, read as TRL's are; written by hand after their documentation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import DataError
from rstar_cli.prompts import CODE, render_prompt
from rstar_cli.records import Row
from rstar_cli.stages.train_files import read_pairs, read_sft, read_step_labels


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# microsoft/rStar, branch rStar-math: the fields of train/sft_data_examples.json, the prompt of train/train_SFT.py
UPSTREAM_PROMPT = "<|user|>:\n{instruction}\n<|assistant|>: Let's think step by step and solve the problem with code."
SOLUTION = (
    "<code>\n# Count the apples\na = 6 * 7\n<end_of_step>\n\n# Now print the final answer\nprint(a)\n<end_of_code>\n"
    "<output>42<end_of_output>\n<answer>There are \\boxed{42} apples.<end_of_answer>"
)


def test_upstreams_sft_rows_train_on_the_text_that_upstream_trains_on(tmp_path: Path) -> None:
    asked = "Six boxes hold seven apples each.\nHow many are there?"
    plain = {"query": "What is 2 + 2?", "response": "It is 4."}
    path = write(tmp_path / "sft.jsonl", {"query": asked, "response": SOLUTION}, plain)
    row, other = read_sft(path, "embedded")
    assert row.prompt == render_prompt(asked)
    assert row.prompt + row.completion == UPSTREAM_PROMPT.format(instruction=asked) + SOLUTION
    assert [step.output for step in row.steps] == [False, False, True, False]
    assert "".join(step.text for step in row.steps) == row.completion
    assert other.prompt == UPSTREAM_PROMPT.format(instruction="What is 2 + 2?") == render_prompt("What is 2 + 2?")[:-6]
    assert other.completion.startswith("It is 4.")


def test_upstreams_pairs_of_solutions_begin_with_the_assistants_opening(tmp_path: Path) -> None:
    # the fields of train/rm_data_examples.json
    opening = "\n<|assistant|>: Let's think step by step and solve the problem with code."
    wrong = "<code>\n# Add\na = 6 + 7\n<end_of_step><end_of_code><output>NameError: name 'b'<end_of_output>"
    given = {"prompt": "<|user|>:\nHow many?", "pos": opening + SOLUTION, "neg": opening + wrong}
    (row,) = read_pairs(write(tmp_path / "p.jsonl", {**given, "pos_count": 2, "neg_count": 3}), "embedded")
    assert row.prompt == render_prompt("How many?")
    assert row.prompt + row.chosen == given["prompt"] + given["pos"]
    assert row.prompt + row.rejected == given["prompt"] + given["neg"]
    assert row.weight == pytest.approx(1 / 6)  # train/rm.py: factor = 1 / (neg_count * pos_count)
    assert row.kind == "solution"


def test_upstreams_pairs_of_steps_stand_below_the_steps_before_them(tmp_path: Path) -> None:
    # train/sample_rm_data.py: prompt is the prefix, pos and neg are the steps
    head = UPSTREAM_PROMPT.format(instruction="How many?")
    first = {"prompt": head, "pos": "<code>\n# a\na = 6<end_of_step>", "neg": "<code>\n# a\na = 8<end_of_step>"}
    later = {"prompt": head + first["pos"], "pos": "\n# b\nb = a * 7<end_of_step>", "neg": "\n# b\nb = a<end_of_step>"}
    counts = {"pos_count": 0, "neg_count": 4}
    one, two = read_pairs(write(tmp_path / "p.jsonl", {**first, **counts}, {**later, **counts}), "embedded")
    assert (one.prompt, one.chosen, one.kind) == (render_prompt("How many?"), first["pos"].removeprefix(CODE), "step")
    assert [segment.text for segment in two.prefix] == [render_prompt("How many?"), "\n# a\na = 6<end_of_step>"]
    assert one.problem_id == two.problem_id
    assert one.weight == 0.25


# https://huggingface.co/datasets/Qwen/ProcessBench
BENCH = {
    "id": "gsm8k-0",
    "generator": "Qwen2-7B-Instruct",
    "problem": "Sue has 18 flamingos and paints 6. How many are left?",
    "steps": ["There are 18.", "She paints 6, so 18 - 6 = 11 are left.", "The answer is 11."],
    "final_answer_correct": False,
    "label": 1,
}


@pytest.mark.parametrize(("label", "labels"), [(1, (True, False)), (-1, (True,) * 3), (0, (False,)), (2, (1, 1, 0))])
def test_process_bench_tells_the_first_wrong_step(tmp_path: Path, label: int, labels: tuple[bool, ...]) -> None:
    (row,) = read_step_labels(write(tmp_path / "b.jsonl", {**BENCH, "label": label}), "embedded")
    assert row.prompt == BENCH["problem"] + "\n"
    assert row.completions == tuple(f"{step}\n" for step in BENCH["steps"][: len(labels)])
    assert row.labels == labels


def rated(*completions: tuple[str, int | None], chosen: int | None, human: Any = None) -> dict[str, Any]:
    texts = [{"text": text, "rating": rating, "flagged": None} for text, rating in completions]
    return {"completions": texts, "human_completion": human, "chosen_completion": chosen}


def prm800k(*steps: dict[str, Any]) -> dict[str, Any]:
    """A row as in the README of openai/prm800k."""
    return {
        "labeler": "340d89bc",
        "timestamp": "2023-01-22T04:34:27.052924",
        "generation": None,
        "question": {"problem": "What is 2 + 2?", "ground_truth_answer": "4"},
        "label": {"steps": list(steps), "total_time": 278270, "finish_reason": "found_error"},
    }


def read_prm800k(path: Path, *steps: dict[str, Any]) -> list[tuple[tuple[str, ...], tuple[bool, ...]]]:
    rows = read_step_labels(write(path / "prm800k.jsonl", prm800k(*steps)), "embedded")
    assert {row.prompt for row in rows} == {"What is 2 + 2?\n"}
    assert len({row.problem_id for row in rows}) == 1
    return [(tuple(step.strip() for step in row.completions), row.labels) for row in rows]


def test_prm800k_gives_the_solution_and_the_alternatives_of_its_steps(tmp_path: Path) -> None:
    steps = [
        rated(("I add.", 0), chosen=0),
        rated(("2 + 2 = 5", -1), ("2 + 2 = 4", 1), chosen=1),
        rated(("So 4.", 1), chosen=0),
    ]
    assert read_prm800k(tmp_path, *steps) == [
        (("I add.", "2 + 2 = 5"), (True, False)),
        (("I add.", "2 + 2 = 4", "So 4."), (True, True, True)),
    ]


def test_prm800k_ends_with_the_error_that_was_found(tmp_path: Path) -> None:
    found = rated(("It is 5.", -1), ("It is a sum.", 0), ("Who knows", None), chosen=None)
    assert read_prm800k(tmp_path, rated(("I add.", 1), chosen=0), found) == [
        (("I add.", "It is 5."), (True, False)),
        (("I add.", "It is a sum."), (True, True)),
    ]
    unrated = rated(("Who knows", None), chosen=None)
    assert read_prm800k(tmp_path, rated(("I add.", 1), chosen=0), unrated) == [(("I add.",), (True,))]


@pytest.mark.parametrize("human", ["It is 4.", {"text": "It is 4.", "rating": None}])
def test_prm800k_goes_on_from_what_a_labeller_wrote(tmp_path: Path, human: Any) -> None:
    steps = [rated(("It is 5.", -1), chosen=None, human=human), rated(("Done.", 1), chosen=0)]
    assert read_prm800k(tmp_path, *steps) == [(("It is 5.",), (False,)), (("It is 4.", "Done."), (True, True))]


def test_prm800k_rows_without_a_label_are_passed_over(tmp_path: Path) -> None:
    none = {"completions": None, "human_completion": None, "chosen_completion": None}
    path = write(tmp_path / "rows.jsonl", prm800k(none), prm800k(rated(("4", 1), chosen=0)))
    assert [row.labels for row in read_step_labels(path, "embedded")] == [(True,)]
    with pytest.raises(DataError, match="has no label"):
        read_step_labels(write(tmp_path / "rows.jsonl", prm800k(none)), "embedded")


# https://huggingface.co/datasets/peiyi9979/Math-Shepherd
SHEPHERD = "Ann pays 3 euros twice. How many is that? Step 1: 3 * 2 = <<3*2=6>>6 euros. ки\nStep 2: The answer is: 6 ки"


def marked(text: str, marks: str) -> dict[str, str]:
    label = text
    for mark in marks:
        label = label.replace("ки", mark, 1)
    return {"input": text, "label": label, "task": "GSM8K"}


STEPS = ("Step 1: 3 * 2 = <<3*2=6>>6 euros.\n", "Step 2: The answer is: 6\n")


@pytest.mark.parametrize(
    ("text", "marks", "steps", "labels"),
    [
        (SHEPHERD, "+-", STEPS, (True, False)),
        (SHEPHERD.replace("? Step", "? ки Step"), "-++", STEPS, (True, True)),  # a tag within the problem
        (SHEPHERD.replace("Step 1: ", ""), "-+", (STEPS[0][8:], STEPS[1]), (False, True)),
        (SHEPHERD.replace("? Step 1: ", "? ки "), "++-", (STEPS[0][8:], STEPS[1]), (True, False)),
        (f"{SHEPHERD}\nStep 3: cut", "++", STEPS, (True, True)),
    ],
)
def test_math_shepherd_marks_the_end_of_each_step(
    tmp_path: Path, text: str, marks: str, steps: tuple[str, ...], labels: tuple[bool, ...]
) -> None:
    (row,) = read_step_labels(write(tmp_path / "s.jsonl", marked(text, marks)), "embedded")
    assert row.prompt.startswith("Ann pays 3 euros twice. How many is that?")
    assert (row.completions, row.labels) == (steps, labels)


Reader = Callable[[Path, str], list[Row]]
STEP = "1:label.steps.0"
BAD: list[tuple[Reader, dict[str, Any], str, str]] = [
    (read_sft, {"query": 1, "response": "a"}, "1:query", "not a number"),
    (read_sft, {"query": "a", "response": ""}, "1:response", "is empty"),
    (read_pairs, {"prompt": "a", "pos": "b", "neg": "c", "pos_count": "2"}, "1:pos_count", "a count, not text"),
    (read_step_labels, {**BENCH, "label": 3}, "1:label", "expected -1 to 2"),
    (read_step_labels, {**BENCH, "label": True}, "1:label", "expected -1 to 2"),
    (read_step_labels, {**BENCH, "steps": ["a", "", "c"], "label": -1}, "1:steps.1", "expected text, not nothing"),
    (read_step_labels, {"question": "a", "label": {"steps": []}}, "1:question", "expected an object with problem"),
    (read_step_labels, {**prm800k(), "label": {}}, "1:label.steps", "is missing"),
    (read_step_labels, prm800k(rated(("a", 2), chosen=0)), f"{STEP}.completions.0.rating", "expected -1, 0, 1"),
    (read_step_labels, prm800k(rated(("", 1), chosen=0)), f"{STEP}.completions.0.text", "expected text"),
    (read_step_labels, prm800k(rated(("a", 1), chosen=1)), f"{STEP}.chosen_completion", "number of a completion"),
    (read_step_labels, prm800k({"completions": "a"}), f"{STEP}.completions", "expected a list, not text"),
    (read_step_labels, {"input": "a? Step 1: b", "label": "a? Step 1: b"}, "1:input", "has no step"),
    (read_step_labels, marked(SHEPHERD, "+"), "1:label", "at the end of step 2"),
    (read_step_labels, marked("Step 1: b ки", "+"), "1:input", "can't tell the problem"),
    (read_step_labels, marked("a? Step 1: b ки ки", "++"), "1:input", "a step without text"),
]


@pytest.mark.parametrize(("read", "row", "place", "why"), BAD)
def test_a_bad_row_is_told(tmp_path: Path, read: Reader, row: dict[str, Any], place: str, why: str) -> None:
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.raises(DataError) as caught:
        read(path, "embedded")
    assert str(caught.value).startswith(f"{path}:{place}: ")
    assert why in str(caught.value)
    assert caught.value.remedy


def test_labels_given_to_another_training_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_pairs(write(tmp_path / "rows.jsonl", BENCH), "embedded")
    assert caught.value.remedy == "This is a row for `rstar train-prm --objective prm-hard`."
