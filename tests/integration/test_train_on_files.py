"""train-policy and train-prm on files in TRL's formats, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

from rstar_cli.prompts import render_prompt
from tests.helpers import rstar

SMALL = ("--device", "cpu", "--json")


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_policy_on_prompts_and_completions(tmp_path: Path) -> None:
    rows = [{"prompt": render_prompt(f"What is {i} + 1?"), "completion": f" It is {i + 1}.", "n": i} for i in range(9)]
    file = write(tmp_path / "rows.jsonl", *rows)
    dry = rstar("train-policy", "--input", file, "--output", "out", "--dry-run", *SMALL, cwd=tmp_path)
    figures = json.loads(dry.stdout)["figures"]
    assert figures["rows"] == 9
    assert figures["memory on cpu"].endswith("fits")
    assert "tokens/s, from one layer's" in figures["time"]
    assert not (tmp_path / "out").exists()
    done = rstar("train-policy", "--input", file, "--output", "out", "--epochs", "1", *SMALL, cwd=tmp_path)
    data = json.loads(done.stdout)["data"]
    assert data["rows"] == 9
    assert data["final loss"] > 0
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_prm_on_pairs_of_text(tmp_path: Path) -> None:
    rows = [
        {"prompt": render_prompt(f"What is {i} + 1?"), "chosen": f"\\boxed{{{i + 1}}}", "rejected": f"\\boxed{{{i}}}"}
        for i in range(20)
    ]
    file = write(tmp_path / "pairs.jsonl", *rows)
    asked = ("train-prm", "--input", file, "--output", "out", "--objective", "ppm", "--min-updates", "2")
    done = rstar(*asked, *SMALL, cwd=tmp_path)
    assert 0 < json.loads(done.stdout)["data"]["pairs"] <= 20
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_a_bad_row_ends_with_its_place_and_exit_code_3(tmp_path: Path) -> None:
    talk = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    files = {
        "train-policy": (
            write(tmp_path / "talk.jsonl", talk),
            "talk.jsonl:1:messages: the tokenizer of embedded has no",
        ),
        "train-prm": (
            write(tmp_path / "pairs.jsonl", {"chosen": "a", "rejected": "b"}, {"chosen": "a"}),
            "pairs.jsonl:2:rejected: is missing",
        ),
    }
    for stage, (file, words) in files.items():
        objective = ("--objective", "ppm") if stage == "train-prm" else ()
        refused = rstar(stage, "--input", file, "--output", "out", *objective, cwd=tmp_path, check=False)
        assert refused.returncode == 3
        assert words in refused.stderr
        assert not (tmp_path / "out").exists()
