r"""The final answer in a model's text.

Only what the text marks or states as its answer counts; the last number of some paragraph is a guess and is not taken.
First the text is cut to what the model said itself, without its thoughts, and to what it said before a next problem.
Then, in this order: "final answer" after every box; the last complete `\boxed{}`; `<answer>` tags; `####`; a box that
the end of the text cuts off; "the answer is ..." in several languages, unless it is doubted or taken back; a first line
before "Explanation:"; a choice ("(B) is correct", a letter in bold or alone on the last line); the value that the last
sentence states (see `prose`).
"""

from __future__ import annotations

import re
from itertools import islice

from rstar_cli.grader.masking import (
    END_TOKEN,
    FORMULA,
    OTHER_PROBLEM,
    TAIL,
    Prose,
    has_words,
    masked,
    own_words,
    sentences,
)
from rstar_cli.grader.prose import UNSURE, choice, conclusion, first_line, said, without_marks
from rstar_cli.grader.values import labelled, result, unmarked, values
from rstar_cli.prompts import ANSWER, ANSWER_END

_MARKERS = 20
"""Markers that are looked at, from the end."""
_PROBLEMS = 3
"""Headings of further problems before which an answer is looked for."""
_BOX = re.compile(r"(?:\\(?:boxed|fbox)|(?<![\w\\])boxed)\s?(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,]{1,20})")
_TAGGED = re.compile(rf"{ANSWER}|{ANSWER_END}|</answer>")
_JSON = re.compile(r'"(?:final_)?answer"\s*:\s*(?:"((?:[^"\\\n]|\\.){1,500})"|([-\d.]{1,40}))', re.IGNORECASE)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_NOUN = r"""(?:(?:final|correct|right)\s)?(?:answers?|ans|option|choice|result|solutions?)
    |(?:correct|right)\s(?:options|choices)|r[ée]ponse(?:\sfinale)?|respuesta(?:\sfinal)?|resultado|resposta(?:\sfinal)?|risposta(?:\sfinale)?|antwort|antwoord
    |ergebnis|lösung|ответ"""
_MARKER = re.compile(
    rf"""\b(?P<label>{_NOUN})\b(?:,[^,.\n]{{1,40}},)?(?:\s?\((?![A-J]\))[^()\n]{{0,40}}\))?[*_"']*\s*
    (?:(?:(?:must|should|would)\sbe|is|are|equals|of(?=\s*(?:[-\d$]|{FORMULA}))|est|es|é|è|ist|lautet|to\s[^.\n]{{0,60}}?\sis)\b
    (?:\s(?:therefore|thus|then|for\ssure|clearly|definitely|indeed|simply)\b)?\s?:?|:|=|[—–→-]\s|\.\s(?=\d)
    |(?=\d|{FORMULA}|-\d|\())(?!\s*(?:\w+ly\s)?(?:not|never|no\slonger)\b)[*_]*\s*
    |(?:答案|结果|正确选项|答え|解答|정답|답)\s*(?:应?(?:为|是|选)|は|은|는)\s*:?(?!\s*不)|(?:答案|答え?|정답|답)\s*:
    |(?<![^\n])A:(?=\s)|选择?\s*:?(?=\s*[A-J]+\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(
    r"(?:^|\n)[ \t#*_]*(?:the )?(final answer|answer|result|solution)s?[*_]*:?[*_]*[ \t]*\n\s*", re.IGNORECASE
)
_DOUBTED = re.compile(
    r"""\b(?:if|whether|suppose|assum\w+|n[o']t|\w+n't|unless|verify|unlikely|doubt\w*)\b[^.,;!?\n]{0,60}\Z
    |(?:(?<!\bI\ )(?<!\bwe\ )\b(?:claim|think|believe|guess|argue|suggest|expect)s?\b
    |\b(?:claimed|says|states|thought|might|may|could|textbook|example|previously|mistake|misconception)\b)(?:(?!\b(?:so|thus|hence|therefore)\b)[^,;]){0,80}\Z
    |\b(?:wrong|incorrect|expected|no|each|every|other|another|first|second|next|previous|possible|(?!Let)(?-i:[A-Z])\w+'s)\s\Z
    |\b(?:since|because)\s(?:the\s)?\Z|如果|若|假设|假如|有人|可能""",
    re.IGNORECASE | re.VERBOSE,
)
"""What comes before a marker in its sentence: a condition, a denial, what somebody else says, another's answer."""
_CONDITION = re.compile(r"\b(?:if|suppose|assum\w+|had|were)\b", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    rf"""\D{{0,30}}?(?:\d[\d.,/]{{0,15}}|{FORMULA})\W{{0,5}}(?:[a-z]+\W{{1,5}}){{0,3}}(?:but|however|although|unless|only\sif|had|\w+n't
    |does\snot|(?:is|was|are|be)\s(?:wrong|incorrect|impossible|not|too))\b|.*\bdepending\b|.*\bif\b.*\bif\b|[^.]*(?:不对|错|矛盾)""",
    re.IGNORECASE | re.VERBOSE,
)
_JUDGED = re.compile(
    r"(?:in)?correct|right|wrong|reasonable|confirmed|verified|valid|consistent|as follows", re.IGNORECASE
)
_CONFIRMED = re.compile(
    r"\b(?:yes|correct|right|match(?:es)?|confirm(?:s|ed)?|verified|checks out|holds|consistent)\b[^.!?\n]{0,60}\W*\Z",
    re.IGNORECASE,
)
_RETRACTED = re.compile(
    r"\W{0,20}(?:no[,.]|wait\b|actually\b|hmm|oops|but\b|however\b|(?:that|this)(?: is|'s) (?:wrong|incorrect|not)\b)",
    re.IGNORECASE,
)
_LABELLED_BOX = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|textrm|bf|rm)\s?\{\s?\(?([A-J])\)?[.:]?(?:\\?[ ,]|~"
    r"|\\q?quad)*\}(?:\\[ ,;:]|[~\s]|\\q?quad)*(\S.*)",
    re.DOTALL,
)
_STEP_LABEL = re.compile(r"results?|solutions?|resultado|ergebnis|lösung")
_BULLET = re.compile(r"\A[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text states, None if it states none.

    Args:
        text: a solution, or what follows its reasoning; only the part after a last `</think>` is read.

    Returns:
        The answer's text as it was written (neighbouring boxes joined by commas, blanks shortened), never empty.
    """
    given = text
    text = _BARE_BOX.sub(r"\\boxed{\1}", own_words(text.rpartition("</think>")[2]))
    for problem in islice(OTHER_PROBLEM.finditer(text), _PROBLEMS):
        if text[: problem.start()].strip() and (found := _answer(text[: problem.start()])):
            return found
    found = _answer(text)
    if not found and ("</think>" in given or END_TOKEN.search(given)):
        found = _alone(text)
    return found or None


def _alone(text: str) -> str:
    """A short line that is all there is between the thoughts and the end token."""
    line = text.strip().strip("*").rstrip(".").strip()
    return line if "\n" not in line and len(line) <= 200 and len(_WORDS.findall(line)) <= 4 and line[-1:] != "?" else ""


def _answer(text: str) -> str:
    boxes, is_cut = _boxes(text)
    prose = masked(text)
    found = (
        (_after_marker(masked(text[boxes[-1][1] :]), final=True) if boxes else "")
        or _boxed(text, boxes)
        or _tagged(text)
        or _after_hashes(text)
        or _in_json(text)
        or (_cut_box(text) if is_cut else "")
    )
    if found or is_cut:
        return found
    if (marked := _after_marker(prose)) is None:
        return choice(text)
    return marked or first_line(text) or choice(text) or conclusion(text)


def _boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """Start, end and content of the complete boxes that have one; and whether the text ends inside of a box."""
    boxes: list[tuple[int, int, str]] = []
    closing = _closing_braces(text)
    is_cut = False
    for match in _BOX.finditer(text):
        end = closing.get(match.end(), -1)
        is_cut = end < 0
        if end >= 0 and (not boxes or match.start() >= boxes[-1][1]):
            boxes.append((match.start(), end + 1, text[match.end() + 1 : end].strip()))
    while boxes and not boxes[-1][2]:
        boxes.pop()
    return boxes, is_cut


def _boxed(text: str, boxes: list[tuple[int, int, str]]) -> str:
    r"""The last box, with those just before it in the same sentence: `\boxed{1}` and `\boxed{2}`."""
    if not boxes:
        return ""
    answers = [boxes[-1][2]]
    for (_, end, content), (start, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if not _are_joined(text[end:start]) or not content or text[end:start].strip() == "=":
            break
        if content not in answers:
            answers.insert(0, content)
    labelled = _LABELLED_BOX.fullmatch(answers[0]) if len(answers) == 1 else None
    return f"({labelled[1]}) {labelled[2]}" if labelled else ", ".join(answers)


def _cut_box(text: str) -> str:
    """The content of a box without its closing brace, if only that is missing: no words, and no other open brace."""
    content = text[list(_BOX.finditer(text))[-1].end() + 1 :].strip().rstrip("$.").strip()
    is_whole = content.count("{") == content.count("}") and "\n" not in content and len(content) <= 100
    words = _WORDS.findall(re.sub(r"\\[a-zA-Z]+|\\text\{[^{}]*\}", "", content))
    return content if is_whole and len(words) <= 1 else ""


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
    """The content of the last answer tag; the end of the text closes it too."""
    marks = list(_TAGGED.finditer(text))
    for i in range(len(marks) - 1, -1, -1):
        if marks[i][0] == ANSWER:
            inner = text[marks[i].end() : marks[i + 1].start() if i + 1 < len(marks) else len(text)].strip()
            return inner and _in_short(inner)
    return ""


def _in_json(text: str) -> str:
    """The last `"answer": ...` of a reply in JSON."""
    found = _JSON.findall(text)
    return (found[-1][0] or found[-1][1]).strip() if found else ""


def _after_hashes(text: str) -> str:
    lines = [match[1].strip() for match in _HASHES.finditer(text)]
    return _in_short(lines[-1]) if lines else ""


def _in_short(marked: str) -> str:
    """The answer in a marked place: what it states if it is a sentence, else all of it."""
    return _after_marker(masked(marked)) or conclusion(marked) or marked


def _after_marker(prose: Prose, *, final: bool = False) -> str | None:
    """What follows the last "answer is" or heading, to the end of the sentence; `final`: of a final answer alone.

    None if the text ends with a sentence that only doubts such an answer.
    """
    nothing: str | None = ""
    found = sorted([*_MARKER.finditer(prose.text), *_HEADING.finditer(prose.text)], key=lambda match: match.end())
    for match in found[: -_MARKERS - 1 : -1]:
        label = (match[1] or "").lower()
        if final and not label.startswith("final"):
            continue
        rest = prose.text[match.end() :]
        before = re.split(r"[.!?]\s|\n", prose.text[max(0, match.start() - 160) : match.start()])[-1]
        if _DOUBTED.search(before) or ("would" in match[0] and _CONDITION.search(before)):
            nothing = nothing if len(sentences(rest[:TAIL])) > 1 else None
            continue
        if _STEP_LABEL.fullmatch(label) and (len(found) > _MARKERS or not _ends_text(rest)):
            continue
        if _is_retracted(rest):
            return "" if len(sentences(rest[:TAIL])) > 1 else None
        answer = _following(prose, rest)
        if _JUDGED.fullmatch(answer) and ":" not in match[0]:
            continue
        if answer and (label not in ("option", "choice") or labelled(prose, answer)):
            return answer
        if label.startswith("final"):
            return ""
    return nothing


def _is_retracted(rest: str) -> bool:
    """Whether what follows a marker takes its answer back, and doesn't confirm it in the end."""
    first, after = [*sentences(rest.lstrip()[:2000]), "", ""][:2]
    if _TAKEN_BACK.match(first) or re.fullmatch(r"(?:wrong|incorrect)\W*", first):
        return True
    last = sentences(rest[-300:])[-1:] or [""]
    return bool(_RETRACTED.match(after)) and (not _CONFIRMED.search(rest[-300:]) or bool(UNSURE.search(last[0])))


def _ends_text(rest: str) -> bool:
    """Whether no value comes after the first sentence: "the result is 5; doubled, it is 10" is one step of many."""
    block = rest.lstrip().partition("\n\n")
    after = "".join(block[1:]) if "\n" in block[0] else "".join(sentences(rest[:TAIL])[1:])
    return not re.search(rf"\d|{FORMULA}", after)


def _following(prose: Prose, rest: str) -> str:
    """The answer after a marker: lines of values that follow each other, or the rest of the sentence."""
    rest = rest.lstrip()
    block = [_BULLET.sub("", line) for line in rest[:1000].partition("\n\n")[0].split("\n")]
    if len(block) > 1 and all(re.search(rf"\d|{FORMULA}", line) and not has_words(line) for line in block):
        return ", ".join(prose.plain(line) for line in block)
    first = [*sentences(rest[:2000]), ""][0]
    return "" if first.endswith("?") else _stated(prose, first)


def _stated(prose: Prose, sentence: str) -> str:
    """The value in the rest of a sentence: its mathematics, a choice letter, or the words themselves."""
    sentence = without_marks(sentence)
    if not sentence or len(sentence) > 300:
        return ""
    if chosen := labelled(prose, sentence):
        return chosen
    if decided := re.match(r"(yes|no|true|false)[,;] ", sentence, re.IGNORECASE):
        return decided[1]
    if not has_words(sentence):
        return result(prose.plain(unmarked(sentence)))
    found = values(prose, f": {sentence}")
    linked = [value for value in found if value.lead == "link"]
    if len(linked) == 1 and (len(found) == 1 or found[0] is linked[0]):
        return result(linked[0].text)
    if any(value.lead == "part" for value in found) and not linked:
        return ""
    if answer := said(prose, f"Thus {sentence}"):
        return answer
    return prose.plain(sentence.rstrip(".!* "))
