r"""Words and signs around a value: units, money, percent, degrees, number words, choice letters.

A unit that only one side names is overlooked: problems ask for it in their text, and answers give or omit it. Two known
units that differ are different answers. Percent is such a unit (`10\%` is `10`, and is not `0.1`).
"""

from __future__ import annotations

import re

from rstar_cli.grader.normalize import string_form

_UNITS = {
    "percent": "% percent pct percentage", "degree": "° degree deg", "dollar": "$ dollar usd buck", "cent": "cent ¢",
    "euro": "€ euro eur", "pound": "£ gbp", "rupee": "₹ rupee rs inr", "yuan": "¥ yuan rmb yen",
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter", "m": "m meter metre",
    "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
    "mile": "mi mile", "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day",
    "week": "week wk", "month": "month", "year": "year yr", "mg": "mg milligram", "g": "g gram gm",
    "kg": "kg kilogram kilo", "lb": "lb pound-mass", "oz": "oz ounce", "ton": "ton tonne", "ml": "ml milliliter",
    "l": "l liter litre", "gallon": "gal gallon", "acre": "acre", "hectare": "hectare ha", "newton": "newton",
    "joule": "joule", "watt": "watt", "volt": "volt",
    "radian": "rad radian", "unit": "unit",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_UNIT_OF |= {"mph": "mile/hour", "kmh": "km/hour", "kph": "km/hour"}
_MEASURES = frozenset(_UNITS) - {"unit"}
_AMBIGUOUS = frozenset({"m", "g", "s", "h", "l", "in", "a"})
"""Units of one letter are also variables: only in `\\text{}` or after a space do they count."""
_MONEY = re.compile(r"^(-?)(?:\\?\$|€|£|₹|¥|USD|US\\?\$|Rs\.?)\s*(?=[-\d.(\\])")
_SIGN = re.compile(r"(\\?%|\^\\circ\s*(?:C|F|\\text\{[CF]\})?|¢|€|£|\\?\$)$")
_TEXT_UNIT = re.compile(r"((?:(?:[/*]|\\cdot|\\text\{per\})?\s*\\text\{([^{}]*)\}(?:\^(?:\{-?\d\}|\d))?)+)$")
_WORD_UNIT = re.compile(
    r"(?<=[\d})!])(\s?)((?:(?:sq|cu|square|cubic|per)\.?\s?)*[a-zA-Z][a-zA-Z/ .-]*?\.?)(\^?\{?[23]\}?)?$"
)
_MATHEMATICAL = (
    "alpha beta gamma delta epsilon theta lambda sigma omega pi sqrt sinh cosh tanh log exp infty infinity frac mod"
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
NUMBER_WORDS = {word: i for i, word in enumerate(_ONES.split())} | {
    word: 10 * i for i, word in enumerate(_TENS.split(), 2)
}
NUMBER_WORDS |= {
    f"{ten}-{one}": NUMBER_WORDS[ten] + i for ten in _TENS.split() for i, one in enumerate(_ONES.split()[:10]) if i
}
_CHOICE = re.compile(r"\(?([A-J])\)?")
_LABELLED = re.compile(r"(?:\(([A-J])\)\s*|([A-J])[.):]\s*)([^\s=+*/^_<>,-].*)")


def split_unit(text: str) -> tuple[str, str]:
    """The value, and the unit (a canonical name, the words as they stand, or empty)."""
    if money := _MONEY.match(text):
        return money[1] + text[money.end() :], "dollar" if "$" in money[0] or "USD" in money[0] else "money"
    if sign := _SIGN.search(text):
        value = text[: sign.start()].strip()
        mark = sign[1].lstrip("\\")
        if value and (not mark.startswith("^") or re.fullmatch(r"[-+\d./ ]+|-?\\frac\{\d+\}\{\d+\}", value)):
            return value, "degree" if mark.startswith("^") else _UNIT_OF.get(mark, mark)
        return text, ""
    if (match := _TEXT_UNIT.search(text)) and text[: match.start()].strip():
        return text[: match.start()].strip(), _canonical(match[1])
    if match := _WORD_UNIT.search(text):
        words = match[2].strip()
        known = _canonical(words + (match[3] or ""))
        letters = words.replace(" ", "")
        if words in _AMBIGUOUS:
            known = known if match[1] else ""
        elif not _is_known(known) and not _is_phrase(words, spaced=bool(match[1])):
            known = ""
        if known and letters.lower() not in _MATHEMATICAL.split():
            return text[: match.start()].strip(), known
    return text, ""


def same_unit(gold: str, prediction: str) -> bool:
    """Whether two units may stand for the same one: only known units can differ."""
    return gold == prediction or not (_is_known(gold) and _is_known(prediction))


def number_word(text: str) -> str:
    """`five` as `5`; other texts unchanged."""
    value = NUMBER_WORDS.get(string_form(text).replace(" ", "-"))
    return text if value is None else str(value)


def choice_of(text: str) -> tuple[str, str] | None:
    """The letter of a multiple-choice answer and the text beside it (may be empty); None if it is none."""
    plain = string_form(text)
    if match := _CHOICE.fullmatch(plain):
        return match[1], ""
    if match := _LABELLED.fullmatch(plain):
        return match[1] or match[2], match[3]
    return None


def _is_phrase(words: str, *, spaced: bool) -> bool:
    """Words, as told from a product of variables: `5 red apples`, `3 ways`; not `2 xy`, `5 sin x`."""
    found = words.split()
    return (
        spaced
        and not any(word.lower() in _MATHEMATICAL.split() for word in found)
        and all(re.fullmatch(r"[a-zA-Z-]+\.?", word) for word in found)
        and any(len(word) >= 4 and re.search("[aeiouy]", word) for word in found)
    )


def _is_known(unit: str) -> bool:
    return bool(unit) and all(part in _MEASURES for part in unit.rstrip("23").split("/"))


def _canonical(words: str) -> str:
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", words).replace(r"\cdot", "*")
    plain = re.sub(r"[{}^]", "", plain).strip().lower().rstrip(".")
    plain = re.sub(r"\s+per\s+", "/", plain)
    if match := re.fullmatch(r"(square|sq|cubic|cu)\.?\s*(.+)", plain):
        plain = match[2] + ("2" if match[1].startswith("sq") else "3")
    power = plain[-1] if plain[-1:] in ("2", "3") else ""
    names = [_unit_name(part.strip()) for part in plain.rstrip("23").split("/")]
    return "/".join(names) + power


def _unit_name(word: str) -> str:
    for form in (word, word.removesuffix("s"), word.removesuffix("es")):
        if form in _UNIT_OF:
            return _UNIT_OF[form]
    return word.removesuffix("s")
