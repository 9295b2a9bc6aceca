"""What a policy wrote on each problem and how it was graded, as lm-evaluation-harness logs samples (`--log_samples`).

The fields are those of its version 0.4: `lm_eval/evaluator.py` makes them, `lm_eval/loggers/evaluation_tracker.py`
writes them. Where it puts the date of a file's name, here the method stands: equal evaluations are equal files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_cli.config import EvaluateConfig
from rstar_cli.errors import DataError
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import make_folder
from rstar_cli.prompts import COMPLETION_STOPS, render_prompt
from rstar_cli.records import EvalRow, Problem
from rstar_cli.stages.figures import Outcomes, outcomes_of

LOG = "log"
"""The folder of logs, beside the files of rows."""
INVALID = "[invalid]"
"""The answer of a solution that has none, as of the harness's filters."""


def write_log(
    rows_file: Path, problems: Sequence[Problem], rows: Sequence[EvalRow], config: EvaluateConfig, few_shot: int
) -> None:
    """Write `log/samples_NAME_METHOD.jsonl` beside a file of rows, one for each method that it tells of.

    Args:
        rows_file: `NAME.KIND.jsonl`.
        problems: of the set.
        rows: of that file.
        config: settings that they were made with.
        few_shot: worked examples before each problem.

    Raises:
        DataError: the rows hold no text: they were made before texts were kept.
    """
    samples = [sample for row in rows for sample in row.samples]
    if any(sample.tokens for sample in samples) and not any(sample.text for sample in samples):
        raise DataError(
            "these rows hold no text of their solutions",
            path=rows_file,
            remedy="They are of an older version; remove the file and evaluate again.",
        )
    name, _, kind = rows_file.stem.rpartition(".")
    asked = {
        "until": list(COMPLETION_STOPS),
        "do_sample": kind != "greedy",
        "temperature": config.temperature if kind != "greedy" else 0.0,
        "max_gen_toks": config.max_tokens,
    }
    by_id = {problem.id: (place, problem) for place, problem in enumerate(problems)}
    for method, outcomes in outcomes_of(kind, rows).items():
        file = rows_file.parent / LOG / f"samples_{name}_{method.replace('_', '-')}.jsonl"
        make_folder(file.parent)
        write_rows(file, _entries(method, rows, outcomes, by_id, asked, few_shot))


def _entries(
    method: str,
    rows: Sequence[EvalRow],
    outcomes: Outcomes,
    by_id: Mapping[str, tuple[int, Problem]],
    asked: Mapping[str, Any],
    few_shot: int,
) -> Iterator[dict[str, Any]]:
    metric = "exact_match" if outcomes.picked else method
    for at, row in enumerate(rows):
        place, problem = by_id[row.problem_id]
        doc = problem.model_dump(mode="json")
        prompt = render_prompt(problem.problem, few_shot)
        answers = [INVALID if sample.answer is None else sample.answer for sample in row.samples]
        if outcomes.picked:
            picked = outcomes.picked[at]
            answers = [INVALID if picked is None else answers[picked]]
        yield {
            "doc_id": place,
            "doc": doc,
            "target": problem.answer,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": dict(asked)}},
            "resps": [[sample.text for sample in row.samples]],
            "filtered_resps": answers if outcomes.picked else [answers],
            "filter": method,
            "metrics": [metric],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _hash(prompt),
            "target_hash": _hash(problem.answer),
            metric: outcomes.values[at],
        }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
