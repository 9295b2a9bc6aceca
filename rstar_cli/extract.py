"""From a search tree to solutions and training rows. Pure: rows in, rows out."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rstar_cli.prompts import join_program, parse_step, render_output
from rstar_cli.protocols import ExecutionResult, Grade
from rstar_cli.records import (
    Execution,
    PairRow,
    SftRow,
    SftStep,
    SolutionRow,
    StepLabelRow,
    StopReason,
    Tree,
    TreeNode,
    Verdict,
)

MIN_MARGIN = 0.5
"""Least difference in Q between the steps of a preference pair, of a range of 2 (upstream: `sample_rm_data.py`)."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A finished trajectory of a tree: its steps from the first one to the answer, and its program."""

    nodes: tuple[TreeNode, ...]
    program: str
    output: str

    @property
    def answer(self) -> str | None:
        """What it boxes."""
        return self.nodes[-1].answer


def trajectories(tree: Tree) -> list[Trajectory]:
    """Every finished trajectory of a tree that a rollout visited, in order of its answer node."""
    return [_trajectory(_path(tree, node)) for node in tree.nodes if node.stop is StopReason.ANSWER and node.visits]


def _path(tree: Tree, node: TreeNode) -> tuple[TreeNode, ...]:
    steps: list[TreeNode] = []
    while node.parent is not None:
        steps.append(node)
        node = tree.nodes[node.parent]
    return tuple(reversed(steps))


def _trajectory(nodes: tuple[TreeNode, ...]) -> Trajectory:
    steps = [node for node in nodes if node.stop is not StopReason.ANSWER]
    codes = [parse_step(node.text, after_code=False).code for node in steps]
    output = "".join(node.execution.stdout for node in steps if node.execution is not None)
    return Trajectory(nodes, join_program(codes), output)


def solution(tree: Tree, found: Trajectory, rerun: ExecutionResult, grade: Grade) -> SolutionRow:
    """The row of a trajectory that was run again from scratch.

    A right answer counts only where the whole program ran and printed what its steps had printed in the search:
    otherwise the answer rests on something that does not repeat, and the verdict is `error`.
    """
    repeats = rerun.ok and render_output(rerun.stdout) == render_output(found.output)
    if not repeats:
        grade = Grade(Verdict.ERROR, "execution")
    values = [node.q for node in found.nodes]
    return SolutionRow(
        problem_id=tree.problem_id,
        node_ids=tuple(node.id for node in found.nodes),
        steps=tuple(node.text for node in found.nodes),
        predicted_answer=found.answer,
        verdict=grade.verdict,
        decided_by=grade.decided_by,
        execution=Execution(status=rerun.status, stdout=rerun.stdout, error=rerun.error),
        mean_q=sum(values) / len(values),
        min_q=min(values),
    )


def sft_rows(tree: Tree, solutions: Iterable[SolutionRow], top: int) -> list[SftRow]:
    """Training rows of the best right trajectories: at most `top` a problem, by mean Q, then min Q, then fewer steps.

    Programs that differ only in comments and blank space count as one (paper, section 3.4: 2 a problem).
    """
    right = [s for s in solutions if s.verdict is Verdict.CORRECT]
    right.sort(key=lambda s: (-s.mean_q, -s.min_q, len(s.steps), s.node_ids))
    rows: list[SftRow] = []
    seen: set[str] = set()
    for found in right:
        nodes = [tree.nodes[i] for i in found.node_ids]
        program = _bare(_trajectory(tuple(nodes)).program)
        if program not in seen and len(rows) < top:
            seen.add(program)
            rows.append(_sft_row(tree, nodes))
    return rows


def _bare(program: str) -> str:
    """A program's syntax tree as text: no comments, no blank space. A program that does not parse stands for itself."""
    try:
        return ast.dump(ast.parse(program))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program


def _sft_row(tree: Tree, nodes: Sequence[TreeNode]) -> SftRow:
    steps: list[SftStep] = []
    printed = ""
    for node in nodes:
        steps.append(SftStep(text=node.text, token_ids=node.token_ids))
        printed += node.execution.stdout if node.execution is not None else ""
        if node.stop is StopReason.CODE:
            steps.append(SftStep(text=render_output(printed), output=True))
    return SftRow(
        problem_id=tree.problem_id,
        prompt=tree.prompt,
        completion="".join(step.text for step in steps),
        steps=tuple(steps),
        tokenizer=tree.tokenizer,
    )


def _reaches(solutions: Iterable[SolutionRow]) -> tuple[set[int], set[int]]:
    """Nodes on a right trajectory, and nodes on a wrong one."""
    right: set[int] = set()
    wrong: set[int] = set()
    for found in solutions:
        if found.verdict is Verdict.CORRECT:
            right.update(found.node_ids)
        elif found.verdict in (Verdict.INCORRECT, Verdict.NO_ANSWER):
            wrong.update(found.node_ids)
    return right, wrong


def pair_rows(tree: Tree, solutions: Sequence[SolutionRow]) -> list[PairRow]:
    """Step preferences: below each node the 2 best steps that reach a right answer against the 2 worst that do not.

    As the paper has it (section 3.3), with upstream's least difference in Q. The prompt of a pair is everything before
    the step; the weight shares 1 among the pairs of a node. Answers are compared as whole trajectories elsewhere.
    """
    right, wrong = _reaches(solutions)
    children: defaultdict[int, list[TreeNode]] = defaultdict(list)
    for node in tree.nodes:
        if node.parent is not None and node.visits and node.stop in (StopReason.STEP, StopReason.CODE):
            children[node.parent].append(node)
    rows: list[PairRow] = []
    for parent, steps in children.items():
        good = sorted((n for n in steps if n.id in right), key=lambda n: (-n.q, n.id))[:2]
        bad = sorted((n for n in steps if n.id in wrong and n.id not in right), key=lambda n: (n.q, n.id))[:2]
        chosen = [(g, b) for g in good for b in bad if g.q - b.q >= MIN_MARGIN]
        prompt = tree.prompt + "".join(node.text for node in _path(tree, tree.nodes[parent]))
        rows += [
            PairRow(
                problem_id=tree.problem_id,
                prompt=prompt,
                chosen=g.text,
                rejected=b.text,
                q_gap=g.q - b.q,
                weight=1 / len(chosen),
            )
            for g, b in chosen
        ]
    return rows


def step_label_rows(tree: Tree, solutions: Sequence[SolutionRow]) -> list[StepLabelRow]:
    """Labels of every trajectory's steps: whether a right answer was reached from the step, and its Q."""
    right, _ = _reaches(solutions)
    return [
        StepLabelRow(
            problem_id=tree.problem_id,
            prompt=tree.prompt,
            completions=found.steps,
            labels=tuple(i in right for i in found.node_ids),
            values=tuple(tree.nodes[i].q for i in found.node_ids),
        )
        for found in solutions
        if found.verdict in (Verdict.CORRECT, Verdict.INCORRECT, Verdict.NO_ANSWER)
    ]
