"""Numbers, quantities and times of day that are written in words or in several parts."""

from __future__ import annotations

import re

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {word: i for i, word in enumerate(_ONES.split())} | {word: 10 * i for i, word in enumerate(_TENS.split(), 2)}
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_MAGNITUDE = re.compile(
    rf"(?<![a-zA-Z\\])(\d[\d.]*)\s?(?:\\text\{{\s*)?({'|'.join(_POWERS)}|dozen)s?\b\s*(\}})?", re.IGNORECASE
)
_ANGLE = re.compile(r"(\d+)\^\\circ\s?(\d+)'(?:(\d+)(?:''|\"))?")
_SPELLED = re.compile(r"([a-zA-Z -]{3,60})\s([a-z]+)")
_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d\d))?(?::(\d\d))?\s?(?:([ap])\.?\s?m\.?)?", re.IGNORECASE)


def number_in_words(text: str) -> str | None:
    """The numeral of a number in words (`twenty-one`, `one hundred and five`, `three quarters`); None for other texts.

    Args:
        text: words as they were written, fonts aside.
    """
    words = re.sub(r"[-,\s]+", " ", text.lower()).split()
    if len(words) > 20 or not words:
        return None
    if words[-1].removesuffix("s") in _PARTS and len(words) <= 2:
        over = _VALUES.get(words[0]) if len(words) == 2 and words[0] not in ("a", "an") else 1
        whole = words[-1] == "half" or len(words) == 2
        return f"{over}/{_PARTS[words[-1].removesuffix('s')]}" if over and whole else None
    if words[0] in ("a", "an") and len(words) == 2 and words[1] in ("hundred", *_POWERS):
        words[0] = "one"
    total = group = 0
    found = False
    for i, word in enumerate(words):
        if word in _VALUES:
            value = _VALUES[word]
            if found and group % 100 and not (group % 100 >= 20 and group % 10 == 0 < value < 10):
                return None  # `one two` is no number
            group, found = group + value, True
        elif word == "hundred" and (found or words[0] == "hundred"):
            group, found = max(group, 1) * 100, True
        elif word in _POWERS and found:
            total, group = total + group * 10 ** _POWERS[word], 0
        elif not (word == "and" and found and i < len(words) - 1):
            return None
    return str(total + group) if found else None


def with_digits(text: str) -> str:
    r"""`2.5 million` as `2.5*10^{6}`, `twenty percent` as `20 percent`, `12^\circ30'` as a number of degrees."""

    def power(match: re.Match[str]) -> str:
        opened = r"\text{" in match[0]
        rest = r"\text{" if opened and not match[3] else ""
        word = match[2].lower()
        return f"{match[1]}*{12 if word == 'dozen' else f'10^{{{_POWERS[word]}}}'}{rest}"

    if angle := _ANGLE.fullmatch(text):
        return f"({angle[1]}+{angle[2]}/60+{angle[3] or 0}/3600)"
    if (spelled := _SPELLED.fullmatch(text)) and (number := number_in_words(spelled[1])):
        return f"{number} {spelled[2]}"
    return _MAGNITUDE.sub(power, text)


def time_of_day(text: str) -> tuple[int, str] | None:
    """Seconds from midnight or noon, and `a`, `p` or nothing; None for what is no time with a colon or am or pm."""
    match = _CLOCK.fullmatch(text.strip())
    if not match or not (match[4] or (match[2] and ":" in text)):
        return None
    hour, minute, second = int(match[1]), int(match[2] or 0), int(match[3] or 0)
    half = (match[4] or "").lower()
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    return (hour % 12 if half else hour) * 3600 + minute * 60 + second, half
