"""Answers -> verdicts: `Grader`, `grade`, `extract_answer`, `group_answers`.

A reader's path: `grader` (who is asked what, where) -> `compare` (the rules), `policy` (what can be switched) ->
`normalize` and `printed` (one notation), `structure`, `labels`, `realset` (what an answer consists of), `vocabulary`,
`words` (units, choices, numbers in words), `lexer`, `expression`, `exact` (one expression) -> `pool`, `worker`,
`symbolic`, `numeric` (the other process). Answers in prose: `extract` -> `masking`, `values`, `prose`.
"""

from rstar_cli.grader.extract import extract_answer
from rstar_cli.grader.grader import Grader, grade, group_answers
from rstar_cli.grader.policy import LENIENT, STRICT, Policy

__all__ = ["LENIENT", "STRICT", "Grader", "Policy", "extract_answer", "grade", "group_answers"]
