"""The final answer in prose: what counts as stated, what does not, and that junk costs no time."""

from __future__ import annotations

import random
import time

import pytest

from rstar_cli.grader import extract_answer

BUDGET = 0.05
"""Seconds for 20,000 characters of anything, on an idle core; the tests allow ten times as much."""


def check(cases: dict[str, str | None]) -> None:
    assert {text: extract_answer(text) for text in cases} == cases


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"We get \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} at first, later \boxed{2}", "2"),
        (r"\boxed{2}, and the last one \boxed{is cut", "2"),
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"\boxed{3}. I check: \boxed{3}", "3"),
        (r"It is \boxed{\{1,2\}}", r"\{1,2\}"),
        ("<answer>12</answer>", "12"),
        ("<answer>The answer is \\boxed{12}<end_of_answer>", "12"),
        ("He pays 5 * 3 = 15.\n#### 15", "15"),
        ("The answer is 12.", "12"),
        ("The answer is .5", ".5"),
        ("The answer is $.5$.", ".5"),
        ("**Answer:** $x^2$", "x^2"),
        ("The final answer is $3\\sqrt{2}$. I hope it is correct.", r"3\sqrt{2}"),
        ("The answer is 7. Wait, the answer is 8.", "8"),
        ("So the correct option is (C).", "C"),
        ("We compare all.\n**C**", "C"),
        ("We compare all.\n(C)", "C"),
        ("Thus the value of x is 7.", "7"),
        ("Therefore $x \\ge 5$.", r"x \ge 5"),
        ("The angle is 45 degrees.", "45 degrees"),
        ("<think>the answer is 3</think>The answer is 4", "4"),
        (r"\boxed{3} was wrong. Final answer: 4", "4"),
        ("The answer is 5<|im_end|>", "5"),
    ],
)
def test_extracts_what_the_text_states(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12",
        "x = 5",
        r"\boxed{",
        r"\boxed{}",
        "We add 3 and 4 and then 5",
        "AB = 5, CD = 6",
        "x is 3 and y is 4",
        "The answer is not 5",
        "the answer is",
        "No option was chosen.",
    ],
)
def test_does_not_guess(text: str) -> None:
    assert extract_answer(text) is None


def test_only_the_models_own_words_count() -> None:
    check(
        {
            "The answer is 6.\n\nHuman: What is 9 + 9?\n\nAssistant: The answer is 18.": "6",
            "#### 30\n\nProblem: Tom has 5.\n#### 12": "30",
            "Restated.\nProblem: What is 3 + 4?\nThe answer is 7.": "7",  # nothing is answered above
            "The answer is 8.</s>": "8",
            "45<|eot_id|>": "45",
            "<|im_start|>user\nIs it 3?<|im_end|>\n<|im_start|>assistant\nThe answer is 4.<|im_end|>": "4",
            "<think>18? No.</think>\n\n19": "19",
            "<think>18 or so</think>\n\n**No solution**": "No solution",
            "<think>We find x = 5. So the answer is 5": None,
            "<think>5</think>\nIs it 5?": None,
            "Human: What is 3 + 3?\nI don't know about 3": None,
        }
    )


def test_boxes_that_are_odd_or_cut() -> None:
    check(
        {
            r"So boxed{\frac{2}{7}}": r"\frac{2}{7}",
            r"Thus \boxed{\frac{3}{8}": r"\frac{3}{8}",
            r"So it is $\boxed{144": "144",
            r"Thus \boxed{\frac{3": None,
            r"For 2024 we get S = \boxed{": None,
            r"\boxed{1 and then we go on": None,
            r"the area is $\boxed{\textbf{(B)}\ 12+8\pi}$": r"(B) 12+8\pi",
            r"$\boxed{\textbf{B}}$": r"\textbf{B}",
            r"unboxed{3}": None,
        }
    )


def test_headings_and_markers() -> None:
    check(
        {
            "Final answer:\n\nx = 2\ny = 3": "x = 2, y = 3",
            "## Answer\n\n\\[\n\\frac{7}{3}\n\\]": r"\frac{7}{3}",
            "The solutions are:\n- x = 2\n- x = 5": "x = 2, x = 5",
            "The answer is 3 + 4 = 7.": "7",
            "The answer is 8, not 7.": "8",
            "The answer is 5. Actually, no: I forgot to halve it.": None,
            "If the answer is 6, then we": None,
            "I don't think the answer is 6": None,
            "So the answer is 5?": None,
            "The answer is 3 out of 7.": None,
            "The answer is twice 7.": None,
            "The result is 5. We add 3 and go on to 9 or 10.": None,
        }
    )


def test_other_languages() -> None:
    check(
        {
            "因此答案为：12天": "12",
            "所以答案选B。": "B",
            "故选：C．": "C",
            "故答案为：$-3$．": "-3",
            "所以概率为$\\frac{1}{2}$。": r"\frac{1}{2}",
            "答案不是5": None,
            "La réponse est 12.": "12",
            "Die Antwort ist 12.": "12",
            "La respuesta es 12.": "12",
            "Следовательно, ответ: 9.": "9",
            "答えは 7 です。": "7",
            "정답은 15입니다.": "15",
        }
    )


def test_choices() -> None:
    check(
        {
            "Thus, option A is correct.": "A",
            "(B) is the right choice.": "B",
            "The right answer is choice B.": "B",
            "The correct option is (C) 45 miles.": "(C) 45 miles",
            "Options A, B and C are incorrect, so D is the correct answer.": "D",
            "Option A is not correct because it is negative.": None,
            "Neither A nor B is correct.": None,
            "Is B correct? Let us check the": None,
            "A is correct. B is correct.": None,
        }
    )


def test_the_last_sentence_states_its_value() -> None:
    check(
        {
            "Of 3 boxes each gets 5 apples, which gives a total of 15 apples.": "15 apples",
            "Since the price is 80 dollars and the discount is 25%, the sale price is $60.": "$60",
            "The number of handshakes is C(9, 2) = 36 (each pair shakes hands once).": "36",
            "In conclusion, there are $2^{10} = 1024$ subsets.": "1024 subsets",
            "The arc has length $6\\pi$ cm.": r"6\pi\text{ cm}",
            "The foci are therefore located at (-1, 0) and (1, 0).": "(-1, 0) and (1, 0)",
            "So there are 8 dog legs + 2 chicken legs = 10 legs in all.": "10 legs",
            "The remainder when 100 is divided by 7 is 2.": "2",
            "So 36 is the largest such number.": "36",
            "So the area is $16$. ∎\n\nI hope this helps!": "16",
            "There are five ways.": "five",
            "Therefore $m + n = 97 + 8 = 105$.": "105",
            "Therefore $m + n = 105$.": "105",
            "Therefore $2x + y = 5$.": "2x + y = 5",
            "We can conclude that it is 18 cm.": "18 cm",
            "Hence the equation has no solution.": "no solution",
            "The conjugate of 3 - 4i, that is, 3 + 4i.": "3 + 4i",
        }
    )


def test_derivations_and_printed_values() -> None:
    check(
        {
            "\\begin{align*}\nd &= \\sqrt{36+9} \\\\\n&= 3\\sqrt{5}.\n\\end{align*}": r"3\sqrt{5}",
            "There are 8! ways. 8! = 40,320": "40,320",
            "Subtracting 1:\nx = 15 - 1\nx = 14": "x = 14",
            "2*sqrt(3)\n3.46410161513775\n": "3.46410161513775",
            "```python\nprint(5)\n```\n```output\n5\n```": "5",
            "```python\nx = 5\n": None,
            "from sympy import *\nx = 7": None,
            "NameError: name 'f' is not defined (line 3)": None,
            "Solving: 2x + 1 = 10\n2x = 9": None,
            "The two roots\nx = 1\nx = 2": None,
            "x = 2,\ny = 3": None,
        }
    )


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot solve this; 3 is not enough.",
        "How many of the 100 are even?",
        "Find the value of x if x + 2 = 4.",
        "First, note that there are 10 apples in",
        "Multiplying 4 by 6 we get 24, which we then divide by",
        "This gives $x = 7$, which is impossible.",
        "This gives 7, which is too large.",
        "So the answer might be 7.",
        "Therefore 7 is not prime.",
        "Mary is 12 and Tom is 15.",
        "Mary is now 12 years old and will be 15 in 3 years.",
        "He has 3 red balls, 4 blue balls and 5 green balls.",
        "Hence the sequence has period 7 and the 100th term equals the 2nd term.",
        "So the length is 7 times the width.",
        "So there are at least 3 of them.",
        "Therefore n is divisible by 3.",
        "For n = 5 the claim holds.",
        "Let x = 5.",
        "We are told that he has 18 coins.",
        "So there are nearly 18 hours in between.",
        "Thus 18 | n.",
        "Step 2: Compute the area",
        "Thus x = 15. But this contradicts the assumption.",
    ],
)
def test_prose_that_states_no_result(text: str) -> None:
    assert extract_answer(text) is None


JUNK = [
    *(r"\boxed{", "boxed{", "$", "$1 ", "$a ", "$$", r"\(", r"\[", "answer is ", "The answer is 5. ", "Answer\n"),
    *(
        "\n",
        " \n x",
        "\t",
        "\x0b",
        "\n\t",
        "\u2028",
        "<answer>",
        "#### 5\n",
        "**A** ",
        "A is correct. ",
        "(A) ",
        "x = ",
    ),
    *(
        "1, ",
        "1 and ",
        "so ",
        "因此",
        "答案是",
        "答:",
        "选A",
        "- 1\n",
        "1. x\n",
        "```",
        "(",
        "( a b ",
        "{",
        "\\{",
        " (a b",
    ),
    *(
        r"\begin{align}",
        r"x&=1\\",
        "=",
        "a=b ",
        r"\text{",
        "\u3042",
        "a",
        "A",
        "7,",
        "- ",
        "*",
        ". ",
        "! ",
        "\U000f0000",
    ),
    *(
        "<|im_end|>",
        "\nUser:",
        "\nQuestion:",
        "<think>",
        "</think>",
        "answer to ",
        "answer (",
        "So ",
        "1 square ",
        "** ",
    ),
]


def junk() -> list[str]:
    """20,000 characters each: a piece repeated, behind a marker too, and pieces in random order."""
    chance = random.Random(1)
    pieces = [*JUNK, *("".join(chance.choices(JUNK, k=4)) for _ in range(60))]
    texts = [(piece * 20_000)[:20_000] for piece in pieces]
    return (
        texts + [f"So the final answer: {text[:19_900]}" for text in texts] + ["".join(chance.choices(JUNK, k=5_000))]
    )


def test_extraction_is_quick_on_hostile_text() -> None:
    for text in junk():
        start = time.process_time()
        extract_answer(text)
        assert time.process_time() - start < 10 * BUDGET, text[:60]
