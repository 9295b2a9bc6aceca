"""A search tree in the terminal, and which tree is found."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from rstar_cli.errors import DataError, MissingArtifactError, UsageError
from rstar_cli.extract import segments
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import RunDir
from rstar_cli.options import ShowPlace
from rstar_cli.protocols import ScoreRequest, Segment
from rstar_cli.records import Execution, ExecutionStatus, Problem, Rollout, StopReason, TreeNode
from rstar_cli.report.tree import Shown, best_leaf, best_text, page_data, tree_text, way_to
from rstar_cli.stages.show import find_tree
from tests.helpers import rstar
from tests.unit.test_extract import TREE, VERDICTS, rows

GRADED = TREE.model_copy(
    update={"nodes": tuple(n.model_copy(update={"verdict": VERDICTS.get(n.id)}) for n in TREE.nodes)}
)
SHOWN = Shown(GRADED, Problem(id="p", problem="What is 42?", answer="42"), {"method": "uct"}, "round 1")


def text_of(what: object) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_line_a_step() -> None:
    told = text_of(tree_text(SHOWN))
    assert "What is 42?" in told
    assert "gold answer 42" in told
    for node in GRADED.nodes[1:]:
        assert (f"#{node.id} N {node.visits} Q {node.q:+.2f}" in told) == (node.stop is not StopReason.FAILED)
    assert "dropped: 1 failed" in told
    assert "Solved: 3 of 4 finished solutions are right." in told
    assert told.count("wrong from here (1 of 1)") == 1
    assert "answer 42 correct" in told
    assert "answer 41 incorrect" in told
    assert told.index("#1 ") < told.index("#4 ") < told.index("#5 ") < told.index("#2 "), "children follow their parent"


def test_depth_leaves_out_what_is_below() -> None:
    deep = GRADED.model_copy(
        update={"nodes": tuple(n.model_copy(update={"depth": _depth(n.id)}) for n in GRADED.nodes)}
    )
    told = text_of(tree_text(Shown(deep, None, {}, "file"), depth=1))
    assert "#1 " in told
    assert "#4 " not in told
    assert "P<code>" in told, "without the problem, its prompt"


def _depth(number: int) -> int:
    parent = GRADED.nodes[number].parent
    return 0 if parent is None else 1 + _depth(parent)


def test_the_best_solution_whole() -> None:
    best = best_leaf(GRADED)
    assert best is not None
    assert best.id == 5
    told = text_of(best_text(SHOWN))
    assert "a = 1" in told
    assert "print(42)" in told
    assert "answer 42 correct" in told
    assert "a = 2" not in told
    assert "wrong" not in told
    lost = GRADED.model_copy(update={"nodes": tuple(n for n in GRADED.nodes if n.id < 4 or n.id in (6, 7))})
    lost = lost.model_copy(update={"nodes": tuple(_renumbered(lost.nodes))})
    told = " ".join(text_of(best_text(Shown(lost, SHOWN.problem, {}, "file"))).split())
    assert "No solution is right; this one has the highest Q (−1.00). Its answer is 41, the right one is 42." in told
    assert "The tree can't tell where it went wrong: there is no other solution." in told
    none = GRADED.model_copy(update={"nodes": GRADED.nodes[:4], "rollouts": ()})
    assert "No rollout came to an answer" in text_of(best_text(Shown(none, None, {}, "file")))


def _renumbered(nodes: tuple[TreeNode, ...]) -> list[TreeNode]:
    """The nodes that are left, with numbers from 0 on."""
    new = {node.id: i for i, node in enumerate(nodes)}
    return [
        n.model_copy(update={"id": new[n.id], "parent": None if n.parent is None else new[n.parent]}) for n in nodes
    ]


def test_page_data_holds_every_node_and_rollout() -> None:
    data = page_data(SHOWN)
    assert [node["parent"] for node in data["nodes"]] == [node.parent for node in GRADED.nodes]
    assert data["nodes"][1]["code"] == "# good\na = 1"
    assert data["best"] == 5
    assert data["rollouts"] == [{"leaf": 5, "reward": 1.0, "tokens": 0}]


@pytest.mark.parametrize(
    ("settings", "prm", "told", "guided"),
    [
        ({"method": "uct", "prm": "none"}, "", None, False),
        ({"method": "uct", "prm": "round 3"}, "", "round 3, which steered the search", True),
        ({"method": "swor", "prm": "round 3"}, "", "round 3, asked in the search, which it didn't steer", False),
        ({"method": "uct", "prm": "none"}, "last", "last, asked after the search", False),
        (
            {"method": "puct", "prm": "a"},
            "b",
            "b, asked after the search; a, which steered the search",
            True,
        ),
        ({"method": "uct"}, "", "not named", True),
        ({"method": "swor"}, "", "not named", False),
    ],
)
def test_the_prm_and_its_part_are_named(settings: dict[str, str], prm: str, told: str | None, guided: bool) -> None:
    valued = settings.get("prm") != "none" or bool(prm)
    nodes = tuple(n.model_copy(update={"prm_score": 0.5 if valued and n.id else None}) for n in GRADED.nodes)
    data = page_data(replace(SHOWN, tree=GRADED.model_copy(update={"nodes": nodes}), settings=settings, prm=prm))
    assert dict(data["facts"]).get("PRM") == told
    assert (data["guided"], data["asked"]) == (guided, bool(prm))


def test_why_a_silent_step_failed_is_told() -> None:
    silent = Execution(status=ExecutionStatus.TIMEOUT)
    nodes = tuple(n.model_copy(update={"execution": silent}) if n.id == 3 else n for n in GRADED.nodes)
    assert nodes[3].stop is StopReason.FAILED
    data = page_data(replace(SHOWN, tree=GRADED.model_copy(update={"nodes": nodes})))
    assert data["nodes"][3]["status"] == "timeout"


def test_rollouts_without_an_answer_are_counted() -> None:
    assert dict(page_data(SHOWN)["facts"])["rollouts"] == "1"
    lost = (*GRADED.rollouts, Rollout(leaf=1, reward=-1.0), Rollout(leaf=0, reward=-1.0))
    told = text_of(tree_text(replace(SHOWN, tree=GRADED.model_copy(update={"rollouts": lost}))))
    assert "rollouts 3, 2 of them came to no answer" in " ".join(told.split())


def test_the_tree_that_is_asked_for(tmp_path: Path) -> None:
    other = GRADED.model_copy(update={"problem_id": "q"})
    run = RunDir.create(tmp_path / "run")
    files = run.round(1)
    with pytest.raises(MissingArtifactError, match="generate"):
        find_tree(ShowPlace(run=run.root))
    files.root.mkdir(exist_ok=True)
    write_rows(files.trees, [GRADED, other])
    assert find_tree(ShowPlace(run=run.root)).tree.problem_id == "p"
    for wanted in ("q", "2"):
        assert find_tree(ShowPlace(run=run.root, problem=wanted)).tree.problem_id == "q"
    with pytest.raises(DataError, match="has no tree of problem z: it holds 2, such as p, q"):
        find_tree(ShowPlace(run=run.root, problem="z"))
    found = find_tree(ShowPlace(trees=files.trees, problem="q"))
    assert (found.name, found.problem) == ("trees.jsonl", None)

    done = rstar("show", "--run", str(run.root), "--problem", "q", "--best-path", cwd=tmp_path)
    assert "answer 42 correct" in done.stdout
    done = rstar("show", "--run", str(run.root), "--html", "tree.html", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["title"] == "p, round 1"
    assert "wrote tree.html" in done.stderr
    assert (tmp_path / "tree.html").read_text().startswith("<!doctype html>")


def test_problems_of_a_file_of_trees(tmp_path: Path) -> None:
    write_rows(tmp_path / "trees.jsonl", [GRADED])
    write_rows(tmp_path / "asked.jsonl", [Problem(id="p", problem="What is 42?", answer="42")])
    found = find_tree(ShowPlace(trees=tmp_path / "trees.jsonl", problems=tmp_path / "asked.jsonl"))
    assert found.problem is not None
    assert found.problem.problem == "What is 42?"
    run = RunDir.create(tmp_path / "run")
    with pytest.raises(UsageError, match="--problems goes with --trees"):
        find_tree(ShowPlace(run=run.root, problems=tmp_path / "asked.jsonl"))


def test_what_verify_found_is_told(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run")
    files = run.round(1)
    files.root.mkdir(exist_ok=True)
    write_rows(files.trees, [GRADED])
    assert "run again" not in text_of(best_text(find_tree(ShowPlace(run=run.root))))
    write_rows(files.solutions, rows())
    found = find_tree(ShowPlace(run=run.root))
    assert found.verified == {leaf: verdict.value for leaf, verdict in VERDICTS.items()}
    assert "run again from scratch by verify: correct" in text_of(best_text(found))
    assert page_data(found)["verified"]["7"] == "incorrect"


def test_a_prm_values_every_step_that_ran(scorer: Path, tmp_path: Path) -> None:
    """As it would have while searching: a step's value is that of the solution up to it."""
    from rstar_cli.engines.prm import TransformersScorer

    write_rows(tmp_path / "trees.jsonl", [GRADED])
    asked = {"trees": tmp_path / "trees.jsonl"}
    assert find_tree(ShowPlace(**asked, prm="none")).tree == GRADED
    with pytest.raises(UsageError, match="last is a run's"):
        find_tree(ShowPlace(**asked, prm="last"))
    run = RunDir.create(tmp_path / "run")
    run.round(1).root.mkdir(exist_ok=True)
    write_rows(run.round(1).trees, [GRADED])
    with pytest.raises(MissingArtifactError, match="train-prm"):
        find_tree(ShowPlace(run=run.root, prm="last"))
    found = find_tree(ShowPlace(**asked, prm=str(scorer)))
    values = {node.id: node.prm_score for node in found.tree.nodes}
    assert [number for number, value in values.items() if value is None] == [0, 3], "the problem, and what failed"
    prm = TransformersScorer.load(scorer, device="cpu")
    way = way_to(GRADED, GRADED.nodes[5])
    branch = tuple(Segment(part.text) for part in segments(way))
    (told,) = prm.score([ScoreRequest((Segment(GRADED.prompt),), (branch,))])[0]
    data = page_data(found)
    assert (data["prm"], data["guided"]) == (True, False), "the search's own arithmetic had none of it"
    assert [values[1], values[5]] == [pytest.approx(told[0], abs=1e-5), pytest.approx(told[-1], abs=1e-5)]
