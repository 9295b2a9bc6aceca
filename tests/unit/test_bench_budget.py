"""The equal-budget curves: what is reckoned from what was found, and both benches of search as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rstar_cli.bench.budget import Found, Runs, compare, early_stop
from tests.helpers import rstar


def ends(*each: tuple[int, bool]) -> list[Found]:
    return [Found(tokens, "a" if right else "b", right, -1.0, None) for tokens, right in each]


SLOW: Runs = [ends((10, False), (20, False), (30, True), (40, True)), ends((10, False), (20, False), (30, False))]
QUICK: Runs = [ends((5, True), (9, True)), ends((5, False), (10, True))]


def test_early_stop_counts_tokens_up_to_the_first_right_answer() -> None:
    points = early_stop(SLOW)
    assert [p["rollouts"] for p in points] == [1, 2, 4]
    assert [p["tokens"] for p in points] == [10, 20, 30], "a solved problem costs no more, an unsolved one all of it"
    assert [p["accuracy"] for p in points] == [0, 0, 0.5]
    assert points[-1]["ci95"][0] < 0.5 < points[-1]["ci95"][1]


def test_methods_are_compared_where_the_other_spent_no_more() -> None:
    gains = compare(SLOW, QUICK)
    assert [(g["tokens"], g["own_tokens"], g["gain"]) for g in gains] == [(10, 7.5, 1), (20, 7.5, 1), (30, 7.5, 0.5)]
    assert compare(QUICK, SLOW) == [], "it never spent as little"


def test_curves_of_a_small_run(tmp_path: Path) -> None:
    asked = ("--count", "6", "--rollouts", "8", "--methods", "greedy,best-of-n,swor,uct,beam", "--seed", "3")
    done = rstar("bench", "budget", *asked, "--plot", "curves.svg", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)["data"]
    assert found["problems"] == 6
    for method in ("greedy", "best-of-n", "swor", "uct", "beam"):
        for kind in ("solved", "majority"):
            points = found["methods"][method][kind]
            assert points
            assert all(p["ci95"][0] <= p["accuracy"] <= p["ci95"][1] and p["n"] == 6 for p in points)
        solved = [p["accuracy"] for p in found["methods"][method]["solved"]]
        assert solved == sorted(solved) or method == "beam", "more tokens never lose a solved problem"
        for all_, chosen in zip(found["methods"][method]["solved"], found["methods"][method]["majority"], strict=False):
            assert method == "uct" or chosen["accuracy"] <= all_["accuracy"], "what is chosen was found"
    assert len(found["methods"]["beam"]["solved"]) == 2, "widths 4 and 8"
    assert set(found["early_stop"]) == {"best-of-n", "swor", "uct"}
    assert set(found["against_best_of_n"]) == {"swor", "uct"}
    assert (tmp_path / "curves.svg").read_text().lstrip().startswith("<?xml")


def test_a_method_that_is_none_is_refused(tmp_path: Path) -> None:
    done = rstar("bench", "budget", "--methods", "swor,beem", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "'beem' is no search method" in done.stderr
    assert "beam" in done.stderr


def test_a_beam_wider_than_the_rollouts_is_one_point(tmp_path: Path) -> None:
    asked = ("--count", "2", "--rollouts", "2", "--methods", "beam", "--json")
    found = json.loads(rstar("bench", "budget", *asked, cwd=tmp_path).stdout)["data"]
    assert len(found["methods"]["beam"]["solved"]) == 1


def test_engine_figures_of_a_small_run(tmp_path: Path) -> None:
    asked = ("--count", "6", "--rollouts", "3", "--replayed", "2")
    found = json.loads(rstar("bench", "engine", *asked, "--json", cwd=tmp_path).stdout)["data"]
    assert set(found["tokens_per_second"]) == {"bare", "stubbed", "real", "replay", "generate"}
    assert all(value > 0 for value in found["tokens_per_second"].values())
    assert set(found["model_tokens_per_second"]) == {"bare", "stubbed", "real"}
    for name, run in found["model_tokens_per_second"].items():
        assert run > found["tokens_per_second"][name], "prompts are run, too"
    assert all(0 <= idle <= 1 for idle in found["engine_idle"].values())
    prefill = found["prefill"]
    assert prefill["ratio"] == pytest.approx(prefill["computed"] / prefill["unique"], abs=1e-3)
    assert prefill["computed"] <= 1.1 * prefill["unique"], "a prefix is run once in its life"
