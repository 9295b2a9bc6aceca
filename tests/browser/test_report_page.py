"""The report of a run, in a real browser."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rstar_cli.jsonl import read_rows, write_rows
from rstar_cli.layout import RunDir, write_bytes, write_manifest
from rstar_cli.records import EvalRow, EvalSample, StopReason, Tree, Verdict
from rstar_cli.report.page import write_page
from tests.browser.chrome import resize
from tests.browser.conftest import visit
from tests.browser.test_tree_page import find
from tests.helpers import rstar
from tests.unit.test_report import evaluated, figures, sampled

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

RECIPE = '[run]\ncount = 20\n[eval.test]\ncount = 60\nlevels = "1-2"\n[evaluate]\nengine = "scripted"\n'
SAMPLE = EvalSample(answer="1", verdict=Verdict.CORRECT, tokens=1, logprob=0.0)


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


@pytest.fixture(scope="session")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of five rounds with every method, several sets, and large numbers."""
    root = tmp_path_factory.mktemp("crowded") / "a-run-with-a-long-name"
    write_bytes(root / "recipe.toml", b"[run]\nseed = 7\n[eval.test]\n[eval.validation]\n")
    run = RunDir.open(root)
    prm = {kind: {"accuracy": 0.8, "ci95": [0.751, 0.852], "n": 12_345} for kind in ("all", "step", "solution")}
    names = ("problems", "solved", "solutions", "sft", "pairs", "step labels")
    inputs = {"inputs": {name: {"sha256": "c0ffee42" * 8} for name in ("problems", "trees")}}
    for number in range(5):
        path, spent = run.round(number).manifest, {"seconds": 123.4, "tokens": {"generated": 1_234_567}}
        evaluated(run, number, "test", greedy=figures(170 - number), **sampled(60 + 10 * number))
        for kind, count in (("greedy", 2), ("samples", 1)):
            rows = [EvalRow(problem_id=str(i), tokens=1, samples=(SAMPLE,)) for i in range(count)]
            write_rows(run.round(number).evaluations / f"test.{kind}.jsonl", rows)
        for name in ("validation", "rare", "level6"):
            evaluated(run, number, name, greedy=figures(70 + number))
            write_manifest(path, f"evaluate {name} greedy", {**spent, "config": {"rollouts": number}})
        if number:
            write_manifest(path, "generate", spent)
            counts = dict.fromkeys(names, 1_234_567)
            write_manifest(path, "verify", {**spent, **inputs, "counts": counts, "status": "complete"})
            write_manifest(path, "train-prm", {**spent, "counts": {"held-out accuracy": prm}})
    return write_page(run)[-1]


SIDEWAYS = """
document.querySelectorAll("details").forEach((one) => { one.open = true; });
const wide = (one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth
  && getComputedStyle(one).display !== "inline";
const cut = (one) => one.getBoundingClientRect().right > one.ownerSVGElement.getBoundingClientRect().right + 1;
return [document.documentElement, ...document.querySelectorAll("body *:not(svg *)")].filter(wide)
  .concat([...document.querySelectorAll("svg text")].filter(cut))
  .map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 80)}`);
"""
"""Elements with more than they have room for, and words of drawings that are cut."""
BROKEN = """
const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode;
  if (!node.parentElement.checkVisibility() || node.parentElement.closest("svg, script, .hashes")) continue;
  for (const match of node.data.matchAll(/[\\d,.]*\\d(\\s*[%\\/]\\s*\\d*)?/g)) {
    const range = document.createRange();
    range.setStart(node, match.index);
    range.setEnd(node, match.index + match[0].length);
    const lines = new Set([...range.getClientRects()].map((one) => Math.round(one.top)));
    if (match[0].length < 14 && lines.size > 1) found.push(match[0]);
  }
}
return found;
"""
"""Numbers, percentages and fractions that stand on two lines."""


@pytest.mark.parametrize("page", ["report", "crowded"])
def test_nothing_scrolls_sideways_and_no_number_is_broken(
    browser: Chrome, page: str, request: pytest.FixtureRequest
) -> None:
    visit(browser, request.getfixturevalue(page))
    for width in (browser.execute_script("return innerWidth"), 320, 800, 1010):  # type: ignore[no-untyped-call]
        resize(browser, width, 900)
        assert browser.execute_script(SIDEWAYS) == [], width  # type: ignore[no-untyped-call]
        assert browser.execute_script(BROKEN) == [], width  # type: ignore[no-untyped-call]


def test_the_last_round_of_every_table_is_seen(browser: Chrome, crowded: Path) -> None:
    visit(browser, crowded)
    width = browser.execute_script("return innerWidth")  # type: ignore[no-untyped-call]
    tables = browser.find_elements("css selector", "section > .scrolls table")
    assert len(tables) >= 6
    for shown in tables:
        for cell in shown.find_elements("css selector", "td:last-child"):
            assert cell.rect["x"] + cell.rect["width"] <= width, shown.text


def test_links_have_the_words_of_their_headings(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    links = browser.find_elements("css selector", "nav a")
    assert len(links) == 5
    for link in links:
        assert link.text == find(browser, f"[id='{str(link.get_attribute('href')).partition('#')[2]}']").text


def test_numbers_of_bars_open_below_them(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    chart = next(one for one in browser.find_elements("css selector", "figure") if "kept and dropped" in one.text)
    assert not chart.find_element("css selector", "table").is_displayed()
    for summary in chart.find_elements("css selector", "details:not([open]) summary"):
        browser.execute_script("arguments[0].click()", summary)  # type: ignore[no-untyped-call]
    cells = chart.find_elements("css selector", "tbody td:not(:first-child)")
    *parts, whole = [int(cell.text.split("\n")[-1].replace(",", "")) for cell in cells]
    assert sum(parts) == whole > 0


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
    back, on = (find(browser, f"#problems-{name}") for name in ("back", "on"))
    assert (back.is_enabled(), on.is_enabled()) == (True, False)
    assert float(on.value_of_css_property("opacity")) < 0.5 < float(back.value_of_css_property("opacity"))
    assert on.value_of_css_property("cursor") != "pointer", "and looks so"
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
    assert [row.text for row in browser.find_elements("css selector", rows)] == ["no problem matches"]
    assert find(browser, "#problems-search").get_attribute("placeholder") == "words or id"


def test_it_says_why_searches_failed(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    trees = {tree.problem_id: tree for tree in read_rows(report.parent / "round_1" / "trees.jsonl", Tree)}
    seen = 0
    for keep in ("unsolved", "solved"):
        find(browser, f"#searches-keep option[value={keep}]").click()
        for row in browser.find_elements("css selector", "#searches tr:has(small)"):
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


def test_a_search_has_the_command_that_draws_it(browser: Chrome, report: Path) -> None:
    visit(browser, report)
    find(browser, "#searches-keep option[value=all]").click()
    press(browser, "#searches summary")
    shown = find(browser, "#searches .command")
    name = find(browser, "#searches td small").text.split(",")[0]
    assert shown.text == f"rstar show --run run --round 1 --problem {name} --html tree.html"
    rstar(*shown.text.split()[1:], cwd=report.parent.parent)
    assert name in (report.parent.parent / "tree.html").read_text()
    odd = browser.execute_script('return [quoted("a/b_1.c"), quoted("two words"), quoted("it\'s")]')  # type: ignore[no-untyped-call]
    assert [shlex.split(word) for word in odd] == [["a/b_1.c"], ["two words"], ["it's"]]


def press(browser: Chrome, css: str) -> None:
    """Click what may lie outside of the window."""
    browser.execute_script("arguments[0].click()", find(browser, css))  # type: ignore[no-untyped-call]
