"""Hostile texts: the answer is looked for in time that grows with their length."""

from __future__ import annotations

import random
import time

from rstar_cli.grader import extract_answer
from tests.unit.test_extract_answer import BUDGET

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
    *(
        "<|a|> ",
        "1/ and ",
        r"answer: \(",
        "\r",
        "\u00a0",
        "\u2003",
        "\n## Problem 2\n",
        " ... ",
        "```python\n",
        "A, B, ",
    ),
    *("Wait, ", "Explanation: ", r"\textbf{", "is\n", "if ", "would be ", "A) 1\n", "x = 1/2\n", "check ", "a) "),
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
