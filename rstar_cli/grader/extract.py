r"""The final answer in a model's text.

Only what the text marks or states as its answer counts; the last number of some paragraph is a guess and is not taken.
First the text is cut to what the model said itself, without its thoughts. Then, in this order: "final answer" after
every box; the last complete `\boxed{}`; `<answer>` tags; `####`; a box that the end of the text cuts off; "the answer
is ..." in several languages; a choice ("(B) is correct", a letter in bold or alone on the last line); the value that
the last sentence states (see `prose`).
"""

from __future__ import annotations

import re

from rstar_cli.grader.masking import FORMULA, Prose, has_words, masked, sentences
from rstar_cli.grader.prose import conclusion, said
from rstar_cli.grader.values import result, unmarked, values
from rstar_cli.prompts import ANSWER, ANSWER_END

_TAIL = 20_000
"""Characters from the end that are searched: a final answer doesn't stand further up."""
_MARKERS = 20
"""Markers that are looked at, from the end."""
_HEADER = re.compile(r"<\|im_start\|>\s*assistant|assistant<\|end_header_id\|>|\[/INST\]|<start_of_turn>model")
_PROMPTED = re.compile(
    r"\s*(?:<s>|<\|begin_of_text\|>)?\s*(?:<\|im_start\|>|<\|start_header_id\|>|\[INST\]|<start_of_turn>)"
)
_END_TOKEN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|endoftext|end_of_text|end|start_header_id)\|>|</s>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>|<eos>"
)
_OTHER_TURN = re.compile(r"\n[ \t]*(?:#+ |\*\*)?(?:Human|User|Student|Assistant)(?:\*\*)?:")
_OTHER_PROBLEM = re.compile(r"\n[ \t]*(?:#+ |\*\*)?(?:Question|Problem|Q|Exercise|Instruction)(?: ?\d+)?(?:\*\*)?[:.]")
_BOX = re.compile(r"(?:\\(?:boxed|fbox)|(?<![\w\\])boxed)\s?(?=\{)")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}$.,]{1,20})")
_TAGGED = re.compile(rf"{ANSWER}|{ANSWER_END}|</answer>")
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_NOUN = (
    r"(?:(?:final|correct|right)\s)?(?:answers?|ans|option|choice|result|solutions?)|r[ée]ponse(?:\sfinale)?"
    r"|respuesta(?:\sfinal)?|resultado|resposta(?:\sfinal)?|risposta(?:\sfinale)?|antwort|antwoord|ergebnis"
    r"|lösung|ответ"
)
_MARKER = re.compile(
    rf"""\b(?P<label>{_NOUN})\b(?:,[^,.\n]{{1,40}},)?(?:\s?\((?![A-J]\))[^()\n]{{0,40}}\))?[*_"']*\s*
    (?:(?:must\sbe|should\sbe|would\sbe|is|are|equals|est|es|é|è|ist|lautet|to\s[^.\n]{{0,60}}?\sis)\b
    (?:\s(?:therefore|thus|then)\b)?\s?:?|:|=|[—–-]\s|\.\s(?=\d)|(?=\d|{FORMULA}|-\d|\())
    (?!\s*not\b)[*_]*\s*
    |(?:答案|结果|正确选项|答え|解答|정답|답)\s*(?:应?(?:为|是|选)|は|은|는)\s*:?(?!\s*不)|(?:答案|答え?|정답|답)\s*:
    |(?<![^\n])A:(?=\s)|选择?\s*:?(?=\s*[A-J]\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(
    r"(?:^|\n)[ \t#*_]*(?:the )?(final answer|answer|result|solution)s?[*_]*:?[*_]*[ \t]*\n\s*", re.IGNORECASE
)
_DOUBTED = re.compile(
    r"\b(?:if|whether|suppose|assum\w+|n[o']t|\w+n't|unless|verify)\b[^.,;!?\n]{0,60}\Z", re.IGNORECASE
)
_BOLD_CHOICE = re.compile(r"\*\*\(?([A-J])\)?[.:)]?\*\*|\*\*\(?([A-J])[).:]\s[^*\n]{0,200}\*\*")
_CHOICE_ALONE = re.compile(r"\(?([A-J])\)?[.)]?")
_CHOICE_FIRST = re.compile(
    r"(?:option |choice |letter )?\s*(?:\(([A-J])\)|([A-J])[).:](?=\s)|([A-J])(?=[.,;:!?]|$| because| since"
    r"| as\b| \())\s*(.*)"
)
_CHOICE_IN_PROSE = re.compile(
    r"(?<![A-Za-z\\'(=])(?:\(([A-J])\)|([B-HJ])(?=[\s.,;:!?]|$)|(A)(?=[.,;:!?]|$))(?!\s*[=+^_])"
)
_CHOSEN = re.compile(
    r"(?<![A-Za-z\\'=,])(?:\b(?:option|choice|answer|statement) )?\(?\b([A-J])\)? is (?:therefore |thus |clearly )?"
    r"(?:the )?(?:only )?(?:correct|right|best|answer)(?: one| answer| option| choice)?\b(?!\?)"
)
_REFUTED = re.compile(r"\b(?:and|n?or|neither|if|whether|not|suppose|say|think)\b[^.,;!?\n]{0,12}\Z", re.IGNORECASE)
_RETRACTED = re.compile(r"\W*(?:no,|wait|actually|hmm|oops|but wait|that is wrong|that's wrong)\b", re.IGNORECASE)
_LABELLED_BOX = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf|textrm|bf|rm)\s?\{\s?\(?([A-J])\)?[.:]?(?:\\?[ ,]|~"
    r"|\\q?quad)*\}(?:\\[ ,;:]|[~\s]|\\q?quad)*(\S.*)",
    re.DOTALL,
)
_PRINTED = re.compile(r"[A-Z][\w ()'-]{1,60}:[ \t]*([^\n=:?]*\d[^\n=:?]*)")
_STEP_LABEL = re.compile(r"results?|solutions?|resultado|ergebnis|lösung")
_BULLET = re.compile(r"\A[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+")
_REFERS = re.compile(r"(?:is|are|was|were|can|can't|cannot|could|would|does|do|must|isn't)\b")
_CALCULATED = re.compile(r"<<[^<>\n]{0,100}>>")  # the calculator's notes in GSM8K
_HOPE = re.compile(r"\s*I hope it is correct\.?\s*\Z")  # the closing words of a widely used prompt
_WORDS = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")


def extract_answer(text: str) -> str | None:
    r"""The final answer that a text states, None if it states none.

    Args:
        text: a solution, or what follows its reasoning; only the part after a last `</think>` is read.

    Returns:
        The answer's text as it was written (neighbouring boxes joined by commas, blanks shortened), never empty.
    """
    given = text
    text = _BARE_BOX.sub(r"\\boxed{\1}", _own_words(text.rpartition("</think>")[2]))
    problem = _OTHER_PROBLEM.search(text)
    if problem and text[: problem.start()].strip() and (found := _answer(text[: problem.start()])):
        return found
    found = _answer(text) or _printed(text)
    if not found and ("</think>" in given or _END_TOKEN.search(given)):
        found = _alone(text)
    return found or None


def _alone(text: str) -> str:
    """A short line that is all there is between the thoughts and the end token."""
    line = text.strip().strip("*").rstrip(".").strip()
    return line if "\n" not in line and len(line) <= 200 and len(_WORDS.findall(line)) <= 4 and line[-1:] != "?" else ""


def _printed(text: str) -> str:
    """The value of the only line that a program printed: `Total: 12`."""
    match = _PRINTED.fullmatch(text.strip())
    return match[1] if match and not _WORDS.search(re.sub(r"[a-z]+\(|\bpi\b", "", match[1])) else ""


def _own_words(text: str) -> str:
    """What the model said: without a prompt before, chat tokens, and turns of others that it made up."""
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", re.sub(r"[^\S\n]+", " ", text)))  # long blanks cost time
    text = _CALCULATED.sub("", text)
    if _PROMPTED.match(text) and (header := _HEADER.search(text)):
        text = text[header.end() :]
    for mark in (_END_TOKEN, _OTHER_TURN):
        parts = mark.split(text)
        text = next((part for part in parts if part.strip()), "")
    return "" if "<think>" in text else _HOPE.sub("", text[-_TAIL:])


def _answer(text: str) -> str:
    boxes, is_cut = _boxes(text)
    prose = masked(text)
    found = (
        (_after_marker(masked(text[boxes[-1][1] :]), final=True) if boxes else "")
        or _boxed(text, boxes)
        or _tagged(text)
        or _after_hashes(text)
        or (_cut_box(text) if is_cut else "")
    )
    if found or is_cut:
        return found
    return _after_marker(prose) or _choice(text) or conclusion(text)


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


def _after_hashes(text: str) -> str:
    lines = [match[1].strip() for match in _HASHES.finditer(text)]
    return _in_short(lines[-1]) if lines else ""


def _in_short(marked: str) -> str:
    """The answer in a marked place: what it states if it is a sentence, else all of it."""
    return _after_marker(masked(marked)) or conclusion(marked) or marked


def _after_marker(prose: Prose, *, final: bool = False) -> str:
    """What follows the last "answer is" or heading, to the end of the sentence; `final`: of a final answer alone."""
    found = sorted([*_MARKER.finditer(prose.text), *_HEADING.finditer(prose.text)], key=lambda match: match.end())
    for match in found[: -_MARKERS - 1 : -1]:
        label = (match[1] or "").lower()
        if final and not label.startswith("final"):
            continue
        before = prose.text[max(0, match.start() - 80) : match.start()]
        if _DOUBTED.search(before.rpartition("\n")[2]):
            continue
        rest = prose.text[match.end() :]
        if _STEP_LABEL.fullmatch(label) and (len(found) > _MARKERS or not _ends_text(rest)):
            continue
        answer = _following(prose, rest)
        if answer and (label not in ("option", "choice") or _CHOICE_FIRST.fullmatch(answer)):
            return answer
        if label.startswith("final"):
            return ""
    return ""


def _ends_text(rest: str) -> bool:
    """Whether no value comes after the first sentence: "the result is 5; doubled, it is 10" is one step of many."""
    block = rest.lstrip().partition("\n\n")
    after = "".join(block[1:]) if "\n" in block[0] else "".join(sentences(rest[:_TAIL])[1:])
    return not re.search(rf"\d|{FORMULA}", after)


def _following(prose: Prose, rest: str) -> str:
    """The answer after a marker: lines of values that follow each other, or the rest of the sentence."""
    rest = rest.lstrip()
    block = [_BULLET.sub("", line) for line in rest[:1000].partition("\n\n")[0].split("\n")]
    if len(block) > 1 and all(re.search(rf"\d|{FORMULA}", line) and not has_words(line) for line in block):
        return ", ".join(prose.plain(line) for line in block)
    first, after = [*sentences(rest[:2000]), "", ""][:2]
    return "" if first.endswith("?") or _RETRACTED.match(after) else _stated(prose, first)


def _stated(prose: Prose, sentence: str) -> str:
    """The value in the rest of a sentence: its mathematics, a choice letter, or the words themselves."""
    sentence = sentence.replace("**", "").replace("`", "").strip(" *_\n")
    if not sentence or len(sentence) > 300:
        return ""
    if (first := _CHOICE_FIRST.fullmatch(sentence)) and not sentence.startswith(("A ", "I ")):
        letter = first[1] or first[2] or first[3]
        if _REFERS.match(first[4]):
            return ""
        beside = prose.plain(first[4]).strip(" .!") if first[1] or first[2] else ""
        return f"({letter}) {beside}".strip() if beside else letter
    words = len(_WORDS.findall(re.sub(FORMULA, " ", sentence)))
    if not has_words(sentence):
        return result(prose.plain(unmarked(sentence)))
    found = values(prose, f": {sentence}")
    linked = [value for value in found if value.lead == "link"]
    if len(linked) == 1 and (len(found) == 1 or found[0] is linked[0]):
        return result(linked[0].text)
    if any(value.lead == "part" for value in found) and not linked:
        return ""
    if words >= 2 and (choice := _CHOICE_IN_PROSE.search(sentence)):
        return choice[1] or choice[2] or choice[3]
    if answer := said(prose, f"Thus {sentence}"):
        return answer
    return prose.plain(sentence.rstrip(".!* "))


def _choice(text: str) -> str:
    """A letter that the text calls correct, shows in bold or puts alone on its last line."""
    chosen = list(_CHOSEN.finditer(text))
    letters = {match[1] for match in chosen if not _REFUTED.search(text[max(0, match.start() - 40) : match.start(1)])}
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    bold = list(_BOLD_CHOICE.finditer(text))
    if bold:
        return bold[-1][1] or bold[-1][2]
    above, _, line = text.strip().rpartition("\n")
    last = _CHOICE_ALONE.fullmatch(line.strip())
    return last[1] if last and above else ""
