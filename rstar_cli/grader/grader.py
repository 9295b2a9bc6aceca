"""The grader: answers to verdicts, cheap stages here, the rest in worker processes."""

from __future__ import annotations

import atexit
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from types import TracebackType
from typing import Self

from rstar_cli.cores import count_cores
from rstar_cli.grader.compare import Comparison
from rstar_cli.grader.exact import BoundsError
from rstar_cli.grader.extract import extract_answer
from rstar_cli.grader.normalize import is_system, normal_form, string_form, within_bounds
from rstar_cli.grader.policy import STRICT, Policy
from rstar_cli.grader.pool import WorkerPool
from rstar_cli.protocols import AnswerGrader, Grade
from rstar_cli.records import Verdict

TIMEOUT = 0.6
"""Seconds of processor time that a comparison gets; the slowest one hundredth take some 0.02."""
_CACHE_SIZE = 65_536
_CACHED_LENGTH = 2_000
"""Characters of a pair that is worth its memory."""
_MARKED = re.compile(
    r"\\boxed|\\fbox|(?<!\w)boxed\{|#{4}|<\|?\w|</|\A\s*[={]"
    r"|\b(?:ans|answer|therefore|thus|hence|so|option|choice|result|solution)\b|\A[A-Z][a-z]+(?: \w+)*:\s"
    r"|\b(?:donc|ainsi|par conséquent|somit|daher|folglich|logo|portanto|por lo tanto|quindi)\b"
    r"|r[ée]ponse|respuesta|antwort|ответ|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]{2}",
    re.IGNORECASE,
)
"""Signs that a text holds an answer rather than is one."""
_WORD = re.compile(
    r"(?<![\\a-zA-Z])(?!(?:or|and|if|for|all|real|numbers|where|when|otherwise|except|not)\b)[a-zA-Z]{2,}"
)
_PROSE = 3
"""Words of at least two letters, connectives aside, from which on a prediction is read as prose."""
_NO_ANSWER = Grade(Verdict.NO_ANSWER, "none")
_NO_GOLD = Grade(Verdict.ERROR, "no_gold")


class Grader:
    """Compares answers with gold; fulfils `rstar_cli.protocols.AnswerGrader`.

    A text may be an answer or prose with an answer in it (see `extract_answer`). Same letters in normal form, exact
    numbers and the structure around them are compared here; what is left goes to a worker process, which is started on
    first need and killed when it is late. Safe to call from several threads.

    Args:
        workers: most worker processes at once, >= 1; by default one a core.
        timeout: seconds of processor time a case in a worker, > 0; then the verdict is `timeout`.
        policy: what counts as equal, `STRICT`, `LENIENT` or one's own.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(self, *, workers: int | None = None, timeout: float = TIMEOUT, policy: Policy = STRICT) -> None:
        workers = count_cores() if workers is None else workers
        if workers < 1 or timeout <= 0:
            raise ValueError(f"workers must be >= 1 and timeout > 0, not {workers} and {timeout}")
        self._policy = policy
        self._pool = WorkerPool(workers, timeout, policy)
        self._cache: OrderedDict[tuple[str, str], Grade] = OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def worker_ids(self) -> tuple[int, ...]:
        """Process ids of the live workers."""
        return self._pool.process_ids

    def grade(self, pairs: Sequence[tuple[str, str | None]]) -> list[Grade]:
        """Grade (gold, prediction) pairs, in order.

        `no_answer`: the prediction is None or blank. `error`: there is no gold, it is out of bounds, or the worker
        crashed. `timeout`: the comparison took too long. Only what was compared is `incorrect`.

        Raises:
            SetupError: a worker process can't start.
        """
        grades = [self._grade_here(gold, prediction) for gold, prediction in pairs]
        undecided = [pair for pair, grade in zip(pairs, grades, strict=True) if grade is None]
        asked = sorted({(gold, str(prediction)) for gold, prediction in undecided})
        answers = [(_gold_in(gold), _answer_in(prediction)) for gold, prediction in asked]
        graded = dict(zip(asked, self._pool.grade(answers), strict=True))
        for pair, grade in graded.items():
            self._remember(pair, grade)
        return [grade or graded[gold, str(prediction)] for (gold, prediction), grade in zip(pairs, grades, strict=True)]

    def close(self) -> None:
        """End every worker process. The grader can be used again: it starts a new one."""
        self._pool.close()

    def _grade_here(self, gold: str, prediction: str | None) -> Grade | None:
        """What can be told without a worker; None if nothing."""
        if prediction is None or not prediction.strip():
            return _NO_ANSWER
        if not gold.strip():
            return _NO_GOLD
        with self._lock:
            if known := self._cache.get((gold, prediction)):
                self._cache.move_to_end((gold, prediction))
                return known
        comparison = Comparison(policy=self._policy)
        try:
            equal = comparison.answers(_gold_in(gold), _answer_in(prediction))
        except BoundsError:
            grade = Grade(Verdict.ERROR, "bounds")
        except Exception as error:  # noqa: BLE001 - one odd text must not lose the grades of a whole round
            grade = Grade(Verdict.ERROR, type(error).__name__)
        else:
            if equal is None:
                return None
            grade = Grade(Verdict.CORRECT if equal else Verdict.INCORRECT, comparison.stage)
        self._remember((gold, prediction), grade)
        return grade

    def _remember(self, pair: tuple[str, str], grade: Grade) -> None:
        if grade.decided_by == "crash":
            return  # it may have been killed from outside
        if len(pair[0]) + len(pair[1]) > _CACHED_LENGTH:
            return
        with self._lock:
            self._cache[pair] = grade
            if len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)


def grade(gold: str, prediction: str | None, policy: Policy = STRICT) -> Grade:
    """Grade one answer; `Grader` is for many and says what the verdicts mean. A worker process is kept for all calls.

    Raises:
        SetupError: the worker process can't start.
    """
    return _shared(policy).grade([(gold, prediction)])[0]


@cache
def _shared(policy: Policy) -> Grader:
    grader = Grader(workers=1, policy=policy)
    atexit.register(grader.close)
    return grader


def group_answers(answers: Sequence[str | None], grader: AnswerGrader | None = None) -> list[int | None]:
    """Number answers so that equal ones share a number, for votes.

    The first answer of a group stands for it; an answer joins the first group whose representative it equals.

    Args:
        answers: answer texts; None stays None.
        grader: whose notion of equal; by default a `Grader` for this call.

    Returns:
        Group numbers from 0 on, in the order of first appearance.
    """
    if grader is None:
        with Grader() as own:
            return group_answers(answers, own)
    numbers: dict[str, int] = {}
    representatives: list[str] = []
    groups: list[int | None] = []
    for answer in answers:
        if answer is None or not answer.strip():
            groups.append(None)
            continue
        key = string_form(normal_form(answer)) if within_bounds(answer) else answer
        if key not in numbers:
            grades = grader.grade([(representative, answer) for representative in representatives])
            same = [i for i, grade in enumerate(grades) if grade.verdict is Verdict.CORRECT]
            numbers[key] = same[0] if same else len(representatives)
            if not same:
                representatives.append(answer)
        groups.append(numbers[key])
    return groups


def _gold_in(text: str) -> str:
    """Golds are answers, or solutions that mark theirs."""
    return (extract_answer(text) or text) if _MARKED.search(text) else text


def _answer_in(text: str) -> str:
    """What is to be compared of a prediction: the answer in prose; all of a bare answer."""
    several = "\n" in text.strip() and not is_system(text)
    is_prose = _MARKED.search(text) or several or len(_WORD.findall(text)) >= _PROSE
    return (extract_answer(text) or text) if is_prose else text
