"""Search trees of upstream (microsoft/rStar, branch rStar-math) as a round's searches, to verify, train on and show.

Upstream's `main.py` writes a line a problem: `question`, `answer`, and in `rstar` the nodes of its tree by their tags
`0`, `0.1`, `0.1.3` (`agents/tree.py`, `agents/mcts.py`). It tells no order of the rollouts, no log-probabilities and no
token ids, and what a program printed where it closes. A beam's tree has no visits: its answers are backed up here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli.config import GenerateConfig, GradingConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import STRICT, Aside, dump, read_objects, replacing, write_rows
from rstar_cli.layout import RunDir, make_folder, read_manifest
from rstar_cli.options import GeneratePlace
from rstar_cli.problems.fields import Place, read_problem
from rstar_cli.prompts import CODE, CODE_END, OUTPUT, OUTPUT_END, render_prompt
from rstar_cli.protocols import Grade
from rstar_cli.quarantine import Quarantine, beside, counted, notes, open_aside
from rstar_cli.records import (
    Execution,
    ExecutionStatus,
    Problem,
    Rollout,
    StopReason,
    Tree,
    TreeNode,
    Verdict,
)
from rstar_cli.stages.common import StageRecord, Summary, open_grader
from rstar_cli.stages.contaminated import refuse_overlaps

NO_ANSWERS = {
    "Fail to generate parsable text for next step.": StopReason.MALFORMED,
    "Fail to sove the problem within limited steps.": StopReason.DEPTH,
    "Too many consecutive steps have code errors.": StopReason.FAILED,
}
"""What upstream has for the answer of a node that has none (`rstar_deepthink/constants.py`)."""

TAKEN = "trees of others"
"""Their file, in manifests."""

Graded = Callable[[list[tuple[str, str | None]]], list[Grade]]


def take_trees(source: Path, place: GeneratePlace, config: GenerateConfig, run: RunDir | None) -> Summary:
    """Make upstream's trees a round's: writes its `problems.jsonl` and `trees.jsonl`.

    Answers are graded here, by our grader; Q and visits are upstream's.

    Raises:
        UsageError: see `check_place`.
        DataError: a row that is none of upstream's, or two trees of one problem; names line and field.
        ConfigMismatchError: the round has other trees.
    """
    run = check_place(place, run)
    files = run.round(place.round)
    with run.locked("generate", place.round), ExitStack() as stack:
        aside = open_aside(stack, place.skip_bad_lines, beside(files.trees))
        grading = {name: getattr(config, name) for name in GradingConfig.model_fields}
        settings = {**grading, "policy": "microsoft/rStar", "prm": "none"}
        record = StageRecord(files.manifest, "generate", settings, {TAKEN: source}, [files.trees])
        summary = Summary(f"generate {place.which}", files=[files.problems, files.trees])
        summary.next_command = run.command("verify", place.round)
        if record.is_complete():
            return record.told_again(summary)
        problems = [problem for _, problem, _ in read_trees(source, aside)]
        contaminated = refuse_overlaps(run, problems, config, source)
        make_folder(files.root)
        record.begin()
        write_rows(files.problems, problems)
        grader = stack.enter_context(open_grader(config))
        solved = 0
        with replacing(files.trees) as write:
            for _, problem, nodes in read_trees(source, Quarantine(None) if place.skip_bad_lines else STRICT):
                tree = tree_of(problem, nodes, grader.grade)
                write(dump(tree))
                solved += any(node.verdict is Verdict.CORRECT for node in tree.nodes)
        counts = {"problems": len(problems), "solved": solved, **counted(aside)}
        counts |= {"contaminated": contaminated} if contaminated else {}
        summary.figures, summary.data, summary.notes = dict(counts), counts, notes(aside)
        summary.headline = f"{solved} of {len(problems)} solved, by {source}"
        summary.partial = bool(counted(aside))
        record.complete(counts)
        return summary


def check_place(place: GeneratePlace, run: RunDir | None) -> RunDir:
    """The run that the trees go to.

    Raises:
        UsageError: there is none, or flags ask for a search as well.
    """
    if run is None or place.round < 1 or place.part or place.problems or place.limit:
        raise UsageError(
            "--trees takes the searches of others for those of a round of a run, 1 or later",
            remedy="Leave --shard, --problems, --limit and --output out.",
        )
    return run


def were_taken(run: RunDir, number: int) -> bool:
    """Whether a round's trees are those of others."""
    entry = read_manifest(run.round(number).manifest).get("generate", {})
    return entry.get("status") == "complete" and TAKEN in entry.get("inputs", {})


@dataclass(frozen=True, slots=True)
class _Node:
    """A node of upstream's, its text without what the interpreter printed."""

    tag: str
    parent: str | None
    text: str
    printed: str
    answer: str | None
    stop: StopReason
    visits: int | None
    q: float
    value: float


def read_trees(path: Path, aside: Aside = STRICT) -> Iterator[tuple[int, Problem, list[_Node]]]:
    """Stream (line, problem, nodes); a parent stands before its children.

    Raises:
        DataError: see `take_trees`.
    """
    seen: dict[str, int] = {}
    for line, row in read_objects(path, aside):
        try:
            nodes = row.pop("rstar", None)
            if not isinstance(nodes, Mapping) or "0" not in nodes:
                raise _bad(path, line, "rstar", "expected the nodes of a tree by their tags, the root 0 among them")
            problem = read_problem(row, Place(path, line), default_source=path.stem)
            states = {tag: node for tag, node in nodes.items() if tag != "solutions"}  # of a beam's tree, once more
            found = [_node(tag, node, states, path, line) for tag, node in sorted(states.items(), key=_place)]
            first = seen.setdefault(problem.id, line)
            if first != line:
                raise _bad(path, line, None, f"the problem has a tree in line {first} already")
        except DataError as error:
            aside.take(error)
        else:
            yield line, problem, found


def tree_of(problem: Problem, nodes: list[_Node], grade: Graded) -> Tree:
    """A tree of ours, its answers graded."""
    numbers = {node.tag: number for number, node in enumerate(nodes)}
    answers = [node for node in nodes if node.stop is StopReason.ANSWER]
    grades = grade([(problem.answer, node.answer) for node in answers])
    verdicts = {node.tag: found.verdict for node, found in zip(answers, grades, strict=True)}
    rewards = {tag: 1.0 if verdict is Verdict.CORRECT else -1.0 for tag, verdict in verdicts.items()}
    visits, q = _visits(nodes, rewards)
    by_prm = any(_is_scored(node) for node in nodes if node.stop is not StopReason.ANSWER)
    made = [
        TreeNode(
            id=number,
            parent=None if node.parent is None else numbers[node.parent],
            depth=node.tag.count("."),
            text=node.text,
            visits=visits[node.tag],
            q=q[node.tag],
            prm_score=_bounded(node.value) if by_prm and _is_scored(node) else None,
            stop=node.stop,
            answer=node.answer,
            verdict=verdicts.get(node.tag),
            execution=_execution(node),
        )
        for number, node in enumerate(nodes)
    ]
    leaves = [node for node in made if node.stop is StopReason.ANSWER]
    rollouts = tuple(Rollout(leaf=node.id, reward=node.q) for node in leaves for _ in range(node.visits))
    prompt = render_prompt(problem.problem)
    return Tree(
        problem_id=problem.id, prompt=prompt, seed=0, tokenizer="", tokens_generated=0, tokens_prefilled=0,
        rollouts=rollouts, nodes=tuple(made),
    )  # fmt: skip


def _is_scored(node: _Node) -> bool:
    """Whether a node's value is a reward model's: a reward is -1 or 1, and no value is 0."""
    return node.parent is not None and node.stop not in NO_ANSWERS.values() and node.value not in (-1, 0, 1)


def _visits(nodes: list[_Node], rewards: Mapping[str, float]) -> tuple[dict[str, int], dict[str, float]]:
    """N and Q by tag, as upstream tells them; of a beam's tree, which has none, each answer counts once."""
    if any(node.visits is not None for node in nodes):
        # upstream visits nodes without an answer once, and their parents know nothing of it; ours do not count them
        kept = {n.tag: n.visits or 0 if n.stop not in NO_ANSWERS.values() else 0 for n in nodes}
        return kept, {node.tag: _bounded(node.q) if kept[node.tag] else 0.0 for node in nodes}
    visits, total = {node.tag: 0 for node in nodes}, {node.tag: 0.0 for node in nodes}
    for tag, reward in rewards.items():
        parts = tag.split(".")
        for above in (".".join(parts[: i + 1]) for i in range(len(parts))):
            visits[above] += 1
            total[above] += reward
    return visits, {tag: total[tag] / n if n else 0.0 for tag, n in visits.items()}


def _node(tag: str, node: object, nodes: Mapping[str, Any], path: Path, line: int) -> _Node:
    field = f"rstar.{tag}"
    parts = tag.split(".")
    parent = ".".join(parts[:-1]) or None
    if parts[0] != "0" or not all(part.isdecimal() for part in parts) or (parent is not None and parent not in nodes):
        raise _bad(path, line, field, "a tag is its parent's with a number more, and the parent is there")
    if not isinstance(node, Mapping) or not isinstance(node.get("text"), str):
        raise _bad(path, line, field, "expected a node with a text")
    answer = node.get("final_answer") or None
    if not isinstance(answer, str | None):
        raise _bad(path, line, f"{field}.final_answer", "must be text")
    text, closed, rest = node["text"].partition(CODE_END)
    text += closed
    text = text.removeprefix(CODE) if parent == "0" else text.lstrip("\n") if answer else text
    stop = StopReason.CODE if closed else StopReason.STEP
    if answer is not None:
        stop = NO_ANSWERS.get(answer, StopReason.ANSWER)
    told = node.get("observation")
    told = told if isinstance(told, str) else rest.strip().removeprefix(OUTPUT).removesuffix(OUTPUT_END)
    return _Node(
        tag=tag,
        parent=parent,
        text=text,
        printed=told,
        answer=answer if stop is StopReason.ANSWER else None,
        stop=stop,
        visits=None if "visit_count" not in node else int(_number(node, "visit_count", path, line, field)),
        q=_number(node, "q_value", path, line, field),
        value=_number(node, "value", path, line, field),
    )


def _execution(node: _Node) -> Execution | None:
    if node.parent is None or node.stop not in (StopReason.STEP, StopReason.CODE, StopReason.FAILED, StopReason.DEPTH):
        return None
    if node.stop is StopReason.FAILED or "error" in node.printed.lower():  # so upstream tells errors from output
        return Execution(status=ExecutionStatus.ERROR, error=node.printed)
    # a step's observation is that of the whole program so far: where the program closes it is told once
    return Execution(status=ExecutionStatus.OK, stdout=node.printed if node.stop is StopReason.CODE else "")


def _number(node: Mapping[str, Any], name: str, path: Path, line: int, field: str) -> float:
    value = node.get(name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value  # as its reward model answers
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _bad(path, line, f"{field}.{name}", "must be a number")
    return float(value)


def _bounded(value: float) -> float:
    return max(-1.0, min(1.0, value))


def _place(item: tuple[str, Any]) -> tuple[int, list[int]]:
    """Where a node stands: by depth, then as its parent's children are numbered."""
    parts = item[0].split(".")
    return len(parts), [int(part) if part.isdecimal() else -1 for part in parts]


def _bad(path: Path, line: int, field: str | None, why: str) -> DataError:
    return DataError(why, path=path, line=line, field=field, remedy="Give the file that upstream's main.py writes.")
