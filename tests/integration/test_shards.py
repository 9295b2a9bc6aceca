"""`--shard i/n` and `rstar merge`: whatever the number of shards, the artifact is that of one process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rstar_cli.jsonl import read_objects, write_rows
from rstar_cli.layout import RunDir, make_folder, read_manifest, write_bytes
from rstar_cli.locks import held
from rstar_cli.options import MergePlace
from rstar_cli.records import Problem
from rstar_cli.shards import Shard
from rstar_cli.stages.common import StageRecord
from rstar_cli.stages.merge import _entry, merge
from tests.helpers import rstar

RECIPE = """
[run]
count = 13
levels = "1-3"
[eval.test]
count = 11
[eval.other]
count = 3
[generate]
engine = "scripted"
rollouts = 3
[evaluate]
engine = "scripted"
samples = 3
rollouts = 2
prm = "none"
"""
ARTIFACTS = ("problems", "trees", "solutions", "sft", "pairs", "step_labels")


def bytes_of(run: Path) -> dict[str, bytes]:
    files = [run / f"round_1/{name}.jsonl" for name in ARTIFACTS]
    files += sorted((run / "round_0/eval").iterdir())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stages were each done by one process."""
    root = tmp_path_factory.mktemp("whole")
    (root / "recipe.toml").write_text(RECIPE)
    rstar("init", "--run", "r", "--recipe", "recipe.toml", cwd=root)
    for stage, number in (("evaluate", "0"), ("generate", "1"), ("verify", "1")):
        rstar(stage, "--round", number, "--run", "r", cwd=root)
    return root / "r"


def begin(whole: Path, root: Path) -> None:
    """The same run, with nothing done."""
    (root / "r").mkdir()
    shutil.copy(whole / "recipe.toml", root / "r/recipe.toml")


def deal(stage: str, number: int, count: int, root: Path, *more: str) -> None:
    for index in reversed(range(1, count + 1)):
        rstar(stage, "--round", str(number), "--run", "r", "--shard", f"{index}/{count}", *more, cwd=root)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_merged_shards_are_the_artifact_of_one_process(whole: Path, tmp_path: Path, count: int) -> None:
    begin(whole, tmp_path)
    for stage, number in (("evaluate", 0), ("generate", 1), ("verify", 1)):
        deal(stage, number, count, tmp_path)
        done = rstar("merge", "--round", str(number), "--run", "r", cwd=tmp_path)
        assert stage in done.stderr
    assert bytes_of(tmp_path / "r") == bytes_of(whole)
    assert not list((tmp_path / "r").rglob("*-of-*")), "what is joined is removed"
    for number in (0, 1):
        one, many = (read_manifest(root / f"round_{number}/manifest.json") for root in (whole, tmp_path / "r"))
        assert {name: entry["outputs"] for name, entry in many.items()} == {n: e["outputs"] for n, e in one.items()}
        assert all(entry["config"] == one[name]["config"] for name, entry in many.items())
        assert all(entry["shards"] == count for entry in many.values())
    assert one["verify"]["counts"] == many["verify"]["counts"]
    assert one["generate"]["tokens"] == many["generate"]["tokens"]
    for stage in ("generate", "verify"):  # a shard that comes too late finds all done
        again = rstar(stage, "--round", "1", "--run", "r", "--shard", "1/2", cwd=tmp_path)
        assert "done before" in again.stderr


def test_a_missing_shard_is_named_with_its_command(whole: Path, tmp_path: Path) -> None:
    begin(whole, tmp_path)
    nothing = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert nothing.returncode == 3
    assert "no shards" in nothing.stderr
    rstar("generate", "--round", "1", "--run", "r", "--shard", "1/3", cwd=tmp_path)
    assert "1 of 3 shards" in rstar("status", "--run", "r", cwd=tmp_path).stderr
    done = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "2/3, 3/3" in done.stderr
    assert "rstar generate --round 1 --run r --shard 2/3" in done.stderr
    assert (tmp_path / "r/round_1/trees.1-of-3.jsonl").exists()
    assert not (tmp_path / "r/round_1/trees.jsonl").exists()


def test_shards_that_do_not_belong_together_are_refused(whole: Path, tmp_path: Path) -> None:
    begin(whole, tmp_path)
    rstar("generate", "--round", "1", "--run", "r", "--shard", "1/2", cwd=tmp_path)
    rstar("generate", "--round", "1", "--run", "r", "--shard", "2/2", "--rollouts", "4", cwd=tmp_path)
    other = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert other.returncode == 4
    assert "rollouts: 4 -> 3" in other.stderr
    for path in (tmp_path / "r/round_1").glob("*2-of-2*"):
        path.unlink()
    deal("generate", 1, 3, tmp_path)
    two = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert two.returncode == 3
    assert "2 and in 3 shards" in two.stderr


def test_one_process_joins(whole: Path, tmp_path: Path) -> None:
    begin(whole, tmp_path)
    deal("generate", 1, 2, tmp_path)
    with RunDir.open(tmp_path / "r").locked("generate", 1):
        refused = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert refused.returncode == 6
    assert "is at work on generate of round 1" in refused.stderr
    rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path)
    assert not list((tmp_path / "r").rglob("*.lock"))


def test_one_process_joins_outside_a_run(tmp_path: Path) -> None:
    """It is the lock of `generate --output`, too."""
    rstar("problems", "make", "--count", "4", "--output", "p.jsonl", cwd=tmp_path)
    search = ("generate", "--problems", "p.jsonl", "--engine", "scripted", "--output", "t.jsonl")
    for part in ("1/2", "2/2"):
        rstar(*search, "--shard", part, cwd=tmp_path)
    with held(tmp_path / ".t.jsonl.lock", "t.jsonl"):
        refused = rstar("merge", "--output", "t.jsonl", cwd=tmp_path, check=False)
    assert refused.returncode == 6
    rstar("merge", "--output", "t.jsonl", cwd=tmp_path)
    assert (tmp_path / "t.jsonl").exists()


def test_a_shard_that_was_edited_is_refused(whole: Path, tmp_path: Path) -> None:
    begin(whole, tmp_path)
    deal("generate", 1, 2, tmp_path)
    shard = tmp_path / "r/round_1/trees.2-of-2.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"correct", b"incorrect", 1))
    done = rstar("merge", "--round", "1", "--run", "r", cwd=tmp_path, check=False)
    assert done.returncode == 3
    assert "trees.2-of-2.jsonl" in done.stderr
    assert "--shard 2/2" in done.stderr


def test_shards_outside_a_run(tmp_path: Path) -> None:
    rstar("problems", "make", "--count", "7", "--output", "p.jsonl", cwd=tmp_path)
    search = ("generate", "--problems", "p.jsonl", "--engine", "scripted", "--rollouts", "2", "--output")
    measure = ("evaluate", "--policy", "embedded", "--benchmark", "p.jsonl", "--engine", "scripted", "--output")
    for command, target in ((search, "one.jsonl"), (measure, "one")):
        rstar(*command, target, cwd=tmp_path)
    for command, target in ((search, "two.jsonl"), (measure, "two")):
        for index in (1, 2):
            rstar(*command, target, "--shard", f"{index}/2", cwd=tmp_path)
        rstar("merge", "--output", target, cwd=tmp_path)
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    for name in ("p.json", "p.greedy.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert json.loads((tmp_path / "two/p.json").read_bytes())["greedy"]["n"] == 7


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--shard", "0/2"], "a shard looks like 1/4"),
        (["--shard", "half"], "a shard looks like 1/4"),
        (["--shard", "1/2", "--budget-tokens", "9"], "a budget is for all problems"),
    ],
)
def test_bad_requests(whole: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    begin(whole, tmp_path)
    done = rstar("generate", "--round", "1", "--run", "r", *arguments, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert told in done.stderr


def test_what_shards_gave_up_is_told_of_the_whole() -> None:
    told = {"status": "complete", "seconds": 2.0, "tokens": {"generated": 5}, "outputs": {}}
    first = {**told, "counts": {"problems": 3, "engine idle": 0.25, "failed": {"a": "refused"}}}
    second = {**told, "seconds": 6.0, "counts": {"problems": 2, "engine idle": 0.75}}
    third = {**told, "counts": {"problems": 1, "engine idle": 0.25, "failed": {"c": "too long"}}}
    whole = _entry([first, second, third], {})
    assert whole["counts"] == {"problems": 6, "engine idle": 0.55, "failed": {"a": "refused", "c": "too long"}}
    assert (whole["seconds"], whole["tokens"], whole["shards"]) == (10.0, {"generated": 15}, 3)


def test_problems_that_were_given_up_leave_the_others_in_order(tmp_path: Path) -> None:
    """A part has no row of a problem that the engine refused: in a run the set itself tells the order."""
    problems = [Problem(id=f"p{i}", problem=f"{i} + 1?", answer=str(i + 1)) for i in range(7)]
    write_bytes(tmp_path / "r/recipe.toml", b"[eval.test]\ncount = 1\n")
    run = RunDir.open(tmp_path / "r")
    files = run.round(1)
    make_folder(files.root)
    write_rows(files.problems, problems)
    for shard in (Shard(2, 1), Shard(2, 2)):
        record = StageRecord(files.manifest, "generate", {}, {"problems": files.problems}, [files.trees], shard=shard)
        record.begin()
        kept = [{"problem_id": p.id} for p in shard.of(problems) if p.id not in ("p1", "p2")]
        write_rows(record.outputs[0], kept)
        failed = {p.id: "refused" for p in shard.of(problems) if p.id in ("p1", "p2")}
        record.complete({"problems": len(kept) + len(failed), "failed": failed})
    merge(MergePlace(run=run.root, round=1), run)
    assert [row["problem_id"] for _, row in read_objects(files.trees)] == ["p0", "p3", "p4", "p5", "p6"]
    assert read_manifest(files.manifest)["generate"]["counts"]["failed"] == {"p1": "refused", "p2": "refused"}
