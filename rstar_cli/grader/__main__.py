"""Grade JSON lines: `python -m rstar_cli.grader < cases.jsonl`.

Reads `{"gold": ..., "pred": ...}` a line, writes `{"equal": bool, "verdict": ..., "decided_by": ...}` a line, flushed.
A line that is no such case gets `{"equal": false, "error": ...}`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rstar_cli.grader.grader import Grader
from rstar_cli.records import Verdict

_WARM_UP = (r"\sqrt{8}", r"2\sqrt{2}")


def main() -> None:
    """Answer until the input ends."""
    with Grader(workers=1) as grader:
        grader.grade([_WARM_UP])  # so that no case waits for the start of the worker
        for line in sys.stdin:
            sys.stdout.write(json.dumps(_reply(line, grader)) + "\n")
            sys.stdout.flush()


def _reply(line: str, grader: Grader) -> dict[str, Any]:
    try:
        case = json.loads(line)
        gold, prediction = case["gold"], case["pred"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return {"equal": False, "error": f"not a case: {error!r}"}
    if not isinstance(gold, str) or not isinstance(prediction, str | None):
        return {"equal": False, "error": "gold and pred must be text"}
    grade = grader.grade([(gold, prediction)])[0]
    return {"equal": grade.verdict is Verdict.CORRECT, "verdict": grade.verdict, "decided_by": grade.decided_by}


if __name__ == "__main__":
    main()
