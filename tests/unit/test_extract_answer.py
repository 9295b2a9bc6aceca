"""The final answer in prose: what counts as stated, what does not, and that junk costs no time."""

from __future__ import annotations

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


def test_what_comes_after_the_answer_is_left_out() -> None:
    check(
        {
            "The answer is 12.\n\n### Problem 2\nFind y.\n### Solution\ny = 13": "12",
            "The answer is 12.\n\n**Problem 3**\nWhat is 3 + 4?\nThe answer is 7.": "12",
            "The answer is 12.\n\n## Question\nWhat is 3 + 4?\n\n## Answer\n7": "12",
            "So the area is 12.\n\nNext problem: what is 3 + 4? The answer is 7.": "12",
            "The question (problem 2) asks for x.\nThe answer is 12.": "12",
            "The number is 13.\nThe number is 13.\nThe number is 13.\nThe number": "13",
            "The answer is 12. The answer is 12. The answer is 1": "12",
            "The first number is 13. The first": None,  # nothing was repeated: it is cut
            "B\n\nExplanation: 3 * 4 is 12.": "B",
            "8\n\nExplanation: 3 and 5 are added.": "8",
            "A man walks.\n\nExplanation: he is slow.": None,
            "The answer is 72.\n\nHmm, let me check: 36 + 36 = 72. Yes, the answer is correct.": "72",
            "The answer is 72.\n\nHmm, let me check: 36 + 35 = 71. No, the answer is incorrect.": None,
            "Hence\n\\[ y = Ce^{2x}, \\]\nwhere $C$ is a constant.": "y = Ce^{2x}",
            "Therefore, $x = 3$.\n\nWe can check: $2(3) + 1 = 7$. This is correct.": "x = 3",
        }
    )


def test_programs_are_no_prose() -> None:
    check(
        {
            "```python\nx = 5\n```\n```output\n55\n```\nSo the sum is 55.": "55",
            "```python\nanswer = 5\nprint(answer)\n```": None,
            "```python\nprint(5)\n```\nThis program prints it.": None,
            "The value of x**2 is 5.\nThus y = x**3": "y = x**3",
        }
    )


def test_doubted_refuted_and_hypothetical_answers_do_not_count() -> None:
    check(
        {
            "If there were 15 pages, say, the answer would be 15, but I cannot tell.": None,
            "If each box holds 4, the answer is 12.": "12",
            "So the answer would be 12.": "12",
            "He claims that the answer is 100, but this is wrong ... The right number is 99.": "99",
            "He claims that the answer is 100.": None,
            "I think the answer is 100.": "100",
            "She could eat 3, so the answer is 12.": "12",
            "One might expect that the answer is 12.": None,
            "The answer is 100, but we forgot one.": None,
            "The answer is 100 because 99 isn't enough.": "100",
            "The answer is 5 if n is even and 6 if n is odd.": None,
            "An incorrect answer is 36.": None,
            "The answer is definitely not 36.": None,
            "The answer is no longer 36.": None,
            "It is unlikely that the answer is 36.": None,
            "有人认为答案是42。": None,
            "John's answer is 36.": None,
            "Let's answer: 36": "36",
            "The answer is 12. However, the speed is not given.": None,
            "The answer is negative 5.": "-5",
            "The answer is 5% of 200.": None,
            "如果答案是5，则矛盾。": None,
            "我们无法确定答案，如果有15页，答案就是15。": None,
        }
    )


def test_other_languages() -> None:
    check(
        {
            "因此答案为：12天": "12",
            "所以答案选B。": "B",
            "故选：C．": "C",
            "故选：BCD．": "BCD",
            "综上所述，$a$ 的值为 **3**。": "3",
            "所以，一共有 **24** 种不同的排法。": "24",
            "所以x的值不是5。": None,
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
            "The correct answers are A, B, and D.": "A, B, D",
            "Answer : Option E": "E",
            "The correct option is: c) 36": "(C) 36",
            "The answer: a) 5 b) 6": "a) 5 b) 6",  # parts, no choice
            "The best choice is \\textbf{B}.": "B",
            "So we choose B.": "B",
            "Only option C satisfies this.": "C",
            "5 km in 1 h.\nHence option B.": "B",
            "A) 12: too small\nB) 15: works\n\n**B**": "B",
            "Let us check each option:\nA) 12\nB) 15": None,
            "**A)** 12\n**B)** 15\n**C)** 18": None,
            "Therefore, either A or B is correct.": None,
            "This doesn't match option C.": None,
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
            "Thus, the other leg is **12 m**.": "12 m",
            "So the slope is $\\frac{7}{2}$, and we're done.": r"\frac{7}{2}",
            "∴ x = 42": "x = 42",
            "They pay $5 each and $x$ is 3. The answer is $5.": "$5",
            "In total they walked 36 miles.": "36 miles",
            "So there are 36 since each of the 9 has 4.": "36",
            "Hence, the number is\n\n5": "5",
            "Domain: [0, 1]": "[0, 1]",
            "The answer is $4$. $\\square$": "4",
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
            "= 42": "42",
            "x - 4 = 3\nx = 3 + 4\nx = 7": "x = 7",
            "3x = 21\nx = 21/3\nx = 7": "x = 7",
            "(x-1)(x-2) = 0\nx = 1\nx = 2": None,
            "x + y = 5\nx = 2\ny = 3": None,
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
        "To find the total we add 12 and 15.",
        "Mary has 3 more apples than John.",
        "So far we have 42.",
        "Tom says it is 5. Ann says it is 6.",
        "Hence the claim that there are 12 solutions is false.",
        "There are 11 eggs in the first basket, 12 in the second.",
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
