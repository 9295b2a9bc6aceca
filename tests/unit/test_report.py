"""Reports on made-up runs: what they hold, that equal runs give equal bytes, and that tables and figures come out."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from rstar_cli.errors import DataError
from rstar_cli.layout import RunDir, write_bytes, write_manifest
from rstar_cli.metrics import accuracy, accuracy_by_group
from rstar_cli.report import CLAIMS, collect, curve_table, draw_curve, write_report
from rstar_cli.report.figure import claims_told, draw_figure

RECIPE = """
[run]
seed = 7

[eval.test]
[eval.hard]
"""


def figures(right: int, n: int = 200) -> dict[str, Any]:
    """Figures as `evaluate` writes them, with keys that a report leaves out."""
    outcomes = [True] * right + [False] * (n - right)
    by_level = accuracy_by_group((1 + place % 2, value) for place, value in enumerate(outcomes))
    return {**accuracy(outcomes), "by_level": by_level, "verdicts": {"correct": right}, "tokens": 12345}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    write_bytes(tmp_path / "r" / "recipe.toml", RECIPE.encode())
    return RunDir.open(tmp_path / "r")


def evaluated(run: RunDir, number: int, name: str, **methods: dict[str, Any]) -> None:
    write_bytes(run.round(number).evaluations / f"{name}.json", orjson.dumps(methods))


def sampled(right: int) -> dict[str, Any]:
    kinds = ("majority@8", "best_of_n@8", "weighted@8", "pass@1", "pass@8", "mcts@16", "mcts_top4@16")
    return {kind: figures(right + place, 150) for place, kind in enumerate(kinds)}


@pytest.fixture
def trained(run: RunDir) -> RunDir:
    """Five rounds with everything in them."""
    for number in range(5):
        files = run.round(number)
        evaluated(run, number, "test", greedy=figures(70 + 20 * number), **sampled(60 + 20 * number))
        evaluated(run, number, "hard", greedy=figures(10 + 20 * number))
        evaluated(run, number, "aime", greedy=figures(number, 30))
        if number:
            counts = {"solved": 90, "problems": 100, "sft": 160, "pairs": 800, "correct": 300, "solutions": 400}
            write_manifest(files.manifest, "generate", {"counts": {"searched now": number}, "seconds": 1.5})
            write_manifest(files.manifest, "verify", {"status": "complete", "counts": counts, "seconds": 2.5})
            held_out = {"all": accuracy([True] * 80 + [False] * 20)}
            write_manifest(files.manifest, "train-prm", {"counts": {"held-out accuracy": held_out}, "seconds": 3.5})
    return run


def test_a_report_holds_what_was_measured(trained: RunDir) -> None:
    report = collect(trained)
    assert report["run"] == {"base": "embedded", "seed": 7}
    assert report["sets"] == ["test", "hard", "aime"]  # the recipe's in its order, then others by name
    assert [entry["round"] for entry in report["rounds"]] == [0, 1, 2, 3, 4]
    base, first = report["rounds"][:2]
    assert list(base) == ["round", "eval"]
    assert list(base["eval"]) == ["test", "hard", "aime"]
    assert list(base["eval"]["test"]["greedy"]) == ["accuracy", "ci95", "n", "by_level", "tokens"]
    expected = figures(90)
    del expected["verdicts"]
    assert first["eval"]["test"]["greedy"] == expected
    assert first["counts"] == {"problems": 100, "solved": 90, "solutions": 400, "sft": 160, "pairs": 800}
    assert first["prm"]["all"]["accuracy"] == 0.8


def test_rounds_are_in_the_order_of_numbers(run: RunDir) -> None:
    for number in (10, 9, 0):
        evaluated(run, number, "test", greedy=figures(50))
    assert [entry["round"] for entry in collect(run)["rounds"]] == [0, 9, 10]


def test_equal_runs_give_equal_bytes(trained: RunDir) -> None:
    first = write_report(trained).read_bytes()
    entry = {"counts": {"searched now": 99, "solved": 3}, "seconds": 99.0}
    write_manifest(trained.round(1).manifest, "generate", entry)  # as of a search that was stopped and went on
    assert write_report(trained).read_bytes() == first
    assert orjson.loads(first) == collect(trained)
    assert b"searched" not in first
    assert b"seconds" not in first


def test_claims_are_labelled_as_such(run: RunDir) -> None:
    claims = collect(run)["claims"]
    assert claims == CLAIMS
    assert all("claim" in claim["source"] and "MATH" in claim["source"] for claim in claims.values())
    assert claims["paper pass@1"]["accuracy"] == [0.588, 0.696, 0.736, 0.758, 0.784]
    assert claims["paper with search"]["accuracy"] == [None, 0.752, 0.866, 0.87, 0.894]
    assert claims["summary of paper"]["accuracy"] == [0.42, 0.68, 0.78, 0.85, 0.9]


def test_damaged_figures_are_refused(run: RunDir) -> None:
    evaluated(run, 0, "test", greedy={"accuracy": 0.5})
    with pytest.raises(DataError, match=r"test\.json:greedy\.ci95: not figures of an evaluation"):
        collect(run)


def rendered(report: dict[str, Any], width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(curve_table(report))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(trained: RunDir, width: int) -> None:
    report = collect(trained)
    lines = rendered(report, width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for shown in ("35.0", "28.7 to 41.8", "weighted", "pass", "80.0", "top4@16", "claimed (7B, MATH), %", "89.4"):
        assert shown in text


def test_tables_of_little(run: RunDir) -> None:
    assert "claimed" in "\n".join(rendered(collect(run), 80))
    evaluated(run, 0, "test", greedy=figures(70))
    text = "\n".join(rendered(collect(run), 80))
    assert "35.0" in text
    assert "also measured" not in text
    assert "mcts" not in text


def test_figures_are_drawn_and_equal(trained: RunDir, tmp_path: Path) -> None:
    report = collect(trained)
    drawn = draw_curve(report, tmp_path / "figures")
    again = draw_curve(report, tmp_path / "again")
    assert [path.name for path in drawn] == ["accuracy_by_round.svg", "accuracy_by_round.png"]
    assert [path.read_bytes() for path in drawn] == [path.read_bytes() for path in again]
    assert drawn[0].read_bytes().startswith(b"<?xml")
    assert drawn[1].read_bytes().startswith(b"\x89PNG")


def test_the_figure_says_what_each_line_is(trained: RunDir) -> None:
    report = collect(trained)
    for narrow in (False, True):
        words = re.findall("<text[^>]*>([^<]*)</text>", draw_figure(report, narrow=narrow))
        assert {"mcts@16", "mcts_top4@16", "other sets", "summary of paper"} <= set(words)
        assert words.count("round 4, %") == 2, "of what was measured, on the main set and on others"
        assert words.count("their round 4, %") == 1
    told = claims_told(report)
    for look, label in (("dashed", "pass@1"), ("dotted", "paper with search"), ("dash-dotted", "summary of paper")):
        assert re.search(rf"\b{look}, [^;]*{label}", told)


def test_a_figure_of_one_round_and_of_none(run: RunDir, tmp_path: Path) -> None:
    assert draw_curve(collect(run), tmp_path) == []
    evaluated(run, 0, "test", greedy=figures(0))
    assert len(draw_curve(collect(run), tmp_path)) == 2
