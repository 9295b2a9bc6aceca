"""math-verify as its users call it, answers in a box, in the sandbox: its plain reader evaluates text.

Every case is a step on top of a paused one that has done the imports, so none waits for them, and one that hangs or
dies takes nothing with it. Its own timeouts are off: they are signals, which the sandbox refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Self

from rstar_cli.errors import RstarError
from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.sandbox import Sandbox

_SETUP = """
import json, logging, time
logging.disable(logging.CRITICAL)
from math_verify import parse, verify

def _grade(gold, prediction):
    started = time.perf_counter()
    trees = [parse(text, parsing_timeout=None) for text in (gold, prediction)]
    equal = verify(*trees, timeout_seconds=None)
    print(json.dumps([bool(equal), time.perf_counter() - started]))

_typical = r"\\frac{1}{2};\\sqrt{2}+x^2;(1,2]\\cup[3,\\infty);x=5;1/2;\\{1,2\\};The answer is 5."
for _answer in _typical.split(";"):
    for _text in (f"\\\\boxed{{{_answer}}}", f"${_answer}$", _answer):  # fills the parser's tables
        _grade(_text, _text)
"""
_TOGETHER = 50
"""Cases of one request: as branches of one paused step."""


class MathVerify:
    """A warm math-verify.

    Args:
        timeout: seconds of wall clock a case, the imports included; then its verdict is `timeout`.
    """

    def __init__(self, timeout: float) -> None:
        self._sandbox = Sandbox(workers=1, timeout=timeout, tree=True, floor="none")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sandbox.close()

    def grade(self, cases: Iterable[tuple[str, str]]) -> Iterator[tuple[str, float]]:
        """Verdict (`correct`, `incorrect`, or the status of a comparison that did not end well) and seconds of a case.

        Args:
            cases: gold and prediction, as they are given to its `parse`.

        Raises:
            RstarError: it does not run at all.
        """
        ready = self._sandbox.run(_SETUP)
        if not ready.ok:
            raise RstarError(
                f"math-verify does not run here: {ready.status} {ready.error or ''}".rstrip(),
                remedy="Give a longer --timeout if it was late.",
            )
        waiting = iter(cases)
        while chunk := list(islice(waiting, _TOGETHER)):
            branches = tuple((f"_grade({gold!r}, {prediction!r})",) for gold, prediction in chunk)
            for (result,) in self._sandbox.execute([ExecuteRequest((_SETUP,), branches, "cases")])[0]:
                yield _outcome(result)
            self._sandbox.forget("cases")  # what a tree may take in all is bounded


def boxed(text: str) -> str:
    """An answer as math-verify reads it best."""
    return text if "\\boxed" in text else f"\\boxed{{{text}}}"


def _outcome(result: ExecutionResult) -> tuple[str, float]:
    if not result.ok:
        return result.status.value, result.seconds
    equal, seconds = json.loads(result.stdout.splitlines()[-1])
    return "correct" if equal else "incorrect", seconds
