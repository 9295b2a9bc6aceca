"""Grade JSON lines: `python -m rstar_cli.grader < cases.jsonl`.

Reads `{"gold": ..., "pred": ...}` a line, writes `{"equal": bool, "verdict": ..., "decided_by": ...}` a line, flushed.
"""

from __future__ import annotations

import json
import sys

from rstar_cli.grader.grader import Grader
from rstar_cli.records import Verdict


def main() -> None:
    """Answer until the input ends."""
    with Grader(timeout=float(sys.argv[1]) if len(sys.argv) > 1 else 3.0) as grader:
        for line in sys.stdin:
            case = json.loads(line)
            grade = grader.grade([(case["gold"], case["pred"])])[0]
            reply = {
                "equal": grade.verdict is Verdict.CORRECT,
                "verdict": grade.verdict,
                "decided_by": grade.decided_by,
            }
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
