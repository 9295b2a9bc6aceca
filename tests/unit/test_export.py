"""export: what is written is what our readers, `datasets` and TRL's trainers read, and the card tells of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import DataError, MissingArtifactError, SetupError, UsageError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir, write_manifest
from rstar_cli.options import ExportPlace
from rstar_cli.prompts import render_prompt, split_prompt
from rstar_cli.records import PairRow, Problem, RowSegment, SftRow, StepLabelRow
from rstar_cli.stages.common import Summary
from rstar_cli.stages.export import export
from rstar_cli.stages.train_files import read_pairs, read_sft, read_step_labels
from tests.helpers import rstar
from tests.unit.test_train_files import CHATML, with_template
from tests.unit.test_train_policy import ROWS

ROUNDS = {1: ROWS[:5], 2: ROWS[5:9]}
BAD_STEP = RowSegment(text="\n# thrice\na = 3 + 3<end_of_step>")


def pair(row: SftRow) -> PairRow:
    return PairRow(
        problem_id=row.problem_id,
        kind="step",
        prompt=row.prompt,
        chosen=row.steps[0].text,
        rejected=BAD_STEP.text,
        q_gap=1.5,
        weight=1.0,
        prefix=(RowSegment(text=row.prompt),),
        chosen_steps=row.steps[:1],
        rejected_steps=(BAD_STEP,),
    )


def labelled(row: SftRow, *, right: bool) -> StepLabelRow:
    steps = row.steps if right else (BAD_STEP, *row.steps[1:])
    shown = tuple(step.text for step in steps if not step.output)
    return StepLabelRow(
        problem_id=row.problem_id,
        prompt=row.prompt,
        completions=shown,
        labels=(right,) * len(shown),
        values=(1.0 if right else -0.5,) * len(shown),
        steps=steps,
    )


LABELS = {n: [labelled(row, right=i % 2 == 0) for i, row in enumerate(rows)] for n, rows in ROUNDS.items()}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    (tmp_path / "base").mkdir()
    (tmp_path / "recipe.toml").write_text(f'[run]\nbase = "{tmp_path / "base"}"\n[eval.test]\ncount = 1\n')
    made = RunDir.create(tmp_path / "run", tmp_path / "recipe.toml")
    for number, rows in ROUNDS.items():
        files = made.round(number)
        searched = {"method": "swor", "rollouts": 8, "policy": made.policy_name(number - 1)}
        write_manifest(files.manifest, "generate", {"status": "complete", "config": searched})
        write_rows(files.problems, [Problem(id=row.problem_id, problem=split_prompt(row.prompt)[0]) for row in rows])
        write_rows(files.sft, rows)
        write_rows(files.pairs, map(pair, rows))
        write_rows(files.step_labels, LABELS[number])
    return made


def go(run: RunDir, output: Path, **changes: Any) -> Summary:
    return export(ExportPlace(run=run.root, output=output, **changes), run)


def loaded(path: Path, cache: Path) -> list[dict[str, Any]]:
    """The rows as `datasets` loads them."""
    from datasets import load_dataset

    kind = {".jsonl": "json", ".parquet": "parquet"}[path.suffix]
    return load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache)).to_list()


suffixes = pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])


@suffixes
def test_solutions_are_read_back_as_they_were(run: RunDir, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    summary = go(run, path)
    assert summary.data == {"rows": 9, "problems": 9, "rounds": [1, 2]}
    assert read_sft(path, "embedded") == ROWS[:9]
    expected = [{"problem_id": r.problem_id, "prompt": r.prompt, "completion": r.completion} for r in ROWS[:9]]
    assert loaded(path, tmp_path / "cache") == expected


@suffixes
def test_conversations_are_read_back_with_the_same_text(run: RunDir, tmp_path: Path, suffix: str) -> None:
    path, model = tmp_path / f"rows{suffix}", with_template(tmp_path / "model", CHATML)
    go(run, path, format="conversational")
    for mine, given, row in zip(ROWS[:9], loaded(path, tmp_path / "cache"), read_sft(path, model), strict=True):
        user, assistant = given["messages"]
        assert set(given) == {"problem_id", "messages"}
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        opening = render_prompt("").removeprefix("<|user|>:\n\n<|assistant|>: ")
        assert user["content"] == split_prompt(mine.prompt)[0]
        assert assistant["content"] == opening + mine.completion
        assert row.prompt == f"<|user|>\n{user['content']}<|end|>\n<|assistant|>\n"
        assert row.completion == assistant["content"] + "<|end|>"
        assert row.problem_id == mine.problem_id


@suffixes
def test_preferences_are_read_back_as_they_were(run: RunDir, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    go(run, path, format="preference")
    pairs = [pair(row) for row in ROWS[:9]]
    assert [row.model_copy(update={"q_gap": 1.5}) for row in read_pairs(path, "embedded")] == pairs
    columns = ("problem_id", "prompt", "chosen", "rejected")
    assert loaded(path, tmp_path / "cache") == [{name: getattr(row, name) for name in columns} for row in pairs]


@suffixes
def test_step_labels_are_read_back_as_they_were(run: RunDir, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    go(run, path, format="stepwise")
    mine = [*LABELS[1], *LABELS[2]]
    columns = ("problem_id", "prompt", "completions", "labels")
    read = read_step_labels(path, "embedded")
    assert [[getattr(row, name) for name in columns] for row in read] == [
        [getattr(row, name) for name in columns] for row in mine
    ]
    given = loaded(path, tmp_path / "cache")
    assert [(row["completions"], row["labels"]) for row in given] == [
        (list(row.completions), list(row.labels)) for row in mine
    ]
    assert set(given[0]) == set(columns)


def test_rounds_are_merged_as_for_a_training(run: RunDir, tmp_path: Path) -> None:
    write_rows(run.round(2).sft, [*ROUNDS[2], ROWS[0]])  # a program of round 1, found again
    summary = go(run, tmp_path / "all.jsonl")
    assert summary.data == {"rows": 9, "problems": 9, "left out, duplicate": 1, "rounds": [1, 2]}
    assert go(run, tmp_path / "last.jsonl", data_rounds="last").data["rows"] == 5
    assert read_sft(tmp_path / "last.jsonl", "embedded") == [*ROUNDS[2], ROWS[0]]
    assert go(run, tmp_path / "first.jsonl", round=1).data["rounds"] == [1]


def test_what_can_not_be_exported_is_told(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"rows.csv is none of .jsonl, .parquet"):
        go(run, tmp_path / "rows.csv")
    with pytest.raises(MissingArtifactError, match="verify"):
        go(run, tmp_path / "rows.jsonl", round=3)
    for folder in run.rounds():
        folder.pairs.write_text("")
    with pytest.raises(DataError, match="there is no row to export"):
        go(run, tmp_path / "rows.jsonl", format="preference")
    assert not (tmp_path / "rows.jsonl").exists()


def test_problems_of_an_evaluation_set_are_not_exported_unseen(run: RunDir, tmp_path: Path) -> None:
    asked = Problem(id="e1", problem=split_prompt(ROWS[0].prompt)[0], answer="3")
    run.eval_set("test").parent.mkdir()
    write_rows(run.eval_set("test"), [asked])
    with pytest.raises(DataError, match="1 problems are in an evaluation set"):
        go(run, tmp_path / "rows.jsonl")
    summary = go(run, tmp_path / "rows.jsonl", allow_contamination=True)
    assert summary.data["contaminated problems"] == 1


def test_a_data_set_is_pushed_with_its_card(run: RunDir, hub: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    summary = go(run, path, format="preference", push_to_hub="me/pairs")
    assert summary.notes == [f"Pushed: {hub.url}/datasets/me/pairs/commit/1"]
    (made,) = hub.made
    assert (made["name"], made["type"]) == ("pairs", "dataset")
    assert made.get("private") or made.get("visibility") == "private"
    assert set(hub.files) == {"train.parquet", "README.md"}
    assert hub.files["train.parquet"] == path.read_bytes()
    card = hub.files["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    assert metadata(header)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}
    ]
    assert "| rows | 9 |" in text
    assert "| 2 | swor | 8 | round 1 |" in text
    assert "rstar export --run run --round 2 --data-rounds all --format preference --output mine.parquet" in text
    assert "Base: base. Problems: synthetic." in text
    assert str(tmp_path) not in card  # where it lay is nobody's business


def metadata(header: str) -> dict[str, Any]:
    import yaml

    read: dict[str, Any] = yaml.safe_load(header)
    return read


def test_a_push_that_fails_leaves_the_file(
    run: RunDir, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(SetupError, match=r"rows.jsonl is written, but not pushed to me/rows") as caught:
        go(run, tmp_path / "rows.jsonl", push_to_hub="me/rows")
    assert "hf_wrong" not in str(caught.value) + caught.value.remedy
    assert len(read_sft(tmp_path / "rows.jsonl", "embedded")) == 9
    assert not hub.files


def test_the_command(run: RunDir, tmp_path: Path) -> None:
    done = rstar("export", "--run", "run", "--format", "stepwise", "--output", "out/rows.jsonl", "--json", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (told["files"], told["data"]) == (["out/rows.jsonl"], {"rows": 9, "problems": 9, "rounds": [1, 2]})
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 9


@pytest.mark.usefixtures("one_thread")
def test_trls_own_trainer_learns_from_it(run: RunDir, base: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    go(run, tmp_path / "rows.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=tmp_path / "c")
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "use_cpu": True}
    config = SFTConfig(output_dir=str(tmp_path / "out"), report_to="none", save_strategy="no", bf16=False, **settings)
    trainer = SFTTrainer(model=str(base), args=config, train_dataset=rows)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert trainer.train().global_step == 1
    assert any(not weight.equal(before[name]) for name, weight in trainer.model.named_parameters())
    batch = trainer.data_collator([trainer.train_dataset[0]])
    learnt = batch["input_ids"][0][batch["labels"][0] != -100]
    assert trainer.processing_class.decode(learnt).startswith(ROWS[0].completion)
