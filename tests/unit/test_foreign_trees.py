"""Trees of microsoft/rStar become a round's: they are verified, trained on and shown as our own are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import DataError
from rstar_cli.grader import Grader
from rstar_cli.jsonl import read_rows
from rstar_cli.quarantine import beside
from rstar_cli.records import Execution, ExecutionStatus, Problem, SftRow, SolutionRow, StopReason, Tree, Verdict
from rstar_cli.stages.foreign_trees import NO_ANSWERS, read_trees, tree_of
from tests.helpers import rstar

MALFORMED, DEPTH, FAILED = NO_ANSWERS


def node(
    text: str = "", answer: str = "", n: int = 1, q: float = 0.0, value: float = 0.0, **more: str
) -> dict[str, Any]:
    """A node's state as upstream saves it (`agents/mcts.py`, `create_child` and `return_states`)."""
    state = {"text": text, "extra_info": "", "action": "", "action_input": "", "final_answer": answer}
    return {**state, "value": value, "q_value": q, "visit_count": n, **more}


def printed(step: str, output: str) -> dict[str, str]:
    return {"text": f"{step}<end_of_code>\n<output>{output}<end_of_output>", "observation": output}


def boxed(answer: str) -> str:
    return f"\n<answer>It is \\boxed{{{answer}}}.<end_of_answer>"


def solution(answer: str) -> str:
    return f"<answer>It is \\boxed{{{answer}}}.<end_of_answer>"


TREE = {
    "0": node(n=4, q=0.5) | {"extra_info": "question: 6 times 7?"},
    "0.1": node("<code>\n# a\na = 6 * 7\n<end_of_step>", n=3, q=1 / 3, observation=""),
    "0.2": node("<code>\n# b\na = 42\n<end_of_step>", n=1, q=1.0, observation=""),
    "0.3": node(
        "<code>\n# c\na = 6 / 0\n<end_of_step>", FAILED, q=-1.0, observation="ZeroDivisionError: division by zero"
    ),
    "0.10": node("<code>\n# d", MALFORMED, q=-1.0),
    "0.1.1": node(n=2, q=1.0) | printed("\n# show\nprint(a)\n", "42"),
    "0.1.2": node(n=1, q=-1.0) | printed("\n# show\nprint(a - 1)\n", "41"),
    "0.2.1": node(n=1, q=1.0) | printed("\n# show\nprint(a)\n", "42"),
    "0.1.1.1": node(boxed("42"), "42", n=2, q=1.0, value=1.0),
    "0.1.2.1": node(boxed("41"), "41", n=1, q=-1.0, value=-1.0),
    "0.2.1.1": node(boxed("42"), "42", n=1, q=1.0, value=1.0),
}
ROW = {"question": "6 times 7?", "answer": "42", "rstar": TREE}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **changes: Any) -> Tree:
    ((_, problem, nodes),) = read_trees(write(path / "t.jsonl", {**ROW, **changes}))
    with Grader() as grader:
        return tree_of(problem, nodes, grader.grade)


def test_a_tree_keeps_its_steps_values_and_visits(tmp_path: Path) -> None:
    tree = read(tmp_path)
    told = [(n.parent, n.depth, n.visits, round(n.q, 2), n.stop, n.verdict) for n in tree.nodes]
    assert told == [
        (None, 0, 4, 0.5, StopReason.STEP, None),
        (0, 1, 3, 0.33, StopReason.STEP, None),
        (0, 1, 1, 1.0, StopReason.STEP, None),
        (0, 1, 0, 0.0, StopReason.FAILED, None),
        (0, 1, 0, 0.0, StopReason.MALFORMED, None),
        (1, 2, 2, 1.0, StopReason.CODE, None),
        (1, 2, 1, -1.0, StopReason.CODE, None),
        (2, 2, 1, 1.0, StopReason.CODE, None),
        (5, 3, 2, 1.0, StopReason.ANSWER, Verdict.CORRECT),
        (6, 3, 1, -1.0, StopReason.ANSWER, Verdict.INCORRECT),
        (7, 3, 1, 1.0, StopReason.ANSWER, Verdict.CORRECT),
    ]
    assert [tree.nodes[i].text for i in (1, 5, 8)] == [
        "\n# a\na = 6 * 7\n<end_of_step>",
        "\n# show\nprint(a)\n<end_of_code>",
        solution("42"),
    ]
    failed = tree.nodes[3].execution
    assert failed == Execution(status=ExecutionStatus.ERROR, error="ZeroDivisionError: division by zero")
    assert sorted(rollout.leaf for rollout in tree.rollouts) == [8, 8, 9, 10]
    assert all(n.prm_score is None for n in tree.nodes)


def test_values_of_a_reward_model_are_kept(tmp_path: Path) -> None:
    scored = {
        tag: {**state, "value": [0.25] if tag == "0.1" else -1.5 if tag == "0.2" else 0.5}
        for tag, state in TREE.items()
    }
    tree = read(tmp_path, rstar=scored)
    assert [n.prm_score for n in tree.nodes[:3]] == [None, 0.25, -1.0]


def test_a_reward_is_no_value_of_a_model(tmp_path: Path) -> None:
    """Where upstream samples for training, an answer's value is whether it is right."""
    scored = {tag: {**state, "value": 0.25} if not state["final_answer"] else state for tag, state in TREE.items()}
    tree = read(tmp_path, rstar=scored)
    assert [n.prm_score for n in tree.nodes[1:4]] == [0.25, 0.25, None]
    assert {n.prm_score for n in tree.nodes if n.stop is StopReason.ANSWER} == {None}


def test_what_did_not_run_and_what_printed_nothing(tmp_path: Path) -> None:
    silent = {"text": "\n# end\nb = 1\n<end_of_code>\n<output><end_of_output>", "observation": ""}
    told_in_text = {"text": "\n# end\nprint(7)\n<end_of_code>\n<output>7<end_of_output>"}
    states = {
        "0": node(),
        "0.1": node("<code>\na = 1 / 0\n<end_of_step>", observation="ZeroDivisionError: division by zero"),
        "0.2": node() | silent,
        "0.3": node() | told_in_text,
    }
    tree = read(tmp_path, rstar=states)
    assert [n.execution for n in tree.nodes[1:]] == [
        Execution(status=ExecutionStatus.ERROR, error="ZeroDivisionError: division by zero"),
        Execution(status=ExecutionStatus.OK),
        Execution(status=ExecutionStatus.OK, stdout="7"),
    ]


def test_a_beams_answers_are_backed_up(tmp_path: Path) -> None:
    beam = {tag: {k: v for k, v in state.items() if k not in ("visit_count", "q_value")} for tag, state in TREE.items()}
    tree = read(tmp_path, rstar={**beam, "solutions": [{"tag": "0.1.1.1"}]})  # as `agents/beam_search.py` adds
    assert [(n.visits, round(n.q, 2)) for n in tree.nodes[:4]] == [(3, 0.33), (2, 0.0), (1, 1.0), (0, 0.0)]


def test_a_round_of_them_is_verified_and_shown(tmp_path: Path) -> None:
    write(tmp_path / "theirs.jsonl", ROW, {**ROW, "question": "7 times 6?", "answer": "43"})
    (tmp_path / "recipe.toml").write_text("[eval.test]\ncount = 1\n")
    rstar("init", "--run", "r", "--recipe", "recipe.toml", cwd=tmp_path)
    take = ("generate", "--run", "r", "--round", "1", "--trees", "theirs.jsonl")
    dry = rstar(*take, "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(dry.stdout)["figures"]["trees"] == 2
    told = json.loads(rstar(*take, "--json", cwd=tmp_path).stdout)
    assert told["data"] == {"problems": 2, "solved": 1}
    again = rstar(*take, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["data"] == told["data"]
    assert json.loads(rstar("generate", "--run", "r", "--round", "1", "--json", cwd=tmp_path).stdout)["done_before"]
    rstar("verify", "--run", "r", "--round", "1", cwd=tmp_path)
    files = tmp_path / "r/round_1"
    problems = list(read_rows(files / "problems.jsonl", Problem))
    assert [(p.problem, p.answer) for p in problems] == [("6 times 7?", "42"), ("7 times 6?", "43")]
    assert "rstar" not in (problems[0].model_extra or {})
    verdicts = [row.verdict for row in read_rows(files / "solutions.jsonl", SolutionRow)]
    assert verdicts == [Verdict.CORRECT, Verdict.INCORRECT, Verdict.CORRECT, *[Verdict.INCORRECT] * 3]
    rows = list(read_rows(files / "sft.jsonl", SftRow))
    shown_and_answered = f"# show\nprint(a)\n<end_of_code>\n<output>42<end_of_output>\n{solution('42')}"
    assert [row.completion for row in rows] == [
        f"\n# b\na = 42\n<end_of_step>\n{shown_and_answered}",
        f"\n# a\na = 6 * 7\n<end_of_step>\n{shown_and_answered}",
    ]
    shown = rstar("show", "--run", "r", "--round", "1", "--problem", "1", cwd=tmp_path).stdout
    assert "2 of 3 finished solutions are right" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"rstar": None}, "rstar", "expected the nodes of a tree"),
        ({"rstar": {"0": node(), "0.1.1": node()}}, "rstar.0.1.1", "the parent is there"),
        ({"rstar": {"0": node(), "0.a": node()}}, "rstar.0.a", "a tag is its parent's"),
        ({"rstar": {"0": "a"}}, "rstar.0", "expected a node with a text"),
        ({"rstar": {"0": node() | {"q_value": "much"}}}, "rstar.0.q_value", "must be a number"),
        ({"rstar": {"0": node() | {"final_answer": 3}}}, "rstar.0.final_answer", "must be text"),
        ({"question": None}, "problem", "problem is empty"),
    ],
)
def test_a_bad_row_is_told_by_its_place(tmp_path: Path, changes: dict[str, Any], field: str, why: str) -> None:
    file = write(tmp_path / "t.jsonl", {**ROW, "question": "first"}, {**ROW, **changes})
    with pytest.raises(DataError, match=why) as caught:
        list(read_trees(file))
    assert (caught.value.line, caught.value.field) == (2, field)


def test_bad_rows_can_be_set_aside_and_two_trees_of_a_problem_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", {**ROW, "rstar": {}}, ROW, ROW)  # a bad one hides no good one of its problem
    rstar("init", "--run", "r", cwd=tmp_path)
    take = ("generate", "--run", "r", "--round", "1", "--trees", "t.jsonl")
    failed = rstar(*take, cwd=tmp_path, check=False)
    assert failed.returncode == 3
    assert "t.jsonl:1:rstar: expected the nodes of a tree" in failed.stderr
    assert not (tmp_path / "r/round_1/trees.jsonl").exists()
    done = rstar(*take, "--skip-bad-lines", "--json", cwd=tmp_path, check=False)
    assert done.returncode == 7
    assert json.loads(done.stdout)["data"] == {"problems": 1, "solved": 1, "bad lines": 2}
    assert "the problem has a tree in line 2 already" in beside(tmp_path / "r/round_1/trees.jsonl").read_text()
    assert len(beside(tmp_path / "r/round_1/trees.jsonl").read_text().splitlines()) == 2


def test_it_is_a_rounds(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", ROW)
    take = ("generate", "--trees", "t.jsonl", "--output", "o.jsonl", "--problems", "t.jsonl")
    for more in ((), ("--dry-run",)):
        failed = rstar(*take, *more, cwd=tmp_path, check=False)
        assert failed.returncode == 2
        assert "--trees takes the searches of others" in failed.stderr
