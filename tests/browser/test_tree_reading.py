"""What a reader of a tree's page can see: whole steps, why a search failed, what figures mean; on any screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rstar_cli.records import Execution, ExecutionStatus, Problem, Rollout, StopReason, Tree, TreeNode, Verdict
from rstar_cli.report.tree import Shown, tree_page
from tests.browser.chrome import SIZES, resize
from tests.browser.conftest import visit
from tests.browser.test_tree_page import find

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

LONG = "# reduce the amount of all that there is by the percent of the day\n" + "\n".join(
    f"part_{i} = (first_amount + second_amount * {i}) // (third_amount - {i})" for i in range(4)
)
STATEMENT = "Ana fills 4 baskets with 4 marbles each. The number goes down by 25 percent, then by 50 percent. " * 4
OK = Execution(status=ExecutionStatus.OK)
RIGHT, WRONG = Verdict.CORRECT, Verdict.INCORRECT


def searched(verdicts: dict[int, list[Verdict]], *, prm: bool = True, failed: int = 0) -> Tree:
    """First steps whose long code differs in its last line; below each, a print and an answer for each verdict."""
    nodes, rollouts = [TreeNode(id=0, visits=9)], []

    def add(parent: int, text: str, stop: StopReason = StopReason.STEP, **more: Any) -> int:
        value = {"prm_score": 0.9 if len(nodes) % 2 else 0.2} if prm and stop is not StopReason.FAILED else {}
        depth = nodes[parent].depth + 1
        fields = {"visits": 1, "prior": -1.0, "execution": OK, **value, **more}
        nodes.append(TreeNode(id=len(nodes), parent=parent, depth=depth, text=text, stop=stop, **fields))
        return len(nodes) - 1

    for number, ends in verdicts.items():
        step = add(0, f"\n{LONG}\nresult = part_3 * ({number} + 1)<end_of_step>", visits=len(ends))
        for verdict in ends:
            closed = add(step, f"\nprint(result + {len(nodes)})<end_of_code>", StopReason.CODE)
            q = 1.0 if verdict is RIGHT else -1.0
            answer = "4" if verdict is RIGHT else str(len(nodes))
            leaf = add(closed, answer, StopReason.ANSWER, answer=answer, verdict=verdict, q=q, execution=None)
            rollouts.append(Rollout(leaf=leaf, reward=q))
    for number in range(failed):
        error = Execution(status=ExecutionStatus.ERROR, error=f"NameError: name 'x{number}' is not defined")
        add(0, f"\ny = x{number}<end_of_step>", StopReason.FAILED, visits=0, execution=error)
    add(0, "\nz = 1<end_of_step>", visits=0)
    return Tree(
        problem_id="p",
        prompt="P",
        seed=0,
        tokenizer="",
        tokens_generated=0,
        tokens_prefilled=0,
        rollouts=tuple(rollouts),
        nodes=tuple(nodes),
    )


def show(browser: Chrome, folder: Path, tree: Tree, method: str = "uct", *, asked: str = "", **more: str) -> None:
    """Open the page of a tree; `asked`: the PRM that was asked after the search, `more`: of the search's settings."""
    settings = {"method": method, "exploration": 2.0, **more}
    page, problem = folder / "tree.html", Problem(id="p", problem=STATEMENT, answer="4")
    page.write_text(tree_page(Shown(tree, problem, settings, "made", prm=asked)))
    visit(browser, page)


def js(browser: Chrome, script: str) -> Any:
    return browser.execute_script(script)  # type: ignore[no-untyped-call]


INKED = """
const inked = (e) => {
  const range = document.createRange();
  range.selectNodeContents(e);
  return range.getBoundingClientRect();
};
"""
"""The box of an element's text."""
CUT = (
    INKED
    + """
return [...document.querySelectorAll(".row")].flatMap((row) => {
  const box = row.getBoundingClientRect(), below = row.nextElementSibling?.getBoundingClientRect();
  const spans = [...row.querySelectorAll(".line > span")];
  const outer = row.querySelector(".line").getBoundingClientRect();
  const text = spans.map(inked);
  const cut = text.some((t) => t.right > outer.right + .5 || t.bottom > box.bottom + .5);
  return cut || (below && below.top < box.bottom - .5) ? [row.textContent] : [];
});
"""
)
"""Rows whose code is cut off at the side or below, or that lie over the next one."""


def test_code_of_rows_is_not_cut_off(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [RIGHT], 2: [WRONG], 3: [WRONG]}))
    find(browser, "#open").click()
    assert js(browser, CUT) == []
    js(browser, "choose(1)")
    assert js(browser, CUT) == []
    whole = find(browser, ".row.chosen .line").text
    kept = "".join(whole.split())
    assert kept == "".join(f"{LONG}\nresult = part_3 * (1 + 1)".split()), "a chosen step is shown whole"


def test_siblings_that_differ_at_their_end_look_different(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [RIGHT], 2: [WRONG], 3: [WRONG]}))
    rows = [line.text for line in browser.find_elements("css selector", ".row[aria-level='2'] .line")][:3]
    assert len(set(rows)) == 3
    for number, row in enumerate(rows, 1):
        assert row.startswith("…")
        assert f"({number} + 1)" in row


def test_it_says_where_solutions_went_wrong(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT, WRONG], 2: [WRONG] * 4})
    show(browser, tmp_path, tree)
    assert "Solved: 1 of 6" in find(browser, ".told").text
    (turn,) = [n.id for n in tree.nodes if n.parent == 0 and "(2 + 1)" in n.text]
    assert find(browser, f"#node-{turn} .mark").text == "wrong ↓"
    leaf = next(n.id for n in tree.nodes if n.stop is StopReason.ANSWER and n.id > turn)
    js(browser, f"choose({leaf})")
    told = find(browser, ".why").text
    assert f"first went wrong at step #{turn}" in told
    assert "(4 of 4), while 1 of 6 below the problem is right" in told
    js(browser, "document.querySelector('.why .link').click()")
    assert find(browser, ".row.chosen").get_attribute("data-id") == str(turn)
    assert "every finished solution below this step is wrong (4 of 4)" in find(browser, ".why").text


def test_the_best_solution_of_none_that_is_right(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [WRONG], 2: [WRONG, WRONG]}, prm=False))
    assert "Not solved: none of 3" in find(browser, ".told").text
    assert "All 3 answers differ" in find(browser, ".told").text
    find(browser, "#best").click()
    told = find(browser, ".why").text
    assert "No solution is right; this one is the first of them, which all have Q −1.00" in told
    assert "the right one is 4" in told
    assert "The tree can't tell where it went wrong: all 3 finished solutions are wrong" in told
    find(browser, "#filter option[value=right]").click()
    words = "No match for “ways to a right answer”: none of the 3 finished solutions is right."
    assert find(browser, "#nothing").text == words


def test_what_is_left_of_a_list_opens(browser: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, tmp_path, searched({1: [RIGHT]}, failed=30))
    more = find(browser, ".more summary")
    assert more.text.startswith("and 18 more")
    names = [link for link in browser.find_elements("css selector", "#detail .link") if "NameError" in link.text]
    assert sum(link.is_displayed() for link in names) == 12
    more.send_keys(Keys.ENTER)
    names = [link for link in browser.find_elements("css selector", "#detail .link") if "NameError" in link.text]
    assert sum(link.is_displayed() for link in names) == 30
    names[-1].send_keys(Keys.ENTER)
    assert "x29" in find(browser, ".row.chosen .line").text


def test_the_replay_can_be_read(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [RIGHT, WRONG], 2: [WRONG]}))
    width = find(browser, "#slider").size["width"]
    find(browser, "#next").click()
    for name in ("#next", "#back"):
        assert find(browser, name).is_enabled()
    find(browser, "#next").click()
    assert find(browser, "#slider").size["width"] == width
    heads = [head.text for head in browser.find_elements("css selector", ".choices th")]
    assert heads == ["next step", "N before", "Q before", "arithmetic", "score"]
    numbered = {row.text for row in browser.find_elements("css selector", ".row .number")}
    named = {
        cell.text.split()[-1] for cell in browser.find_elements("css selector", ".choices tr.taken td:first-child")
    }
    assert named
    assert {name for name in named if name.startswith("#")} <= numbered, "rows show the numbers that the replay names"
    told = dict(
        zip(
            [e.text for e in browser.find_elements("css selector", "#detail .symbols dt")],
            [e.text for e in browser.find_elements("css selector", "#detail .symbols dd")],
            strict=True,
        )
    )
    assert {"N", "W", "Q", "c"} <= set(told)
    assert "2 here" in told["c"]
    assert all(told.values())
    assert "before this rollout" in find(browser, "#detail .hint").text
    find(browser, "#next").click()
    assert not find(browser, "#next").is_enabled(), "it was the last one"


@pytest.mark.parametrize("method", ["uct", "puct", "mcts"])
def test_the_arithmetic_is_not_cut_off(browser: Chrome, tmp_path: Path, method: str) -> None:
    show(browser, tmp_path, searched({1: [RIGHT, WRONG], 2: [WRONG]}), method)
    js(browser, "goTo(3)")
    assert find(browser, ".choices th:last-child").text == "score"
    assert js(browser, "const e = document.querySelector('.scrolls'); return e.scrollWidth - e.clientWidth") <= 0
    rule = find(browser, "#detail .hint").text
    assert "the PRM's value of a step counts as one more rollout" in rule
    assert "comes first" not in rule, "a step that was never visited has the PRM's value"
    legend = js(browser, "return document.getElementById('legend-of').textContent")
    assert "the PRM's value of a step counts as one more rollout" in legend


def test_what_became_of_a_step(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT]})
    show(browser, tmp_path, tree)
    js(browser, "choose(1)")
    assert find(browser, "#detail .hint").text == "It ran; the solution goes on below it."
    js(browser, f"choose({len(tree.nodes) - 1})")
    assert find(browser, "#detail .hint").text == "It ran; nothing was tried below it."


def test_a_phone_has_room_for_the_tree(chromium: Chrome, tmp_path: Path) -> None:
    width, height = SIZES["phone"]
    resize(chromium, width, height)
    show(chromium, tmp_path, searched({1: [RIGHT]}))
    top = js(chromium, "return document.querySelector('main').getBoundingClientRect().top")
    assert top < height / 5
    statement = find(chromium, "#statement")
    small = statement.size["height"]
    find(chromium, "#about summary").click()
    assert statement.size["height"] > small, "the rest of the statement opens"
    assert find(chromium, "#facts").is_displayed()


def test_figures_stand_on_a_line_and_values_look_different(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [RIGHT], 2: [WRONG]}))
    script = """
    return [...document.querySelectorAll(".row")].map((row) =>
      [row.querySelector(".count"), ...row.querySelectorAll(".score b")]
        .filter((e) => e.textContent).map((e) => inked(e).bottom));
    """
    for bottoms in js(browser, INKED + script):
        assert max(bottoms, default=0) - min(bottoms, default=0) < 1
    bars = js(
        browser,
        "return [0.2, 0.9].map((v) => { const s = score(v), row = document.querySelector('.row');"
        "row.append(s); const w = s.querySelector('i').getBoundingClientRect().width; s.remove(); return w; })",
    )
    assert bars[1] > 4 * bars[0] > 8


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_steps_that_were_not_visited_can_be_read(chromium: Chrome, tmp_path: Path, dark: bool) -> None:
    resize(chromium, *SIZES["desktop"], dark=dark)
    show(chromium, tmp_path, searched({1: [RIGHT]}))
    js(chromium, "choose(nodes.length - 1)")
    script = """
    const linear = (x) => (x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map((x) => linear(x / 255));
      return .2126 * r + .7152 * g + .0722 * b; };
    const row = document.querySelector(".row.dim.chosen"), ground = light(getComputedStyle(row).backgroundColor);
    return [row.querySelector(".line"), row.querySelector(".mark"), row.querySelector(".number")].map((e) => {
      const ink = light(getComputedStyle(e).color);
      return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05); });
    """
    contrasts = js(chromium, script)
    resize(chromium, *SIZES["desktop"])
    assert all(contrast >= 4.5 for contrast in contrasts), contrasts
    assert chromium.get_log("browser") == []


def test_a_legend_explains_the_figures(browser: Chrome, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    show(browser, tmp_path, searched({1: [RIGHT]}), "swor")
    summary = find(browser, "#legend summary")
    summary.send_keys(Keys.ENTER)
    names = {name.text for name in browser.find_elements("css selector", "#legend dt")}
    assert {"N", "Q", "P", "PRM", "swor"} <= names
    box = find(browser, "#legend-of").rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= js(browser, "return innerWidth")
    summary.send_keys(Keys.ESCAPE)
    assert not find(browser, "#legend-of").is_displayed()


@pytest.mark.parametrize(("rules", "rule"), [("paper", "comes first"), ("upstream", "scores 0")])
def test_the_rule_for_untried_steps_without_a_prm(browser: Chrome, tmp_path: Path, rules: str, rule: str) -> None:
    show(browser, tmp_path, searched({1: [RIGHT, WRONG], 2: [WRONG]}, prm=False), rules=rules)
    js(browser, "goTo(1)")
    assert f"a step that was never visited {rule}" in find(browser, "#detail .hint").text
    scores = [e.text for e in browser.find_elements("css selector", ".choices td:last-child")]
    assert set(scores) == {"∞" if rules == "paper" else "0.00"}


def test_another_prm_than_the_search_had_gives_no_arithmetic(browser: Chrome, tmp_path: Path) -> None:
    show(browser, tmp_path, searched({1: [RIGHT, WRONG]}), prm="round 3", asked="round 4")
    js(browser, "goTo(2)")
    assert browser.find_elements("css selector", ".choices tr.taken")
    assert "arithmetic" not in find(browser, ".choices").text
    assert "not known here" in find(browser, "#detail .hint").text


def test_a_failed_step_shows_its_error_in_its_row(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT]}, failed=2)
    show(browser, tmp_path, tree)
    find(browser, "#filter option[value=all]").click()
    (failed, _) = [n.id for n in tree.nodes if n.stop is StopReason.FAILED]
    row = find(browser, f"#node-{failed} .line").text
    assert row.startswith("NameError: name")
    assert "y = x0" in row
    assert js(browser, CUT) == []


def test_why_a_rollout_came_to_no_answer(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT]}, failed=2)
    first, second = (n.id for n in tree.nodes if n.stop is StopReason.FAILED)
    lost = (Rollout(leaf=0, reward=-1.0), Rollout(leaf=1, reward=-1.0), Rollout(leaf=0, reward=-1.0))
    lost = tuple(rollout.model_copy(update={"tokens": 123_456}) for rollout in lost)
    show(browser, tmp_path, tree.model_copy(update={"rollouts": (*lost, *tree.rollouts)}), "swor")
    assert not browser.find_elements("css selector", ".ended")
    for number, failed, name in ((1, first, "x0"), (3, second, "x1")):
        js(browser, f"goTo({number})")
        words = f"#{failed}, failed: NameError: name '{name}' is not defined."
        assert words in find(browser, ".ended").text
        assert f"no answer, #{failed} failed, reward −1.00" in find(browser, "#told").text
        assert js(browser, "const e = document.getElementById('told'); return e.scrollWidth - e.clientWidth") <= 0
    js(browser, "goTo(2)")
    assert find(browser, ".ended").text == "Rollout 2 came to no answer; the tree doesn't tell why it ended at #1."
    js(browser, "goTo(4)")
    assert not browser.find_elements("css selector", ".ended"), "it has an answer"


def test_the_summary_tells_how_far_the_prm_is_trusted(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [WRONG], 2: [WRONG]})
    values = {n.id: 0.8 if n.depth == 1 and n.id > 1 else -0.9 for n in tree.nodes if n.depth and n.prm_score}
    show(browser, tmp_path, tree.model_copy(update={"nodes": tuple(_valued(tree, values))}))
    told = find(browser, "#detail").text
    assert "has the highest PRM value (−0.90): the PRM trusts none of them." in told
    (held,) = [n for n, value in values.items() if value > 0 and tree.nodes[n].visits]
    words = f"The PRM holds #{held} (0.80) for right, and every solution below it is wrong (1)."
    assert find(browser, ".doubted").text == words
    js(browser, "document.querySelector('.doubted .link').click()")
    assert find(browser, ".row.chosen").get_attribute("data-id") == str(held)


def _valued(tree: Tree, values: dict[int, float]) -> list[TreeNode]:
    return [node.model_copy(update={"prm_score": values.get(node.id)}) for node in tree.nodes]


def test_the_panel_has_the_words_of_the_chips(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT, WRONG]})
    show(browser, tmp_path, tree)
    for leaf in [n for n in tree.nodes if n.stop is StopReason.ANSWER]:
        js(browser, f"choose({leaf.id})")
        chip = find(browser, f"#node-{leaf.id} .mark").text
        assert f"Verdict: {chip}" in find(browser, "#detail .hint").text


def test_the_filter_line_counts_matches_and_rows(browser: Chrome, tmp_path: Path) -> None:
    tree = searched({1: [RIGHT], 2: [WRONG]}, failed=2)
    show(browser, tmp_path, tree)
    find(browser, "#filter option[value=dropped]").click()
    words = find(browser, "#shown").text
    assert words.endswith("2 match, 3 shown"), "the problem stands above them"
    if find(browser, "#open .wide").is_displayed():
        assert words.startswith(f"{len(tree.nodes)} nodes, ")
