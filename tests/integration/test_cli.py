"""The command line as a subprocess, with the scripted engine: artifacts, resume, streams, messages, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from rstar_cli.bench.random_model import save_random_model
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir
from rstar_cli.records import PairRow, Problem, SftRow, SolutionRow, StepLabelRow, StopReason, Tree, Verdict
from tests.helpers import ROOT, rstar

SCRIPTED = ("generate", "--engine", "scripted", "--rollouts", "4", "--limit", "24")
GOLDEN = ROOT / "tests" / "golden"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one searched and verified round."""
    root = tmp_path_factory.mktemp("run")
    rstar(*SCRIPTED, "--run", "r", cwd=root)
    rstar("verify", "--run", "r", cwd=root)
    return root / "r"


def test_help_is_quick_to_import() -> None:
    code = (
        "import sys, rstar_cli.cli; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'trl', 'sympy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_has_help(tmp_path: Path) -> None:
    for command in (["generate"], ["verify"], ["train-policy"], ["evaluate"], ["init"], ["problems", "make"]):
        shown = rstar(*command, "--help", cwd=tmp_path).stdout
        assert "Usage" in shown
        assert "--" in shown


def test_rows_of_a_round_fit_together(run: Path) -> None:
    files = run / "round_1"
    problems = list(read_rows(files / "problems.jsonl", Problem))
    trees = list(read_rows(files / "trees.jsonl", Tree))
    solutions = list(read_rows(files / "solutions.jsonl", SolutionRow))
    sft = list(read_rows(files / "sft.jsonl", SftRow))
    assert [t.problem_id for t in trees] == [p.id for p in problems], "in the order of the problems"
    assert len(trees) == 24
    by_id = {t.problem_id: t for t in trees}
    gold = {p.id: p.answer for p in problems}
    for tree in trees:
        assert [n.id for n in tree.nodes] == list(range(len(tree.nodes)))
        assert tree.nodes[0].visits == len(tree.rollouts)
    finished = [(t.problem_id, n.id) for t in trees for n in t.nodes if n.stop is StopReason.ANSWER and n.visits]
    assert [(s.problem_id, s.node_ids[-1]) for s in solutions] == finished, "every finished trajectory, once"
    for solution in solutions:
        right = solution.predicted_answer == gold[solution.problem_id]
        assert solution.verdict is (Verdict.CORRECT if right else Verdict.INCORRECT)
        nodes = [by_id[solution.problem_id].nodes[i] for i in solution.node_ids]
        assert solution.mean_q == pytest.approx(sum(n.q for n in nodes) / len(nodes))
    assert sft
    for row in sft:
        assert row.completion == "".join(step.text for step in row.steps)
        assert row.prompt == by_id[row.problem_id].prompt
        assert f"\\boxed{{{gold[row.problem_id]}}}" in row.completion
        assert sum(step.output for step in row.steps) == 1
    counts = {i: sum(r.problem_id == i for r in sft) for i in gold}
    assert max(counts.values()) == 2
    for pair in read_rows(files / "pairs.jsonl", PairRow):
        assert pair.q_gap >= 0.5
        assert pair.chosen != pair.rejected
    for row in read_rows(files / "step_labels.jsonl", StepLabelRow):
        assert len(row.completions) == len(row.labels) == len(row.values)


def test_manifest_tells_of_the_files(run: Path) -> None:
    stages = json.loads((run / "round_1" / "manifest.json").read_text())["stages"]
    trees = run / "round_1" / "trees.jsonl"
    assert stages["generate"]["status"] == stages["verify"]["status"] == "complete"
    assert stages["generate"]["outputs"]["trees.jsonl"] == {"sha256": sha(trees), "rows": 24}
    assert stages["verify"]["inputs"]["trees"]["sha256"] == sha(trees)
    assert stages["generate"]["config"]["rollouts"] == 4
    assert stages["generate"]["engine"]["name"] == "scripted"
    assert 0 <= stages["generate"]["counts"]["engine idle"] <= 1


def test_trees_are_the_stored_ones(tmp_path: Path) -> None:
    """A change in the search shows here, node by node. If it is meant, store the new trees with the same command."""
    command = ("generate", "--engine", "scripted", "--rollouts", "6", "--candidates", "3")
    rstar(*command, "--problems", str(GOLDEN / "problems.jsonl"), "--output", "trees.jsonl", cwd=tmp_path)
    got = [json.loads(line) for line in (tmp_path / "trees.jsonl").read_text().splitlines()]
    stored = [json.loads(line) for line in (GOLDEN / "trees.jsonl").read_text().splitlines()]
    for tree, expected in zip(got, stored, strict=True):
        for node, wanted in zip(tree["nodes"], expected["nodes"], strict=True):
            assert node == wanted
        assert tree == expected


def test_batch_size_changes_nothing(run: Path, tmp_path: Path) -> None:
    rstar(*SCRIPTED, "--run", "r", "--in-flight", "3", "--exec-workers", "1", cwd=tmp_path)
    assert sha(tmp_path / "r/round_1/trees.jsonl") == sha(run / "round_1/trees.jsonl")


def test_killed_and_started_again_ends_with_the_same_file(run: Path, tmp_path: Path) -> None:
    """kill -9 whenever three more trees are in the journal, until the command gets through."""
    command = [sys.executable, "-m", "rstar_cli", *SCRIPTED, "--run", "r", "--in-flight", "2"]
    journal = tmp_path / "r/round_1/trees.jsonl.partial"
    kills = 0
    while kills < 50:
        before = journal.read_bytes().count(b"\n") if journal.exists() else 0
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= before + 3 + kills * 2:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                break
            time.sleep(0.005)
        if process.returncode == 0:
            break
    assert kills >= 2
    assert sha(tmp_path / "r/round_1/trees.jsonl") == sha(run / "round_1/trees.jsonl")
    assert not journal.exists()


def test_a_second_call_changes_nothing(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*.jsonl")}
    assert "24 problems, fewer than" in rstar(*SCRIPTED[:-2], "--run", str(run), cwd=run).stderr
    for command in (SCRIPTED, ("verify",)):
        assert "done before" in rstar(*command, "--run", str(run), cwd=run).stderr
    assert before == {p: p.stat().st_mtime_ns for p in run.rglob("*.jsonl")}


def test_two_processes_on_one_stage_do_not_mix(run: Path, tmp_path: Path) -> None:
    """This process holds the stage's lock, as a search under way does; the second one touches nothing."""
    command = (*SCRIPTED, "--run", "r")
    rstar("init", "--run", "r", cwd=tmp_path)
    with RunDir.open(tmp_path / "r").locked("generate", 1):
        second = rstar(*command, cwd=tmp_path, check=False)
    assert second.returncode == 6, second.stderr
    assert "is at work on generate of round 1" in second.stderr
    rstar(*command, cwd=tmp_path)
    assert sha(tmp_path / "r/round_1/trees.jsonl") == sha(run / "round_1/trees.jsonl")


def test_training_rows_of_other_trees_are_refused(tmp_path: Path) -> None:
    rstar(*SCRIPTED, "--run", "r", cwd=tmp_path)
    rstar("verify", "--run", "r", cwd=tmp_path)
    (tmp_path / "r/round_1/trees.jsonl").unlink()
    rstar("generate", "--engine", "scripted", "--rollouts", "2", "--limit", "24", "--run", "r", cwd=tmp_path)
    refused = rstar("train-policy", "--run", "r", cwd=tmp_path, check=False)
    assert refused.returncode == 3
    assert "other trees" in refused.stderr


def test_a_budget_ends_a_search_with_a_whole_artifact(tmp_path: Path) -> None:
    """Budget, early stop and escalation in one: what is left is told, and the stage is done."""
    flags = ("--enough", "1", "--escalate", "8,12", "--in-flight", "4", "--exec-workers", "1")
    command = (*SCRIPTED, *flags, "--run", "r", "--json")
    full = json.loads(rstar(*command, cwd=tmp_path).stdout)
    whole = list(read_rows(tmp_path / "r/round_1/trees.jsonl", Tree))
    assert (full["data"]["left"], full["data"]["searched now"], len(whole)) == (0, 24, 24)
    for tree in whole:
        right = [rollout.reward == 1 for rollout in tree.rollouts]
        assert sum(right) <= 1
        assert not any(right[:-1]), "the first right answer ends a search"
        assert any(right) or len(tree.rollouts) in (8, 12) or len(tree.rollouts) < 4
    half = tmp_path / "half"
    half.mkdir()
    spent = sum(tree.tokens_generated for tree in whole)
    told = json.loads(rstar(*command, "--budget-tokens", str(spent // 2), cwd=half).stdout)
    trees = list(read_rows(half / "r/round_1/trees.jsonl", Tree))
    left = told["data"]["left"]
    assert 0 < left == 24 - len(trees)
    assert any("budget of this stage is spent" in note for note in told["notes"])
    assert not (half / "r/round_1/trees.jsonl.partial").exists()
    stage = json.loads((half / "r/round_1/manifest.json").read_text())["stages"]["generate"]
    assert stage["status"] == "complete"
    assert stage["counts"]["left"] == left
    assert stage["outputs"]["trees.jsonl"]["rows"] == len(trees)
    before = sha(half / "r/round_1/trees.jsonl")
    assert "done before" in rstar(*command[:-1], "--budget-tokens", str(spent // 2), cwd=half).stderr
    assert sha(half / "r/round_1/trees.jsonl") == before
    rstar("verify", "--run", "r", cwd=half)


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m rstar_cli problems make --count 3000 --output - | head -1"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["id"]
    assert "error" not in done.stderr


def test_other_settings_are_refused_by_name(run: Path) -> None:
    refused = rstar(*SCRIPTED[:-3], "5", "--limit", "24", "--run", str(run), cwd=run, check=False)
    assert refused.returncode == 4
    assert "rollouts: 4 -> 5" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_missing_artifact_names_the_command(tmp_path: Path) -> None:
    for command, needs in (("verify", "generate"), ("train-policy", "verify"), ("evaluate", "train-policy")):
        failed = rstar(command, "--run", "r", "--round", "1", cwd=tmp_path, check=False)
        assert failed.returncode == 3
        assert f"Run: rstar {needs} --round 1 --run r" in failed.stderr


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = rstar("generate", "--run", "r", "--dry-run", "--json", cwd=tmp_path)
    figures = json.loads(done.stdout)["figures"]
    assert figures["problems"] == 600
    assert figures["first prompt"].startswith("<|user|>:\n")
    assert "at most" in figures["tokens to generate"]
    assert list(tmp_path.iterdir()) == []


def test_outside_a_run_a_foreign_model_gets_what_help_says(tmp_path: Path) -> None:
    """Not the limits of the embedded model's recipe, and no samples nor search that nobody asked for."""
    save_random_model(tmp_path / "model", 1e6)
    rstar("problems", "make", "--count", "3", "--output", "p.jsonl", cwd=tmp_path)
    command = ("evaluate", "--benchmark", "p.jsonl", "--dry-run", "--json", "--policy")
    foreign = json.loads(rstar(*command, "model", cwd=tmp_path).stdout)["figures"]
    assert (foreign["max-tokens"], foreign["samples"], foreign["rollouts"]) == ("2048", "0", "0")
    own = json.loads(rstar(*command, "embedded", "--samples", "4", cwd=tmp_path).stdout)["figures"]
    assert (own["max-tokens"], own["samples"], own["rollouts"]) == ("192", "4", "0")


def test_a_verify_that_was_not_finished_trains_nothing(tmp_path: Path) -> None:
    rstar(*SCRIPTED, "--run", "r", cwd=tmp_path)
    rstar("verify", "--run", "r", cwd=tmp_path)
    manifest = tmp_path / "r/round_1/manifest.json"
    told = json.loads(manifest.read_text())
    told["stages"]["verify"]["status"] = "running"  # as a kill leaves it
    manifest.write_text(json.dumps(told))
    refused = rstar("train-policy", "--run", "r", cwd=tmp_path, check=False)
    assert refused.returncode == 3
    assert "Run: rstar verify --round 1 --run r" in refused.stderr


def test_json_is_one_object_on_stdout(run: Path) -> None:
    done = rstar("verify", "--run", str(run), "--json", cwd=run)
    report = json.loads(done.stdout)
    assert report["next"].startswith("rstar train-policy --round 1")
    assert all(Path(path).exists() for path in report["files"])


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["generate", "--rollouts", "0"], 2, "--rollouts"),
        (["generate", "--round", "0"], 2, "round 0"),
        (["generate", "--problems", "none.jsonl"], 3, "none.jsonl"),
        (["verify", "--input", "-"], 2, "--output"),
        (["verify", "--input", "-", "--output", "-", "--json"], 2, "stdout"),
        (["evaluate", "--policy", "embedded"], 2, "--benchmark"),
        (["problems", "make", "--levels", "9", "--output", "-"], 2, "levels"),
    ],
)
def test_bad_calls_are_told(tmp_path: Path, command: list[str], code: int, says: str) -> None:
    failed = rstar(*command, cwd=tmp_path, check=False)
    assert failed.returncode == code, failed.stderr
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_recipe_mistakes_are_told(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[generate]\nrolouts = 3\n")
    failed = rstar("init", "--run", "r", "--recipe", "r.toml", cwd=tmp_path, check=False)
    assert failed.returncode == 3
    assert "rolouts" in failed.stderr
    assert "'rollouts'" in failed.stderr


ROWS = [
    {"id": 1, "answer": "42", "prediction": "42.0", "extra": [1, {"a": None}]},
    {"id": 2, "answer": "1/2", "solution": "So we get \\boxed{\\frac{1}{2}}."},
    {"id": 3, "answer": "10", "code": "print(sum(range(5)))"},
    {"id": 4, "answer": "11", "code": "print(10)"},
    {"id": 5, "answer": "", "code": "1/0"},
    {"id": 6, "answer": "3", "prediction": "4"},
]
VERDICTS = ["correct", "correct", "correct", "incorrect", "no_answer", "incorrect"]


def test_verify_grades_plain_rows(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS))
    done = rstar("verify", "--input", "in.jsonl", "--output", "-", cwd=tmp_path)
    out = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in out] == VERDICTS
    for row, before in zip(out, ROWS, strict=True):
        assert {key: row[key] for key in before} == before, "all fields are kept"
        assert row["decided_by"]
        assert ("execution" in row) == ("code" in before)
    assert out[4]["execution"]["status"] == "error"
    assert "ZeroDivisionError" in out[4]["execution"]["error"]


def test_a_flag_that_is_not_given_leaves_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("[generate]\nlenient = true\n", "utf-8")
    rstar("init", "--run", "r", "--recipe", "r.toml", cwd=tmp_path)
    for flags, lenient in (((), True), (("--no-lenient",), False), (("--lenient",), True)):
        told = rstar("generate", "--run", "r", "--dry-run", "--json", *flags, cwd=tmp_path).stdout
        assert json.loads(told)["figures"]["lenient"] == str(lenient)


def test_a_finished_row_comes_out_while_stdin_stays_open(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rstar_cli", "verify", "--input", "-", "--output", "-"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for row in ROWS[:3]:
            process.stdin.write(orjson.dumps(row) + b"\n")
            process.stdin.flush()
            os.set_blocking(process.stdout.fileno(), True)
            assert json.loads(process.stdout.readline())["id"] == row["id"]
        process.stdin.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"answer": "1"}', "none of prediction"),
        (b'{"gold": "1", "prediction": "1"}', "answer"),
        (b'{"answer": "1", "prediction": "1", "code": "1"}', "prediction and code"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_bad_rows_are_told_by_line(tmp_path: Path, line: bytes, says: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(orjson.dumps(ROWS[0]) + b"\n" + line + b"\n")
    failed = rstar("verify", "--input", "in.jsonl", "--output", "out.jsonl", cwd=tmp_path, check=False)
    assert failed.returncode == 3
    assert "in.jsonl:2" in failed.stderr
    assert says in failed.stderr
    assert not (tmp_path / "out.jsonl").exists(), "complete or absent"


def test_problems_go_round(tmp_path: Path) -> None:
    rstar("problems", "make", "--count", "5", "--seed", "3", "--output", "p.jsonl", cwd=tmp_path)
    rstar("problems", "import", "p.jsonl", "--output", "q.jsonl", cwd=tmp_path)
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "q.jsonl").read_bytes()
    rstar("problems", "import", "p.jsonl", "--run", "r", cwd=tmp_path)
    rstar("generate", "--engine", "scripted", "--rollouts", "2", "--run", "r", cwd=tmp_path)
    used = {p.id for p in read_rows(tmp_path / "r/round_1/problems.jsonl", Problem)}
    assert used == {p.id for p in read_rows(tmp_path / "p.jsonl", Problem)}
