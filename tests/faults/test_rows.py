"""Input at the border: bad lines, odd lines, lines without end, ids that look like paths, and a million of them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.faults.common import environment, rstar, sh

Row = dict[str, Any]
LONGEST = "longer than 67,108,864"


@dataclass(frozen=True)
class Command:
    """A command that reads foreign rows from `rows.jsonl`.

    Attributes:
        args: how it is called.
        row: its row by a number.
        bad: a row that is JSON and no row of its kind.
        field: the field of that which is told.
        output: what it writes.
        quarantine: where bad lines go.
    """

    args: tuple[str, ...]
    row: Callable[[int], Row]
    bad: Row
    field: str
    output: str
    quarantine: str = "out.quarantine.jsonl"


def problem(i: int) -> Row:
    return {"id": f"p{i}", "problem": f"What is {i} plus {i}?", "answer": str(2 * i)}


def solution(i: int) -> Row:
    return {"prompt": f"What is {i} plus {i}?", "completion": f" It is {2 * i}."}


def pair(i: int) -> Row:
    return {"prompt": f"What is {i} plus {i}?", "chosen": f" It is {2 * i}.", "rejected": f" It is {3 * i + 1}."}


SCRIPTED = ("--engine", "scripted", "--exec-workers", "1")
TRAIN = ("--input", "rows.jsonl", "--model", "tiny", "--output", "out", "--held-out", "0", "--device", "cpu")
COMMANDS = {
    "verify": Command(
        ("verify", "--input", "rows.jsonl", "--output", "out.jsonl", "--exec-workers", "1"),
        lambda i: {"id": i, "answer": str(i), "prediction": str(i)},
        {"id": 9, "prediction": "1"},
        "answer",
        "out.jsonl",
    ),
    "problems import": Command(
        ("problems", "import", "rows.jsonl", "--output", "out.jsonl"),
        problem,
        {"id": "p9", "answer": "1"},
        "problem",
        "out.jsonl",
    ),
    "generate": Command(
        ("generate", "--problems", "rows.jsonl", "--output", "out.jsonl", "--rollouts", "2", *SCRIPTED),
        problem,
        {"id": "p9", "problem": ["What?"], "answer": "1"},
        "problem",
        "out.jsonl",
    ),
    "evaluate": Command(
        ("evaluate", "--policy", "embedded", "--benchmark", "rows.jsonl", "--output", "out", *SCRIPTED),
        problem,
        {"id": "p9", "problem": "What?", "answer": {"is": "a table"}},
        "answer",
        "out/rows.greedy.jsonl",
        "out/rows.quarantine.jsonl",
    ),
    "train-policy": Command(
        ("train-policy", *TRAIN, "--epochs", "1"), solution, {"prompt": 5, "completion": "5"}, "prompt", "out"
    ),
    "train-prm": Command(
        ("train-prm", *TRAIN, "--min-updates", "1"), pair, {"prompt": "5", "chosen": "a"}, "rejected", "out"
    ),
}
TRAININGS = ("train-policy", "train-prm")
BAD: dict[str, tuple[bytes, str]] = {
    "cut": (b'{"id": "p1", "problem": "Wh', "not valid JSON"),
    "an array": (b'["p1", "What?", "1"]', "an array, not a JSON object"),
    "no UTF-8": (b'{"id": "p1", "problem": "\xff\xfe", "answer": "1"}', "not valid JSON"),
    "cut inside a letter": ('{"id": "é'.encode()[:-1], "not valid JSON"),
    "NULs": (b"\0\0\0\0", "not valid JSON"),
}
EVERY = [pytest.param(name, marks=pytest.mark.slow if name in TRAININGS else ()) for name in COMMANDS]


def to_line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row).encode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def place(tmp_path: Path, tiny: Path) -> Path:
    (tmp_path / "tiny").symlink_to(tiny)
    return tmp_path


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.parametrize("name", EVERY)
def test_a_bad_line_is_told_by_its_place(place: Path, name: str) -> None:
    command = COMMANDS[name]
    good = [to_line(command.row(i)) for i in range(3)]
    (place / "rows.jsonl").write_bytes(b"\n".join([*good[:2], to_line(command.bad), good[2]]) + b"\n")
    done = rstar(*command.args, cwd=place, code=3)
    assert f"error: rows.jsonl:3:{command.field}: " in done.stderr
    for line, why in BAD.values() if name in ("verify", "problems import") else [BAD["cut"]]:
        (place / "rows.jsonl").write_bytes(b"\n".join([*good[:2], line, good[2]]) + b"\n")
        done = rstar(*command.args, cwd=place, code=3)
        assert f"error: rows.jsonl:3: {why}" in done.stderr
        assert "every line must be one JSON object" in done.stderr
    assert not (place / command.output).exists()
    assert not (place / command.quarantine).exists()


@pytest.mark.parametrize("name", EVERY)
def test_bad_lines_can_be_set_aside(place: Path, name: str) -> None:
    command = COMMANDS[name]
    good = [to_line(command.row(i)) for i in range(4)]
    bad = [line for line, _ in BAD.values()]
    lines = [bad[0], good[0], *bad[1:4], good[1], b"", to_line(command.bad), good[2], good[3], bad[4]]
    (place / "rows.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    done = rstar(*command.args, "--skip-bad-lines", cwd=place, code=7)
    assert f"6 bad lines were set aside in {command.quarantine}" in " ".join(done.stderr.split())
    set_aside = read(place / command.quarantine)
    assert [row["line"] for row in set_aside] == [1, 3, 4, 5, 8, 11]
    assert set_aside[4]["field"] == command.field
    assert all(row["reason"] for row in set_aside)
    kept = [row["text"].encode() if "text" in row else base64.b64decode(row["base64"]) for row in set_aside]
    assert kept == [lines[row["line"] - 1] for row in set_aside]
    if name in TRAININGS:
        assert (place / "out" / "model.safetensors").exists()
        return
    rows = read(place / command.output)
    assert [str(row.get("problem_id", row.get("id"))).lstrip("p") for row in rows] == ["0", "1", "2", "3"]
    for manifest in (place / "out.jsonl.manifest.json", place / "out" / "manifest.json"):
        if manifest.exists():
            (entry,) = json.loads(manifest.read_bytes())["stages"].values()
            assert entry["counts"]["bad lines"] == 6
    (place / "rows.jsonl").write_bytes(b"\n".join(good) + b"\n")
    if name in ("verify", "problems import"):  # the others were done before, on the same problems
        rstar(*command.args, "--skip-bad-lines", cwd=place)
        assert not (place / command.quarantine).exists(), "of an earlier call"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_a_dry_run_counts_bad_lines_and_writes_nothing(place: Path, name: str) -> None:
    command = COMMANDS[name]
    (place / "rows.jsonl").write_bytes(b"{\n" + b"\n".join(to_line(command.row(i)) for i in range(2)))
    before = sorted(place.iterdir())
    assert "rows.jsonl:1: not valid JSON" in rstar(*command.args, "--dry-run", cwd=place, code=3).stderr
    rstar(*command.args, "--dry-run", "--skip-bad-lines", cwd=place)
    assert sorted(place.iterdir()) == before


def test_rows_of_a_run_are_never_passed_over(tmp_path: Path) -> None:
    for command, flag in (("generate", "--problems"), ("verify", "--input"), ("train-policy", "--input")):
        done = rstar(command, "--skip-bad-lines", cwd=tmp_path, code=2)
        assert f"--skip-bad-lines goes with {flag}" in done.stderr


@pytest.mark.parametrize("name", ["verify", "problems import", "generate"])
def test_marks_and_line_ends_of_other_systems_change_nothing(place: Path, name: str) -> None:
    command = COMMANDS[name]
    good = [to_line(command.row(i)) for i in range(3)]
    written = []
    for text in (b"\n".join(good), b"\xef\xbb\xbf" + b"\r\n\r\n".join([b"", *good, b"  ", b""])):
        (place / "rows.jsonl").write_bytes(text)
        rstar(*command.args, cwd=place)
        written.append((place / "out.jsonl").read_bytes())
        (place / "out.jsonl").unlink()
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["problems import", "generate", "evaluate"])
def test_one_id_twice(place: Path, name: str) -> None:
    command = COMMANDS[name]
    same = [problem(0), problem(1), {**problem(0), "extra": 1}]
    (place / "rows.jsonl").write_bytes(b"\n".join(map(to_line, same)))
    done = rstar(*command.args, cwd=place)
    assert "rows.jsonl: 1 that repeat an earlier problem left out (line 3)" in done.stderr
    assert len(read(place / command.output)) == 2
    (place / "rows.jsonl").write_bytes(b"\n".join(map(to_line, [*same, {**problem(1), "answer": "7"}])))
    done = rstar(*command.args, cwd=place, code=3)
    assert "rows.jsonl:4:id: 'p1' is also the id of line 2, with another problem or answer" in done.stderr


ODD_IDS = (
    "../../x", "/etc/passwd", "a\0b", "..", ".", "~/x", "C:\\x", "-rf", "%2e%2e%2f", "a/b", "x" * 100_000, "é\u202e🙂",
    "new\nline",
)  # fmt: skip


def test_ids_that_look_like_paths_name_no_file(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    rows = [{**problem(i), "id": name} for i, name in enumerate(ODD_IDS)]
    (root / "rows.jsonl").write_bytes(b"\n".join(map(to_line, rows)))
    for command in (
        ("generate", "--problems", "rows.jsonl", "--rollouts", "2", *SCRIPTED),
        ("verify",),
        ("evaluate", "--round", "0", "--benchmark", "rows.jsonl", *SCRIPTED),
        ("show", "--html", "tree.html", "--problem", ODD_IDS[0]),
    ):
        rstar(*command, "--run", "run", cwd=root)
    assert [row["problem_id"] for row in read(root / "run/round_1/trees.jsonl")] == list(ODD_IDS)
    assert sorted(path.name for path in root.iterdir()) == ["rows.jsonl", "run", "tree.html"]
    assert [path.name for path in (*tmp_path.iterdir(), *root.parent.iterdir())] == ["a", "b"]
    found = {path.name for path in (root / "run").rglob("*")}
    assert found <= {"recipe.toml", "round_0", "round_1", "manifest.json", "eval", "report.json"} | {
        f"{name}.{kind}"
        for name in (
            "problems",
            "trees",
            "solutions",
            "sft",
            "pairs",
            "step_labels",
            "rows.greedy",
            "rows.samples",
            "rows.mcts@16",
            "rows",
        )
        for kind in ("json", "jsonl")
    } | {name for name in found if name.endswith(".lock")}


def test_the_name_of_an_evaluation_set_stays_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text('[eval."../../x"]\ncount = 2\n')
    done = rstar("evolve", "--recipe", "recipe.toml", "--run", "run", cwd=tmp_path, code=3)
    assert "recipe.toml: [eval.'../../x']: a set's name becomes a file's" in done.stderr


@dataclass(frozen=True)
class Measured:
    """How a command ended, what it said, the most memory that its process took, in MiB, and its seconds."""

    code: int
    stderr: str
    peak: float
    seconds: float


def measured(*args: str, cwd: Path) -> Measured:
    begun = time.monotonic()
    with (cwd / "stderr").open("wb") as said:
        command = [sys.executable, "-m", "rstar_cli", *args]
        process = subprocess.Popen(command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stderr=said)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, high_water(process.pid))
            time.sleep(0.01)
    text = (cwd / "stderr").read_text()
    assert "Traceback" not in text
    return Measured(process.returncode, text, peak, time.monotonic() - begun)


def high_water(pid: int) -> float:
    """The most memory of a process so far, in MiB. (`wait4` would tell that of the process it was forked from, too.)"""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def long_line(path: Path, before: bytes, after: bytes) -> None:
    """A line of 100 MB with a row before and behind it."""
    with path.open("wb") as file:
        file.write(before + b'{"id": "long", "problem": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'", "answer": "1"}\n' + after)


def test_a_line_of_100_mb_is_refused(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(to_line(problem(0)))
    args = ("problems", "import", "rows.jsonl", "--output", "out.jsonl")
    usual = measured(*args, cwd=tmp_path)
    long_line(rows, to_line(problem(0)) + b"\n", to_line(problem(1)) + b"\n")
    done = measured(*args, cwd=tmp_path)
    assert (done.code, f"error: rows.jsonl:2: the line is {LONGEST} bytes" in done.stderr) == (3, True)
    assert done.peak < usual.peak + 200, "it is held twice at most"
    skipped = measured(*args, "--skip-bad-lines", cwd=tmp_path)
    assert skipped.code == 7
    assert [row["id"] for row in read(tmp_path / "out.jsonl")] == ["p0", "p1"]
    (aside,) = read(tmp_path / "out.quarantine.jsonl")
    assert (aside["line"], len(aside["text"])) == (2, 1000)
    assert skipped.peak < usual.peak + 200


@pytest.mark.slow
def test_a_line_of_100_mb_is_refused_in_tables_and_by_verify(tmp_path: Path) -> None:
    args = ("problems", "import", "rows.csv", "--output", "out.jsonl")
    (tmp_path / "rows.csv").write_bytes(b"id,problem,answer\n1,What is 1?,1\n")
    usual = measured(*args, cwd=tmp_path)
    with (tmp_path / "rows.csv").open("ab") as file:
        file.write(b"2," + b"x" * (100 << 20) + b",2\n")
    done = measured(*args, cwd=tmp_path)
    assert (done.code, f"error: rows.csv:3: the line is {LONGEST} characters" in done.stderr) == (3, True)
    assert done.peak < usual.peak + 300
    long_line(tmp_path / "rows.jsonl", b"", b"")
    done = measured("verify", "--input", "rows.jsonl", "--output", "out.jsonl", cwd=tmp_path)
    assert (done.code, f"error: rows.jsonl:1: the line is {LONGEST} bytes" in done.stderr) == (3, True)


def many(path: Path, count: int, row: Callable[[int], Row]) -> None:
    with path.open("wb") as file:
        for i in range(count):
            file.write(to_line(row(i)) + b"\n")


@pytest.mark.slow
def test_a_million_rows_take_bounded_memory(tmp_path: Path) -> None:
    for name, rise in (("problems import", 250), ("verify", 60)):
        command = COMMANDS[name]
        peaks = []
        for count in (10_000, 1_000_000):
            many(tmp_path / "rows.jsonl", count, command.row)
            done = measured(*command.args, cwd=tmp_path)
            assert done.code == 0, done.stderr
            with (tmp_path / "out.jsonl").open("rb") as file:
                assert sum(1 for _ in file) == count
            print(f"{name}: {count:,} rows, {count / done.seconds:,.0f} rows/s, peak {done.peak:.0f} MiB")
            peaks.append(done.peak)
        assert peaks[1] < peaks[0] + rise, name


HANGS = (
    ("7", r"\sum_{k=1}^{10^9}\frac{\sin k}{k}"),
    ("1", "9^9^9^9^9"),
    ("1", "(" * 30_000),
    ("1", "\\sqrt{" * 5_000),
    ("x^{99999999}", "1" + "0" * 400_000),
    ("10^{10^{10}}", "x^{99999999}-1"),
)
"""Gold and prediction; the first pair takes longer than a comparison may."""


def test_an_answer_that_hangs_the_grader_is_a_verdict(tmp_path: Path) -> None:
    rows = [{"answer": gold, "prediction": text} for gold, text in (*HANGS, ("4", "4"))]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(map(to_line, rows)))
    args = ("--input", "rows.jsonl", "--output", "out.jsonl", "--grade-timeout", "0.1", "--exec-workers", "1")
    begun = time.monotonic()
    rstar("verify", *args, cwd=tmp_path)
    assert time.monotonic() - begun < 60
    verdicts = [row["verdict"] for row in read(tmp_path / "out.jsonl")]
    assert (verdicts[0], verdicts[-1]) == ("timeout", "correct")
    assert set(verdicts[1:-1]) <= {"incorrect", "timeout", "error"}


def test_a_row_comes_out_while_the_input_stays_open(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(to_line({"answer": "4", "prediction": "4"}) + b"\n")
    done = sh("(cat rows.jsonl; sleep 1; echo '{'; cat rows.jsonl) | rstar verify --input - --output -", cwd=tmp_path)
    assert done.code == 3
    assert json.loads(done.stdout)["verdict"] == "correct"
    assert "error: <stdin>:2: not valid JSON" in done.stderr
