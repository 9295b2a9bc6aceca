"""How right and how fast the grader is on a file of labelled cases, side by side with math-verify.

A case is a JSON line with `gold`, `pred` and `label` (whether they are the same answer), perhaps `kind` and
`debatable`. Kinds `extraction` (a text is prose), `hang` and `injection` (probes) are scored apart, debatable
cases not at all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rstar_cli.bench.math_verify import MathVerify, boxed
from rstar_cli.errors import DataError
from rstar_cli.grader import Grader, Policy
from rstar_cli.jsonl import read_objects
from rstar_cli.progress import StageProgress
from rstar_cli.records import Verdict

PROMPT_SECONDS = 1.0
"""A probe that is answered within this time is answered promptly."""
_PROBES = ("hang", "injection")
_WARM_UP = (r"\sqrt{8}", r"2\sqrt{2}")


@dataclass(frozen=True, slots=True)
class Case:
    """A labelled pair."""

    gold: str
    pred: str
    label: bool
    kind: str
    debatable: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a grader said of a case, and the seconds that it took.

    `verdict` is `correct`, `incorrect` or why there is neither (`timeout`, `error`, ...).
    """

    verdict: str
    decided_by: str
    seconds: float

    @property
    def accepted(self) -> bool:
        """Whether the answer was called right."""
        return self.verdict == Verdict.CORRECT


def read_cases(path: Path) -> list[Case]:
    """The cases of a file.

    Raises:
        DataError: a line without a gold, a prediction or a label.
    """
    cases = []
    for line, row in read_objects(str(path)):
        gold, pred, label = (row.get(name) for name in ("gold", "pred", "label"))
        if not isinstance(gold, str) or not isinstance(pred, str) or not isinstance(label, bool):
            wrong = "gold" if not isinstance(gold, str) else "pred" if not isinstance(pred, str) else "label"
            kind = "true or false" if wrong == "label" else "text"
            raise DataError(f"must be {kind}", path=str(path), line=line, field=wrong)
        cases.append(Case(gold, pred, label, str(row.get("kind") or "answer"), bool(row.get("debatable"))))
    if not cases:
        raise DataError("holds no case", path=str(path))
    return cases


def measure(cases: Sequence[Case], policy: Policy, timeout: float) -> dict[str, Any]:
    """Grade every case by both graders, one at a time; plain values by grader.

    Args:
        cases: what is graded.
        policy: of our grader.
        timeout: seconds after which math-verify is stopped; ours keeps its own deadline.
    """
    with StageProgress("bench grader", 2 * len(cases)) as progress:
        ours = []
        for i, outcome in enumerate(_graded(cases, policy), 1):
            ours.append(outcome)
            progress.update(i, "ours")
        theirs = []
        with MathVerify(timeout) as peer:
            given = [(boxed(c.gold), c.pred if c.kind == "extraction" else boxed(c.pred)) for c in cases]
            for i, (verdict, seconds) in enumerate(peer.grade(given), 1):
                theirs.append(Outcome(verdict, "", seconds))
                progress.update(len(cases) + i, "math-verify")
    return {"cases": len(cases), "rstar": score(cases, ours), "math_verify": score(cases, theirs)}


def _graded(cases: Sequence[Case], policy: Policy) -> Iterable[Outcome]:
    with Grader(workers=1, policy=policy) as grader:
        grader.grade([_WARM_UP])
        for case in cases:
            started = time.perf_counter()
            grade = grader.grade([(case.gold, case.pred)])[0]
            yield Outcome(grade.verdict.value, grade.decided_by, time.perf_counter() - started)


def score(cases: Sequence[Case], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Rates in percent (None where there is no such case), times in milliseconds, and every disagreement."""
    clear = [(case, outcome) for case, outcome in zip(cases, outcomes, strict=True) if not case.debatable]
    answers = [pair for pair in clear if pair[0].kind not in ("extraction", *_PROBES)]
    probes = [pair for pair in clear if pair[0].kind in _PROBES]
    seconds = sorted(outcome.seconds for outcome in outcomes)
    kinds = sorted({case.kind for case, _ in clear})
    return {
        "answers": _rates(answers),
        "extraction": _rates([pair for pair in clear if pair[0].kind == "extraction"]),
        "probes": {
            "cases": len(probes),
            "within_1_s": sum(outcome.seconds <= PROMPT_SECONDS for _, outcome in probes),
            "accepted_wrongly": sum(outcome.accepted and not case.label for case, outcome in probes),
        },
        "no_verdict": sum(outcome.verdict not in ("correct", "incorrect", "no_answer") for _, outcome in clear),
        "median_ms": round(1000 * median(seconds), 3),
        "p99_ms": round(1000 * seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))], 3),
        "by_kind": {kind: _rates([pair for pair in clear if pair[0].kind == kind]) for kind in kinds},
        "disagreements": [
            {"gold": case.gold, "pred": case.pred, "label": case.label, "kind": case.kind}
            | {"verdict": outcome.verdict, "decided_by": outcome.decided_by}
            for case, outcome in clear
            if outcome.accepted != case.label
        ],
    }


def _rates(pairs: Sequence[tuple[Case, Outcome]]) -> dict[str, Any]:
    right = [outcome for case, outcome in pairs if case.label]
    wrong = [outcome for case, outcome in pairs if not case.label]
    agree = sum(outcome.accepted == case.label for case, outcome in pairs)
    return {
        "cases": len(pairs),
        "accuracy": _percent(agree, len(pairs)),
        "true_accept": _percent(sum(outcome.accepted for outcome in right), len(right)),
        "false_accept": _percent(sum(outcome.accepted for outcome in wrong), len(wrong)),
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


def describe(report: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Name to the text of ours and of math-verify, in the order to show."""
    both = report["rstar"], report["math_verify"]
    lines: dict[str, tuple[str, str]] = {}
    for part, title in (("answers", "answers"), ("extraction", "in prose")):
        if count := both[0][part]["cases"]:
            for rate in ("accuracy", "true_accept", "false_accept"):
                name = f"{title} ({count}), {rate.replace('_', ' ')}"
                lines[name] = _cells("-" if each[part][rate] is None else f"{each[part][rate]} %" for each in both)
    if count := both[0]["probes"]["cases"]:
        lines[f"probes ({count}), answered within 1 s"] = _cells(each["probes"]["within_1_s"] for each in both)
        lines[f"probes ({count}), accepted wrongly"] = _cells(each["probes"]["accepted_wrongly"] for each in both)
    lines["no verdict (timeout, error)"] = _cells(each["no_verdict"] for each in both)
    lines["a case, median"] = _cells(f"{each['median_ms']:.1f} ms" for each in both)
    lines["a case, 99th percentile"] = _cells(f"{each['p99_ms']:.0f} ms" for each in both)
    return lines


def _cells(values: Iterable[object]) -> tuple[str, str]:
    ours, theirs = map(str, values)
    return ours, theirs
