"""Answers -> verdicts: `Grader`, `extract_answer`, `group_answers`.

A reader's path: `grader` (who is asked what, where) -> `compare` (the rules) -> `normalize`, `expression`, `exact`,
`structure`, `vocabulary` (what the rules stand on) -> `pool`, `worker`, `symbolic`, `numeric` (the other process).
"""

from rstar_cli.grader.extract import extract_answer
from rstar_cli.grader.grader import Grader, group_answers

__all__ = ["Grader", "extract_answer", "group_answers"]
