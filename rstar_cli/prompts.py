r"""The step format: what a policy reads and writes, and how it is taken apart.

A solution is upstream's (microsoft/rStar, branch rStar-math, `rstar_deepthink/constants.py`), so that its data and
models fit::

    <|user|>:
    {problem}
    <|assistant|>: Let's think step by step and solve the problem with code.<code>
    # first step: comment lines, then code
    a = 6 * 7
    <end_of_step>
    # last step
    print(a)
    <end_of_code>
    <output>42<end_of_output>
    <answer>The answer is \boxed{42}<end_of_answer>

That is what its policies and PPMs are trained on; its own search has one newline more before <|assistant|>
(`step_delim`), which neither training has.

The prompt here ends with the opening `<code>`, so that every continuation is a step. Each segment (prompt, step, output
block, answer) is tokenised by itself, in training as in search.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rstar_cli.records import RowSegment

CODE = "<code>"
STEP_END = "<end_of_step>"
CODE_END = "<end_of_code>"
OUTPUT = "<output>"
OUTPUT_END = "<end_of_output>"
ANSWER = "<answer>"
ANSWER_END = "<end_of_answer>"

TAGS = (CODE, STEP_END, CODE_END, OUTPUT, OUTPUT_END, ANSWER, ANSWER_END)
STEP_STOPS = (STEP_END, CODE_END, ANSWER_END)
"""Tags that end a step."""
COMPLETION_STOPS = (CODE_END, ANSWER_END)
"""Tags that end a completion of several steps: the program's output must come before it can go on."""

PROMPT_HEAD = "<|user|>:\n"
PROMPT_TAIL = f"\n<|assistant|>: Let's think step by step and solve the problem with code.{CODE}"

OUTPUT_SHOWN = 1024
"""Characters of output that the policy gets to read; of longer output the first and last half (as upstream)."""

INSTRUCTIONS = f"""You solve mathematics problems with Python, one step at a time.
Each step is one or more comment lines that say what is done, then code that does it, closed by {STEP_END}
Later steps may use the variables of earlier ones. The last step prints the final answer and is closed by {CODE_END}
The printed output follows, then the answer in \\boxed{{}} between {ANSWER} and {ANSWER_END}
`math`, `fractions`, `itertools` and `sympy` can be imported."""


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example for a policy that never saw the format."""

    problem: str
    solution: str


FEW_SHOT = (
    Example(
        "A farmer packs 18 crates with 24 pears each. A quarter of all pears is sold. How many pears are left?",
        f"""
# Count all pears
total = 18 * 24
{STEP_END}
# A quarter is sold, so three quarters are left
left = total - total // 4
{STEP_END}
# Now print the final answer
print(left)
{CODE_END}
{OUTPUT}324{OUTPUT_END}
{ANSWER}There are \\boxed{{324}} pears left.{ANSWER_END}""",
    ),
    Example(
        "Find the sum of all real solutions of $2x^2 - 7x + 4 = 0$. Express your answer as a common fraction.",
        f"""
# Set up the equation
from sympy import symbols, solve
x = symbols('x')
roots = solve(2*x**2 - 7*x + 4, x)
{STEP_END}
# Both roots are real since 49 - 32 > 0; add them
total = sum(roots)
{STEP_END}
# Now print the final answer
print(total)
{CODE_END}
{OUTPUT}7/2{OUTPUT_END}
{ANSWER}The sum of the solutions is \\boxed{{\\frac{{7}}{{2}}}}.{ANSWER_END}""",
    ),
    Example(
        "How many two-digit numbers are divisible by both 4 and 6?",
        f"""
# Go through the two-digit numbers and keep those that both divide
hits = [n for n in range(10, 100) if n % 4 == 0 and n % 6 == 0]
{STEP_END}
# Now print the final answer
print(len(hits))
{CODE_END}
{OUTPUT}8{OUTPUT_END}
{ANSWER}There are \\boxed{{8}} such numbers.{ANSWER_END}""",
    ),
)


def render_prompt(problem: str, few_shot: int = 0) -> str:
    """The text before the first step.

    Args:
        problem: the problem's statement.
        few_shot: how many worked examples come first, 0 to `len(FEW_SHOT)`; 0 for a policy trained on the format.

    Raises:
        ValueError: few_shot out of range.
    """
    if not 0 <= few_shot <= len(FEW_SHOT):
        raise ValueError(f"few_shot must be 0 to {len(FEW_SHOT)}, not {few_shot}")
    asked = f"{PROMPT_HEAD}{problem}{PROMPT_TAIL}"
    if not few_shot:
        return asked
    shown = [f"{PROMPT_HEAD}{e.problem}{PROMPT_TAIL}{e.solution}" for e in FEW_SHOT[:few_shot]]
    return "\n\n".join([INSTRUCTIONS, *shown, asked])


def split_prompt(prompt: str) -> tuple[str, str]:
    """A prompt taken apart: (the problem, what the assistant's turn begins with); worked examples are left out.

    Of a prompt in another format all is the problem.
    """
    begin = prompt.rfind(PROMPT_HEAD)
    if begin < 0 or not prompt.endswith(PROMPT_TAIL):
        return prompt, ""
    return prompt[begin + len(PROMPT_HEAD) : -len(PROMPT_TAIL)], PROMPT_TAIL.partition(": ")[2]


def render_output(stdout: str) -> str:
    """The output block that follows a closed program, shortened to `OUTPUT_SHOWN` characters."""
    text = stdout.strip()
    if len(text) > OUTPUT_SHOWN:
        half = OUTPUT_SHOWN // 2
        text = f"{text[:half]}...{text[-half:]}"
    for tag in TAGS:  # what a program prints must not be able to close the block and speak as the policy
        text = text.replace(tag, "")
    return f"\n{OUTPUT}{text}{OUTPUT_END}\n"


@dataclass(frozen=True, slots=True)
class Step:
    """A step taken apart.

    Attributes:
        kind: `step` (the program goes on), `code` (it is closed), `answer`, or `malformed`.
        code: the Python of a `step` or `code`, comments included; empty else.
        answer: the boxed answer of an `answer`; None where it boxes nothing.
    """

    kind: Literal["step", "code", "answer", "malformed"]
    code: str = ""
    answer: str | None = None


def parse_step(text: str, *, after_code: bool) -> Step:
    """Take a sampled step apart.

    Args:
        text: the step with its closing tag.
        after_code: whether the program was closed before it, so that only an answer may follow.
    """
    body = text.strip()
    if after_code:
        if not body.endswith(ANSWER_END):
            return Step("malformed")
        return Step("answer", answer=last_boxed(body))
    for tag, kind in ((STEP_END, "step"), (CODE_END, "code")):
        if body.endswith(tag):
            code = body.removesuffix(tag).strip("\n").removeprefix(CODE)
            if any(other in code for other in TAGS) or not code.strip():
                return Step("malformed")
            return Step("step" if kind == "step" else "code", code=code.strip("\n"))
    return Step("malformed")


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{...}`, braces balanced; None if there is none."""
    end = len(text)
    while (start := text.rfind(r"\boxed{", 0, end)) >= 0:
        depth = 0
        for i in range(start + len(r"\boxed"), len(text)):
            depth += (text[i] == "{") - (text[i] == "}")
            if not depth:
                return text[start + len(r"\boxed{") : i].strip()
        end = start
    return None


def join_program(codes: Sequence[str]) -> str:
    """One program from the code of its steps."""
    return "\n".join(codes) + "\n"


_SEGMENT = re.compile(
    rf"\s*{OUTPUT}.*?{OUTPUT_END}\n?|.+?(?:{'|'.join(STEP_STOPS)}|(?=\s*{OUTPUT}.*?{OUTPUT_END})|\Z)", re.DOTALL
)


def split_solution(text: str) -> list[RowSegment]:
    """A solution's text in the segments that search tokenises: steps, what programs printed (`output`), the answer.

    Text without tags is one segment. Joined, the segments are the text.
    """
    return [
        RowSegment(text=piece, output=piece.lstrip().startswith(OUTPUT) and OUTPUT_END in piece)
        for piece in _SEGMENT.findall(text)
    ]
