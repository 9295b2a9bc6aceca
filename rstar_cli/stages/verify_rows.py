"""verify on plain files: grade anybody's outputs, each row flushed as soon as it and those before it are done."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import Full, Queue
from typing import TypeVar

from rstar_cli.config import VerifyConfig
from rstar_cli.cores import count_cores
from rstar_cli.errors import UsageError
from rstar_cli.grader import Grader, extract_answer
from rstar_cli.jsonl import STRICT, Aside, dump, read_objects, replacing
from rstar_cli.options import VerifyPlace
from rstar_cli.prompts import CODE, CODE_END, STEP_END
from rstar_cli.protocols import ExecutionResult, Grade
from rstar_cli.quarantine import beside, counted, notes, open_aside
from rstar_cli.records import Verdict
from rstar_cli.sandbox import Sandbox
from rstar_cli.stages.claims import Row, try_claim
from rstar_cli.stages.common import Summary, open_grader, open_sandbox, refuse_run_flags

NO_GOLD = "no gold"
"""What decided the verdict of a bare run: there is nothing to compare with."""

_PATIENCE = 0.5
"""Seconds between two looks at whether anybody still reads."""
_AHEAD = 256
"""Rows that are graded or wait for an earlier one."""

ItemT = TypeVar("ItemT")


def verify_rows(place: VerifyPlace, config: VerifyConfig) -> Summary:
    """Check the rows of `--input` and write them to `--output`, all their fields kept."""
    refuse_run_flags("verify", run=place.run, shard=place.shard)
    if place.input is None or place.output is None:
        raise UsageError("--input and --output go together", remedy="Give both, or neither and a --run.")
    if place.input != "-" and Path(place.input).resolve() == Path(place.output).resolve():
        raise UsageError("--output would replace --input", remedy="Give another --output.")
    if place.skip_bad_lines and place.input == place.output == "-":
        raise UsageError("--skip-bad-lines needs a file to set them aside beside", remedy="Give --output FILE.")
    if config.launcher != "local":
        raise UsageError("--launcher ray is for a run's round", remedy="--input is read by one process: leave it out.")
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        sandbox = stack.enter_context(open_sandbox(config))
        grader = stack.enter_context(open_grader(config))
        write = stack.enter_context(replacing(place.output))
        target = beside(place.input if place.output == "-" else place.output)
        aside = open_aside(stack, place.skip_bad_lines, target)
        for row in checked(read_objects(place.input, aside), place.input, sandbox, grader, aside):
            write(dump(row))
            counts[NO_GOLD if row["decided_by"] == NO_GOLD else row["verdict"]] += 1
    bad = counted(aside)
    summary = Summary("verify", {"rows": counts.total(), **counts, **bad}, data={**counts, **bad})
    summary.notes, summary.partial = notes(aside), bool(bad)
    if place.output != "-":
        summary.files.append(Path(place.output))
    return summary


def checked(
    rows: Iterator[tuple[int, Row]], origin: str, sandbox: Sandbox, grader: Grader, aside: Aside = STRICT
) -> Iterator[Row]:
    """The rows with `verdict`, `predicted_answer`, `decided_by` and, where code ran, `execution`; in order.

    The sandbox reads ahead in a thread of its own, so a finished row comes out even while the input stays open.
    """
    read: deque[tuple[Row, str, str | None, str | None]] = deque()  # row, gold, answer in its text, program

    def programs() -> Iterator[str | None]:
        for line, row in rows:
            claimed = try_claim(row, origin, line, aside)
            if claimed is None:
                continue
            kind, text, gold = claimed
            predicted = text if kind == "prediction" else extract_answer(text) if kind == "solution" else None
            program = None if predicted is not None else text if kind == "code" else _program(text)
            read.append((row, gold, predicted, program))
            yield program

    def ran() -> Iterator[tuple[Row, str, str | None, ExecutionResult | None]]:
        for result in sandbox.run_many(programs()):
            row, gold, predicted, program = read.popleft()
            yield row, gold, predicted, result if program is not None else None

    yield from _side_by_side(lambda item: _judged(*item, grader), ran())


def _side_by_side(function: Callable[[ItemT], Row], items: Iterator[ItemT]) -> Iterator[Row]:
    """Results in order, several in the making at once; each comes out when it and those before it are done."""
    begun: Queue[Future[Row] | BaseException | None] = Queue(_AHEAD)
    with ThreadPoolExecutor(count_cores()) as executor:
        left = threading.Event()

        def put(value: Future[Row] | BaseException | None) -> None:
            while not left.is_set():  # nobody empties the queue when the reader has left
                with contextlib.suppress(Full):
                    begun.put(value, timeout=_PATIENCE)
                    return

        def feed() -> None:
            try:
                for item in items:
                    if left.is_set():
                        return
                    put(executor.submit(function, item))
            except BaseException as error:  # noqa: BLE001 - raised again by the reader
                put(error)
            else:
                put(None)

        threading.Thread(target=feed, daemon=True).start()
        try:
            while (next_one := begun.get()) is not None:
                if isinstance(next_one, BaseException):
                    raise next_one
                yield next_one.result()
        finally:
            left.set()


def _judged(row: Row, gold: str, predicted: str | None, ran: ExecutionResult | None, grader: Grader) -> Row:
    if predicted is None and ran is not None and ran.ok:
        predicted = ran.stdout.strip() or None
    grade = _grade(gold, predicted, ran, grader)
    out = {**row, "verdict": grade.verdict.value, "predicted_answer": predicted, "decided_by": grade.decided_by}
    if ran is not None:
        out["execution"] = {
            "status": ran.status.value,
            "stdout": ran.stdout,
            "error": ran.error,
            "seconds": round(ran.seconds, 6),
        }
    return out


def _grade(gold: str, predicted: str | None, ran: ExecutionResult | None, grader: Grader) -> Grade:
    if not gold:  # a bare run: nothing to compare with
        return Grade(Verdict.NO_ANSWER, NO_GOLD)
    if predicted is None and ran is not None and not ran.ok:
        return Grade(Verdict.NO_ANSWER, f"execution {ran.status.value}")
    return grader.grade([(gold, predicted)])[0]


def _program(solution: str) -> str | None:
    """The program of a solution in the step format or in a fenced block; None where there is none."""
    if CODE in solution and CODE_END in solution:
        body = solution.partition(CODE)[2].partition(CODE_END)[0]
        return body.replace(STEP_END, "\n")
    for fence in ("```python", "```py", "```"):
        if fence in solution:
            return solution.partition(fence)[2].partition("```")[0]
    return None
