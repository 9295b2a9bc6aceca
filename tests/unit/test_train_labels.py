"""Training on labelled solutions (`orm`, `prm-hard`, `prm-soft`): loss, what is learnt, where scores are read."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rstar_cli.config import TrainPrmConfig
from rstar_cli.engines.prm import TransformersScorer
from rstar_cli.errors import DataError
from rstar_cli.jsonl import write_rows
from rstar_cli.options import TrainPlace
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import ScoreRequest, Segment
from rstar_cli.records import PairRow, RowSegment, StepLabelRow
from rstar_cli.stages.train_prm import train_prm as stage
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.checkpoint import load_scorer
from rstar_cli.train.fit import is_held_out
from rstar_cli.train.label_trainer import LabelledIds
from rstar_cli.train.prm import PrmReport, count_updates, train_prm
from rstar_cli.train.prm_data import chosen
from rstar_cli.train.prm_report import Judged, ranking_of, solution_scores

pytestmark = pytest.mark.usefixtures("one_thread")


def row(i: int, sign: str, *, right: bool, detour: bool = False) -> StepLabelRow:
    """To multiply is right, to add is wrong; a detour is a first step that says nothing of it."""
    total = 3 * i if sign == "*" else 3 + i
    steps = [RowSegment(text="\n# as asked\nb = 0<end_of_step>")] if detour else []
    steps += [
        RowSegment(text=f"\n# thrice\na = 3 {sign} {i}<end_of_step>"),
        RowSegment(text="\n# answer\nprint(a)<end_of_code>"),
        RowSegment(text=f"\n<output>{total}<end_of_output>\n", output=True),
        RowSegment(text=f"<answer>\\boxed{{{total}}}<end_of_answer>"),
    ]
    own = tuple(step.text for step in steps if not step.output)
    labels = tuple(True if detour and n == 0 else right for n in range(len(own)))
    return StepLabelRow(
        problem_id=f"p{i}",
        prompt=render_prompt(f"What is three times {i}?"),
        completions=own,
        labels=labels,
        values=tuple(0.25 if detour and n == 0 else (0.9 if right else -1.0) for n in range(len(own))),
        steps=tuple(steps),
    )


ROWS = [row(i, sign, right=sign == "*", detour=i % 2 == 0) for i in range(1, 13) for sign in "*+"]
FAST: dict[str, Any] = {
    "objective": "prm-hard",
    "min_updates": 1,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "batch_tokens": 1024,
    "held_out": 0.25,
    "device": "cpu",
}


def settings(**changes: Any) -> TrainPrmConfig:
    return TrainPrmConfig(**{**FAST, **changes})


def fit(model: Path, output: Path, rows: Sequence[StepLabelRow | PairRow] = ROWS, **changes: Any) -> PrmReport:
    return train_prm(rows, model=model, output=output, config=settings(**changes))


def scores(checkpoint: Path, rows: Sequence[StepLabelRow]) -> list[list[float]]:
    """The score of every solution so far, one at a time without padding, from plain transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification

    net = AutoModelForSequenceClassification.from_pretrained(checkpoint, trust_remote_code=False).eval()
    tokenizer = StepTokenizer.load(checkpoint)
    found: list[list[float]] = []
    for each in rows:
        ids = list(tokenizer.encode_prompt(each.prompt))
        found.append([])
        for step in each.steps:
            ids += tokenizer.encode(step.text)
            if not step.output:
                with torch.no_grad():
                    found[-1].append(float(net(input_ids=torch.tensor([ids])).logits[0, 0]))
    return found


def cross_entropy(score: float, target: float) -> float:
    chance = 1 / (1 + math.exp(-score))
    return -target * math.log(chance) - (1 - target) * math.log(1 - chance)


@pytest.mark.parametrize("objective", ["orm", "prm-hard", "prm-soft"])
@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_the_loss_is_cross_entropy_where_the_objective_looks(
    scorer: Path, tmp_path: Path, objective: str, batch_tokens: int
) -> None:
    """A mean over the labels of the whole update, however it is cut into micro-batches."""
    report = fit(
        scorer, tmp_path / "out", objective=objective, held_out=0, batch_size=len(ROWS), batch_tokens=batch_tokens,
        dtype="float32",
    )  # fmt: skip
    losses: list[float] = []
    for each, found in zip(ROWS, scores(scorer, ROWS), strict=True):
        if objective == "orm":
            targets = {len(found) - 1: float(each.labels[-1])}
        elif objective == "prm-hard":
            targets = dict(enumerate(map(float, each.labels)))
        else:
            targets = {n: (value + 1) / 2 for n, value in enumerate(each.values)}
        losses += [cross_entropy(found[n], target) for n, target in targets.items()]
    assert report.updates == 1
    assert report.rows == len(ROWS)
    assert report.first_loss == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert report.first_loss != pytest.approx(math.log(2), abs=1e-3)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rstar_value_scale"] == 2.0


@pytest.mark.parametrize("objective", ["orm", "prm-hard", "prm-soft"])
def test_it_learns_which_solutions_are_right(base: Path, tmp_path: Path, objective: str) -> None:
    rows = [row(i, sign, right=sign == "*", detour=i % 2 == 0) for i in range(1, 40) for sign in "*+"]
    report = fit(
        base, tmp_path / "out", rows, objective=objective, min_updates=80, learning_rate=2e-2, optimizer="muon"
    )
    assert report.first_loss == pytest.approx(math.log(2), abs=1e-6)
    assert report.final_loss < 0.6 * report.first_loss
    assert report.held_out is None, "there are no pairs"
    for name in ("leaf_auc", "within_auc", "best_of_n@8"):
        assert report.ranking[name]["accuracy"] > 0.8  # type: ignore[index]
    assert report.ranking["random@8"]["accuracy"] == 0.5  # type: ignore[index]
    assert 0 <= report.ranking["leaf_ece"] < 0.3  # type: ignore[operator]


def test_lora_learns_labels_and_leaves_a_plain_checkpoint(scorer: Path, tmp_path: Path) -> None:
    report = fit(scorer, tmp_path / "out", lora_rank=4, learning_rate=2e-2, min_updates=25, optimizer="muon")
    assert report.final_loss < 0.75 * report.first_loss
    assert scores(tmp_path / "out", ROWS[:1]) != scores(scorer, ROWS[:1])


def test_the_engine_scores_steps_as_the_trainer_does(base: Path, tmp_path: Path) -> None:
    """Every step's value in search is tanh(score / 2), the score being what plain transformers gives for its prefix."""
    import torch

    fit(base, tmp_path / "out", min_updates=12, learning_rate=1e-2, dtype="float32")
    plain = scores(tmp_path / "out", ROWS)
    assert max(max(found) for found in plain) - min(min(found) for found in plain) > 0.5
    tokenizer = StepTokenizer.load(tmp_path / "out")
    net = load_scorer(tmp_path / "out", tokenizer.hf, dtype=torch.float32, attention="sdpa")
    labelled = [LabelledIds(*tokenizer.label_ids(each), targets=list(map(float, each.labels))) for each in ROWS]
    engine = TransformersScorer.load(tmp_path / "out", device="cpu", dtype="float32")
    for batch_tokens in (1, 400, 10_000):
        for found, expected in zip(solution_scores(net, labelled, batch_tokens), plain, strict=True):
            assert found == pytest.approx(expected, abs=1e-4)
    for each, expected in zip(ROWS, plain, strict=True):
        branch = tuple(Segment(step.text, step.token_ids) for step in each.steps)
        ((values,),) = engine.score([ScoreRequest((Segment(each.prompt),), (branch,))])
        own = [value for value, step in zip(values, each.steps, strict=True) if not step.output]
        assert own == pytest.approx([math.tanh(score / 2) for score in expected], abs=2e-4)


def test_ids_are_those_that_were_sampled_up_to_the_last_step(base: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    spelled = tuple(i for letter in "\nx = 1" for i in tokenizer.encode(letter)) + tokenizer.encode("<end_of_step>")
    text = "\nx = 1<end_of_step>"
    assert len(spelled) > len(tokenizer.encode(text))
    each = StepLabelRow(
        problem_id="p",
        prompt="Q",
        completions=(text, text),
        labels=(True, False),
        values=(1, -1),
        steps=(
            RowSegment(text=text, token_ids=spelled),
            RowSegment(text="<output>1<end_of_output>", output=True),
            RowSegment(text=text),
            RowSegment(text="<output>2<end_of_output>", output=True),
        ),
        tokenizer=tokenizer.fingerprint,
    )
    prompt, printed = tokenizer.encode_prompt("Q"), tokenizer.encode("<output>1<end_of_output>")
    ids, ends = tokenizer.label_ids(each)
    assert tuple(ids) == (*prompt, *spelled, *printed, *tokenizer.encode(text))
    assert ends == [len(prompt) + len(spelled) - 1, len(ids) - 1]
    other, _ = tokenizer.label_ids(each.model_copy(update={"tokenizer": "another"}))
    assert tuple(other) == (*prompt, *tokenizer.encode(text), *printed, *tokenizer.encode(text))


def test_rows_of_the_other_kind_are_measured_on_where_they_are_held_out(base: Path, tmp_path: Path) -> None:
    def pair(i: int) -> PairRow:
        right, wrong = row(i, "*", right=True), row(i, "+", right=False)
        return PairRow(
            problem_id=right.problem_id, kind="solution", prompt=right.prompt, chosen="".join(right.completions),
            rejected="".join(wrong.completions), q_gap=1.9, weight=1, prefix=(RowSegment(text=right.prompt),),
            chosen_steps=right.steps, rejected_steps=wrong.steps,
        )  # fmt: skip

    pairs = [pair(i) for i in range(1, 13)]
    apart = sum(is_held_out(each.problem_id, settings()) for each in pairs)
    assert 0 < apart < len(pairs)
    by_labels = fit(base, tmp_path / "a", [*ROWS, *pairs])
    assert by_labels.rows == len(ROWS) - 2 * apart
    assert by_labels.held_out is not None
    assert by_labels.held_out["all"]["n"] == apart
    by_pairs = fit(base, tmp_path / "b", [*ROWS, *pairs], objective="ppm")
    assert by_pairs.rows == len(pairs) - apart
    assert by_pairs.ranking["leaf_auc"]["n"] == 2 * apart  # type: ignore[index]
    card = (tmp_path / "b" / "README.md").read_text()
    assert (
        f"held-out AUC of solutions within a problem | {100 * by_pairs.ranking['within_auc']['accuracy']:.1f}%" in card
    )  # type: ignore[index]


def judged(problem: str, *solutions: tuple[str, bool]) -> list[Judged]:
    return [Judged(problem, answer, (right,) * 2, LabelledIds([0], [0], [1.0])) for answer, right in solutions]


def test_a_choice_is_by_value_by_weight_or_by_number() -> None:
    """Of 300 problems alike; a draw without a right solution can't be chosen well by anything."""
    solutions, values = [], []
    for i in range(300):
        solutions += judged(f"p{i}", ("7", True), ("8", False), ("8", False), ("9", False))
        values += [(0.0, 0.9), (0.0, -0.9), (0.0, -0.8), (0.0, 0.1)]
    found = ranking_of(solutions, values, seed=0)
    shares = {name: found[name]["accuracy"] for name in found if "@" in name}  # type: ignore[index]
    for n in (8, 16):
        assert shares[f"random@{n}"] == pytest.approx(0.25)
        assert shares[f"best_of_n@{n}"] == pytest.approx(1 - 0.75**n, abs=0.05)
        assert shares[f"best_of_n@{n}"] >= shares[f"weighted@{n}"] > 0.6 > 0.35 > shares[f"majority@{n}"]
    assert found["within_auc"]["accuracy"] == 1  # type: ignore[index]
    assert found["leaf_ece"] == pytest.approx((0.05 + 0.05 + 0.1 + 0.55) / 4)
    assert found == ranking_of(solutions, values, seed=0)
    assert found != ranking_of(solutions, values, seed=1)


def test_solutions_are_drawn_as_likely_as_the_policy_finds_them() -> None:
    solutions = []
    for i in range(300):
        right, wrong = judged(f"p{i}", ("7", True), ("8", False))
        solutions += [replace(right, logprob=-50.0), replace(wrong, logprob=-50.0 + math.log(3))]
    found = ranking_of(solutions, [(0.0, 0.0)] * 600, seed=0)
    assert found["random@8"]["accuracy"] == pytest.approx(0.25)  # type: ignore[index]
    at_least_half = sum(math.comb(16, k) * 0.25**k * 0.75 ** (16 - k) for k in range(8, 17))
    assert found["majority@16"]["accuracy"] == pytest.approx(at_least_half, abs=0.03)  # type: ignore[index]


def test_right_answers_are_one_vote_however_they_are_written() -> None:
    solutions = judged("a", ("0.5", True), ("1/2", True), ("8", False), ("8", False), ("\\frac12", True))
    found = ranking_of(solutions, [(0.0, 0.0)] * 5, seed=0)
    assert found["majority@16"]["accuracy"] == 1  # type: ignore[index]


def test_one_solution_is_no_choice() -> None:
    one = judged("a", ("7", True))
    assert ranking_of(one, [(0.0, 0.9)], 0) == pytest.approx({"leaf_ece": 0.05, "mid_ece": 0.5})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": (True,)}, "one label and one value a step"),
        ({"values": (0.0, 0.0, 2.0)}, "less than or equal to 1"),
        ({"completions": ("a", "b", "c")}, "must be `completions`"),
        ({"completions": ()}, "at least 1 item"),
    ],
)
def test_rows_whose_parts_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        StepLabelRow(**{**ROWS[0].model_dump(), **changes})


def test_bad_rows_of_a_file_are_named_by_line(base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS[:2])
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**ROWS[2].model_dump(mode="json"), "labels": [True]}) + "\n")
    place = TrainPlace(input=tmp_path / "rows.jsonl", model=str(base), output=tmp_path / "prm")
    with pytest.raises(DataError, match=r"rows\.jsonl:3.*one label and one value a step"):
        stage(place, settings(), None)


def test_what_cannot_be_learnt_is_refused_with_a_remedy(base: Path, tmp_path: Path) -> None:
    one = [each for each in ROWS if is_held_out(each.problem_id, settings())][:2]
    for rows, changes, words in (
        ([], {}, "no solution to train on"),
        (ROWS, {"objective": "ppm"}, "no pair to train on"),
        (ROWS, {"max_length": 8}, "all 24 solutions are longer than 8"),
        (one, {}, "the problems of all 2 are held out"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            fit(base, tmp_path / "out", rows, **changes)
        assert caught.value.remedy
    assert not any(tmp_path.iterdir())


def test_equal_trainings_give_equal_weights(base: Path, tmp_path: Path) -> None:
    for name in "ab":
        fit(base, tmp_path / name, min_updates=4)
    for file in ("model.safetensors", "README.md", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_of_wrong_solutions_the_likeliest_are_learnt_from(base: Path, tmp_path: Path) -> None:
    """By problem; right ones are all kept; without likelihoods the first ones are."""

    def rows(*logprobs: float | None) -> list[StepLabelRow]:
        wrong = [row(i, "+", right=False) for i in (1, 2) for _ in logprobs]
        told = [each.model_copy(update={"logprob": logprobs[n % len(logprobs)]}) for n, each in enumerate(wrong)]
        return [row(1, "*", right=True), *told, row(2, "*", right=True)]

    def kept(given: list[StepLabelRow], negatives: int) -> list[int]:
        found = chosen(given, settings(negatives=negatives))
        return [n for n, each in enumerate(given) if any(each is other for other in found)]

    assert kept(rows(-3.0, -1.0, -2.0), 0) == list(range(8))
    assert kept(rows(-3.0, -1.0, -2.0), 2) == [0, 2, 3, 5, 6, 7]
    assert kept(rows(None, None, None), 1) == [0, 1, 4, 7]
    report = fit(base, tmp_path / "out", rows(-3.0, -1.0, -2.0), negatives=1, held_out=0)
    assert report.rows == 4
    assert count_updates(rows(-3.0, -1.0, -2.0), settings(negatives=1, held_out=0, batch_size=2, epochs=2)) == 4


def test_a_dry_run_counts_the_solutions_that_would_be_learnt_from(base: Path, tmp_path: Path) -> None:
    from rstar_cli.stages.dry_run import dry_run_train_prm

    rows = [row(i, sign, right=sign == "*") for i in range(1, 9) for sign in "*++"]
    write_rows(tmp_path / "rows.jsonl", rows)
    place = TrainPlace(input=tmp_path / "rows.jsonl", model=str(base), output=tmp_path / "prm")
    config = settings(negatives=1, held_out=0, epochs=2)
    told = dry_run_train_prm(place, config, None).figures
    assert (told["solutions"], told["solutions held out"], told["updates"]) == (16, 0, 4)
    assert not (tmp_path / "prm").exists()
    assert train_prm(rows, model=base, output=tmp_path / "prm", config=config).updates == 4
