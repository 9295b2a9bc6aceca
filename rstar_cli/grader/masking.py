r"""What a model said itself; prose whose mathematics is masked; its sentences.

Each formula becomes one character of a private Unicode plane, so that its full stops, line breaks and words can't be
mistaken for those of the prose. Both are found in a single pass, so that junk costs no time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

TAIL = 20_000
"""Characters from the end that are searched: a final answer doesn't stand further up."""
_HEADER = re.compile(r"<\|im_start\|>\s*assistant|assistant<\|end_header_id\|>|\[/INST\]|<start_of_turn>model")
_PROMPTED = re.compile(
    r"\s*(?:<s>|<\|begin_of_text\|>)?\s*(?:<\|im_start\|>|<\|start_header_id\|>|\[INST\]|<start_of_turn>)"
)
END_TOKEN = re.compile(
    r"<\|(?:im_end|im_start|eot_id|eom_id|endoftext|end_of_text|end|start_header_id)\|>|</s>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>|<eos>"
)
_OTHER_TURN = re.compile(r"\n[ \t]*(?:#+ |\*\*)?(?:Human|User|Student|Assistant)(?:\*\*)?:")
OTHER_PROBLEM = re.compile(
    r"""\n[ \t]*(?:(?P<mark>\#+\ |\*\*|\\(?:sub)*section\*?\{))?(?:(?:next|new|another|similar)\ )?
    (?:question|problem|q|exercise|instruction|example|task|题目|问题|例题?)(?:\ ?\d+)?
    (?:[*}]*(?:[.:：]|\ \()|(?(mark)[*}]*[ ]?(?=\n)|(?<=\d)(?=\n)))""",
    re.IGNORECASE | re.VERBOSE,
)
"""How the next problem begins that a model makes up."""
_PROGRAM = re.compile(r"(```[ ]?(?:python|py|sympy|cpp|java|javascript|matlab|r)\n)[^`]*(?=```)", re.IGNORECASE)
_CALCULATED = re.compile(r"<<[^<>\n]{0,100}>>")  # the calculator's notes in GSM8K
PLANE = 0xF0000
"""Code point of the first formula's mask: supplementary private use area A."""
FORMULA = "[\U000f0000-\U000fffff]"
_PICTURE = "[\u2600-\u27bf\U0001f300-\U0001faff\ufe0f]"
_DELIMITER = re.compile(r"\\(begin|end)\{(\w{1,20}\*?)\}|\\.|\$\$?|\n(?:[ \t]*\n)?", re.DOTALL)
_CLOSES = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}
_NOT_MATH = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}[ ,]+[a-zA-Z]{2,}|(?<![\\a-zA-Z{])(?:and|or|per|for|is|to|of)\b")
_PROVED = re.compile(r"\$?\\(?:blacksquare|square|Box)(?![a-zA-Z])\$?")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s?\{[^{}]{0,100}\}")
_FOREIGN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
_WIDE = str.maketrans({
    "，": ", ", "。": ". ", "：": ": ", "；": "; ", "！": "! ", "？": "? ", "．": ". ", "（": " (", "）": ") ",
    "、": ", ", "【": " ", "】": ": ",
})  # fmt: skip
_SENTENCE_END = re.compile(r"(?<=[^\s.])(?<!\\)[.!?]+(?=[\s*\"']|$)|\n")
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")
_KNOWN = "sqrt pi log ln sin cos tan exp infinity cm mm km kg ml mph am pm deg oz lb ft lcm gcd"
KNOWN_LETTERS = frozenset(_KNOWN.split())


@dataclass(frozen=True, slots=True)
class Prose:
    """A text whose formulas are masked."""

    text: str
    formulas: tuple[str, ...]

    def plain(self, text: str) -> str:
        """A part of it with its formulas, without their dollar signs."""
        return re.sub(FORMULA, lambda match: f" {self.formulas[ord(match[0]) - PLANE]} ", text).strip()


def own_words(text: str) -> str:
    """What the model said: without a prompt before, chat tokens, programs, and turns of others that it made up."""
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", re.sub(r"[^\S\n]+", " ", text)))  # long blanks cost time
    text = _CALCULATED.sub("", text)
    if _PROMPTED.match(text) and (header := _HEADER.search(text)):
        text = text[header.end() :]
    for mark in (END_TOKEN, _OTHER_TURN):
        parts = mark.split(text)
        text = next((part for part in parts if part.strip()), "")
    return "" if "<think>" in text else _without_loop(_PROGRAM.sub(r"\1", text[-TAIL:]))


def _without_loop(text: str) -> str:
    """Without a last sentence that breaks off in the middle of one that the text keeps repeating."""
    said = re.split(r"(?<=[.!?])\s+|\n+", text)
    last = said[-1].strip()
    if not last or not any(
        said.count(whole) > 1 for whole in set(said[-6:-1]) if whole.startswith(last) and whole != last
    ):
        return text
    return text[: text.rfind(last)]


def masked(text: str) -> Prose:
    """Replace the formulas; full stops and commas at their ends are the sentence's."""
    text = re.sub(rf"{FORMULA}|{_PICTURE}", " ", text).replace("i.e.", "that is")
    text = _PROVED.sub(" ", text)
    out: list[str] = []
    formulas: list[str] = []
    done = 0
    for start, end, content in _formulas(text):
        bare = content.strip().removesuffix("\\\\").strip()
        formulas.append(bare.rstrip(".,;!?").strip() or bare)
        mark = re.search(r"[.,;!?]\Z", bare) if not bare.endswith("\\!") else None
        out += [text[done:start], chr(PLANE + len(formulas) - 1), mark[0] if mark else ""]
        done = end
    rest = "".join([*out, text[done:]]).translate(_WIDE)
    rest = re.sub(rf"(?<=[\w:,])(\**)[ \t]*\n\s*(?={FORMULA})", r"\1 ", rest)  # a display goes on with its sentence
    rest = re.sub(rf"({FORMULA})\n(?=[a-z])", r"\1 ", rest)
    rest = re.sub(r"\b(is|are|equals)\n\s*(?=\**[-\d$](?!\d?[.)]\s))", r"\1 ", rest)
    rest = re.sub(r"\bnegative (?=\d)|(?<=is )minus (?=\d)", "-", rest)
    rest = re.sub(r"\\(?:textbf|textit|emph|text|mathbf)\s?\{([^{}]{0,100})\}", r"\1", rest)
    rest = re.sub(r"\s\.{3,}(?=\s)", ".", rest)
    rest = _FOREIGN.sub(lambda match: f" {match[0]} ", rest)
    return Prose(rest, tuple(formulas))


def _formulas(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of each formula, in one pass; a dollar sign before an amount is none."""
    found = []
    opening = ""
    start = inner = 0
    for match in _DELIMITER.finditer(text):
        mark = match[0]
        if opening and mark == (_CLOSES.get(opening) or rf"\end{{{opening}}}"):
            content = text[start : match.end()] if opening not in _CLOSES else text[inner : match.start()]
            money = opening == "$" and (
                text[match.end() : match.end() + 1].isdigit() or _NOT_MATH.search(_TEXT.sub("", content))
            )
            if not money and content.strip():
                found.append((start, match.end(), content))
                opening = ""
            elif money:
                start, inner = match.span()
        elif opening and mark[0] == "\n" and (len(mark) > 1 or opening == "$"):
            opening = ""
        elif not opening and (mark in _CLOSES or match[1] == "begin"):
            opening = mark if mark in _CLOSES else match[2]
            start, inner = match.span()
    return found


def has_words(text: str) -> bool:
    """Whether a masked text is prose, by words or Chinese, Japanese or Korean signs; names of functions are none."""
    return any(word not in KNOWN_LETTERS and not word.isupper() for word in _WORD.findall(text)) or bool(
        _FOREIGN.search(text)
    )


def sentences(text: str) -> list[str]:
    """The sentences of a masked text, with their closing marks."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]
    parts = (text[start:end].strip() for start, end in pairwise(ends))
    return [part for part in parts if part]
