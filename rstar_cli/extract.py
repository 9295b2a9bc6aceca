"""From a search tree to solutions and training rows. Pure: rows in, rows out."""

from __future__ import annotations

import ast
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rstar_cli.prompts import join_program, parse_step, render_output
from rstar_cli.protocols import ExecutionResult, Grade
from rstar_cli.records import (
    Choice,
    Execution,
    PairRow,
    RowSegment,
    SftRow,
    SolutionRow,
    StepLabelRow,
    StopReason,
    Tree,
    TreeNode,
    Verdict,
)

MIN_MARGIN = 0.5
"""Least difference in Q between the steps of a preference pair, of a range of 2 (upstream: `sample_rm_data.py`)."""
MIN_EDITS = 20
"""Least edit distance between them, in characters (the same script)."""
PairRule = Literal["paper", "margin", "likely", "upstream"]
"""Which pairs there are: `config.VerifyConfig.pairs` says what each is."""

_WRONG = (Verdict.INCORRECT, Verdict.NO_ANSWER)
"""Verdicts that say something of a solution; `timeout` and `error` do not."""


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
    scores = [node.prm_score for node in found.nodes if node.prm_score is not None]
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
        min_prm=min(scores, default=None),
    )


def choose(tree: Tree, solutions: Sequence[SolutionRow], top: int, min_likelihood: float = 0.0) -> list[SolutionRow]:
    """Say of each solution whether it trains the policy: the best right ones do, at most `top` a problem.

    Best is the highest mean Q, then least Q, then least PRM value, then fewer steps (paper, section 3.4: 2 a problem).
    Programs that differ only in comments, layout and the names of their variables count as one.

    Against luck goes what the policy believes, as in a vote (self-consistency: Wang et al. 2023, arXiv 2203.11171): a
    program that is right for a wrong reason is one of many, each unlikely. A program's likelihood is the sum over the
    solutions found that write it.

    Args:
        tree: the search, with the policy's log-probability of each step.
        solutions: of the tree.
        top: most rows of the problem.
        min_likelihood: least likelihood of a right program, as a share of that of the likeliest right one, 0 to 1.
    """
    right = sorted((s for s in solutions if s.verdict is Verdict.CORRECT), key=_rank)
    paths = {found.node_ids: tuple(tree.nodes[i] for i in found.node_ids) for found in right}
    programs = {ids: _bare(_trajectory(nodes).program) for ids, nodes in paths.items()}
    likelihood: defaultdict[str, float] = defaultdict(float)
    for ids, nodes in paths.items():
        likelihood[programs[ids]] += math.exp(sum(node.prior or 0.0 for node in nodes))
    least = min_likelihood * max(likelihood.values(), default=0.0)
    choices: dict[tuple[int, ...], Choice] = {}
    seen: set[str] = set()
    for found in right:
        program = programs[found.node_ids]
        if program in seen:
            choices[found.node_ids] = Choice.DUPLICATE
        elif likelihood[program] < least:
            choices[found.node_ids] = Choice.UNLIKELY
        else:
            choices[found.node_ids] = Choice.KEPT if len(seen) < top else Choice.SURPLUS
            seen.add(program)
    return [s.model_copy(update={"choice": choices.get(s.node_ids, Choice.NOT_RIGHT)}) for s in solutions]


def _rank(found: SolutionRow) -> tuple[object, ...]:
    """What right solutions are sorted by, the best first."""
    return -found.mean_q, -found.min_q, -(found.min_prm or 0.0), len(found.steps), found.node_ids


def sft_rows(tree: Tree, solutions: Iterable[SolutionRow]) -> list[SftRow]:
    """Training rows of the solutions that were chosen, the best first."""
    kept = sorted((s for s in solutions if s.choice is Choice.KEPT), key=_rank)
    return [_sft_row(tree, [tree.nodes[i] for i in found.node_ids]) for found in kept]


def merge_rounds(rounds: Sequence[Sequence[SftRow]], top: int) -> tuple[list[SftRow], Counter[Choice]]:
    """The training rows of several rounds, where the same problems may have been searched again.

    A program counts once a problem, and a problem has at most `top` rows: the latest rounds' first, whose policy was
    the best.

    Args:
        rounds: rows of each round, in order; within one the best of a problem first.
        top: rows a problem; 0: no limit.

    Returns:
        The rows, in the order in which they came, and how many were left out for which reason.
    """
    seen: defaultdict[str, set[str]] = defaultdict(set)
    kept: list[list[SftRow]] = []
    left_out: Counter[Choice] = Counter()
    for rows in reversed(rounds):
        kept.append([])
        for row in rows:
            codes = [parse_step(step.text, after_code=False).code for step in row.steps if not step.output]
            program, known = _bare(join_program(codes)), seen[row.problem_id]
            if program in known:
                left_out[Choice.DUPLICATE] += 1
            elif 0 < top <= len(known):
                left_out[Choice.SURPLUS] += 1
            else:
                known.add(program)
                kept[-1].append(row)
    return [row for rows in reversed(kept) for row in rows], left_out


def _bare(program: str) -> str:
    """A program's syntax tree as text: no comments, no layout, variables by their number.

    A program that does not parse stands for itself.
    """
    try:
        parsed = ast.parse(program)
        own: dict[str, str] = {}
        for node in ast.walk(parsed):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.setdefault(node.id, f"v{len(own)}")
        for node in ast.walk(parsed):
            if isinstance(node, ast.Name):
                node.id = own.get(node.id, node.id)
        return ast.dump(parsed)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program


def _sft_row(tree: Tree, nodes: Sequence[TreeNode]) -> SftRow:
    steps = tuple(segments(nodes))
    return SftRow(
        problem_id=tree.problem_id, prompt=tree.prompt, completion=_text(steps), steps=steps, tokenizer=tree.tokenizer
    )


def segments(nodes: Iterable[TreeNode]) -> list[RowSegment]:
    """The steps of a path from the root down, each as it was sampled, and what a closed program printed after it."""
    found: list[RowSegment] = []
    printed = ""
    for node in nodes:
        found.append(RowSegment(text=node.text, token_ids=node.token_ids))
        printed += node.execution.stdout if node.execution is not None else ""
        if node.stop is StopReason.CODE:
            found.append(RowSegment(text=render_output(printed), output=True))
    return found


def _text(parts: Iterable[RowSegment]) -> str:
    return "".join(part.text for part in parts)


def _reaches(solutions: Iterable[SolutionRow]) -> tuple[set[int], set[int]]:
    """Nodes on a right trajectory, and nodes on a wrong one."""
    right: set[int] = set()
    wrong: set[int] = set()
    for found in solutions:
        if found.verdict is Verdict.CORRECT:
            right.update(found.node_ids)
        elif found.verdict in _WRONG:
            wrong.update(found.node_ids)
    return right, wrong


def _logprob(tree: Tree, found: SolutionRow) -> float | None:
    """The policy's log-probability of a solution, nats; None where the engine did not tell."""
    priors = [prior for i in found.node_ids if (prior := tree.nodes[i].prior) is not None]
    return sum(priors) if len(priors) == len(found.node_ids) else None


def pair_rows(tree: Tree, solutions: Sequence[SolutionRow], rule: PairRule = "margin") -> list[PairRow]:
    """Preferences between steps, then between whole solutions.

    Steps: below each node the 2 best that reach a right answer against the 2 worst that do not (paper, section 3.3).
    Solutions, for the answer step: the 2 right ones of highest mean Q against the 2 wrong ones of lowest, or with
    `likely` the 2 right ones against the 4 wrong ones that the policy finds likeliest. All rules but `paper` leave out
    steps of like Q; `upstream` those of like text, too, and whole solutions.
    """
    return _step_pairs(tree, solutions, rule) + ([] if rule == "upstream" else _solution_pairs(tree, solutions, rule))


def _step_pairs(tree: Tree, solutions: Sequence[SolutionRow], rule: PairRule) -> list[PairRow]:
    right, wrong = _reaches(solutions)
    children: defaultdict[int, list[TreeNode]] = defaultdict(list)
    for node in tree.nodes:
        if node.parent is not None and node.visits and node.stop in (StopReason.STEP, StopReason.CODE):
            children[node.parent].append(node)
    rows: list[PairRow] = []
    for parent, steps in children.items():
        good = sorted((n for n in steps if n.id in right), key=lambda n: (-n.q, n.id))[:2]
        bad = sorted((n for n in steps if n.id in wrong and n.id not in right), key=lambda n: (n.q, n.id))[:2]
        chosen = [(g, b) for g in good for b in bad if _differ(g, b, rule)]
        prefix = segments(_path(tree, tree.nodes[parent]))
        for g, b in chosen:
            rows.append(_pair(tree, "step", prefix, [g], [b], 1 / len(chosen)))
    return rows


def _differ(good: TreeNode, bad: TreeNode, rule: PairRule) -> bool:
    """Whether two steps are far enough apart to learn from."""
    from rapidfuzz.distance import Levenshtein

    if rule == "paper":
        return True
    far = rule != "upstream" or Levenshtein.distance(good.text, bad.text, score_cutoff=MIN_EDITS) >= MIN_EDITS
    return far and good.q - bad.q >= MIN_MARGIN


def _solution_pairs(tree: Tree, solutions: Sequence[SolutionRow], rule: PairRule) -> list[PairRow]:
    def nodes(found: SolutionRow) -> list[TreeNode]:
        return [tree.nodes[i] for i in found.node_ids]

    def by_likelihood(found: SolutionRow) -> tuple[float, tuple[int, ...]]:
        return -(_logprob(tree, found) or 0.0), found.node_ids

    right = [s for s in solutions if s.verdict is Verdict.CORRECT]
    wrong = [s for s in solutions if s.verdict in _WRONG]
    if rule == "likely":
        right, wrong = sorted(right, key=by_likelihood)[:2], sorted(wrong, key=by_likelihood)[:4]
    else:
        right = sorted(right, key=lambda s: (-s.mean_q, s.node_ids))[:2]
        wrong = sorted(wrong, key=lambda s: (s.mean_q, s.node_ids))[:2]
    weight = 1 / max(1, len(right) * len(wrong))
    return [_pair(tree, "solution", [], nodes(r), nodes(w), weight) for r in right for w in wrong]


def _pair(
    tree: Tree,
    kind: Literal["step", "solution"],
    prefix: Sequence[RowSegment],
    chosen: Sequence[TreeNode],
    rejected: Sequence[TreeNode],
    weight: float,
) -> PairRow:
    before = (RowSegment(text=tree.prompt), *prefix)
    better, worse = (tuple(segments(nodes)) for nodes in (chosen, rejected))
    return PairRow(
        problem_id=tree.problem_id,
        kind=kind,
        prompt=_text(before),
        chosen=_text(better),
        rejected=_text(worse),
        q_gap=chosen[-1].q - rejected[-1].q,
        weight=weight,
        prefix=before,
        chosen_steps=better,
        rejected_steps=worse,
        tokenizer=tree.tokenizer,
    )


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
            logprob=_logprob(tree, found),
            steps=tuple(segments(tree.nodes[i] for i in found.node_ids)),
            tokenizer=tree.tokenizer,
        )
        for found in solutions
        if found.verdict is Verdict.CORRECT or found.verdict in _WRONG
    ]
