"""The report of a run, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

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
    assert "Round 0 answers" in find(browser, ".lead").text
    assert "interval" in find(browser, ".lead").text
    titles = [caption.text for caption in browser.find_elements("css selector", "figcaption b")]
    assert {"Accuracy by level", "What became of candidates", "Solutions kept for training"} <= set(titles)
    for drawing in browser.find_elements("css selector", "svg"):
        assert drawing.size["width"] > 250
        assert drawing.size["height"] > 100
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")  # type: ignore[no-untyped-call]
    assert wide <= 0, "nothing sticks out to the side"


def test_problems_are_found(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    rows = "#problems tr"
    assert len(browser.find_elements("css selector", rows)) == 25
    assert find(browser, "#count").text == "1 to 25 of 60"
    find(browser, "#on").click()
    find(browser, "#on").click()
    assert find(browser, "#count").text == "51 to 60 of 60"
    assert not find(browser, "#on").is_enabled()
    counts = []
    for keep in ("right", "wrong"):
        find(browser, f"#keep option[value={keep}]").click()
        counts.append(int(find(browser, "#count").text.rpartition(" ")[2]))
        marks = {cell.text[0] for cell in browser.find_elements("css selector", f"{rows} td:last-child")}
        assert marks == {"✓" if keep == "right" else "✗"}
    assert sum(counts) == 60
    find(browser, "#keep option[value=all]").click()
    first = find(browser, f"{rows} td").text.split("\n")
    find(browser, "#search").send_keys(first[1].split(",")[0])
    assert find(browser, "#count").text == "1 to 1 of 1"
    assert find(browser, f"{rows} td").text.split("\n") == first
    find(browser, "#search").send_keys("nothing has this")
    assert find(browser, "#count").text == "none"
