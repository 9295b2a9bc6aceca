"""The page of a search tree, clicked through in a real browser."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rstar_cli.jsonl import read_rows
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.records import Execution, ExecutionStatus, Problem, Rollout, StopReason, Tree, TreeNode, Verdict
from rstar_cli.report.tree import Shown, best_leaf, tree_page
from tests.browser.conftest import visit
from tests.browser.screenshots import take
from tests.helpers import rstar

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trees of the embedded policy, by method."""
    folder = tmp_path_factory.mktemp("trees")
    rstar("problems", "make", "--count", "2", "--levels", "5", "--output", "problems.jsonl", cwd=folder)
    asked = ("generate", "--problems", "problems.jsonl", "--rollouts", "24", "--enough", "0", "--escalate", "")
    for method in ("uct", "mcts", "swor"):
        rstar(*asked, "--method", method, "--output", f"{method}.jsonl", cwd=folder)
        rstar("show", "--trees", f"{method}.jsonl", "--problem", "2", "--html", f"{method}.html", cwd=folder)
    return {method: folder / f"{method}.jsonl" for method in ("uct", "mcts", "swor")}


def tree_of(searched: dict[str, Path], method: str) -> Tree:
    return list(read_rows(searched[method], Tree))[1]


def find(browser: Chrome, css: str) -> WebElement:
    return browser.find_element("css selector", css)


def steps(browser: Chrome) -> list[int]:
    return [int(row.get_attribute("data-id") or -1) for row in browser.find_elements("css selector", ".row")]


def test_what_the_page_tells(browser: Chrome, searched: dict[str, Path]) -> None:
    tree = tree_of(searched, "uct")
    visit(browser, searched["uct"].with_suffix(".html"))
    assert tree.problem_id in find(browser, "h1").text
    if not find(browser, "#facts").is_displayed():  # where there is little room
        find(browser, "#about summary").click()
    assert f"{len(tree.rollouts)}" in find(browser, "#facts").text
    assert 0 in steps(browser)
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")  # type: ignore[no-untyped-call]
    assert wide <= 0, "nothing sticks out to the side"
    ended = [node for node in tree.nodes if node.stop is StopReason.ANSWER and node.visits]
    right = [node for node in ended if node.verdict is Verdict.CORRECT]
    assert (f"Solved: {len(right)} of {len(ended)}" if right else "Not solved") in find(browser, ".told").text
    link = find(browser, ".links .link")
    ((answer, times),) = Counter(node.answer for node in ended).most_common(1)
    assert (link.text, find(browser, ".links td:last-child").text) == (answer or "none", str(times))
    browser.execute_script("arguments[0].click()", link)  # type: ignore[no-untyped-call]
    chosen = tree.nodes[int(find(browser, ".row.chosen").get_attribute("data-id") or -1)]
    assert (chosen.stop, chosen.answer) == (StopReason.ANSWER, answer)
    assert "The whole program" in find(browser, "#detail").text

    find(browser, "#best").click()
    best = best_leaf(tree)
    assert best is not None
    assert find(browser, ".row.chosen").get_attribute("data-id") == str(best.id)
    assert f"Answer #{best.id}" in find(browser, "#detail").text
    assert f"Verdict: {'right' if best.verdict is Verdict.CORRECT else 'wrong'}" in find(browser, "#detail").text
    code = tree.nodes[best.parent or 0]
    row = find(browser, f"#node-{code.id}")  # a click of the driver's scrolls first, which draws the rows anew
    browser.execute_script("arguments[0].click()", row)  # type: ignore[no-untyped-call]
    told = find(browser, "#detail").text
    assert "What it printed" in told
    assert code.execution is not None
    assert code.execution.stdout.strip() in told
    assert find(browser, "#detail pre .c").text.startswith("#"), "comments stand out"


def test_filters_and_folding(browser: Chrome, searched: dict[str, Path]) -> None:
    tree = tree_of(searched, "uct")
    visit(browser, searched["uct"].with_suffix(".html"))
    find(browser, "#open").click()
    for value, keep in (("all", lambda n: True), ("visited", lambda n: n.visits > 0)):
        find(browser, f"#filter option[value={value}]").click()
        kept = sum(keep(node) for node in tree.nodes)
        assert f"{kept:,} match, {kept:,} shown" in find(browser, "#shown").text
    find(browser, "#filter option[value=dropped]").click()
    dropped = {n.id for n in tree.nodes if n.stop in (StopReason.FAILED, StopReason.MALFORMED, StopReason.DUPLICATE)}
    shown = set(browser.execute_script("return state.rows"))  # type: ignore[no-untyped-call]
    assert dropped <= shown
    assert all(node in dropped or any(c.parent == node and c.id in shown for c in tree.nodes) for node in shown)
    find(browser, "#close").click()
    assert steps(browser)[0] == 0
    assert all(tree.nodes[i].parent in (None, 0) for i in steps(browser))


def test_keys(browser: Chrome, searched: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    count = len(tree_of(searched, "uct").rollouts)
    visit(browser, searched["uct"].with_suffix(".html"))
    find(browser, "#close").click()
    scroll = find(browser, "#scroll")
    scroll.send_keys(Keys.ARROW_DOWN)
    first = steps(browser)[1]
    assert find(browser, ".row.chosen").get_attribute("data-id") == str(first)
    scroll.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.execute_script("return nodes[state.chosen].parent") == first  # type: ignore[no-untyped-call]
    scroll.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert find(browser, ".row.chosen").get_attribute("aria-expanded") == "false"
    scroll.send_keys(Keys.END)
    assert int(find(browser, ".row.chosen").get_attribute("data-id") or -1) == steps(browser)[-1]
    scroll.send_keys("]")
    assert f"rollout {count} of {count}" in find(browser, "#told").text
    scroll.send_keys("[[")
    assert f"rollout {count - 2} of {count}" in find(browser, "#told").text


@pytest.mark.parametrize("method", ["uct", "mcts"])
def test_the_replay_explains_every_choice(browser: Chrome, searched: dict[str, Path], method: str) -> None:
    """The step that a rollout took has the highest score of those that were still to be entered."""
    tree = tree_of(searched, method)
    visit(browser, searched[method].with_suffix(".html"))
    script = "return ways.map((way, r) => way.slice(0, -1).map((id) => choice(id, r + 1)))"
    told: list[list[list[dict[str, Any]]]] = browser.execute_script(script)  # type: ignore[no-untyped-call]
    compared = 0
    for choices in told:
        for rows in choices:
            taken = [row for row in rows if row["taken"]]
            assert len(taken) == 1
            if method == "mcts" and taken[0]["fresh"]:
                continue  # it stands for the probability of all steps that are not known
            rivals = [
                float("inf") if row["value"] is None else row["value"] for row in rows if not row["over"]
            ]  # the others may be exhausted
            assert not taken[0]["visits"] or taken[0]["value"] >= max(rivals) - 1e-9
            compared += len(rivals) > 1
    assert compared > 1
    counted = browser.execute_script("return [...counts(ways.length).n]")  # type: ignore[no-untyped-call]
    assert counted == [node.visits for node in tree.nodes]

    find(browser, "#next").click()
    find(browser, "#next").click()
    assert f"rollout 2 of {len(tree.rollouts)}" in find(browser, "#told").text
    assert "What rollout 2 chose here" in find(browser, "#detail").text
    assert len(browser.find_elements("css selector", "#detail tr.taken")) == 1
    assert browser.find_elements("css selector", ".row.on"), "the way of the rollout stands out"


def test_five_thousand_nodes(browser: Chrome, tmp_path: Path) -> None:
    page = tmp_path / "large.html"
    page.write_text(tree_page(Shown(large_tree(5000), make_problems(1, 1)[0], {"method": "uct"}, "made")))
    assert page.stat().st_size < 3_000_000
    visit(browser, page)
    ready = browser.execute_script("return performance.getEntriesByType('navigation')[0].domInteractive")  # type: ignore[no-untyped-call]
    assert ready < 1000, "milliseconds until it can be used"
    find(browser, "#filter option[value=all]").click()
    find(browser, "#open").click()
    assert find(browser, "#shown").text.endswith("5,000 match, 5,000 shown")
    moves = "const t = performance.now(); for (let i = 0; i < 20; i++) choose(i * 200); return performance.now() - t"
    assert browser.execute_script(moves) < 20 * 100, "milliseconds a move"  # type: ignore[no-untyped-call]
    steps_back = "const t = performance.now(); for (let i = 0; i < 20; i++) goTo(250 - i); return performance.now() - t"
    assert browser.execute_script(steps_back) < 20 * 100, "milliseconds a rollout"  # type: ignore[no-untyped-call]
    for top in (0, 40_000, 150_000):
        browser.execute_script(f"document.getElementById('scroll').scrollTop = {top}; draw()")  # type: ignore[no-untyped-call]
        drawn = browser.execute_script("return document.querySelectorAll('.row').length")  # type: ignore[no-untyped-call]
        assert 5 < drawn < 80, "only what is in view is on the page"


def test_text_of_a_model_stays_text(browser: Chrome, tmp_path: Path) -> None:
    evil = "</script><script>document.title='caught'</script><img src=x onerror=\"document.title='caught'\">"
    nodes = (
        TreeNode(id=0, visits=1),
        TreeNode(id=1, parent=0, depth=1, text=f"\n# {evil}<end_of_step>", visits=1, q=1.0),
    )
    tree = Tree(
        problem_id=evil,
        prompt=evil,
        seed=0,
        tokenizer="",
        tokens_generated=1,
        tokens_prefilled=1,
        rollouts=(Rollout(leaf=1, reward=1.0),),
        nodes=nodes,
    )
    page = tmp_path / "evil.html"
    page.write_text(tree_page(Shown(tree, Problem(id="e", problem=evil, answer=evil), {}, evil)))
    visit(browser, page)
    find(browser, "#open").click()
    find(browser, "#node-1").click()
    assert evil in find(browser, "#detail").text
    assert browser.title != "caught"


def test_the_pictures_of_the_readme(chromium: Chrome, searched: dict[str, Path], tmp_path: Path) -> None:
    page = searched["uct"].with_suffix(".html")
    taken = take(page, page, tmp_path)
    assert [path.name for path in taken] == ["report.png", "viewer.png"]
    pictures = [path.read_bytes() for path in taken]
    assert all(10_000 < len(picture) < 200_000 for picture in pictures)
    assert [path.read_bytes() for path in take(page, page, tmp_path)] == pictures


def large_tree(count: int) -> Tree:
    """A made-up tree of so many nodes."""
    rng = random.Random(0)
    nodes = [TreeNode(id=0, visits=count)]
    for i in range(1, count):
        parent = rng.choice([n for n in nodes[-40:] if n.depth < 14] or nodes[:1])
        text = f"\n# step {i} of a made-up solution\nvalue_{i} = value_{parent.id} * {i} + {rng.randrange(1000)}"
        ran = Execution(status=ExecutionStatus.OK, stdout=json.dumps({"value": i}))
        nodes.append(
            TreeNode(
                id=i, parent=parent.id, depth=parent.depth + 1, text=f"{text}<end_of_step>", visits=1, execution=ran
            )
        )
    rollouts = tuple(Rollout(leaf=rng.randrange(1, count), reward=rng.choice((-1.0, 1.0))) for _ in range(256))
    return Tree(
        problem_id="large",
        prompt="P",
        seed=0,
        tokenizer="",
        tokens_generated=0,
        tokens_prefilled=0,
        rollouts=rollouts,
        nodes=tuple(nodes),
    )


def test_the_filter_shows_what_it_is_asked_for(browser: Chrome, searched: dict[str, Path]) -> None:
    """Ways to right and wrong answers lie open, without a click on the steps above them."""
    tree = tree_of(searched, "mcts")
    visit(browser, searched["mcts"].with_suffix(".html"))
    find(browser, "#close").click()
    for value, wanted in (("right", True), ("wrong", False)):
        find(browser, f"#filter option[value={value}]").click()
        shown = set(browser.execute_script("return state.rows"))  # type: ignore[no-untyped-call]
        ended = [node for node in tree.nodes if node.stop is StopReason.ANSWER and node.visits]
        leaves = {node.id for node in ended if (node.verdict is Verdict.CORRECT) is wanted}
        assert leaves <= shown
        if not leaves:
            assert find(browser, "#shown").text == f"none of {len(tree.nodes)} nodes"
            assert f"none of the {len(ended)} finished solutions is {value}" in find(browser, "#nothing").text
        assert find(browser, "#nothing").is_displayed() == (not leaves)
