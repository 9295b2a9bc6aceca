r"""The final answer in prose.

Only what the text marks as its answer counts; the last number of some paragraph is a guess and is not taken. In this
order: the last complete `\boxed{}`; `<answer>` tags; `####`; "the answer is ..."; a choice letter in bold or alone on
the last line; the value that the last sentence states ("Therefore $x \ge 5$.", "The angle is 90 degrees.").
"""

from __future__ import annotations

import re

from rstar_cli.prompts import ANSWER, ANSWER_END

_TAIL = 20_000
"""Characters from the end that are searched: a final answer doesn't stand further up."""
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_TAGGED = re.compile(rf"{ANSWER}(.*?)(?:{ANSWER_END}|</answer>|\Z)", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_MARKER = re.compile(
    r"""\b(?:final\s+answer|(?:correct|right)\s+(?:answer|option|choice)|answer|option|choice)\b
    (?:\s*\([^()\n]{0,40}\))?[*_"']*\s*
    (?P<link>(?:must\s+be|should\s+be|would\s+be|is|are|equals|to\s[^.\n]{0,60}?\sis)\b\s*:?|:|=|(?=\$|\\\(|\\\[|-?\d|\())
    (?!\s*not\b)[*_]*\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_MATH = re.compile(
    r"\$\$(.{1,1000}?)\$\$|\\\[(.{1,1000}?)\\\]|\\\((.{1,1000}?)\\\)|(?<![\\\d])\$([^$\n]{1,1000}?)(?<!\\)\$", re.DOTALL
)
_SENTENCE_END = re.compile(r"(?<=[^\s.])(?<!\\)[.!?](?=\s|\*|$)|\n\s*\n|\n(?=\S)")
_BOLD_CHOICE = re.compile(r"\*\*\(?([A-J])\)?[.:)]?\*\*|\*\*\(?([A-J])[).:]\s[^*\n]{0,200}\*\*")
_CHOICE_ALONE = re.compile(r"\(?([A-J])\)?[.)]?")
_CHOICE_IN_PROSE = re.compile(
    r"(?<![A-Za-z\\'(=])(?:\(([A-J])\)|([B-HJ])(?=[\s.,;:!?]|$)|(A)(?=[.,;:!?]|$))(?!\s*[=+^_])"
)
_COPULA = re.compile(r"(?:\b(?:is|are|it's|equals|be|was|were|gives?|get|obtain|have)|[=:])\s+(?=\S)")
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|so|finally|conclude|we (?:get|find|have|obtain)|answer|solution)\b", re.I
)
_ONE_VALUE = r"[-+\\$€£]*[\d.][\d.,/]*(?:\s?(?:\\?%|°|(?:square\s|cubic\s)?(?!and\b|or\b)[a-zA-Z²³/]+))?"
_VALUE = re.compile(rf"{_ONE_VALUE}(?:(?:,|,?\s(?:and|or))\s{_ONE_VALUE})*")
_STARTS_VALUE = re.compile(r"[-+]?\\?\$?\d|\$|\\\(")
_LOWER_WORD = re.compile(r"\b[a-z]{2,}\b")
_NUMBER = re.compile(r"(?<![\w.,])-?\\?\$?\d[\d,]*(?:\.\d+|/\d+)?%?(?![\w/])")
_COUNTED = re.compile(r"\bthere (?:are|is)(?: exactly| only)? (\d[\d,]*)\b", re.I)
_ROLE_TAIL = re.compile(r"(?:\s*<\|\w+\|>\s*(?:user|assistant|system)?)+\s*\Z")
_HOPE = re.compile(r"\s*I hope it is correct\.?\s*\Z")  # the closing words of a widely used prompt
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text states, None if it states none.

    Args:
        text: a solution, or what follows its reasoning; only the part after a last `</think>` is read.

    Returns:
        The answer's text as it was written (neighbouring boxes joined by commas, blanks shortened), never empty.
    """
    text = text.rpartition("</think>")[2][-_TAIL:]
    text = re.sub(r"\n\s*\n", "\n\n", re.sub(r"[ \t]{2,}", " ", text))  # long blanks make patterns slow
    text = _HOPE.sub("", _ROLE_TAIL.sub("", text))
    found = (
        _after_marker(text, final=True)
        or _boxed(text)
        or _tagged(text)
        or _after_hashes(text)
        or _after_marker(text)
        or _choice(text)
    )
    return found or _conclusion(text) or None


def _boxed(text: str) -> str:
    r"""The last complete box, with those just before it in the same sentence: `\boxed{1}` and `\boxed{2}`."""
    boxes: list[tuple[int, int, str]] = []
    closing = _closing_braces(text)
    for match in _BOX.finditer(text):
        end = closing.get(match.end(), -1)
        if end >= 0 and (not boxes or match.start() >= boxes[-1][1]):
            boxes.append((match.start(), end + 1, text[match.end() + 1 : end].strip()))
    while boxes and not boxes[-1][2]:
        boxes.pop()
    if not boxes:
        return ""
    answers = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _are_joined(text[end:start]) or not content:
            break
        if content not in answers:
            answers.insert(0, content)
    return ", ".join(answers)


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace closes, for those that do; escaped braces are text."""
    opened: list[int] = []
    closing: dict[int, int] = {}
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _are_joined(between: str) -> bool:
    r"""Whether the text between two boxes joins them to one answer: nothing, a comma, "and", a label or a few words."""
    if len(between) > 60 or "\n\n" in between or re.search(r"[.!?]\s", between):
        return False
    words = [word.lower() for word in _WORDS.findall(between)]
    linked = "and" in words or "or" in words
    rest = re.sub(r"\\[a-zA-Z]+|[\s${}()\[\]\\.&]", "", between)
    return linked and len(words) <= 4 if words else rest == "" or rest[0] in ",;" or rest.endswith("=")


def _tagged(text: str) -> str:
    tagged = [match[1].strip() for match in _TAGGED.finditer(text)]
    if not tagged or not tagged[-1]:
        return ""
    return _after_marker(tagged[-1]) or _conclusion(tagged[-1]) or tagged[-1]


def _after_hashes(text: str) -> str:
    lines = [match[1].strip() for match in _HASHES.finditer(text)]
    if not lines:
        return ""
    return _after_marker(lines[-1]) or _conclusion(lines[-1]) or lines[-1]


def _after_marker(text: str, *, final: bool = False) -> str:
    """What follows the last "answer is", to the end of the sentence; `final`: the final answer after every box."""
    start = max((match.end() for match in _BOX.finditer(text)), default=-1) if final else 0
    for match in reversed(list(_MARKER.finditer(text, start) if start >= 0 else ())):
        if final and not match[0].lower().startswith("final"):
            continue
        rest = text[match.end() :]
        if answer := _stated(_first_sentence(rest)):
            return answer
    return ""


def _first_sentence(text: str) -> str:
    """Up to the first full stop outside of mathematics."""
    text = text.lstrip()
    protected = [match.span() for match in _MATH.finditer(text[:2000])]
    for match in _SENTENCE_END.finditer(text):
        if not any(start < match.start() < end for start, end in protected):
            return text[: match.start()].strip()
    return text.strip()


def _stated(sentence: str) -> str:
    """The value in the rest of a sentence: its mathematics, a choice letter, or the words themselves."""
    sentence = sentence.strip(" *_\n")
    if len(sentence) > 300 or not sentence:
        return ""
    formulas = list(_MATH.finditer(sentence))
    outside = _MATH.sub(" ", sentence)
    words = len(_WORDS.findall(outside))
    if words > 1 and (formulas or not _CHOICE_IN_PROSE.search(sentence)) and (said := _after_copula(sentence)):
        return _stated(said)
    if formulas and words <= 1 + len(formulas):
        plain = _MATH.sub(lambda match: f" {_content(match)} ", sentence)
        return plain.strip(" *").rstrip(".")
    if formulas:
        return _content(formulas[-1])
    if words >= 2 and (choice := _CHOICE_IN_PROSE.search(sentence)):
        return choice[1] or choice[2] or choice[3]
    if words >= 4 and len(numbers := _NUMBER.findall(sentence)) == 1:
        return str(numbers[0])
    return sentence.rstrip(".* ")


def _choice(text: str) -> str:
    bold = list(_BOLD_CHOICE.finditer(text))
    if bold:
        return bold[-1][1] or bold[-1][2]
    above, _, line = text.strip().rpartition("\n")
    last = _CHOICE_ALONE.fullmatch(line.strip())
    return last[1] if last and above else ""


def _conclusion(text: str) -> str:
    """The value that the last sentence states, if that sentence is prose with a single value at its end."""
    text = text.strip()
    sentence = _last_sentence(text)
    if concluding := list(re.finditer(r"\b(?:Therefore|Thus|Hence|So|Finally)\b", sentence)):
        sentence = sentence[concluding[-1].start() :]  # solutions forget full stops
    if not _WORDS.search(_MATH.sub(" ", sentence)) or len(sentence) > 400:
        return ""
    formulas = list(_MATH.finditer(sentence))
    if len(formulas) == 1 and (_CONCLUSION.search(sentence) or len(_MATH.findall(text)) == 1):
        after = sentence[formulas[0].end() :].strip(" .")
        return f"{_content(formulas[0])} {after}".strip() if _VALUE.fullmatch(f"1 {after}") else _content(formulas[0])
    said = _after_copula(sentence).rstrip(".")
    if formulas and said.endswith(formulas[-1][0]) and len(said) == len(formulas[-1][0]):
        return _content(formulas[-1])
    if not formulas and _CONCLUSION.search(sentence) and (counted := _COUNTED.search(sentence)):
        return counted[1]
    if not said and (match := re.match(r"(?:therefore|thus|hence|so|finally),?\s+(?=[\\\d-])", sentence, re.I)):
        value = sentence[match.end() :]
        return "" if _WORDS.search(value) else value.rstrip(".")
    return said if _VALUE.fullmatch(said) and len(_LOWER_WORD.findall(sentence)) >= 2 else ""


def _after_copula(sentence: str) -> str:
    """What follows the last "is", "=" and the like; empty if two of them state values (`x is 3 and y is 4`)."""
    protected = [match.span() for match in _MATH.finditer(sentence)]
    ends = [
        match.end()
        for match in _COPULA.finditer(sentence)
        if not any(start < match.start() < end for start, end in protected)
    ]
    if sum(bool(_STARTS_VALUE.match(sentence, end)) for end in ends) > 1:
        return ""
    return sentence[ends[-1] :] if ends else ""


def _last_sentence(text: str) -> str:
    protected = [match.span() for match in _MATH.finditer(text)]
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(text.rstrip(". "))
        if not any(start < match.start() < end for start, end in protected)
    ]
    return text[ends[-1] :].strip() if ends else text


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()
