"""Training rows from plain files: TRL's formats become our segments, and a bad row is told by file, line and field."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.errors import DataError
from rstar_cli.jsonl import write_rows
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.prompts import TAGS, render_prompt, split_solution
from rstar_cli.records import PairRow, Row, RowSegment, SftRow
from rstar_cli.stages.train_files import read_pairs, read_sft, read_step_labels
from rstar_cli.tokens import IGNORED, StepTokenizer
from tests import models

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FORGETFUL = (  # as Qwen3: a thought is kept in the last turn alone
    "{% for m in messages %}<|{{ m.role }}|>\n"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def rows_of(count: int) -> list[SftRow]:
    rng = random.Random(0)
    return [demonstrate(worked, rng) for worked in make_worked(count, 3, (1, 2, 3))]


def with_template(path: Path, template: str) -> str:
    models.save(path)
    tokenizer = StepTokenizer.load(path).hf
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> str:
    return with_template(tmp_path_factory.mktemp("chat"), CHATML)


def say(*turns: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_solutions_fall_into_the_segments_of_search() -> None:
    for row in rows_of(40):
        assert tuple(split_solution(row.completion)) == row.steps


@given(st.lists(st.sampled_from([*TAGS, "a", "\n", " b"]), min_size=1, max_size=12).map("".join))
def test_segments_are_the_whole_text(text: str) -> None:
    pieces = split_solution(text)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text for piece in pieces)


def test_trls_columns_of_our_rows_train_on_the_same_ids(tmp_path: Path) -> None:
    own = rows_of(6)
    columns = [{"prompt": r.prompt, "completion": r.completion, "problem_id": r.problem_id, "n": 1} for r in own]
    read = read_sft(write(tmp_path / "trl.jsonl", *columns), "embedded")
    write_rows(tmp_path / "own.jsonl", own)
    assert read == read_sft(tmp_path / "own.jsonl", "embedded") == own


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_other_kinds_of_files(tmp_path: Path, suffix: str) -> None:
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "2 + 2 = ", "completion": "4"}, {"prompt": "3 + 3 = ", "completion": "6"}])
    path = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows.to_list()))
    else:
        getattr(rows, f"to_{suffix[1:]}")(path)
    assert [row.prompt for row in read_sft(path, "embedded")] == ["2 + 2 = ", "3 + 3 = "]


def test_plain_text_ends_with_the_end_token(tmp_path: Path, chat: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "Q: 2?", "completion": " two"}, {"prompt": "", "completion": "x"})
    first, second = read_sft(path, chat)
    assert [step.text for step in first.steps] == [" two", "<|end|>"]
    tokenizer = StepTokenizer.load(chat)
    ids, labels = tokenizer.training_ids(first)
    asked = len(tokenizer.encode("Q: 2?"))
    assert labels == [IGNORED] * asked + ids[asked:]
    assert ids[-1] == tokenizer.hf.eos_token_id
    assert first.problem_id != second.problem_id
    (text,) = read_sft(write(tmp_path / "text.jsonl", {"text": "all of it<|end|>"}), chat)
    assert (text.prompt, text.completion) == ("", "all of it<|end|>")
    ids, labels = tokenizer.training_ids(text)
    assert labels == ids


def test_only_the_assistant_is_learnt(tmp_path: Path, chat: str) -> None:
    talk = say("2 + 2?", "4", "and 2 more?", "6", "thanks")
    (row,) = read_sft(write(tmp_path / "rows.jsonl", {"messages": talk, "prompt": "of some other use"}), chat)
    tokenizer = StepTokenizer.load(chat)
    ids, labels = tokenizer.training_ids(row)
    learnt = [label for label in labels if label != IGNORED]
    assert tokenizer.decode(learnt) == "4<|end|>6<|end|>"
    whole = tokenizer.hf.apply_chat_template(talk[:4], tokenize=False)
    assert tokenizer.decode(ids) + "\n" == whole
    assert row.prompt == "<|user|>\n2 + 2?<|end|>\n<|assistant|>\n"


def test_a_completion_of_messages_is_learnt_and_its_prompt_not(tmp_path: Path, chat: str) -> None:
    talk = say("2 + 2?", "4", "and 2 more?", "6")
    (row,) = read_sft(write(tmp_path / "rows.jsonl", {"prompt": talk[:3], "completion": talk[3:]}), chat)
    assert [step.text for step in row.steps] == ["6<|end|>"]
    assert row.prompt.endswith("4<|end|>\n<|user|>\nand 2 more?<|end|>\n<|assistant|>\n")


def test_where_a_template_rewrites_earlier_turns_the_last_one_is_learnt(tmp_path: Path) -> None:
    model = with_template(tmp_path / "model", FORGETFUL)
    talk = say("2 + 2?", "4", "and 2 more?", "6")
    (row,) = read_sft(write(tmp_path / "rows.jsonl", {"messages": talk}), model)
    assert [step.text for step in row.steps] == ["<think></think>6<|end|>"]
    assert (
        row.prompt == "<|user|>\n2 + 2?<|end|>\n<|assistant|>\n4<|end|>\n<|user|>\nand 2 more?<|end|>\n<|assistant|>\n"
    )


def test_pairs_of_text_are_cut_into_prompt_and_steps(tmp_path: Path) -> None:
    asked = render_prompt("What is 3 times 4?")
    before, good, bad = (
        "\n# first\na = 3<end_of_step>",
        "\n# b\nb = a * 4<end_of_step>",
        "\n# b\nb = a + 4<end_of_step>",
    )
    row = {"prompt": asked + before, "chosen": good, "rejected": bad, "margin": 2}
    whole = {"prompt": asked, "chosen": f"{before}{good}", "rejected": f"{before}\nprint(a)<end_of_code>"}
    one, other = read_pairs(write(tmp_path / "pairs.jsonl", row, whole), "embedded")
    assert one.prefix == (RowSegment(text=asked), RowSegment(text=before))
    assert one.chosen_steps == (RowSegment(text=good),)
    assert [step.text for step in other.chosen_steps] == [before, good]
    assert one.problem_id == other.problem_id
    assert (one.kind, one.weight) == ("step", 1.0)
    tokenizer = StepTokenizer.load(models.save(tmp_path / "model"))
    assert tokenizer.pair_ids(one)[0] == [i for text in (asked, before, good) for i in tokenizer.encode(text)]


def test_a_prompt_that_both_sides_hold_is_found(tmp_path: Path, chat: str) -> None:
    text = {"chosen": "Human: 2 + 2? AI: It is four.", "rejected": "Human: 2 + 2? AI: It is fish."}
    (row,) = read_pairs(write(tmp_path / "text.jsonl", text), chat)
    assert (row.prompt, row.chosen, row.rejected) == ("Human: 2 + 2? AI: It is", " four.", " fish.")
    assert row.kind == "solution"
    talk = {"chosen": say("2 + 2?", "4"), "rejected": say("2 + 2?", "5"), "prompt": "2 + 2?", "score_chosen": 9}
    (row,) = read_pairs(write(tmp_path / "talk.jsonl", talk), chat)
    assert (row.prompt, row.chosen, row.rejected) == (
        "<|user|>\n2 + 2?<|end|>\n<|assistant|>\n",
        "4<|end|>",
        "5<|end|>",
    )
    explicit = {"prompt": say("2 + 2?"), "chosen": say("", "4")[1:], "rejected": say("", "5")[1:]}
    assert read_pairs(write(tmp_path / "explicit.jsonl", explicit), chat) == [row]
    for sides in (("a b", "a b c"), ("x", "y"), ("same", "same"), ("one two", "one two")):
        (row,) = read_pairs(write(tmp_path / "t.jsonl", {"chosen": sides[0], "rejected": sides[1]}), chat)
        assert (row.prompt + row.chosen, row.prompt + row.rejected) == sides
        assert row.chosen
        assert row.rejected


def test_steps_with_labels(tmp_path: Path) -> None:
    rows = [
        {"prompt": "2 + 2 + 2?", "completions": ["2 + 2 = 4", "4 + 2 = 7\n"], "labels": [True, False]},
        {"prompt": "2 + 2 + 2?", "completions": ["a = 6<end_of_step>"], "labels": [1], "problem_id": 5},
    ]
    first, second = read_step_labels(write(tmp_path / "steps.jsonl", *rows), "embedded")
    assert first.completions == ("2 + 2 = 4\n", "4 + 2 = 7\n")
    assert (first.labels, first.values) == ((True, False), (1.0, -1.0))
    assert (second.completions, second.problem_id) == (("a = 6<end_of_step>",), "5")


Reader = Callable[[Path, str], list[Row]]
TALK = {"messages": say("a", "b")}
BAD: list[tuple[Any, list[Any], str, str]] = [
    (read_sft, [], "", "there is no row in it"),
    (read_sft, [{"question": "a"}], "1", "it has question"),
    (read_sft, [{"chosen": "a", "rejected": "b"}], "1", "it has chosen, rejected"),
    (read_step_labels, [{"prompt": "a", "completion": "b"}], "1", "it has prompt, completion"),
    (read_sft, [{"text": "a"}, {"prompt": "a", "completion": "b"}], "2:text", "first row has text"),
    (read_sft, [{"text": "a"}, {"texts": "a"}], "2:text", "is missing"),
    (read_sft, [{"text": "a"}, {"text": ""}], "2:text", "is empty"),
    (read_sft, [{"prompt": "a", "completion": ""}], "1:completion", "is empty"),
    (read_sft, [{"prompt": "a", "completion": 4}], "1:completion", "expected text, not a number"),
    (read_sft, [{"prompt": None, "completion": "b"}], "1:prompt", "expected text, not nothing"),
    (read_sft, [{"prompt": "a", "completion": say("b")}], "1:prompt", "expected a list, not text"),
    (read_sft, [TALK, {"messages": []}], "2:messages", "is empty"),
    (read_sft, [TALK, {"messages": ["a"]}], "2:messages.0", "expected a message, not text"),
    (read_sft, [TALK, {"messages": [{"role": "user"}]}], "2:messages.0.content", "is missing"),
    (read_sft, [TALK, {"messages": [{"role": "user", "content": ["a"]}]}], "2:messages.0.content", "not a list"),
    (read_sft, [TALK, {"messages": say("a")}], "2:messages", "the assistant says nothing"),
    (read_sft, [{"prompt": "a", "completion": "b", "steps": 1}], "1:problem_id", "not a SftRow row"),
    (read_pairs, [{"prompt": "a", "chosen": "b"}], "1", "it has prompt, chosen"),
    (read_pairs, [{"prompt": "a", "chosen": "b", "rejected": ""}], "1:rejected", "is empty"),
    (read_pairs, [{"chosen": say("a", "b"), "rejected": "c"}], "1:rejected", "expected a list, not text"),
    (read_step_labels, [{"prompt": "a", "completions": ["b", "c"], "labels": [1]}], "1:labels", "1 labels for 2"),
    (read_step_labels, [{"prompt": "a", "completions": ["b", 3], "labels": [1, 0]}], "1:completions.1", "not a number"),
    (read_step_labels, [{"prompt": "a", "completions": ["b"], "labels": ["+"]}], "1:labels.0", "true or false"),
    (read_step_labels, [{"prompt": "a", "completions": [], "labels": []}], "1:completions", "is empty"),
]


@pytest.mark.parametrize(("read", "rows", "place", "why"), BAD)
def test_a_bad_row_is_told(tmp_path: Path, chat: str, read: Reader, rows: list[Any], place: str, why: str) -> None:
    path = write(tmp_path / "rows.jsonl", *rows)
    with pytest.raises(DataError) as caught:
        read(path, chat)
    assert str(caught.value).startswith(f"{path}:{place}" if place else f"{path}:")
    assert why in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "has no chat template"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{% if add_generation_prompt %}other{% endif %}x", "does not go on from its own prompt"),
    ],
)
def test_a_template_that_does_not_serve_is_told(tmp_path: Path, template: str, why: str) -> None:
    model = with_template(tmp_path / "model", template)
    with pytest.raises(DataError, match=why) as caught:
        read_sft(write(tmp_path / "rows.jsonl", TALK), model)
    assert (caught.value.line, caught.value.field) == (1, "messages")
    assert "text instead of messages" in caught.value.remedy


def test_a_pair_row_of_ours_is_read_as_it_is(tmp_path: Path) -> None:
    row = {"chosen": "Q. a b", "rejected": "Q. a c"}
    (made,) = read_pairs(write(tmp_path / "trl.jsonl", row), "embedded")
    write_rows(tmp_path / "own.jsonl", [made])
    assert read_pairs(tmp_path / "own.jsonl", "embedded") == [made]
    assert isinstance(made, PairRow)


def test_a_file_for_another_training_is_told(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", {"chosen": "a", "rejected": "b"})
    for read in (read_sft, read_step_labels):
        with pytest.raises(DataError) as caught:
            read(pairs, "embedded")
        assert caught.value.remedy == "This is a row for `rstar train-prm --objective ppm`."
