"""What a crash or a hand leaves in a journal, and what is asked of a run the next time."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.common import Running, artifacts, rstar, write_problems
from tests.faults.runs import Whole, stage_of

SLOW = pytest.mark.slow
STAGES = ["verify", pytest.param("generate", marks=SLOW), pytest.param("evaluate", marks=SLOW)]


def torn(rows: list[bytes]) -> bytes:
    return b"".join(rows[:-1]) + rows[-1][: len(rows[-1]) // 2]


def in_a_character(rows: list[bytes]) -> bytes:
    return b"".join(rows) + '{"problem_id":"ü'.encode()[:-1]


def without_newline(rows: list[bytes]) -> bytes:
    return b"".join(rows)[:-1]


def nuls(rows: list[bytes]) -> bytes:
    return b"".join(rows) + bytes(5000)


def nuls_and_newline(rows: list[bytes]) -> bytes:
    return b"".join(rows) + bytes(5000) + b"\n"


def under_way(whole: Whole, folder: Path, name: str) -> Path:
    """The run, killed in the middle of a stage; its journal."""
    stage, run = stage_of(name), whole.before(name, folder)
    running = Running(*stage.command, cwd=folder)
    running.until(stage.is_under_way(run))
    assert running.kill().code == -signal.SIGKILL
    journal = run / f"round_{stage.number}" / stage.trail
    assert journal.exists()
    return journal


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("damage", [torn, in_a_character, without_newline, nuls, nuls_and_newline])
def test_what_a_crash_leaves_at_the_end_is_cut(
    whole: Whole, tmp_path: Path, name: str, damage: Callable[[list[bytes]], bytes]
) -> None:
    journal = under_way(whole, tmp_path, name)
    rows = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    journal.write_bytes(damage(rows))
    rstar(*stage_of(name).command, cwd=tmp_path)
    assert artifacts(tmp_path / "r") == artifacts(whole.after(name))


@pytest.mark.parametrize("name", STAGES)
def test_a_corrupt_row_in_the_middle_is_told_by_line(whole: Whole, tmp_path: Path, name: str) -> None:
    """It is no crash that did that: nothing is thrown away before somebody has looked."""
    journal = under_way(whole, tmp_path, name)
    rows = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(rows[0] + rows[1].replace(b'"', b"", 1) + b"".join(rows[2:]))
    before = journal.read_bytes()
    refused = rstar(*stage_of(name).command, cwd=tmp_path, code=3)
    assert f"{journal.relative_to(tmp_path)}:2: not valid JSON" in refused.stderr
    assert "delete line 2; its problem is then done again" in refused.stderr
    assert journal.read_bytes() == before
    journal.write_bytes(rows[0] + b"".join(rows[2:]))
    rstar(*stage_of(name).command, cwd=tmp_path)
    assert artifacts(tmp_path / "r") == artifacts(whole.after(name))


def test_a_row_twice_is_told(whole: Whole, tmp_path: Path) -> None:
    journal = under_way(whole, tmp_path, "generate")
    rows = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(rows[:2] + rows[:1]))
    refused = rstar(*stage_of("generate").command, cwd=tmp_path, code=3)
    assert f"{journal.relative_to(tmp_path)}:3:problem_id: " in refused.stderr
    assert "is there already" in refused.stderr


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("generate", ("--rollouts", "7"), "rollouts: 6 -> 7"),
        pytest.param("generate", ("--temperature", "0.5"), "temperature: 1.0 -> 0.5", marks=SLOW),
        ("verify", ("--top", "5"), "top: 2 -> 5"),
        pytest.param("evaluate", ("--samples", "3"), "samples: 8 -> 3", marks=SLOW),
        pytest.param("train-policy", ("--epochs", "3"), "epochs: 2.0 -> 3.0", marks=SLOW),
    ],
)
def test_another_config_is_refused_by_name(
    whole: Whole, tmp_path: Path, name: str, flags: tuple[str, ...], says: str
) -> None:
    """In the middle of a stage, and after it."""
    stage = stage_of(name)
    journal = under_way(whole, tmp_path, name)
    for done in (False, True):
        if name == "train-policy" and not done:  # what it had is another training's: that is told by its workspace
            rstar(*stage.command, cwd=tmp_path)
            continue
        refused = rstar(*stage.command, *flags, cwd=tmp_path, code=4)
        assert says in refused.stderr
        assert "Use the settings and inputs it was begun with, or remove " in refused.stderr
        assert journal.exists() is not done
        rstar(*stage.command, cwd=tmp_path)
    assert artifacts(tmp_path / "r") == artifacts(whole.after(name))


def test_a_journal_that_no_manifest_tells_of_is_not_gone_on_with(whole: Whole, tmp_path: Path) -> None:
    journal = under_way(whole, tmp_path, "generate")
    (journal.parent / "manifest.json").unlink()
    refused = rstar(*stage_of("generate").command, cwd=tmp_path, code=4)
    assert "does not tell what it was made with" in refused.stderr
    assert f"remove {journal.relative_to(tmp_path)} to begin anew" in refused.stderr
    journal.unlink()
    rstar(*stage_of("generate").command, cwd=tmp_path)
    assert artifacts(tmp_path / "r") == artifacts(whole.after("generate"))


PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} plus {i * i}?", "answer": str(i + i * i)} for i in range(60)]
SEARCH = ("generate", "--engine", "scripted", "--rollouts", "6", "--in-flight", "2", "--problems")


def trees(path: Path) -> dict[str, str]:
    return {json.loads(line)["problem_id"]: line for line in path.read_text().splitlines()}


def searched(folder: Path, where: tuple[str, str]) -> Path:
    """A search of problems from a file, killed in the middle; its journal."""
    write_problems(folder / "p.jsonl", PROBLEMS)
    journal = folder / "r/round_1/trees.jsonl.partial"
    running = Running(*SEARCH, "p.jsonl", *where, cwd=folder)
    running.until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3)
    running.kill()
    return journal


WHERE = [
    pytest.param(("--run", "r"), id="run"),
    pytest.param(("--output", "r/round_1/trees.jsonl"), id="file", marks=SLOW),
]


@pytest.mark.parametrize("where", WHERE)
def test_the_order_of_the_problems_makes_no_difference(tmp_path: Path, where: tuple[str, str]) -> None:
    """A run keeps the order that it has; a file has the order that was asked for last."""
    searched(tmp_path, where)
    write_problems(tmp_path / "q.jsonl", PROBLEMS[::-1])
    rstar(*SEARCH, "q.jsonl", *where, cwd=tmp_path)
    rstar(*SEARCH, "q.jsonl", "--output", "t.jsonl", cwd=tmp_path)
    first, second = trees(tmp_path / "r/round_1/trees.jsonl"), trees(tmp_path / "t.jsonl")
    names = [problem["id"] for problem in PROBLEMS]
    assert list(second) == names[::-1]
    assert list(first) == (names if where[0] == "--run" else names[::-1])
    if where[0] == "--output":
        assert first == second
    else:
        assert first.keys() == second.keys()


@pytest.mark.parametrize("where", [("--run", "r"), ("--output", "r/round_1/trees.jsonl")], ids=["run", "file"])
@pytest.mark.parametrize(
    "other",
    [
        pytest.param([*PROBLEMS, {**PROBLEMS[0], "id": "more", "problem": "What?"}], id="extended", marks=SLOW),
        pytest.param([{**PROBLEMS[0], "answer": "5"}, *PROBLEMS[1:]], id="edited"),
    ],
)
def test_other_problems_are_refused(tmp_path: Path, other: list[dict[str, str]], where: tuple[str, str]) -> None:
    """The same id is not the same problem."""
    journal = searched(tmp_path, where)
    before = journal.read_bytes()
    write_problems(tmp_path / "q.jsonl", other)
    refused = rstar(*SEARCH, "q.jsonl", *where, cwd=tmp_path, code=4)
    assert "another problem set" in refused.stderr or "problems: [60, " in refused.stderr
    assert "remove " in refused.stderr
    assert journal.read_bytes() == before
    rstar(*SEARCH, "p.jsonl", *where, cwd=tmp_path)
    assert list(trees(journal.with_suffix(""))) == [problem["id"] for problem in PROBLEMS]
