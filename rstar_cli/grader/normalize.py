r"""The normal form of an answer string: one spelling for what LaTeX, ASCII and Unicode write in many ways.

Only notation is changed here, never a value: spacing, sizing and font commands, synonyms of symbols, thousands
separators. What depends on policy (units, percent, choices, lists) is in `compare`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from rstar_cli.grader.printed import mathematical

MAX_LENGTH = 2_000
"""Characters of an answer; a longer one is compared by its letters alone."""
MAX_NESTING = 60
"""Brackets open at once in an answer; a deeper one is compared by its letters alone."""

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "°": r"^\circ ", "±": r"\pm ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≡": r"\equiv ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "′": "'", "’": "'",
    "“": '"', "”": '"', "〈": r"\langle ", "〉": r"\rangle ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
}  # fmt: skip
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega"
for _name in _GREEK.split():
    for _prefix, _spelled in (("SMALL", _name), ("CAPITAL", _name.capitalize())):
        _letter = unicodedata.lookup(f"GREEK {_prefix} LETTER {_name.replace('lambda', 'lamda').upper()}")
        _UNICODE[_letter] = f"\\{_spelled} "

_SYNONYMS = {
    r"\leq": r"\le", r"\leqslant": r"\le", r"\geq": r"\ge", r"\geqslant": r"\ge", r"\neq": r"\ne",
    r"\lt": "<", r"\gt": ">", r"\land": r"\text{ and }", r"\lor": r"\text{ or }", r"\div": "/",
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\degree": r"^\circ", r"\prime": "'",
    r"\vert": "|", r"\lvert": "|", r"\rvert": "|", r"\mid": "|", r"\dots": r"\ldots", r"\cdots": r"\ldots",
    r"\varnothing": r"\emptyset", r"\lgroup": "(", r"\rgroup": ")", r"\ast": "*", r"\colon": ":", r"\backslash": "\\",
    r"\infin": r"\infty", r"\euro": "€", r"\pounds": "£", r"\newline": " ", r"\arcsec": r"\operatorname{arcsec}",
    r"\mathrm": r"\text", r"\mathbf": r"\text", r"\mathit": r"\text", r"\mathsf": r"\text", r"\mathtt": r"\text",
    r"\textbf": r"\text", r"\textit": r"\text", r"\textrm": r"\text", r"\texttt": r"\text", r"\textsf": r"\text",
    r"\mbox": r"\text", r"\hbox": r"\text", r"\boldsymbol": r"\text", r"\textnormal": r"\text", r"\emph": r"\text",
}  # fmt: skip
_DROPPED = (
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle scriptstyle "
    "middle limits nolimits quad qquad enspace thinspace hfill displaylimits rm bf it"
)
_DROPPED_COMMANDS = frozenset("\\" + name for name in _DROPPED.split())
_KEPT = (
    "frac binom sqrt text operatorname boxed begin end cdot times le ge ne in notin cup cap subset setminus infty "
    "pi pm mp approx equiv sim angle triangle circ vec hat bar overline langle rangle lfloor rfloor lceil rceil "
    "sum prod bigcup bigcap int lim to rightarrow Rightarrow leftrightarrow partial nabla max min inf sup gcd lcm det "
    "dim log ln lg exp arcsin arccos arctan arccot sinh cosh tanh coth sin cos tan cot sec csc mathbb mathcal emptyset "
    "ldots pmod bmod mod hbar ell varepsilon vartheta varphi varrho phantom hline oslash"
)
_KNOWN = {*_KEPT.split(), *_GREEK.split(), *map(str.capitalize, _GREEK.split()), *_DROPPED.split()}
_KNOWN |= {name[1:] for name in _SYNONYMS}
_LONGEST_FIRST = sorted(_KNOWN, key=len, reverse=True)
_COMMAND = re.compile(r"\\\\|\\[a-zA-Z]+|\\[!,;:> ~]|~")
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("'", "'"), ('"', '"'), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LETTERS = re.compile(r"[A-Z0-9](?:\s*(?:,|and|or)\s*[A-Z0-9])+")
_WORDS = re.compile(r"(?:[^\W\d_]{3,}|(?i:no|on))(?:[ -][^\W\d_]+)*")
"""Words rather than products of letters: in these, capitals mean nothing."""
_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,]|\.\d*,)")
_ANGLED = re.compile(r"^<([^<>=]+,[^<>=]+)>$")
_FULL_STOP = re.compile(r"(?<!\.)\.$")
_BOLD = re.compile(r"^\*\*([^*]{1,80})\*\*")
_DOLLAR = re.compile(r"(?<!\\)\$")
_DOUBLED = re.compile(r"\\\\(?=[a-zA-Z])")
_BARE_TEXT = re.compile(r"\\text\s*([a-zA-Z\d])(?![a-zA-Z])")
_UNKNOWN = re.compile(r"\s*(\\?[a-zA-Z]+(?:_\{?\w+\}?)?(?:\(\w\))?)\s*=")
_EARLY = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"(?<=,)\s*(?:\.{3}|…)\s*(?=,)", r"\\ldots "),
        (r"(\\sqrt)\s?(\d{2,})", r"\1{\2}"),  # TeX would take the first digit alone, people don't
        (r"(?<=[\w)}])\s*\\q?quad\s*(?=[a-zA-Z](?:\(\w\))?\s*=)", ", "),  # a wide space between two equations
        (r"\\!\s*(?=,)|(?<=,)\\!\s*", ""),
        (r"\{:\}", ":"),
        (r"^\s*([a-zA-Z])\s+in\s+(?=[\[({\\])", r"\1\\in "),
        (r"\{([^{}]{1,60})\\choose([^{}]{1,60})\}", r"\\binom{\1}{\2}"),
        (r"\{,\}|(?<=\d)\\,(?=\d{3}(?!\d))", ","),
    )
)
"""Rewritings while spaces and commands still stand as they were written."""
_LATE = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"(\S)\s*,?\s*\(\s*(\w)\s*\\in\s*\\mathbb\s*\{?([ZNR])\}?\s*\)\s*\.?$", r"\1,\2\\in\\mathbb{\3}"),
        (r"\\(?:hat|vec)\s?\{\s*\\?([ijk])(?:math)?\s*\}", r"\\hat{\1}"),
        (r"\(\s*(?:\\text\{\s*mod\s*\}|\\?mod)(?![a-z])\s*(\w+)\)", r"\\pmod{\1}"),
        (r"\{\\circ\s*\}", r"\\circ "),
        (r"\^\s*\{\s*('+)\s*\}|\^\s*('+)", r"\1\2"),  # x^{\prime} is x'
    )
)
"""Rewritings of what the commands have become."""
_OUTWARD = re.compile(r"([\[\]])([^\[\](){}]+[,;][^\[\](){}]+)([\[\]])")
_SPACED_THOUSANDS = re.compile(r"-?\$?\d{1,3}(?: \d{3})+")
_ORDINAL = re.compile(r"(?<=\d)(?:\^?\{?\\text\{)?(?:st|nd|rd|th)\b\}?")
_TO = re.compile(r"(\d+) ?(?:\\text\{ ?to ?\}|to) ?(\d+)")
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{([a-zA-Z]+)\}")


def within_bounds(text: str) -> bool:
    """Whether an answer is small enough to be parsed."""
    if len(text) > MAX_LENGTH:
        return False
    depth = deepest = 0
    for char in text:
        depth += (char in "({[") - (char in ")}]")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING


def is_system(text: str) -> bool:
    """Whether a text tells one unknown a line: `x = 1`, `y = 2`."""
    names = [match and match[1] for match in map(_UNKNOWN.match, text.strip().split("\n"))]
    return 1 < len(set(names)) == len(names) <= 20 and None not in names


@lru_cache(maxsize=4096)
def normal_form(text: str) -> str:
    r"""Rewrite an answer in one notation: LaTeX, without what has no meaning.

    `\text{...}` stays (it is not a product of letters), except around a single letter. Spaces stay only between two
    letters or digits, where they part words or numbers.
    """
    if is_system(text):
        text = ", ".join(text.strip().split("\n"))
    text = _opened(mathematical(_FULL_STOP.sub("", _unwrap(text))))
    for pattern, written in _EARLY:
        text = pattern.sub(written, text)
    if _SPACED_THOUSANDS.fullmatch(text.strip()):
        text = text.replace(" ", "")
    text = _THOUSANDS.sub(_join_thousands, text)  # before spaces go: "100, 200" is a list
    text = _COMMAND.sub(_command, text)
    text = _OPERATOR_NAME.sub(r"\\\1 ", text)
    text = _TEXT.sub(_text, _BARE_TEXT.sub(r" \1 ", text))
    for old, new in (("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("==", "="), ("**", "^")):
        text = text.replace(old, new)
    for pattern, written in _LATE:
        text = pattern.sub(written, text)
    text = _OUTWARD.sub(_inward, text)
    if match := _TO.fullmatch(text.strip()):
        text = f"{match[1]}:{match[2]}"
    text = _spaces(text).rstrip(".,;:") if not text.endswith("...") else _spaces(text)
    return _unwrap(text)


def _opened(text: str) -> str:
    """Without marks around and within it that only a page needs: dollars, bold, doubled backslashes."""
    text = _unwrap(_plain_characters(text).strip())
    text = _ANGLED.sub(r"\\langle \1\\rangle ", _BOLD.sub(r"\1 ", text))
    if len(_DOLLAR.findall(text)) % 2 == 0:
        text = _DOLLAR.sub(" ", text)  # pairs: marks of mathematics, not dollars
    if r"\\begin" in text:  # every backslash was doubled
        return text.replace("\\\\", "\\")
    if r"\begin" not in text:  # there `\\` parts the rows; elsewhere it is a JSON escape that was never undone
        return _DOUBLED.sub(r"\\", text)
    return text


def string_form(normal: str, *, fold: bool = True) -> str:
    """The form in which two answers with the same letters are the same: of a normal form, fonts and braces aside.

    Args:
        normal: a normal form.
        fold: whether capitals of words mean nothing.
    """
    text = _TEXT.sub(lambda match: f" {match[1]} ", normal)
    text = re.sub(r"(?<=[_^])\{([a-zA-Z0-9])\}", r"\1", text)
    text = " ".join(_spaces(text).split()).strip('" ')
    text = _ORDINAL.sub("", text)
    text = text if text.endswith("..") else text.rstrip(".,;:")
    return text.casefold() if fold and _WORDS.fullmatch(text) else text


def _plain_characters(text: str) -> str:
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: f"^{{{match[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(r"([√∛])\s?(\d+(?:\.\d+)?)", r"\1{\2}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda match: f"_{{{match[0].translate(_SUBSCRIPTS)}}}", text)
    out = []
    for char in text:
        if char.isascii():
            out.append(char)
        elif char in _UNICODE:
            out.append(_UNICODE[char])
        else:
            plain = unicodedata.normalize("NFKC", char)
            fraction = re.fullmatch(r"(\d+)⁄(\d+)", plain)
            out.append(rf"\frac{{{fraction[1]}}}{{{fraction[2]}}}" if fraction else plain)
    return "".join(out)


def _unwrap(text: str) -> str:
    r"""Take off `$`, `\(`, `\boxed{}` and the like around the whole text, and a full stop after it."""
    while True:
        before = text
        text = text.strip()
        bare = text.rstrip(".") if not text.endswith("..") else text
        for opening, closing in _WRAPPERS:
            inner = bare[len(opening) : len(bare) - len(closing)]
            whole = bare.startswith(opening) and bare.endswith(closing) and len(bare) > len(opening) + len(closing)
            if whole and opening not in inner and closing not in inner:
                text = inner
                break
        else:
            match = _BOXED.match(bare)
            if match and closing_brace(bare, match.end() - 1) == len(bare) - 1:
                text = bare[match.end() : -1]
        if text == before:
            return text


def closing_brace(text: str, start: int) -> int:
    """Where the brace closes that opens at `start`; -1 if it doesn't."""
    depth = 0
    for i in range(start, len(text)):
        if i and text[i - 1] == "\\":  # an escaped brace is a bracket to be seen, not a group
            continue
        depth += (text[i] == "{") - (text[i] == "}")
        if not depth:
            return i
    return -1


def _command(match: re.Match[str]) -> str:
    command = match[0]
    if command == "\\\\":  # parts the rows of a matrix
        return command
    if command[1:].isalpha() and command[1:] not in _KNOWN:  # `\\cosx`: some data sets have lost their spaces
        known = next((name for name in _LONGEST_FIRST if command.startswith(name, 1)), None)
        if known:
            rest = command[1 + len(known) :]
            return _command_form("\\" + known) + " " + rest
    return _command_form(command)


def _command_form(command: str) -> str:
    if not command[1:].isalpha() or command in _DROPPED_COMMANDS:
        return "" if command == r"\!" or command in (r"\left", r"\right") else " "
    return _SYNONYMS.get(command, command) + ("" if command in _SYNONYMS else " ")


def _text(match: re.Match[str]) -> str:
    inner = match[1].strip()
    if len(inner) == 1 or _LETTERS.fullmatch(inner) or not re.search(r"[^\W\d]", inner):
        return f" {inner} "
    return rf"\text{{{match[1].strip()}}}"


def _spaces(text: str) -> str:
    text = re.sub(r"\s*_\s*", "_", " ".join(text.split()))
    text = re.sub(r"(?<=[^\w\s.]) (?=\S)|(?<=\w) (?=[^\w\s\\.])", "", text)
    text = re.sub(r"(?<=[\w}]) (?=\\)", "", text)  # a command ends what stands before it
    return re.sub(r"(\\[a-zA-Z]+) (?![a-zA-Z])", r"\1", text)


def _inward(match: re.Match[str]) -> str:
    """`]0, 1]` as `(0, 1]`: brackets that turn away leave the end out."""
    if (match[1], match[3]) == ("[", "]"):
        return match[0]
    return ("(" if match[1] == "]" else "[") + match[2] + (")" if match[3] == "[" else "]")


def _join_thousands(match: re.Match[str]) -> str:
    before = match.string[: match.start()]
    inside = before.count("(") + before.count("[") + before.count(r"\{") > before.count(")") + before.count("]")
    return match[0] if inside else match[0].replace(",", "")
