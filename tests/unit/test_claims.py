"""Outputs as other tools write them, graded; rows written by hand after what those tools save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.errors import DataError
from rstar_cli.stages.claims import Claim, claim
from rstar_cli.stages.foreign_trees import NO_ANSWERS
from tests.helpers import rstar


def sample(response: str, found: Any, target: str, **more: Any) -> dict[str, Any]:
    """As `lm_eval --log_samples` saves it (EleutherAI/lm-evaluation-harness, `lm_eval/evaluator.py`)."""
    return {
        "doc_id": 0,
        "doc": {"question": "How many?", "answer": target},
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": "Question: How many?\nAnswer:", "arg_1": {"until": ["Question:"]}}},
        "resps": [[response]],
        "filtered_resps": [found],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "doc_hash": "5f",
        "exact_match": 0.0,
        **more,
    }


def node(text: str = "", answer: str = "", q: float = 0.0) -> dict[str, Any]:
    """A node's state as upstream saves it (microsoft/rStar, branch rStar-math, `agents/mcts.py`, `return_states`)."""
    return {
        "text": text,
        "extra_info": "",
        "action": "",
        "action_input": "",
        "final_answer": answer,
        "value": q,
        "q_value": q,
        "visit_count": 1,
    }


def boxed(answer: str) -> str:
    return f"<answer>So \\boxed{{{answer}}}.<end_of_answer>"


TREE = {
    "0": node(),
    "0.1": node("<code>\n# a\na = 6 * 7<end_of_step>", q=0.2),
    "0.2": node("<code>\n# a\na = 6 / 0<end_of_step><end_of_code>\n<output>ZeroDivisionError<end_of_output>"),
    "0.1.1": node("\nprint(a)<end_of_code>\n<output>42<end_of_output>", q=0.5),
    "0.1.1.1": node("\n" + boxed("41"), "41", q=-0.3),
    "0.1.1.2": node("\n" + boxed("42"), "42", q=0.7),
    "0.1.1.12": node("\n" + boxed("43"), "43", q=0.7),
}
TREE["0.2"] |= {"final_answer": list(NO_ANSWERS)[2], "q_value": 0.9}
GSM8K = "6 times 7 is <<6*7=1042>>1042.\n#### 1,042"


def test_what_the_harness_filtered_is_a_prediction_and_a_whole_response_a_solution() -> None:
    text = "It is #### 42 or so"
    assert claim(sample(text, "42", GSM8K), "f", 1) == Claim("prediction", "42", "1042")
    assert claim(sample(text, text, r"Thus \boxed{42}"), "f", 1) == Claim("solution", text, "42")
    several = sample("", "42", "42", resps=[["It is 42", "It is 41", "42"]])  # after a vote
    assert claim(several, "f", 1) == Claim("prediction", "42", "42")
    assert claim(sample(text, ["42"], "42"), "f", 1) == Claim("prediction", "42", "42")  # no filter takes the first
    assert claim(sample(text, "[invalid]", "42"), "f", 1) == Claim("solution", "", "42")


def test_of_upstreams_tree_the_answer_of_highest_q_is_checked_with_its_steps() -> None:
    kind, text, gold = claim({"question": "6 times 7?", "answer": 42, "rstar": TREE}, "f", 1)
    assert (kind, gold) == ("solution", "42")
    assert text == "".join(TREE[tag]["text"] for tag in ("0.1", "0.1.1", "0.1.1.2"))
    dead = {tag: TREE[tag] for tag in ("0", "0.1", "0.2")}
    assert claim({"answer": "42", "rstar": dead}, "f", 1) == Claim("solution", "", "42")


@pytest.mark.parametrize(
    ("row", "field", "why"),
    [
        (sample("a", ["a", "b"], "c"), "filtered_resps", "expected one text"),
        (sample("a", ["-1.25", "False"], "c"), "filtered_resps", "expected one text"),  # likelihoods of a choice
        (sample("a", "a", "c", filtered_resps=["a", "b"]), "filtered_resps", "expected one text"),
        ({"filtered_resps": ["a"]}, "target", "is missing"),
        ({"rstar": TREE}, "answer", "is missing"),
        ({"rstar": {"0": "a"}, "answer": "1"}, "rstar.0", "expected a node"),
        ({"rstar": {"0": node() | {"q_value": "a"}}, "answer": "1"}, "rstar.0", "expected a node"),
        ({"rstar": TREE, "answer": ["1"]}, "answer", "must be text"),
        ({"answer": "1"}, None, "has none of prediction, solution, code"),
        ({"answer": "1", "code": "1", "prediction": "1"}, None, "has prediction and code"),
    ],
)
def test_a_bad_row_is_told(row: dict[str, Any], field: str | None, why: str) -> None:
    with pytest.raises(DataError, match=why) as caught:
        claim(row, "rows.jsonl", 7)
    assert (caught.value.line, caught.value.field) == (7, field)


def test_the_rows_of_others_are_graded_all_their_fields_kept(tmp_path: Path) -> None:
    rows = [
        sample("The answer is 1042.", "1042", GSM8K),
        sample("No idea", "[invalid]", GSM8K),
        sample(r"So it is $\boxed{\frac12}$.", r"So it is $\boxed{\frac12}$.", "0.5"),
        {"question": "6 times 7?", "answer": "42", "rstar": TREE},
        {"question": "6 times 7?", "answer": "42", "rstar": {"0": node()}},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = rstar("verify", "--input", "in.jsonl", "--output", "-", cwd=tmp_path)
    graded = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["verdict"] for row in graded] == ["correct", "no_answer", "correct", "correct", "no_answer"]
    assert [row["predicted_answer"] for row in graded] == ["1042", None, r"\frac12", "42", None]
    assert all(given.items() <= row.items() for given, row in zip(rows, graded, strict=True))
