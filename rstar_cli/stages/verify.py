"""verify: run every finished trajectory of a round again from scratch, grade it, and write training rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from rstar_cli import interrupts
from rstar_cli.config import VerifyConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.extract import Trajectory, choose, pair_rows, sft_rows, solution, step_label_rows, trajectories
from rstar_cli.grader import Grader
from rstar_cli.journal import Journal
from rstar_cli.jsonl import dump, read_unique, replacing
from rstar_cli.layout import RunDir
from rstar_cli.options import VerifyPlace
from rstar_cli.problems.genuine import is_genuine
from rstar_cli.progress import StageProgress
from rstar_cli.prompts import join_program, parse_step
from rstar_cli.quarantine import refuse_without
from rstar_cli.records import Problem, Row, SftRow, SolutionRow, Tree, Verdict, VerifiedRow
from rstar_cli.sandbox import Sandbox
from rstar_cli.stages.common import StageRecord, Summary, open_grader, open_sandbox, partial

CHUNK = 64
"""Trees verified together, so that the sandbox's processes all have work."""

_Verify = Callable[[Iterable[Tree], dict[str, str], VerifyConfig], Iterator[tuple[Tree, list[SolutionRow]]]]


def verify(place: VerifyPlace, config: VerifyConfig, run: RunDir) -> Summary:
    """Verify a round's trees and write `solutions`, `sft`, `pairs` and `step_labels`.

    Args:
        place: which round.
        config: settings.
        run: the run.
    """
    refuse_without(place.skip_bad_lines, None, "--input")
    if place.round < 1:
        raise UsageError("round 0 has no trees to verify", remedy="Give --round 1 or later.")
    with run.locked("verify", place.round, place.part):
        return _of_round(place, config, run)


def _of_round(place: VerifyPlace, config: VerifyConfig, run: RunDir) -> Summary:
    number, part = place.round, place.part
    files = run.round(number)
    run.require(files.trees, "generate", number)
    problems = {p.id: p for p in read_unique(run.require(files.problems, "generate", number), Problem, "id")}
    outputs = [files.solutions, files.sft, files.pairs, files.step_labels]
    inputs = {"problems": files.problems, "trees": files.trees}
    record = StageRecord(files.manifest, "verify", config.identity(), inputs, outputs, shard=part)
    summary = Summary(f"verify {place.which}", files=record.outputs)
    summary.next_command = run.command("merge" if part else "train-policy", number)
    if record.is_complete():
        return record.told_again(summary)
    record.begin()

    def trees() -> Iterator[Tree]:
        rows = read_unique(files.trees, Tree, "problem_id")
        return part.of(rows) if part else rows

    with Journal(partial(record.outputs[0])) as journal:
        total = len(list(part.of(problems))) if part else len(problems)
        with StageProgress(summary.stage, total, done=len(journal.done), file=record.progress) as progress:
            _run_again(trees(), problems, config, journal, record, progress)
            seconds = progress.seconds
        counts = _write(trees(), problems, config, journal, record.outputs)
        _tell(summary, counts, seconds)
        record.complete(counts)
        journal.discard()
    return summary


def _run_again(
    trees: Iterator[Tree],
    problems: dict[str, Problem],
    config: VerifyConfig,
    journal: Journal,
    record: StageRecord,
    progress: StageProgress,
) -> None:
    """Verify the trees that are not in the journal yet."""
    gold = {p.id: p.answer for p in problems.values()}
    before = len(journal.done)
    counts: Counter[str] = Counter()
    todo = (tree for tree in trees if tree.problem_id not in journal.done)
    with interrupts.finishing("the programs under way"):
        for tree, found in _by_whom(config)(interrupts.until_asked(todo), gold, config):
            journal.append(VerifiedRow(problem_id=tree.problem_id, solutions=tuple(found)))
            record.tick()
            counts["problems"] += 1
            counts["solutions"] += len(found)
            counts["solved"] += any(s.verdict is Verdict.CORRECT for s in found)
            progress.update(
                before + counts["problems"],
                f"{counts['solved'] / counts['problems']:.0%} solved",
                progress.rate(counts["solutions"], "exec"),
            )
    record.end_if_interrupted({})


def _by_whom(config: VerifyConfig) -> _Verify:
    if config.launcher == "ray":
        from rstar_cli.stages.ray_verify import verified_by_ray

        return verified_by_ray
    return _verified_here


def _verified_here(
    trees: Iterable[Tree], gold: dict[str, str], config: VerifyConfig
) -> Iterator[tuple[Tree, list[SolutionRow]]]:
    with open_sandbox(config) as sandbox, open_grader(config) as grader:
        yield from verified(trees, gold, sandbox, grader)


def _write(
    trees: Iterable[Tree],
    problems: dict[str, Problem],
    config: VerifyConfig,
    journal: Journal,
    outputs: Sequence[Path],
) -> Counter[str]:
    """Write what the journal holds, in the order of the trees, and what there is to train on; returns the counts."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        write = [stack.enter_context(replacing(path)) for path in outputs]
        for tree in trees:
            found = VerifiedRow.model_validate_json(journal.read(tree.problem_id)).solutions
            solutions = choose(tree, list(found), config.top, config.min_likelihood)
            kept = sft_rows(tree, solutions)
            rows: list[Sequence[Row]] = [
                solutions,
                kept,
                pair_rows(tree, solutions, config.pairs),
                step_label_rows(tree, solutions),
            ]
            for name, put, made in zip(("solutions", "sft", "pairs", "step labels"), write, rows, strict=True):
                counts[name] += len(made)
                for row in made:
                    put(dump(row))
            counts.update(_genuine(kept, problems[tree.problem_id]))
            counts.update(s.verdict.value for s in solutions)
            counts.update(s.choice.value for s in solutions)
            counts["problems"] += 1
            counts["solved"] += any(s.verdict is Verdict.CORRECT for s in solutions)
    return counts


def _tell(summary: Summary, counts: Counter[str], seconds: float) -> None:
    """Put what was found into the summary."""
    genuine = _told_genuine(counts)
    summary.figures = {
        "problems": counts["problems"],
        "solved": f"{counts['solved']} ({counts['solved'] / max(1, counts['problems']):.1%})",
        "trajectories": counts["solutions"],
        **{verdict.value.replace("_", " "): counts[verdict.value] for verdict in Verdict if counts[verdict.value]},
        "training rows": counts["sft"],
        "right, not kept": ", ".join(f"{counts[why]} {why}" for why in ("duplicate", "surplus", "unlikely")),
        **({"genuine programs": genuine} if genuine else {}),
        "preference pairs": counts["pairs"],
        "step label rows": counts["step labels"],
        "seconds": round(seconds, 1),
    }
    if not counts["sft"]:
        summary.notes.append("No trajectory was right: there is nothing to train on.")
    summary.headline = (
        f"{counts['correct']:,} of {counts['solutions']:,} trajectories right, "
        f"{counts['sft']:,} training rows, {counts['pairs']:,} pairs"
    )
    summary.data = dict(counts)


def program_of(row: SftRow) -> str:
    """The program of a training row."""
    return join_program([parse_step(step.text, after_code=False).code for step in row.steps if not step.output])


def _genuine(rows: Sequence[SftRow], problem: Problem) -> dict[str, int]:
    """How many of the training rows write the generator's own formula, where the problem tells the right program."""
    right = (problem.model_extra or {}).get("program")
    if problem.source != "synthetic" or problem.level is None or not isinstance(right, str):
        return {}
    genuine = sum(is_genuine(program_of(row), right) for row in rows)
    return {f"{what} level {problem.level}": n for what, n in (("kept", len(rows)), ("genuine", genuine))}


def _told_genuine(counts: Counter[str]) -> str:
    """The share of genuine programs among the training rows, of all and by level; empty where none is known."""
    levels = sorted(int(name.removeprefix("kept level ")) for name in counts if name.startswith("kept level "))
    kept = {level: counts[f"kept level {level}"] for level in levels if counts[f"kept level {level}"]}
    genuine = {level: counts[f"genuine level {level}"] for level in kept}
    if not kept:
        return ""
    shares = ", ".join(f"{level}: {genuine[level] / kept[level]:.0%}" for level in kept)
    return f"{sum(genuine.values()) / sum(kept.values()):.1%}; by level {shares}"


def verified(
    trees: Iterable[Tree], gold: dict[str, str], sandbox: Sandbox, grader: Grader
) -> Iterator[tuple[Tree, list[SolutionRow]]]:
    """Each tree with its finished trajectories, run again and graded, in order.

    Raises:
        DataError: a tree of a problem that is not in the round's set.
    """
    waiting = iter(trees)
    while chunk := list(islice(waiting, CHUNK)):
        found = [(tree, trajectory) for tree in chunk for trajectory in trajectories(tree)]
        absent = next((tree.problem_id for tree in chunk if tree.problem_id not in gold), None)
        if absent is not None:
            raise DataError(f"trees hold problem {absent!r}, which is not in problems.jsonl", remedy="Generate again.")
        yield from _verify_chunk(chunk, found, gold, sandbox, grader)


def _verify_chunk(
    chunk: list[Tree], found: list[tuple[Tree, Trajectory]], gold: dict[str, str], sandbox: Sandbox, grader: Grader
) -> Iterator[tuple[Tree, list[SolutionRow]]]:
    runs = sandbox.run_many([trajectory.program for _, trajectory in found])
    grades = grader.grade([(gold[tree.problem_id], trajectory.answer) for tree, trajectory in found])
    solutions: dict[str, list[SolutionRow]] = {tree.problem_id: [] for tree in chunk}
    for (tree, trajectory), run, grade in zip(found, runs, grades, strict=True):
        solutions[tree.problem_id].append(solution(tree, trajectory, run, grade))
    for tree in chunk:
        yield tree, solutions[tree.problem_id]
