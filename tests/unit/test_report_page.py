"""What the report page is made of."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import orjson
import pytest
from matplotlib.figure import Figure

from rstar_cli.config import EvalSetConfig
from rstar_cli.jsonl import read_rows, write_rows
from rstar_cli.layout import RunDir, write_bytes, write_manifest
from rstar_cli.metrics import wilson
from rstar_cli.records import (
    Choice,
    EvalRow,
    EvalSample,
    Execution,
    ExecutionStatus,
    Problem,
    StopReason,
    Verdict,
)
from rstar_cli.report import collect
from rstar_cli.report.bars import time_by_stage, time_unit
from rstar_cli.report.charts import Chart, charts, on_page, themed, write_charts
from rstar_cli.report.collect import told_methods
from rstar_cli.report.drawings import by_tokens, calibration, coverage
from rstar_cli.report.gather import gather
from rstar_cli.report.page import as_json, report_page, write_page
from rstar_cli.report.searches import BINS, MOST, Searches, read_searches
from rstar_cli.report.tables import accuracies, cost
from rstar_cli.report.words import explained
from tests.unit.test_extract import TREE, choose, rows
from tests.unit.test_report import evaluated, figures, sampled

SUBJECTS = (("geometry, and more than has room", 10), ("algebra", 30))
NAMES = [
    "accuracy_by_level",
    "accuracy_by_tokens",
    "coverage_by_level",
    "prm_calibration",
    "q_of_steps",
    "dropped_candidates",
    "kept_solutions",
    "time_by_stage",
    "tokens_by_stage",
]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Two rounds with trees, solutions, samples and manifests."""
    write_bytes(tmp_path / "a<b" / "recipe.toml", b"[run]\nseed = 7\n[eval.test]\n")
    run = RunDir.open(tmp_path / "a<b")
    problems = [Problem(id=f"p{i}", problem=f"What is <b>{i}</b>?", answer=str(i), level=1 + i % 2) for i in range(40)]
    run.eval_set("test").parent.mkdir()
    write_rows(run.eval_set("test"), problems)
    for number in range(3):
        files = run.round(number)
        evaluated(run, number, "test", greedy=figures(70 + 20 * number), **sampled(60 + 20 * number))
        write_rows(
            files.evaluations / "test.greedy.jsonl", [greedy(p, i < 20 * number) for i, p in enumerate(problems)]
        )
        seconds = {"config": {"method": "uct", "rollouts": 16 * number, "seed": number}, "seconds": 60.0}
        write_manifest(files.manifest, "evaluate test greedy", {**seconds, "status": "complete"})
        if number:
            write_manifest(files.manifest, "generate", {**seconds, "tokens": {"generated": 1234}})
            write_rows(files.problems, [Problem(id=TREE.problem_id, problem="What?", answer="12", level=3)])
            write_rows(files.trees, [TREE])
            write_rows(files.solutions, choose(TREE, rows(), 2))
            write_rows(
                files.evaluations / "test.samples.jsonl", [scored(0.7, True), scored(0.62, False), scored(-1, False)]
            )
    return run


def greedy(problem: Problem, right: bool) -> EvalRow:
    verdict = Verdict.CORRECT if right else Verdict.INCORRECT
    sample = EvalSample(answer=problem.answer if right else "no", verdict=verdict, tokens=1, logprob=0.0)
    return EvalRow(problem_id=problem.id, level=problem.level, tokens=1, samples=(sample,))


def scored(score: float, right: bool) -> EvalRow:
    verdict = Verdict.CORRECT if right else Verdict.INCORRECT
    sample = EvalSample(answer="1", group=0, verdict=verdict, tokens=1, logprob=0.0, score=score)
    return EvalRow(problem_id="p", tokens=1, samples=(sample,))


def test_what_is_gathered(run: RunDir) -> None:
    found = gather(run)
    base, first, _ = found["rounds"]
    searches = first["searches"]
    assert (base["searches"], base["choices"], base["coverage"]) == (Searches(), {}, {})
    assert searches.fates == {"ran": len(TREE.nodes) - 2, "stopped otherwise": 1}
    assert len(searches.q) == BINS
    assert sum(searches.q) == sum(node.visits > 0 for node in TREE.nodes[1:])
    answers = [["42", "correct", 2], ["41", "incorrect", 1], ["42.0", "correct", 1]]
    assert searches.listed == [["p", 3, "What?", "12", 3, 4, answers, {"stopped otherwise": 1}]]
    assert first["coverage"] == {3: (1, 1)}
    assert first["choices"] == {
        Choice.KEPT: 2,
        Choice.NOT_RIGHT: 1,
        Choice.DUPLICATE: 1,
        Choice.SURPLUS: 0,
        Choice.UNLIKELY: 0,
    }
    assert first["calibration"] == [(0.0, 0.0, 1), (pytest.approx(0.83), 0.5, 2)]
    assert first["stages"]["generate"] == {"seconds": 60.0, "tokens": 1234, "status": ""}
    assert {(c["stage"], c["setting"]) for c in found["changed"]} == {
        ("evaluate test greedy", "rollouts"),
        ("generate", "rollouts"),
    }, "not the seed, which is another in each round by itself"
    assert found["problems"]["columns"] == [0, 1, 2]
    answers = [["no", "incorrect"], ["0", "correct"], ["0", "correct"]]
    assert found["problems"]["rows"][0] == ["p0", 1, "What is <b>0</b>?", "0", answers, None, ""]


def test_searches_that_were_not_verified_and_too_many(run: RunDir) -> None:
    files = run.round(1)
    graded = [node.model_copy(update={"verdict": Verdict.INCORRECT}) if node.answer else node for node in TREE.nodes]
    wrong = [TREE.model_copy(update={"problem_id": f"w{i}", "nodes": tuple(graded)}) for i in range(3)]
    write_rows(files.trees, [TREE, *wrong, *[TREE.model_copy(update={"problem_id": f"t{i}"}) for i in range(MOST)]])
    found = read_searches(files, {("p", 5): "correct"})
    assert (found.in_all, len(found.listed)) == (MOST + 4, MOST)
    assert [row[4] for row in found.listed[:4]] == [0, 0, 0, None], "the solved one is cut first; None: not graded"
    assert found.listed[0][3] == "", "no gold is known"
    assert found.listed[0][6][0] == ["42", "incorrect", 2]


@pytest.mark.parametrize(("status", "fate"), [("error", "error"), ("timeout", "timeout"), ("memory", "out of memory")])
def test_how_a_candidate_failed(run: RunDir, status: str, fate: str) -> None:
    failed = TREE.nodes[3].model_copy(update={"execution": Execution(status=ExecutionStatus(status))})
    twin = TREE.nodes[3].model_copy(update={"stop": StopReason.DUPLICATE, "execution": None, "id": 13})
    write_rows(
        run.round(1).trees, [TREE.model_copy(update={"nodes": (*TREE.nodes[:3], failed, *TREE.nodes[4:], twin)})]
    )
    fates = gather(run)["rounds"][1]["searches"].fates
    assert (fates[fate], fates["duplicate"]) == (1, 1)


def test_a_chart_for_all_there_is_to_show(run: RunDir, tmp_path: Path) -> None:
    drawn = charts(collect(run), gather(run))
    assert [chart.name for chart in drawn] == NAMES
    for chart in drawn:
        svg = on_page(chart)
        assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg" viewBox='), chart.name
        assert f'role="img" aria-label="{chart.title}. ' in svg, "and says what it is to who does not see it"
        assert "currentColor" in svg, "text has the page's colour"
        assert "<text" in svg, "and is text"
        assert "font-family" not in svg, "in the page's font"
        assert "<metadata" not in svg
    files = write_charts(drawn, tmp_path / "figures")
    assert [path.name for path in files] == [f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")]
    again = write_charts(charts(collect(run), gather(run)), tmp_path / "again")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again], "equal runs, equal charts"
    (tmp_path / "none").mkdir()
    write_bytes(tmp_path / "none" / "recipe.toml", b"[run]\nseed = 7\n[eval.test]\n")
    empty = RunDir.open(tmp_path / "none")
    assert charts(collect(empty), gather(empty)) == []
    assert "Nothing was evaluated yet" in report_page(collect(empty), gather(empty), "none")


def test_subjects_and_curves_over_samples(run: RunDir) -> None:
    """What an evaluation tells beyond accuracy is shown where it is there."""
    told = sampled(100)
    subjects = {name: {key: figures(right, 40)[key] for key in ("accuracy", "ci95", "n")} for name, right in SUBJECTS}
    curve = {str(k): {key: figures(60 + k)[key] for key in ("accuracy", "ci95", "n")} for k in (1, 2, 4, 8)}
    told["majority@8"] |= {"by_n": curve, "tokens_per_solved": 123.4}
    told["pass@8"] |= {"by_n": curve, "theory": {"1": 0.4, "2": 0.5, "4": 0.6, "8": 0.7}}
    told["mcts_top4@16"] = figures(120, 150)
    evaluated(run, 2, "test", greedy={**figures(110), "by_subject": subjects}, **told)
    report = collect(run)
    names = [chart.name for chart in charts(report, gather(run))]
    assert {"accuracy_by_subject", "accuracy_by_samples"} <= set(names)
    drawn = {chart.name: on_page(chart) for chart in charts(report, gather(run))}
    assert "geometry, and more than h" in drawn["accuracy_by_subject"]
    assert drawn["accuracy_by_subject"].index("algebra") < drawn["accuracy_by_subject"].index("geometry")
    assert all(label in drawn["accuracy_by_samples"] for label in (">majority<", ">pass<"))
    assert "mcts_top4@16" in drawn["accuracy_by_tokens"]
    page = report_page(report, gather(run), "r")
    assert "greedy accuracy by subject" in page
    assert "generated tokens, round 2" in page
    assert '<td data-head="majority@8">123</td>' in page


def test_of_one_method_there_is_no_comparison_and_it_says_why(run: RunDir) -> None:
    for number in range(3):
        evaluated(run, number, "test", greedy=figures(70))
    report = collect(run)
    assert "accuracy_by_tokens" not in [chart.name for chart in charts(report, gather(run))]
    page = report_page(report, gather(run), "r")
    assert "There is no chart of accuracy against tokens: on test the only method" in page
    assert "greedy, with 62 generated tokens a problem" in page
    assert "test: generated tokens" not in page
    evaluated(run, 2, "test", greedy=figures(70), **sampled(100))
    assert "There is no chart" not in report_page(collect(run), gather(run), "r")


def test_the_best_round_is_told_where_it_is_not_the_last(run: RunDir) -> None:
    assert "The best round" not in report_page(collect(run), gather(run), "r")
    evaluated(run, 1, "test", greedy=figures(150))
    page = report_page(collect(run), gather(run), "r").replace("\u00a0", " ")
    assert "<h1>r: 35.0 % to 55.0 % on test by round 2 (best: 75.0 % in round 1)</h1>" in page
    assert "The best round was not the last: 75.0 % in round 1 (95 % interval 68.6 % to 80.5 %)" in page
    evaluated(run, 2, "test", greedy=figures(150))
    assert "The best round" not in report_page(collect(run), gather(run), "r"), "as good as the last one"


def cells(html: str) -> dict[str, list[str]]:
    """Cells of the first table by the first one of their row, in words."""
    rows = [re.findall("<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", html.split("</table>")[0])]
    return {row[0]: [" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row[1:]] for row in rows if row}


def stages(**seconds: float) -> dict[str, Any]:
    told = {name.replace("_", " ").replace("train ", "train-"): value for name, value in seconds.items()}
    return {name: {"seconds": value, "tokens": round(10 * value), "status": "complete"} for name, value in told.items()}


def test_times_have_one_unit_and_sums() -> None:
    spent = stages(evaluate_test_greedy=3, evaluate_rare_greedy=0.5)
    rounds = [
        {"round": 0, "stages": spent},
        {"round": 1, "stages": {**spent, **stages(train_prm=60, generate=1200)}},
    ]
    html = cost(rounds)
    assert "Time (seconds)" in html
    assert list(cells(html)) == [
        "generate",
        "train-prm",
        "evaluate test greedy",
        "evaluate rare greedy",
        "evaluate, together",
        "all stages",
    ]
    assert cells(html)["evaluate, together"] == ["3.5 35 tokens", "3.5 35 tokens", "7.0 70 tokens"]
    assert cells(html)["all stages"] == ["3.5 35 tokens", "1,264 12,635 tokens", "1,267 12,670 tokens"]
    assert cells(html)["generate"] == ["–", "1,200 12,000 tokens", "1,200 12,000 tokens"]
    rounds[1]["stages"] |= stages(train_policy=6000)
    html, chart = cost(rounds), time_by_stage(rounds)
    assert "Time (minutes)" in html
    assert cells(html)["evaluate rare greedy"][0] == "&lt; 0.1 5 tokens"
    assert cells(html)["all stages"][1].startswith("121 ")
    assert chart is not None
    svg = on_page(Chart("time", "Time", "", *chart))
    assert all(f">{told}<" in svg for told in ("minutes", "100", "20", "121")), "the same numbers on the bars"
    assert time_unit([{"stages": stages(generate=36_000)}]) == ("hours", 3600)


def test_bars_have_numbers_and_their_words_are_explained(run: RunDir) -> None:
    page = report_page(collect(run), gather(run), "r")
    shown = {chart.name: chart for chart in charts(collect(run), gather(run))}
    kept = shown["kept_solutions"]
    assert cells(page[page.index("Solutions kept and dropped") :])["round 1"] == ["2", "1", "1", "4"]
    assert set(kept.notes) == {"trains the policy", "right, a duplicate", "not right"}, "what there is, and no more"
    assert all(f"<b>{word}</b>: {escape(told)}" in page for word, told in kept.notes.items())
    assert set(shown["dropped_candidates"].notes) == {"stopped otherwise"}
    svg = on_page(kept)
    assert svg.count(">1<") >= 4, "of each of two rounds the duplicate and the one that is not right"
    assert ">4<" in svg


def test_a_coverage_near_all_has_an_axis_that_begins_below_it(run: RunDir) -> None:
    near = {"round": 1, "coverage": {1: (195, 200), 2: (200, 200)}}
    far = {"round": 2, "coverage": {1: (20, 200), 2: (200, 200)}}
    for rounds, told in (([near], "problems solved (axis from 90 %)"), ([near, far], "problems solved")):
        drawing = coverage(rounds)
        assert drawing is not None
        assert f">{told}<" in on_page(Chart("coverage", "Coverage", "", *drawing))


def test_what_prm_intervals_and_training_counts_are(run: RunDir) -> None:
    counts = {"problems": 600, "solved": 583, "solutions": 10911}
    write_manifest(run.round(1).manifest, "verify", {"status": "complete", "counts": counts, "seconds": 1.0})
    held_out = {"all": {"accuracy": 0.8, "ci95": [0.75, 0.85], "n": 1354}}
    write_manifest(run.round(1).manifest, "train-prm", {"counts": {"held-out accuracy": held_out}, "seconds": 1.0})
    page = report_page(collect(run), gather(run), "r")
    part = page[page.index("pairs ranked right") :]
    assert cells(part)["round 1"] == ["80.0 % 75.0 to 85.0 %, n = 1,354"]
    assert "The intervals count by problem" in part
    assert cells(page[page.index("Training data") :])["round 1"] == ["600", "583", "10,911"]


def test_greedy_decoding_is_told_of_the_same_problems_too(run: RunDir) -> None:
    """Of 40 problems the first 20 a round are right; samples are of some of these 40, or of all."""
    some = [EvalRow(problem_id=f"p{i}", tokens=1, samples=scored(0.5, True).samples) for i in range(15, 25)]
    write_rows(run.round(1).evaluations / "test.samples.jsonl", some)
    found = gather(run)
    assert found["same"] == {"test": {1: {"accuracy": 0.5, "ci95": wilson(5, 10), "n": 10, "tokens": 10}}}
    table = accuracies(collect(run), found["same"])[0]
    heads = re.findall("<th>(.*?)</th>", table)
    assert heads[:3] == ["", "greedy", "greedy, the same 10"], "beside what it is compared with"
    shown = {number: row[1] for number, row in cells(table).items()}
    told = "50.0 % 23.7 to 76.3 %"
    assert shown == {"round 0": "–", "round 1": told, "round 2": "–", "problems": "10"}
    write_rows(
        run.round(1).evaluations / "test.samples.jsonl",
        list(read_rows(run.round(1).evaluations / "test.greedy.jsonl", EvalRow)),
    )
    assert gather(run)["same"] == {}, "of all of them there is nothing to tell apart"


def test_methods_are_compared_on_the_same_problems(run: RunDir) -> None:
    """Of the dots of accuracy against tokens, the one of greedy decoding is of the problems of the others."""
    same = {"accuracy": 0.5, "ci95": (0.2, 0.8), "n": 10, "tokens": 7000}
    places = []
    for told in (None, same):
        axes, drawing = Figure().subplots(), by_tokens(collect(run), told)
        assert drawing is not None
        drawing.draw(axes)
        dots = {dot.get_label(): dot.lines[0].get_xydata()[0].tolist() for dot in axes.containers}
        places.append(dots.pop("greedy"))
        assert dots
    assert places[1] == [700, 0.5] != places[0]
    shown = {chart.name: chart.about for chart in charts(collect(run), gather(run))}
    assert "greedy decoding too on the 1 problems" not in shown["accuracy_by_tokens"], "its problem is of another set"
    write_rows(
        run.round(2).evaluations / "test.samples.jsonl", [scored(0.5, True).model_copy(update={"problem_id": "p1"})]
    )
    shown = {chart.name: chart.about for chart in charts(collect(run), gather(run))}
    assert "greedy decoding too on the 1 problem" in shown["accuracy_by_tokens"]


def test_names_of_methods_and_sets_are_explained(run: RunDir) -> None:
    sets = {"test": EvalSetConfig(), "hard": EvalSetConfig(levels="6", sampled=0, rare=True), "own": EvalSetConfig()}
    evaluated(run, 2, "hard", greedy=figures(20))
    evaluated(run, 2, "test", greedy=figures(20), **sampled(100))
    report = collect(run)
    lines = dict(re.findall("<li><b>(.*?)</b>: (.*?)</li>", explained(report, sets, 0.7)))
    methods = [m for m in told_methods(report, "test") if m != "greedy"]
    assert list(lines) == ["greedy", *methods, "samples", "test", "hard"], "what there is, and no more"
    assert "of 16 rollouts" in lines["mcts@16"]
    assert "of the solutions of mcts@16 the 4 " in lines["mcts_top4@16"]
    assert lines["samples"] == "drawn at temperature 0.7"
    assert lines["test"] == "a set of the recipe: synthetic; levels 1 to 5"
    assert lines["hard"] == (
        "a set of the recipe: synthetic; level 6; compositions that are rare in training; greedy decoding alone"
    )
    assert "samples" not in dict(re.findall("<li><b>(.*?)</b>: (.*?)</li>", explained(report, sets, None)))
    write_manifest(run.round(2).manifest, "evaluate test samples", {"config": {"temperature": 0.9}})
    assert "drawn at temperature 0.9" in report_page(report, gather(run), "r")


def test_of_calibrations_the_last_alone_has_bars_and_colour(run: RunDir) -> None:
    points = [(0.2, 0.25, 40), (0.8, 0.75, 40)]
    rounds = [{"round": number, "calibration": points} for number in (1, 2, 3)]
    drawing = calibration(rounds)
    assert drawing is not None
    axes = Figure().subplots()
    drawing.draw(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["round 1", "round 2", "round 3"]
    assert len(axes.containers) == 1
    assert axes.containers[0].get_label() == "round 3"
    faint = {line.get_label(): line.get_alpha() for line in axes.lines if line.get_alpha()}
    assert 0 < faint["round 1"] < faint["round 2"] < 0.7


def test_no_number_breaks_from_its_unit(run: RunDir) -> None:
    page = report_page(collect(run), gather(run), "r")
    told = re.sub("<svg.*?</svg>|<style>.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r"\d %", told) == []
    assert "SHA-256" not in told


def test_no_text_of_a_run_is_taken_for_html(run: RunDir) -> None:
    page = write_page(run)[-1].read_text()
    assert "<h1>a&lt;b: 35.0\u00a0% to 55.0\u00a0% on test by round\u00a02</h1>" in page
    assert "a<b" not in page
    assert "<b>0</b>" not in page
    assert orjson.loads(as_json(["</script>"])) == ["</script>"]
    lead = "Of 200 problems of test, greedy decoding answers right: 35.0 % in round 0, 55.0 % in round 2"
    assert lead in page.replace("\u00a0", " ")
    assert "/*" not in page.replace("/* ", "").split("<script>")[0].split("</style>")[1], "no place is left empty"


def test_a_contaminated_round_is_told_at_the_top(run: RunDir) -> None:
    assert "no held-out accuracy" not in write_page(run)[-1].read_text()
    write_manifest(run.round(2).manifest, "generate", {"counts": {"contaminated": 3}})
    page = write_page(run)[-1].read_text()
    assert "Round 2 trained on 3 problems of evaluation sets" in page.split("<section>")[0]
    assert "Rounds differ in" in page.split("<section>")[0], "their rollouts are not the same"


def test_what_is_not_at_home_in_a_page_is_taken_out_of_an_svg() -> None:
    head = '<?xml version="1.0"?><!DOCTYPE svg>\n<svg width="9pt" viewBox="0 0 9 9" version="1.1">'
    svg = head + '<path style="fill: #222222"/></svg>'
    assert themed(svg, 'A\\1 "line".') == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" role="img" aria-label="A\\1 &quot;line&quot;.">'
        '<path style="fill: currentColor"/></svg>'
    )
