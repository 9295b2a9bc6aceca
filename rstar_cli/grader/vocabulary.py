r"""Words and signs around a value: units, money, percent, degrees, number words, choice letters.

A unit that only one side names is overlooked: problems ask for it in their text, and answers give or omit it. Two known
units that differ are different answers. Percent is such a unit (`10\%` is `10`, and is not `0.1`).
"""

from __future__ import annotations

import re

from rstar_cli.grader.normalize import string_form
from rstar_cli.grader.policy import Policy

_UNITS = {
    "percent": "% percent pct percentage", "degree": "° degree deg", "dollar": "$ dollar usd buck", "cent": "cent ¢",
    "euro": "€ euro eur", "pound": "£ gbp", "rupee": "₹ rupee rs inr", "yuan": "¥ yuan rmb", "yen": "yen",
    "mm": "mm millimeter millimetre", "cm": "cm centimeter centimetre", "dm": "dm decimeter", "m": "m meter metre",
    "km": "km kilometer kilometre", "inch": "in inch inche", "foot": "ft foot feet", "yard": "yd yard",
    "mile": "mi mile", "second": "s sec second", "minute": "min minute", "hour": "h hr hour", "day": "day",
    "week": "week wk", "month": "month", "year": "year yr", "mg": "mg milligram", "g": "g gram gm",
    "kg": "kg kilogram kilo", "lb": "lb pound-mass", "oz": "oz ounce", "ton": "ton tonne", "ml": "ml milliliter",
    "l": "l liter litre", "gallon": "gal gallon", "acre": "acre", "hectare": "hectare ha", "newton": "newton",
    "joule": "joule", "watt": "watt", "volt": "volt",
    "radian": "rad radian", "unit": "unit", "kw": "kw kilowatt", "mw": "mw megawatt",
    "celsius": "celsius °c", "fahrenheit": "fahrenheit °f",
}  # fmt: skip
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
_UNIT_OF |= {"mph": "mile/hour", "kmh": "km/hour", "kph": "km/hour"}
_MEASURES = frozenset(_UNITS) - {"unit"}
_AMBIGUOUS = frozenset({"m", "g", "s", "h", "l", "in", "a"})
"""Units of one letter are also variables: only in `\\text{}` or after a space do they count."""
_TEMPERATURES = {"C": "celsius", "F": "fahrenheit"}
_MONEY = re.compile(r"^(-?)(\\?\$|€|£|₹|¥|USD|US\\?\$|EUR|Rs\.?)\s*(?=[-\d.(\\])")
_SIGN = re.compile(r"(\\?%|\^\\circ\s*(?:[CF]|\\text\{[CF]\})?|¢|€|£|\\?\$)$")
_ANGULAR = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|arc)|\^\\circ")
"""Where the last degree sign belongs to a part of the value alone."""
_TEXT_UNIT = re.compile(r"((?:[/*]|\\cdot)?\s*\\text\{([^{}]*)\}(?:\^(?:\{-?\d\}|\d))?)$")
_WORD_UNIT = re.compile(
    r"(?<=[\d})!])(\s?)((?:(?:sq|cu|square|cubic|per)\.?\s?)*[a-zA-Z][a-zA-Z/ .-]*?\.?)(\^?\{?[23]\}?)?$"
)
_SAYING_MORE = (
    "or and not is are isn minus plus times more less least most about over under squared cubed percent "
    "wrong right tenths tenth hundredths thousandths halves thirds fourths quarters fifths with without "
    "remainder only if factorial modulo base to from than each thousand million billion trillion hundred "
    "january february march april june july august september october november december divided by "
    "multiplied"
)
_NO_UNITS = frozenset(_SAYING_MORE.split())
"""Words after a number that say more than a unit: the number alone is another answer."""
_MATHEMATICAL = (
    "alpha beta gamma delta epsilon theta lambda sigma omega pi sqrt sinh cosh tanh log exp infty infinity frac mod"
)
_QUANTITY = re.compile(r"(\d[\d./]*)\s?([a-zA-Z]+)\.?,?\s?(?:and\s)?")
_CHOICE = re.compile(r"\(?([A-J])\)?")
_LABELLED = re.compile(r"(?:\(([A-J])\)\s*|([A-J])[.):]\s*)([^\s=+*/^_<>,-].*)")


def split_unit(text: str) -> tuple[str, str]:
    """The value, and the unit (a canonical name, the words as they stand, or empty)."""
    if money := _MONEY.match(text):
        return money[1] + text[money.end() :], _unit_name(money[2].lstrip("\\").lower().rstrip(".").replace("us$", "$"))
    if sign := _SIGN.search(text):
        value = text[: sign.start()].strip()
        mark = sign[1].lstrip("\\")
        if value and not (mark.startswith("^") and _ANGULAR.search(value)):
            scale = re.search("[CF]", mark.replace("circ", ""))
            return value, _TEMPERATURES[scale[0]] if scale else "degree" if mark[0] == "^" else _unit_name(mark)
        return text, ""
    value, unit = text, ""
    while (match := _TEXT_UNIT.search(value)) and value[: match.start()].strip():
        value, unit = value[: match.start()].strip(), match[1] + unit
    if unit:
        if _words(unit) & _NO_UNITS:
            return text, ""
        return split_unit(value) if value.endswith("%") else (value, _canonical(unit))
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


def same_unit(gold: str, prediction: str, policy: Policy) -> bool:
    """Whether two units may stand for the same one.

    Two known units differ unless they are equal. Words that are no known units may be told at different length (`5
    apples`, `5 red apples`), so they differ where they share none.
    """
    if gold == prediction:
        return True
    if not gold or not prediction:
        return policy.missing_units or bool({gold, prediction} & {"unit"})
    if {gold, prediction} in ({"degree", "celsius"}, {"degree", "fahrenheit"}):
        return True
    if _is_known(gold) and _is_known(prediction):
        return False
    mine, yours = _words(gold), _words(prediction)
    told = (mine <= yours or yours <= mine) and "per" not in mine | yours
    return told or "unit" in (gold.rstrip("23"), prediction.rstrip("23"))


def quantities(text: str) -> tuple[str, ...]:
    r"""`2 hours 30 minutes` or `5 \text{ ft } 3 \text{ in}` as its parts; none if it is no such amount."""
    plain = string_form(text)
    found = list(_QUANTITY.finditer(plain))
    if len(found) < 2 or "".join(match[0] for match in found) != plain:
        return ()
    units = [_canonical(match[2]) for match in found]
    same_kind = all(map(_is_known, units)) and len(set(units)) == len(units)
    return tuple(f"{match[1]} \\text{{{match[2]}}}" for match in found) if same_kind else ()


def choice_of(text: str) -> tuple[str, str] | None:
    """The letter of a multiple-choice answer and the text beside it (may be empty); None if it is none."""
    plain = re.sub(
        r"^(?:option|choice|answer)\s?:?\s?(?=\(?[A-J]\b)",
        "",
        string_form(text, fold=False).replace("**", ""),
        flags=re.IGNORECASE,
    )
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
        and not any(word.lower() in _MATHEMATICAL.split() or word.lower() in _NO_UNITS for word in found)
        and all(re.fullmatch(r"[a-zA-Z-]+\.?", word) for word in found)
        and any(len(word) >= 4 and re.search("[aeiouy]", word) for word in found)
    )


def _words(unit: str) -> set[str]:
    return set(re.findall(r"[a-zA-Z]+", re.sub(r"\\text|\\cdot", " ", unit).lower()))


def _is_known(unit: str) -> bool:
    return bool(unit) and all(part in _MEASURES for part in unit.rstrip("23").split("/"))


def _canonical(words: str) -> str:
    plain = re.sub(r"\\text\{\s*per\s*\}", "/", words)
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", plain).replace(r"\cdot", "*")
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
