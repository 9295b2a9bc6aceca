r"""The values in a clause of prose.

Tokens are told apart by their looks; runs of those that look like mathematics are values, with the unit that follows. A
value is led to by a link ("is", a colon), or not, or it is a part of something said in words ("3 out of 7").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rstar_cli.grader.masking import FORMULA, KNOWN_LETTERS, PLANE, Prose
from rstar_cli.grader.vocabulary import split_unit

ROWS = re.compile(r"\\begin\{(?:align|aligned|gather|gathered|equation|split|eqnarray|multline)\*?\}(?:\{\w*\})?")
_OPERATOR = re.compile(r"[-−–+*/^=<>≤≥≠≈×·÷±∪∩∈]+|\\(?:leq?|geq?|neq?|lt|gt|approx|pm|times|cdot|cup|cap|in)")
RELATION = re.compile(r"[=<>≤≥≈≠]|\\(?:leq?|geq?|neq?|lt|gt|approx|in)(?![a-zA-Z])")
_NAME = re.compile(r"[A-Za-z]|[A-Z]{2,3}|[a-zA-Z]\([a-z](?:,[a-z])?\)|[a-zA-Z]_\{?\w\}?")
_OPERATION = re.compile(
    r"\w+\([\d, ]+\)\Z|[A-Z]{2,}\Z|[A-Z]\s*(?:[∪∩]|\\c[ua]p)\s*[A-Z]|\\d?frac\{d|\\operatorname"
    r"|\\(?:angle|overline|int|iint|oint|sum|prod|lim|gcd|det|lcm|Pr|binom)(?![a-z])"
)
"""A left side that names what is to be computed; the right side is the value."""
_COMBINED = re.compile(r"[a-z]{2,3}|[a-z]{1,2}(?:\s?(?:[+-]|\\cdot)\s?[a-z]{1,2}){1,4}")
"""Sums and products of letters: a problem asks for the value of $m + n$."""
_NO_VARIABLE = re.compile(r"\\[a-zA-Z]+|(?<=[\d)%]) ?x ?(?=[(\d$.])|(?<=\d) [gmshl]\b")
"""Letters of a computation with numbers: commands, a times sign, short units."""
NAMED = re.compile(r"(?:\\[a-zA-Z]+\s*)*\{?[A-Za-z]{0,4}'?(?:_\{?\w{1,3}\}?)?\}?\s*(?:\([A-Za-z](?:,\s*[A-Za-z])*\))?")
_SMALL = (
    "in and or such of on at is as by to a the more left for per than if when also with from are was because since "
    "where which while after before until so but"
)
_NOT_A_UNIT = frozenset(_SMALL.split())
_LINKING = (
    "is are was were be been equals equal gives give get gets got obtain obtains yields have has had costs cost takes "
    "take needs need measures pays pay makes make it's that's lautet ist est es é è beträgt becomes remains at leaves "
    "with spent spends earns earned find finds there length contains factors simplifies reduces evaluates amounts "
    "comes = :"
)
_LINKS = frozenset(_LINKING.split())
_FILLING = (
    "exactly only about approximately roughly now then thus therefore also just at equal to a an total of the point "
    "points interval set values value simply given by precisely around still located length hence either us me as out "
    "be"
)
_FILLERS = frozenset(_FILLING.split())
_PART_BEFORE = re.compile(
    r"(?:\b(?:(?<!holds )for|when|if|negative|(?<!up )(?<!left )(?<!him )(?<!her )(?<!them )with|close to|near(?:ly)?"
    r"|almost|where|which|such that|substituting|setting|let|using|since|from|than|least|most|between|while|once|after"
    r"|before|within|until|last|mod|modulo|number|twice|thrice|half|double|plus|minus|times|over|prime to|into"
    r"|(?<!given )by|(?:root|sum|product|multiples?|factors?|powers?|difference|quotient|square|cube|half|third"
    r"|quarter|fraction|percent|out|logarithm) of(?: the)?)|%)\Z"
)
"""Words that make the value behind them a condition, or a part of something said in words."""
_PART_AFTER = re.compile(
    r"(?:times (?:the|as|more|less|\w+er|\d)|times\Z"
    r"|(?:more|less|fewer) (?:\w+ ){0,2}than|or (?:more|less|fewer)|squared|cubed"
    r"|of \$?\d+|million|billion|thousand|hundred|dozen|out of|divides|must|cannot|can|plus|minus|mod|to the"
    r"|factorial)\b|[|∣∤]"
)
_FOREIGN_LINK = re.compile(r".*(?:为|是|得|有|共|等于|到|は|은|는)")

_CHOICE_FIRST = re.compile(
    r"(?:[Oo]ption |[Cc]hoice |[Ll]etter |选项)?\s*(?:\(([A-J])\)|([A-J])[).:](?=\s)"
    r"|([A-J])(?=[.;:!?]|,(?! ?[A-J]\b)|$| because| since| as\b| \())\s*(.*)"
)
_CHOICES = re.compile(r"(?:[Oo]ptions |[Cc]hoices )?\(?[A-J]\)?(?:(?:,? and |, ?|,? & )\(?[A-J]\)?)+")
_SMALL_CHOICE = re.compile(r"\(?([a-j])\)(?:\s+|\Z)((?!.*\b[a-j]\)).*)")


@dataclass(frozen=True, slots=True)
class Value:
    """A run of mathematics in a sentence.

    Attributes:
        text: the run, formulas in place, with its unit.
        after: the rest of the sentence.
        lead: how it is led to: `link` ("is", "="), `part` (of more), or empty.
    """

    text: str
    after: str
    lead: str


def values(prose: Prose, clause: str) -> list[Value]:
    """The runs of mathematics in a clause: numbers, equations, lists, points."""
    clause = re.sub(r"(?<=\d) : (?=\d)", ":", clause)
    tokens = clause.replace("=", " = ").replace("< =", "<=").replace("> =", ">=").split()
    tokens = re.sub(r"(?<=\S):(?= |\Z)", " :", " ".join(tokens)).split()
    kinds = [_kind(prose, token) for token in tokens]
    found: list[Value] = []
    at = 0
    while at < len(tokens):
        end = _run_end(tokens, kinds, at) if kinds[at] != "word" else at
        if end > at and (value := _value(prose, tokens, at, end)):
            if found and kinds[at] == "operator" and kinds[max(0, at - 4) : at].count("word") < min(4, at):
                found.pop()  # `8 dog legs + 2 chicken legs = 10 legs`: the computation goes on
            found.append(value)
        at = max(end, at + 1)
    return found


def _kind(prose: Prose, token: str) -> str:
    """`value`, `operator`, `name` (a value only beside an operator) or `word`."""
    if _OPERATOR.fullmatch(token):
        return "operator"
    if token.rstrip(",.") in ("AM", "PM", "a.m", "p.m"):
        return "value"
    bare = token.strip("([{,.;:!?)]}")
    if len(token) > 1 and _OPERATOR.fullmatch(bare):
        return "value" if bare == "" else "operator"
    if formula := re.search(FORMULA, token):
        content = prose.formulas[ord(formula[0]) - PLANE]
        is_name = NAMED.fullmatch(content) and not re.search(r"\\(?:pi|infty|emptyset|varnothing|text)", content)
        return "name" if is_name else "value"
    if _NAME.fullmatch(bare):
        return "name"
    letters = re.findall(r"[^\W\d_]{2,}", re.sub(r"\\[a-zA-Z]+", "", token))
    if re.search(r"\d|\\[a-zA-Z]|[π∞√]", token) or bare in ("pi", "infinity"):
        ordinal = re.fullmatch(r"\d+(?:st|nd|rd|th|D)|\d+-[a-zA-Z]+.*", bare)
        return "word" if ordinal or not KNOWN_LETTERS.issuperset(letters) else "value"
    return "word"


def _run_end(tokens: list[str], kinds: list[str], start: int) -> int:
    """Where a run of values ends: "and", "or" and commas join them, a closing mark ends it."""
    at = start
    depth = 0
    while at < len(tokens):
        if kinds[at] == "word":
            joins = tokens[at] in ("and", "or") and at > start and kinds[at + 1 : at + 2] not in ([], ["word"])
            if not joins:
                break
        depth += sum(map(tokens[at].count, "([{")) - sum(map(tokens[at].count, ")]}"))
        at += 1
        if depth <= 0 and tokens[at - 1][-1] in ".;:!?":
            break
    return at


def _value(prose: Prose, tokens: list[str], start: int, end: int) -> Value | None:
    """The value of a run without stray names, dashes and its link, with its unit; None if nothing is left."""
    while start < end and _is_stray(prose, tokens, start, end):
        start += 1
    while end > start and (_OPERATOR.fullmatch(tokens[end - 1]) or _is_stray(prose, tokens, end - 1, end)):
        end -= 1
    run = unmarked(" ".join(tokens[start:end]))
    plain = prose.plain(run)
    is_formula = any(_kind(prose, token) == "value" for token in tokens[start:end])
    if not is_balanced(plain) and "=" in tokens[start:end]:  # `P(A or B) = 0.6`
        return _value(prose, tokens, end - tokens[start:end][::-1].index("="), end)
    if not run or not (is_formula or RELATION.search(plain)) or not is_balanced(plain):
        return None
    closed = tokens[end - 1][-1] in ",.;:!?"
    unit, used = (
        ("", 0) if closed or "$" in tokens[end - 1] or tokens[end - 1][-1] == "%" else _unit(tokens[end : end + 3])
    )
    if unit:
        run = f"{plain} {unit}" if re.fullmatch(r".*\d", plain) and "\\" not in plain else rf"{plain}\text{{ {unit}}}"
    after = " ".join(tokens[end + used :]).lower().lstrip(",;: ")
    is_told = RELATION.search(plain) or (start and tokens[start - 1] == "=")
    before = " ".join(tokens[max(0, start - 4) : start]).lower()
    is_part = bool(_PART_AFTER.match(f"{unit} {after}".lstrip()))
    is_part = is_part or bool(_PART_BEFORE.search(before))
    return Value(run if unit else plain, after, "part" if is_part else "link" if is_told else _lead(tokens[:start]))


def unmarked(run: str) -> str:
    """A run without the marks of the sentence; `12!.` is a factorial, `12!` an exclamation."""
    return run.rstrip(".") if run.endswith("!.") else run.rstrip(",.;:!?")


def _is_stray(prose: Prose, tokens: list[str], at: int, end: int) -> bool:
    """Whether a token at the edge of a run is no part of a value: a lone name, a joining word, an equals sign."""
    token = tokens[at]
    if (token in ("and", "or", "AM", "PM") and at < end - 1) or re.fullmatch(r"[=*/^×·÷]+|[,;:]", token):
        return True
    if token.startswith(("-", "+", "±", "<", ">")) or _kind(prose, token) != "name":
        return False
    beside = tokens[at + 1] if at + 1 < end else tokens[at - 1] if at else ""
    return token[-1] == "," or not _OPERATOR.fullmatch(beside)


def _unit(following: list[str]) -> tuple[str, int]:
    """A unit at the start of the following words, as the comparison knows it, and how many words it takes."""
    words = [word.rstrip(",.;:!?)") for word in following]
    sizes = [3] if words[1:2] == ["per"] else [2] if words and words[0] in ("square", "cubic", "sq", "cu") else [1]
    for size in sizes:
        unit = " ".join(words[:size])
        if unit in ("%", r"\%", "°") or (
            words and words[0] not in _NOT_A_UNIT and not words[0].istitle() and split_unit(f"1 {unit}")[1]
        ):
            return unit, size
    return "", 0


def _lead(before: list[str]) -> str:
    """How the words before a value lead to it, fillers aside: by a `link` or not."""
    bare = ""
    for word in before[::-1][:6]:
        later, bare = bare, word.lower().rstrip(",")
        if bare in _LINKS or _FOREIGN_LINK.fullmatch(bare):
            return "link"
        if bare not in _FILLERS and not (later == "of" and any(article in before[-5:] for article in ("a", "an"))):
            return ""
    return ""


def result(text: str) -> str:
    """The end of an equality chain or derivation; an equation for a name, or in several variables, stays whole."""
    if rows := ROWS.match(text):
        lines = [line.strip() for line in text[rows.end() : text.rfind("\\end")].split(r"\\")]
        text = next((line for line in reversed(lines) if line), "").replace("&", " ").strip(" .,")
    text = re.split(r"\\(?:implies|Rightarrow|Longrightarrow|therefore)(?![a-zA-Z])|[⇒→∴]", text)[-1].strip()
    sides = sides_of(text)
    if len(sides) < 2 or re.search(r"\b(?:and|or)\b", text):
        parts = re.split(r"\s(?:and|or)\s", text)
        return parts[-1] if len(parts) == 2 and re.match(r"\d+[a-z]\s?=", parts[0]) else text  # `2x = 18 and x = 9`
    last, signs = sides[-1][1], [sign for sign, _ in sides[1:]]
    if (signs[-1] == "≈" and len(sides) > 2) or (signs[-1] == "≈" and not NAMED.fullmatch(sides[0][1])):
        return result(text[: text.rfind(signs[-1])] if "≈" in text else text[: text.rfind(r"\approx")])
    is_value = not re.search(r"[a-zA-Z]", _NO_VARIABLE.sub("", sides[0][1]))
    if NAMED.fullmatch(last) and is_value and sides[0][1] and "\\" not in last:
        return sides[0][1]  # `10 = b`
    if len(sides) > 2 or is_value:
        return last
    is_asked = _COMBINED.fullmatch(sides[0][1]) and re.fullmatch(r"-?\d[\d,.]*", last)
    return last if is_asked or _OPERATION.match(sides[0][1]) else text


def sides_of(text: str) -> list[tuple[str, str]]:
    """The sides of a chain of equalities outside of brackets, each with the sign before it; one side if a list."""
    sides = []
    depth = start = 0
    sign = ""
    for match in re.finditer(r"\\approx(?![a-zA-Z])|\\[{}]|\\.|[({\[\]})=≈,;<>]", text):
        mark = match[0]
        if mark in "({[" or mark == r"\{":
            depth += 1
        elif mark in ")}]" or mark == r"\}":
            depth -= 1
        elif depth == 0 and mark in ",;<>" and not re.match(r",\d{3}(?!\d)", text[match.start() :][:5]):
            return [("", text)]
        elif depth == 0 and mark in ("=", "≈", r"\approx"):
            sides.append((sign, text[start : match.start()].strip()))
            sign, start = ("=" if mark == "=" else "≈"), match.end()
    return [*sides, (sign, text[start:].strip())]


def is_balanced(text: str) -> bool:
    """Whether as many brackets close as open; half-open intervals mix their kinds."""
    text = re.sub(r"\\[{}]|\\left|\\right", "", text)
    return sum(map(text.count, "([")) == sum(map(text.count, ")]")) and text.count("{") == text.count("}")


def labelled(prose: Prose, sentence: str) -> str:
    """The choice that a sentence starts with, or is a list of; empty if there is none."""
    if _CHOICES.fullmatch(sentence.rstrip(".")):
        return ", ".join(re.findall(r"\b[A-J]\b", sentence))
    if small := _SMALL_CHOICE.fullmatch(sentence):
        return f"({small[1].upper()}) {prose.plain(small[2]).rstrip('.')}".strip()
    first = _CHOICE_FIRST.fullmatch(sentence)
    if not first or sentence.startswith(("A ", "I ")):
        return ""
    letter = first[1] or first[2] or first[3]
    beside = prose.plain(first[4]).strip(" .!") if first[1] or first[2] else ""
    return f"({letter}) {beside}" if beside else letter
