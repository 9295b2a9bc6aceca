"""What a server takes and tells, found out at the start by a handful of requests of a few tokens each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from rstar_cli.engines.openai_answers import Choice, read_choices
from rstar_cli.engines.openai_http import ServerError, Servers
from rstar_cli.errors import SetupError
from rstar_cli.protocols import Segment

PROBE_TRIES = 3
"""How often a request of the probe is made: a wrong URL shall be told soon."""

MOST_ALTERNATIVES = 20
"""Alternatives to a token that are asked for, at most; vLLM's own limit."""

_NO_ENDPOINT = (404, 405, 501)

_EXTRAS: tuple[dict[str, Any], ...] = (
    # vLLM, SGLang, llama.cpp: sample from the model's own distribution, whatever defaults they have or the model's
    # generation_config.json brings, and show every token
    {
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    },
    # transformers serve: the same in its own words; without it is greedy
    {"generation_config": json.dumps({"do_sample": True, "top_k": 0})},
    {},
)

_PROBE = (Segment("One, two, three, four, five, six, seven,"),)


@dataclass(frozen=True, slots=True)
class Dialect:
    """How to speak with a server.

    Attributes:
        model: the model's name there.
        chat: only chat is offered.
        extras: fields that go into every request.
        several: n > 1 gives different samples.
        logprobs: tokens and their log-probabilities are told.
        alternatives: most alternatives to a token that can be used.
        tokenizes: text is tokenised on request, at `/tokenize`.
    """

    model: str
    chat: bool = False
    extras: dict[str, Any] = field(default_factory=dict)
    several: bool = False
    logprobs: bool = False
    alternatives: int = 0
    tokenizes: bool = False

    @property
    def path(self) -> str:
        """Where samples are asked for."""
        return "/chat/completions" if self.chat else "/completions"

    def body(
        self,
        prefix: tuple[Segment, ...],
        opening: str,
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        n: int = 1,
        stop: list[str] | None = None,
        alternatives: int = 0,
    ) -> dict[str, Any]:
        """A request for n continuations of a prefix and an opening."""
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": 1.0, "seed": seed}
        body = {"model": self.model, **sampling, **self.extras}
        if stop:
            body["stop"] = stop
        if n > 1:
            body["n"] = n
        if self.logprobs and self.chat:
            body |= {"logprobs": True, "top_logprobs": max(1, alternatives)}
        elif self.logprobs:
            body["logprobs"] = max(1, alternatives)
        written = "".join(segment.text for segment in prefix[1:]) + opening
        if not self.chat:
            return {**body, "prompt": prefix[0].text + written}
        body["messages"] = [{"role": "user", "content": prefix[0].text}]
        if written:
            body["messages"].append({"role": "assistant", "content": written})
            body |= {"add_generation_prompt": False, "continue_final_message": True}
        return body


async def find_dialect(servers: Servers, model: str | None) -> Dialect:
    """Find out how to speak with servers that answer alike.

    Args:
        servers: all must be there; the first is asked.
        model: the model's name; None: the servers' only one.

    Raises:
        SetupError: one can't be reached, the model is not there, or no endpoint fits.
    """
    sure, listed = True, ""
    for home in range(len(servers.urls)):
        names = await _list_models(servers, home)
        if model is None and len(names) != 1:
            told = f"offers {', '.join(names)}" if names else "names no model"
            raise SetupError(f"{servers.urls[home]} {told}", remedy="Choose one with --policy NAME.")
        model = model or names[0]
        if model not in names:  # it may be there for all that: transformers serve lists what its cache holds
            sure, listed = False, f", which names {', '.join(names)}" if names else ""
    assert model is not None  # noqa: S101
    try:
        dialect = await _find_endpoint(servers, Dialect(model))
    except ServerError as error:
        if sure or not error.refused or error.status in (401, 403):
            raise
        raise SetupError(
            f"model {model} is not to be had from the server{listed}: {error}", remedy="Choose one with --policy NAME."
        ) from error
    for extras in _EXTRAS:
        richer = replace(dialect, extras=extras)
        if await _choices(servers, richer):
            dialect = richer
            break
    # hot, so that two samples are hardly ever alike, unless a server seeds both the same
    pair = await _choices(servers, dialect, n=2, max_tokens=16, temperature=2.0)
    dialect = replace(dialect, several=len(pair) == 2 and pair[0].text != pair[1].text)
    return replace(await _find_logprobs(servers, dialect), tokenizes=await _tokenizes(servers, model))


async def _list_models(servers: Servers, home: int) -> list[str]:
    """The models that a server names; none where it can't list them.

    Raises:
        ServerError: it can't be reached, or wants a key.
    """
    try:
        found = await servers.ask("/models", home=home, tries=1 if len(servers.urls) > 1 else PROBE_TRIES)
        return [str(each["id"]) for each in found["data"]]
    except (TypeError, KeyError):
        return []
    except ServerError as error:
        if error.refused and error.status not in (401, 403):
            return []
        raise


async def _find_endpoint(servers: Servers, dialect: Dialect) -> Dialect:
    """Completions, or chat where these are not offered."""
    for chat in (False, True):
        asked = replace(dialect, chat=chat)
        try:
            await servers.ask(asked.path, _probe(asked), tries=PROBE_TRIES)
        except ServerError as error:
            if chat or error.status not in _NO_ENDPOINT:
                raise
            continue
        return asked
    raise AssertionError("the last endpoint neither answered nor failed")


async def _find_logprobs(servers: Servers, dialect: Dialect) -> Dialect:
    """With log-probabilities, and as many alternatives as the server gives; these need tokens that make up the text."""
    for most in _fewer(MOST_ALTERNATIVES):
        asked = replace(dialect, logprobs=True)
        choices = await _choices(servers, asked, max_tokens=8, alternatives=most)
        if choices and choices[0].tokens:
            (choice,) = choices
            given = max(len(token.likely) for token in choice.tokens)
            joined = "".join(token.text for token in choice.tokens)
            if given <= 1 or not joined.startswith(choice.text):
                return asked
            # parts of characters look alike, and so are fewer than were asked for
            return replace(asked, alternatives=most if 2 * given > most else given)
    return dialect


def _fewer(most: int) -> Iterator[int]:
    """Fewer and fewer alternatives to ask for: some servers refuse 20, the first OpenAI ones more than 5."""
    yield from (most, 5, 1)


async def _tokenizes(servers: Servers, model: str) -> bool:
    try:
        return await tokens_of(servers, model, "1 + 1") > 0
    except (ServerError, TypeError, KeyError):
        return False


async def tokens_of(servers: Servers, model: str, text: str) -> int:
    """How many tokens a text has, of a server that tokenises: vLLM, SGLang, llama.cpp.

    Raises:
        ServerError: it does not.
    """
    body = {"model": model, "prompt": text, "content": text, "add_special_tokens": False}
    return len((await servers.ask("../tokenize", body, tries=PROBE_TRIES))["tokens"])


def _probe(dialect: Dialect, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"max_tokens": 1, "temperature": 1.0, "seed": 1, **more}
    return dialect.body(_PROBE, "", **asked)


async def _choices(servers: Servers, dialect: Dialect, **more: Any) -> list[Choice]:
    """What a server answers to a probe; nothing where it refuses."""
    try:
        return read_choices(await servers.ask(dialect.path, _probe(dialect, **more), tries=PROBE_TRIES))
    except (ServerError, ValueError) as error:
        if isinstance(error, ServerError) and not error.refused:
            raise
        return []
