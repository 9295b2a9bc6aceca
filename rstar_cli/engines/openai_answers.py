"""From a server's answer to samples: what it cut off is put back, and its tokens are laid along the text.

**Stop tags.** A server cuts the stop string off and may not say which of several it was, or whether it was none but the
end-of-sequence token. So it is asked to stop at the tags without their beginnings, a beginning of another length for
each: at `end_of_step>`, `nd_of_code>`, `d_of_answer>`. What is left at the text's end, `<`, `<e`, `<en` or nothing,
then tells, with no field that only some servers have. One that leaves tags in, or goes on behind them, does no harm.

**Tokens.** Their texts are laid along the sample's text. A token that holds a part of a character has no text of its
own; the last token of such a run has all of it. Text that no token covers (a tag, where the server keeps back the
tokens that it cut off) counts as one token of probability 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rstar_cli.prompts import STEP_END
from rstar_cli.protocols import Drawn, Finish, Sample, SampleRequest, Segment

_BROKEN = "\N{REPLACEMENT CHARACTER}"
"""Stands in a token's text for a part of a character."""

_SEARCHED = 64
"""Characters in which the text of a token is looked for after one that holds a part of a character."""


class TokenTable:
    """Numbers for the texts of tokens, for as long as the process lives. 0 is a part of a character, with no text."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {_BROKEN: 0}
        self._texts = [""]
        self.ends: set[int] = set()
        """End-of-sequence tokens, as far as samples have shown them."""

    def id(self, text: str) -> int:
        """The number of a text."""
        if (known := self._ids.get(text)) is not None:
            return known
        self._ids[text] = len(self._texts)
        self._texts.append(text)
        return self._ids[text]

    def text(self, ids: Sequence[int]) -> str:
        """The joined texts of tokens; an end-of-sequence token has none."""
        return "".join(self._texts[i] for i in ids if i not in self.ends)


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a server tells of.

    Attributes:
        text: its text; empty or a name such as `<|endoftext|>` for an end-of-sequence token.
        logprob: at temperature 1, nats.
        likely: (text, log-probability) of the likeliest tokens in its place, in any order.
    """

    text: str
    logprob: float
    likely: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Choice:
    """One continuation as a server gives it."""

    text: str
    finish: str
    tokens: list[Token]


def read_choices(answer: Any) -> list[Choice]:
    """The continuations of an answer, in order, of `/completions` and of `/chat/completions`.

    Raises:
        ValueError: it is no such answer.
    """
    try:
        ordered = sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)
        return [_read_choice(choice) for choice in ordered]
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise ValueError(f"not an answer with choices: {error!r}") from error


def _read_choice(choice: Any) -> Choice:
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    told = choice.get("logprobs") or {}
    if told.get("content"):  # chat, and llama.cpp everywhere
        tokens = [
            Token(
                each["token"],
                _logprob(each["logprob"]),
                tuple((other["token"], _logprob(other["logprob"])) for other in each.get("top_logprobs") or ()),
            )
            for each in told["content"]
        ]
    elif told.get("tokens"):
        tops = told.get("top_logprobs") or [None] * len(told["tokens"])
        tokens = [
            Token(token, _logprob(logprob), tuple((t, _logprob(p)) for t, p in (top or {}).items()))
            for token, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True)
        ]
    else:
        tokens = []
    return Choice(text or "", choice.get("finish_reason") or "", tokens)


def _logprob(value: float | None) -> float:
    return 0.0 if value is None else min(0.0, float(value))


def asked_stops(stop: Sequence[str]) -> list[str]:
    """The stop strings to ask for; see above."""
    return [tag[number + 1 :] for number, tag in enumerate(stop)]


def put_back(text: str, finish: str, stop: Sequence[str]) -> tuple[str, Finish]:
    """The text up to and with the stop tag that ended it, and why it ended.

    Args:
        text: the request's opening and what the server gave.
        finish: the server's `finish_reason`.
        stop: tags; the server was asked for `asked_stops` of them.
    """
    ends = [place + len(tag) for tag in stop if (place := text.find(tag)) >= 0]
    if ends:
        return text[: min(ends)], "stop"
    if finish != "stop":
        return text, "length"
    for number, tag in reversed(list(enumerate(stop))):
        if text.endswith(tag[: number + 1]):
            return text + tag[number + 1 :], "stop"
    return text, "eos"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A token and the stretch of text that it covers, counted from the end of the opening."""

    token: Token
    begin: int
    end: int
    exact: bool


def _lay(tokens: Sequence[Token], text: str) -> list[_Piece]:
    """Lay tokens along a text; those behind its end cover nothing."""
    pieces: list[_Piece] = []
    place = 0
    for token in tokens:
        own = token.text
        rest = len(text) - place
        whole = bool(own) and _BROKEN not in own
        if not rest:
            pieces.append(_Piece(token, place, place, _BROKEN not in own))
            continue
        if whole and (text.startswith(own, place) or own.startswith(text[place:])):
            end = place + min(rest, len(own))
            pieces.append(_Piece(token, place, end, True))
        elif whole and text.startswith(f" {own}", place):  # SentencePiece: its decoder drops a leading space
            end = place + 1 + len(own)
            pieces.append(_Piece(token, place, end, False))
        elif whole and pieces and (found := text.find(own, place, place + _SEARCHED)) > place:
            last = pieces[-1]  # the gap is what the parts of characters before made up together
            pieces[-1] = _Piece(last.token, last.begin, found, False)
            end = found + len(own)
            pieces.append(_Piece(token, found, end, True))
        else:
            end = place
            pieces.append(_Piece(token, place, place, False))
        place = end
    if place < len(text):
        if pieces and not pieces[-1].exact and pieces[-1].begin == pieces[-1].end:
            pieces[-1] = _Piece(pieces[-1].token, place, len(text), False)
        else:
            pieces.append(_Piece(Token(text[place:], 0.0), place, len(text), True))
    return pieces


def _drawn(piece: _Piece, text: str, most: int, table: TokenTable) -> Drawn:
    """A token and what might have stood in its place: nothing that is known of where its own text is not certain."""
    token = piece.token
    own = token.text if piece.exact or piece.begin == len(text) else text[piece.begin : piece.end] or _BROKEN
    number = table.id(own)
    likely = {table.id(t): p for t, p in token.likely if _BROKEN not in t} if piece.exact else {}
    likely[number] = token.logprob
    ids = sorted(likely, key=lambda i: (-likely[i], i))
    ids = ids[:most] if number in ids[:most] else [*ids[:most], number]
    return Drawn(number, tuple(ids), tuple(round(likely[i], 4) for i in ids))


def split_steps(text: str) -> list[str]:
    """A text cut after each `<end_of_step>`; at least one piece."""
    parts = text.split(STEP_END)
    steps = [part + STEP_END for part in parts[:-1]]
    return [*steps, parts[-1]] if parts[-1] or not steps else steps


def read_sample(choice: Choice, request: SampleRequest, opening: str, table: TokenTable) -> Sample:
    """A continuation as search wants it; its `tokens` are 0 where the server tells of none (see `share_tokens`)."""
    text, finish = put_back(opening + choice.text, choice.finish, request.stop)
    steps = split_steps(text)
    bounds = [sum(map(len, steps[:count])) - len(opening) for count in range(len(steps) + 1)]
    new = text[len(opening) :]
    counts, logprobs = [0] * len(steps), [0.0] * len(steps)
    drawn: list[Drawn] = []
    for piece in _lay(choice.tokens, new) if choice.tokens else ():
        step = next(i for i, (_, end) in enumerate(pairwise(bounds)) if piece.begin < end or i == len(steps) - 1)
        if piece.begin == len(new) and finish == "stop":  # tokens behind the tag
            continue
        if piece.begin == len(new) and finish == "eos":
            table.ends.add(table.id(piece.token.text))
        counts[step] += 1
        logprobs[step] += piece.token.logprob
        if request.alternatives:
            drawn.append(_drawn(piece, new, request.alternatives, table))
    segments = tuple(Segment(step) for step in steps)
    return Sample(segments, tuple(round(p, 4) for p in logprobs), finish, tuple(counts), tuple(drawn))


def share_tokens(samples: Sequence[Sample], opening: str, total: int) -> list[Sample]:
    """Give samples without counts the server's total, shared out by bytes of new text."""
    sizes = [
        len(segment.text.encode()) - (0 if number else len(opening.encode()))
        for sample in samples
        for number, segment in enumerate(sample.segments)
    ]
    reached, told, counts = 0, 0, []
    for size in sizes:
        reached += size
        upto = round(total * reached / max(1, sum(sizes)))
        counts.append(upto - told)
        told = upto
    shares = iter(counts)
    return [
        Sample(sample.segments, sample.logprobs, sample.finish, tuple(next(shares) for _ in sample.segments))
        for sample in samples
    ]
