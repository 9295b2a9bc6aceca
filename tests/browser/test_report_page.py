"""The report of a run, in a real browser."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rstar_cli.jsonl import read_rows
from rstar_cli.records import StopReason, Tree, Verdict
from tests.browser.conftest import visit
from tests.browser.test_tree_page import find
from tests.helpers import rstar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

RECIPE = '[run]\ncount = 20\n[eval.test]\ncount = 60\nlevels = "1-2"\n[evaluate]\nengine = "scripted"\n'


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of one round, without its trainings."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "recipe.toml").write_text(RECIPE + '[generate]\nengine = "scripted"\n')
    rstar("init", "--run", "run", "--recipe", "recipe.toml", cwd=folder)
    for stage in ("evaluate --round 0", "generate --round 1", "verify --round 1"):
        rstar(*stage.split(), "--run", "run", cwd=folder)
    done = rstar("report", "--run", "run", cwd=folder)
    assert "wrote run/report.html" in done.stderr
    return folder / "run" / "report.html"


def test_it_says_what_came_of_the_run(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    assert "in round 0" in find(browser, ".lead").text
    assert "interval" in find(browser, ".lead").text
    titles = [caption.text for caption in browser.find_elements("css selector", "figcaption b")]
    assert {"Accuracy by level", "Where candidates die", "Solutions kept and dropped"} <= set(titles)
    shown = [drawing for drawing in browser.find_elements("css selector", "svg") if drawing.is_displayed()]
    assert len(shown) == len(titles) + 1, "of the curve, the wide or the narrow one"
    for drawing in shown:
        assert drawing.size["width"] > 250
        assert drawing.size["height"] > 80
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")  # type: ignore[no-untyped-call]
    assert wide <= 0, "nothing sticks out to the side"


def test_problems_are_found(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    rows = "#problems tr"
    assert len(browser.find_elements("css selector", rows)) == 10
    assert find(browser, "#problems-count").text == "1 to 10 of 60"
    for _ in range(5):
        press(browser, "#problems-on")
    assert find(browser, "#problems-count").text == "51 to 60 of 60"
    assert not find(browser, "#problems-on").is_enabled()
    counts = []
    for keep in ("right", "wrong"):
        find(browser, f"#problems-keep option[value={keep}]").click()
        counts.append(int(find(browser, "#problems-count").text.rpartition(" ")[2]))
        marks = {cell.text[0] for cell in browser.find_elements("css selector", f"{rows} td:nth-child(3)")}
        assert marks == {"✓" if keep == "right" else "✗"}
    assert sum(counts) == 60
    find(browser, "#problems-keep option[value=all]").click()
    first = find(browser, f"{rows} td").text.split("\n")
    find(browser, "#problems-search").send_keys(first[1].split(",")[0])
    assert find(browser, "#problems-count").text == "1 to 1 of 1"
    assert find(browser, f"{rows} td").text.split("\n") == first
    find(browser, "#problems-search").send_keys("nothing has this")
    assert find(browser, "#problems-count").text == "none"


def test_it_says_why_searches_failed(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    trees = {tree.problem_id: tree for tree in read_rows(report.parent / "round_1" / "trees.jsonl", Tree)}
    seen = 0
    for keep in ("unsolved", "solved"):
        find(browser, f"#searches-keep option[value={keep}]").click()
        for row in browser.find_elements("css selector", "#searches tr"):
            cells = row.find_elements("css selector", "td")
            tree = trees[cells[0].text.split("\n")[1].split(",")[0]]
            ended = [node for node in tree.nodes if node.stop is StopReason.ANSWER and node.visits]
            right = [node for node in ended if node.verdict is Verdict.CORRECT]
            assert cells[2].text == f"{'✗' if keep == 'unsolved' else '✓'} {len(right)} of {len(ended)}"
            commonest = Counter(node.answer for node in ended).most_common(1)
            assert all(f"×{times}" in cells[3].text.split("\n")[0] for _, times in commonest)
            failed = sum(node.stop is StopReason.FAILED for node in tree.nodes)
            assert (str(failed) in cells[4].text) or not failed
            seen += 1
    assert seen


def press(browser: Chrome, css: str) -> None:
    """Click what may lie outside of the window."""
    browser.execute_script("arguments[0].click()", find(browser, css))  # type: ignore[no-untyped-call]
