r"""What the last sentence of a solution states.

The reasons before and behind its main clause are left out. A value is stated if it is the only one in the clause that a
link leads to, or the only one at all of a clause that says "therefore" or the like. Doubt, denial, questions, tasks,
plans and sentences that break off state nothing.
"""

from __future__ import annotations

import re
from math import gcd

from rstar_cli.grader.masking import FORMULA, Prose, has_words, masked, sentences
from rstar_cli.grader.values import NAMED, RELATION, ROWS, Value, is_balanced, labelled, result, sides_of, values

_BOLD = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])")
_FORGOTTEN_STOP = re.compile(r"\s(?=(?:Therefore|Thus|Hence|So|Finally|Consequently)\b)")
_REMARK = re.compile(r"\s\([^()]{0,300}?[a-zA-Z]{2,}\s[^()]{0,300}\)")
_NOT_THAT = re.compile(r",\s+(?:and\s)?not\s[^,.]{1,30}(?=\.?\Z)")
_CONCLUDES = re.compile(
    r"""\b(?:therefore|thus|hence|so|consequently|finally|conclude(?:s|\ that)?|in\ conclusion|as\ a\ result|giving
    |which\ (?:gives|means|makes|is|equals|leaves|yields|rounds(?:\ up|\ down)?\ to)(?:\ that)?|that\ is|that's
    |it\ follows\ that
    |(?:for\ )?a\ total\ of|we\ (?:get|find|obtain|have|see)(?:\ that)?
    |donc|par\ conséquent|ainsi|por\ lo\ tanto|daher|somit|folglich|logo|quindi|portanto|следовательно|таким\ образом)\b
    (?!\ (?:that\ we|far|we\ (?:need|must)))[,:]?\s*|(?:因此|所以|从而|综上所述|综上|于是|故|答(?!案)|即)[,:]?\s*""",
    re.IGNORECASE | re.VERBOSE,
)
_SUMS_UP = re.compile(r"\b(?:total|in all|altogether|overall|in the end)\b", re.IGNORECASE)
_REASON = re.compile(r"(?:since|because|as|given|using|with|from|by|of|after|when|if|out)\b", re.IGNORECASE)
_REASON_AFTER = re.compile(r",? (?:since|because|as (?:he|she|they|it|we|there|the|each|all))\b")
_TRAILER = re.compile(
    r"(?:[\u3400-\u9fff]{1,8}(?:\W|\Z)"
    r"|for|when|where|since|because|if|as|which|in|out|after|with|by|on|from|using|per|that)\b"
)
_GOES_ON = re.compile(
    r",\s*\d[^=]*\Z|,\s*(?:and|but|while)\b|\b(?:but|while)\b|\band\s+(?:then|we|s?he|it|they|from|so|the)\b"
)
_PREDICATE = re.compile(r"\A(?:has|have|does|do|will|should)\b|\b(?:is|are|was|were|equals|and|but)\b")
_SUBJECT = re.compile(
    r"(?:is|are|as)\s+(?:therefore\s+)?(?:the|our|all)\s+(?:\w+\s+)?"
    r"(?:answers?|solutions?|results?|only|smallest|largest|least|greatest|minimum|maximum|required|desired)\b"
    r"|of (?:them|the|these|those|all)\b"
)
UNSURE = re.compile(
    r"""\b(?:not|cannot|\w+n't|impossible|contradict\w*|but|however|might|could|unable|wait|hmm|try|trying|neither|either
    |wrong|incorrect|mistakes?|(?:is|are|was|be)\ false|too\ (?:large|small|big|many|few|much|high|low)|assum\w+
    |suppose|we\ (?:still\ )?(?:need|want|have|must)\ to|whether|otherwise|only\ if|depending|incomplete|probably
    |possibly|fails?|invalid|says|said|claims|thinks|believes|guesses)\b|不(?![同等])|没|错|如果|若|假|矛盾""",
    re.IGNORECASE | re.VERBOSE,
)
_CLUELESS = re.compile(
    r"\b(?:sorry|exceeded|timed out|maybe|perhaps|unsure|unclear|not sure|guess|undetermined|unknown|insufficient"
    r"|so far|无法|不能|(?:can't|cannot|can not|unable to) (?:be )?(?:solve|determine|answer|find|help)\w*"
    r"|not (?:enough|provide|sufficient)\w*)\b",
    re.IGNORECASE,
)
_WORKING = re.compile(
    r"""\W{0,20}(?:let|suppose|assume|consider|recall|note|first|next|step|case|given|find|compute|determine|calculate|solve
    |simplify|evaluate|express|prove|show|what|how|which\ (?:of|one)|who|where|why|if|question|problem|option|example
    |to\ (?:find|get|determine|compute|calculate|solve)|we\ (?:know|(?:are|were)\ (?:given|told|asked)|start|begin|need
    |can(?!\ (?:conclude|say|see)\b))|now,?\ we|input|error|file|line|traceback|\w+error|def|import|return|lambda)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""How plans, tasks, assumptions and program messages begin."""
_CLOSING = re.compile(
    r"""\W{0,20}(?:let\ me\ know|i\ hope|hope\ (?:this|that)|feel\ free|would\ you|do\ you|does\ this|please|q\.?e\.?d
    |done|if\ you\ (?:have|need|would|want)|this\ (?:can|may)\ be\ (?:verified|checked)|note|check|verification
    |correct|(?:yes,?\ )?(?:(?:this|that|it|everything)(?:\ is|'s)\ (?:correct|right)
    |(?:it|this)\ (?:works|checks\ out)))\b|\W*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
"""Sentences behind the result that add nothing, if they hold no formula."""
_REMARKS = re.compile(
    rf"\W{{0,20}}(?:where|here,?)\s(?:{FORMULA}|\w)\s(?:is|are|denotes?)\b"
    r"|\W{0,20}(?:(?:we can|let me|let us|let's) )?(?:double[- ])?(?:check|verify|verification)\b",
    re.IGNORECASE,
)
_OPEN_ENDED = (
    "by in of the is are and to a an so that we for with from at on or but if than as which then because where be was "
    "has have this i it = + - * / < >"
)
_CUT = frozenset(_OPEN_ENDED.split())
_DISPLAYED = re.compile(rf"\A.*:\s*({FORMULA})\W*\Z")
_CODE = re.compile(r"^\s?(?:Traceback|import \w|from \w+ import|def \w+\(|print\()|\b\w+Error:", re.MULTILINE)
_NONE = re.compile(r"\b(?:there (?:is|are)|has|have) ((?:no|infinitely many) (?:real |such )?\w+)", re.IGNORECASE)
_NUMBER_WORD = (
    r"(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-\w+)?|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:one|two|three|four|five)[ -](?:half|halves|thirds?|quarters?|fourths?|fifths?|sixths?)"
    r"|zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
)
_COUNTED = re.compile(
    rf"\b(?:there (?:are|is)|are|is|has|have)(?: exactly| only| therefore| thus)? ({_NUMBER_WORD})\b(?!-)",
    re.IGNORECASE,
)

_BOLD_CHOICE = re.compile(r"\*\*\(?([A-J])\)?[.:)]?\*\*|\*\*\(?([A-J])[).:]\s[^*\n]{0,200}\*\*")
_OPTION = re.compile(r"(?:(?<=\n)|\A)[-* ]{0,4}\(?([A-J])(?:\)|[.:](?=\s))")
"""A letter that starts a line: a list of the options."""
_LAST_CHOICE = re.compile(
    r"(?:(?:so|hence|thus|therefore)?,? ?(?:the )?(?:correct )?(?:option|choice)?(?: is)? ?)?"
    r"\**\(?(?-i:([A-J]))\)?[.)]?\**((?<=\)) .{1,80})?",
    re.IGNORECASE,
)
_CHOOSES = re.compile(
    r"""\b(?:(?:choose|select|pick)\s(?:option\ |choice\ |answer\ )?
    |(?:matches|corresponds?\ to|is)\ (?:the\ )?(?:answer\ )?(?:option|choice)\ )\(?([A-J])\)?\W*\Z
    |\b[Oo]nly\ (?:option\ |choice\ )?\(?([A-J])\)?\ (?:satisfies|works|matches|fits|is)\b""",
    re.VERBOSE,
)
_CHOSEN = re.compile(
    r"(?<![A-Za-z\\'=,])(?:\b(?:option|choice|answer|statement) )?\(?\b([A-J])\)? is (?:therefore |thus |clearly )?"
    r"(?:the )?(?:only )?(?:correct|right|best|answer)(?: one| answer| option| choice)?\b(?!\?)"
)
_REFUTED = re.compile(r"\b(?:and|n?or|neither|if|whether|not|suppose|say|think)\b[^.,;!?\n]{0,12}\Z", re.IGNORECASE)
_FIRST_LINE = re.compile(
    r"\s*([^\n]{1,80})\n+\W*(?:explanation|reason(?:ing)?|rationale|justification|because|since|解析|解释)\b",
    re.IGNORECASE,
)


def conclusion(text: str) -> str:
    """The value that the last sentence states; empty if it states none, or several."""
    blocks = text.split("```")
    if len(blocks) % 2 == 0:
        return ""  # it ends in the middle of a program
    if len(blocks) > 1 and not blocks[-1].strip():
        label, _, printed = blocks[-2].partition("\n")
        text = printed if label.strip() in ("", "output", "text") else ""
        return conclusion(text) or (text.strip() if len(text.split("\n")) <= 2 and not has_words(text) else "")
    prose = masked(_bullets_joined(blocks[-1]))
    found = sentences(prose.text)
    while len(found) > 1 and _CLOSING.match(found[-1]) and not re.search(FORMULA, found[-1]):
        found.pop()
    while len(found) > 1 and _REMARKS.match(found[-1]):
        found[-2:] = [found[-2].rstrip(",")]
    if found:
        found[-1] = _FORGOTTEN_STOP.split(found[-1])[-1]
    if not found or len(found[-1]) > 600 or _is_cut(found[-1]) or _CODE.search(blocks[-1]):
        return ""
    if not has_words(found[-1]):
        return _last_line(prose, found)
    return said(prose, found[-1])


def without_marks(sentence: str) -> str:
    """Without the marks of bold and code; `x**2` is a power."""
    return _BOLD.sub("", sentence).replace("`", "").strip(" *_\n")


def said(prose: Prose, sentence: str) -> str:
    """The one value that a sentence of prose states."""
    sentence = re.sub(r"\A\s*(?:\d{1,3}[.)]|[-•>]|#+)\s+", "", without_marks(sentence))
    sentence = _NOT_THAT.sub("", sentence)
    sentence = re.sub(r"\A(?:However|Instead),? |, and we(?: are|'re) done\W*\Z", "", _REMARK.sub("", sentence)).strip()
    if sentence.endswith("?") or _WORKING.match(sentence):
        return ""
    if none := _NONE.search(sentence):
        return none[1]
    clause, concluding = _main_clause(sentence)
    if _CLUELESS.search(sentence) or UNSURE.search(clause):
        return ""
    found = values(prose, _DISPLAYED.sub(r": \1", clause))
    if not found and (counted := _COUNTED.search(clause)):
        return counted[1].lower()
    return _stated(found, concluding=concluding)


def _stated(found: list[Value], *, concluding: bool) -> str:
    """The stated one of a clause's values: the only linked one, or the only one at all of a conclusion."""
    linked = [value for value in found if value.lead == "link"]
    if len(linked) == 1:
        alone = linked[0] is found[-1] or _TRAILER.match(linked[0].after)
        ends = not re.match(r"(?:[^\s.,;]+ ){0,4}=", linked[0].after) and not _GOES_ON.search(linked[0].after)
        return result(linked[0].text) if alone and ends else ""
    if len(found) != 1 or linked or found[0].lead == "part":
        return ""
    if _SUBJECT.match(found[0].after) and (concluding or not found[0].after.startswith("of")):
        return result(found[0].text)
    return result(found[0].text) if concluding and not _PREDICATE.search(found[0].after) else ""


def _main_clause(sentence: str) -> tuple[str, bool]:
    """What the sentence concludes, without the reasons before it; and whether a word says that it does conclude."""
    ends = [match.end() for match in _CONCLUDES.finditer(sentence)]
    concluding = bool(ends) or bool(_SUMS_UP.search(sentence))
    if ends and re.search(rf"\d|{FORMULA}", sentence[ends[-1] :]):
        sentence = sentence[ends[-1] :]
    reason = _REASON_AFTER.search(sentence)
    if reason and re.search(rf"\d|{FORMULA}", sentence[: reason.start()]):
        sentence = sentence[: reason.start()]
    if _REASON.match(sentence) and ", " in sentence:
        sentence = sentence.rpartition(", ")[2]
    return sentence, concluding


def _last_line(prose: Prose, found: list[str]) -> str:
    """A last line without words: the end of a derivation, or the last value that a program printed."""
    chain = sides_of(prose.plain(found[-1]).strip("*. "))
    if len(chain) == 2 and not chain[0][1]:
        return chain[1][1]  # `= 42`
    if len(found) < 2:
        whole = prose.plain(found[0])
        return result(whole) if ROWS.match(whole) or re.match(r"\\therefore(?![a-zA-Z])|∴", whole) else ""
    last, before = (sides_of(prose.plain(line).rstrip(".")) for line in (found[-1], found[-2]))
    printed = not prose.formulas and not any(has_words(line) or "\\" in line for line in found)
    plain = prose.plain(found[-1]).rstrip(".*").lstrip("*").strip()
    if not is_balanced(plain):
        return ""
    derived = (
        len(last) > 1
        and NAMED.fullmatch(last[0][1])
        and re.search(rf"\b{re.escape(last[0][1])}\b|(?<=\d){re.escape(last[0][1])}\b", found[-2])
    )
    if len(last) < 2 or (printed and not derived):
        bold = found[-1].startswith("**")
        complete = all(is_balanced(line) and not RELATION.search(line) for line in found)
        is_value = re.search(r"\d", plain) and (bold or (printed and complete))
        relation = re.search(r"[<>≤≥]|\\[lg]eq?(?![a-zA-Z])", plain) and not printed
        return plain if is_value or relation else ""
    name, told = last[0][1], before[0][1]
    is_list = len(before) > 1 and (name != told or _is_final(before[-1][1]))
    is_list = is_list and bool(NAMED.fullmatch(told)) and not has_words(found[-2])
    kept = NAMED.fullmatch(name) or not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", name)) or len(last) > 2
    return result(plain) if (kept and not is_list) or re.fullmatch(r"\w+\([\d, ]+\)", name) else ""


def _is_final(side: str) -> bool:
    """Whether a side is a number that nobody works out further: `5`, `1/3`, not `21/3`."""
    number = re.fullmatch(r"-?[\d.,]{1,20}(?:/([1-9]\d{0,9}))?", side)
    above = re.match(r"-?(\d{1,15})/", side)
    return bool(number) and not (number and number[1] and above and gcd(int(above[1]), int(number[1])) > 1)


def _bullets_joined(text: str) -> str:
    """A list that ends the text as one sentence with the line that announces it."""
    lines = text.rstrip().split("\n")
    items: list[str] = []
    while lines and (item := re.match(r"[ \t]*(?:[-*•]|\d{1,2}[.)])[ \t]+(.*)", lines[-1])):
        items.append(item[1].strip().rstrip(".,;"))
        lines.pop()
    while len(items) > 1 and lines and not lines[-1].strip():
        lines.pop()
    if len(items) < 2 or not lines or not re.search(r"(?::|\bare)\**\Z", lines[-1].rstrip()):
        return text
    return "\n".join([*lines[:-1], f"{lines[-1].rstrip()} {', '.join(items[::-1])}"])


def _is_cut(sentence: str) -> bool:
    """Whether a last sentence breaks off: it ends with a word that needs another."""
    return sentence.split()[-1].lower().rstrip(",:") in _CUT or sentence[-1] in ",:("


def choice(text: str) -> str:
    """A letter that the text calls correct, or that its last line shows, in bold or alone."""
    text = text.strip()
    chosen = _CHOSEN.finditer(text)
    letters = {match[1] for match in chosen if not _REFUTED.search(text[max(0, match.start() - 40) : match.start(1)])}
    if letters:
        return letters.pop() if len(letters) == 1 else ""
    above, _, line = text.rpartition("\n")
    options = set(_OPTION.findall(text))
    if above and (last := _LAST_CHOICE.fullmatch(line)) and (not last[2] or options <= {last[1]}):
        return last[1]
    if (last := _CHOOSES.search(line)) and not UNSURE.search(line):
        return last[1] or last[2]
    bold = {"".join(found) for found in _BOLD_CHOICE.findall(text)}
    return bold.pop() if len(bold) == 1 and options <= bold else ""


def first_line(text: str) -> str:
    """A first line that is an answer, with its explanation after it."""
    match = _FIRST_LINE.match(text)
    line = match[1].replace("**", "").strip() if match else ""
    short = len(re.findall(r"[a-zA-Z]{2,}", line)) <= 1 and line[-1:] != ":"
    return line if labelled(masked(""), line) or short else ""
