"""Any server that speaks OpenAI's HTTP interface as a policy: vLLM, SGLang, llama.cpp, `transformers serve`, others.

What a server takes and tells is found out at the start (`openai_dialect.py`). It gets the prefix as text and tokenises
it as a whole, the beginning-of-sequence token added by itself; a token may so reach over the seam of two segments, as
none does in training. No token ids come back, so trainers tokenise the text.

- **Log-probabilities and token counts** are the server's, token by token. Where it tells none, log-probabilities are 0
  and its total of tokens is shared out over the steps by bytes. SGLang's log-probabilities are at the sampling
  temperature.
- **Seeds** make a sample repeat as far as the server holds to them: vLLM does but for the last digits of its sums, a
  server that decodes several requests with one generator does not.
- **Chat** is used where a server offers nothing else. The prompt is then a user's message, what is written so far the
  assistant's unfinished one (`continue_final_message`, as vLLM and SGLang take it). Lost by that: the model's chat
  template stands around the prompt, so that a policy trained on the bare format sees another text; many templates strip
  white space at the end of what is written; and a server without `continue_final_message` begins a new message, in
  which steps seldom go on where they should.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import lru_cache
from hashlib import blake2b
from queue import Empty, SimpleQueue
from typing import Any

from rstar_cli.engines.openai_answers import (
    Choice,
    TokenTable,
    asked_stops,
    put_back,
    read_choices,
    read_sample,
    share_tokens,
    split_steps,
)
from rstar_cli.engines.openai_dialect import Dialect, find_dialect, tokens_of
from rstar_cli.engines.openai_http import ServerError, Servers, read_urls
from rstar_cli.errors import RstarError, SetupError
from rstar_cli.protocols import EngineInfo, Finish, Sample, SampleRequest, Segment, TokenUsage

_TOO_LONG = re.compile(r"context|too long|maximum (model )?length|max_model_len", re.IGNORECASE)
"""How servers say that prefix and new tokens do not fit."""

_OF_ALL = (401, 403, 404)
"""Statuses of a refusal that every request will meet: no key, no such model."""

Answered = Future[list[Sample]]


class ServerPolicy:
    """A model on one or several servers that proposes steps.

    Requests go out as they are submitted. All of one prompt go to the same server, so that its prefix cache helps.

    Args:
        servers: where it is.
        dialect: how to speak with them.
    """

    def __init__(self, servers: Servers, dialect: Dialect) -> None:
        self._servers = servers
        self._dialect = dialect
        self._usage = TokenUsage()
        self._table = TokenTable()
        self._homes: dict[str, int] = {}
        self._answered: SimpleQueue[tuple[int, Answered]] = SimpleQueue()
        self._open = 0
        self._tokens_of = lru_cache(maxsize=65536)(self._ask_tokens_of)

    @classmethod
    def connect(cls, base_url: str, model: str | None, *, concurrency: int) -> ServerPolicy:
        """Reach the servers and find out what they offer.

        Args:
            base_url: one or several, separated by commas, as `http://HOST:PORT/v1`.
            model: the model's name there; None: their only one.
            concurrency: requests under way at once, all servers together.

        Raises:
            UsageError: no base URL, or a wrong one.
            SetupError: a server can't be reached, wants a key, or has no such model.
        """
        servers = Servers(read_urls(base_url), concurrency)
        try:
            return cls(servers, servers.start(find_dialect(servers, model)).result())
        except BaseException:
            servers.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What the engine is; the fingerprint names the model, since no token ids are told."""
        model = self._dialect.model
        return EngineInfo("openai", model, f"server:{model}", "server", self._dialect.alternatives)

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far as the servers tell it; those that they had cached are left out where told."""
        return self._usage

    def count_tokens(self, segment: Segment) -> int:
        """Tokens of a segment by itself: the server's count, else a quarter of its bytes."""
        return self._tokens_of(segment.text)

    def _ask_tokens_of(self, text: str) -> int:
        if not self._dialect.tokenizes:
            return -(-len(text.encode()) // 4)
        return self._servers.start(tokens_of(self._servers, self._dialect.model, text)).result()

    def forget(self, prompt: Segment) -> None:
        """Let the prompt's next request go to whichever server has the fewest prompts."""
        self._homes.pop(prompt.text, None)

    def close(self) -> None:
        """Drop what is under way."""
        self._servers.close()

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Send a request; `poll` gives its samples under this ticket."""
        prompt = request.prefix[0].text
        if prompt not in self._homes:
            load = Counter(self._homes.values())
            self._homes[prompt] = min(range(len(self._servers.urls)), key=lambda home: load[home])
        self._open += 1
        self._usage.generated += bool(request.opening)  # the token at which it leaves what was sampled before
        work: Coroutine[Any, Any, list[Sample]] = self._sample(request, self._homes[prompt])
        self._servers.start(work).add_done_callback(lambda done: self._answered.put((ticket, done)))

    def poll(self) -> list[tuple[int, list[Sample] | RstarError]]:
        """Wait until a request is answered; (ticket, samples) of all that are. Empty: nothing is asked.

        A request that the server refuses, for what it holds, has the error in place of samples.

        Raises:
            SetupError: a server failed for good.
        """
        if not self._open:
            return []
        done = [self._answered.get()]
        try:
            while True:
                done.append(self._answered.get_nowait())
        except Empty:
            self._open -= len(done)
        return [(ticket, _samples_or_refusal(answered)) for ticket, answered in done]

    async def _sample(self, request: SampleRequest, home: int) -> list[Sample]:
        opening = self._table.text(request.opening)
        if request.opening and (ended := self._ended(request, opening)) is not None:
            return [ended] * request.n
        if self._dialect.several or request.n == 1:
            asked = [(request.n, _seed(request.seed, 0))]
        else:
            asked = [(1, _seed(request.seed, draw)) for draw in range(request.n)]
        parts = await asyncio.gather(*(self._ask(request, opening, n, seed, home) for n, seed in asked))
        return [sample for part in parts for sample in part]

    def _ended(self, request: SampleRequest, opening: str) -> Sample | None:
        """The sample where its opening is all of it already."""
        text, finish = put_back(opening, "", request.stop)
        if request.opening[-1] in self._table.ends:
            finish = "eos"
        return _nothing_new(text, finish) if finish != "length" else None

    async def _ask(self, request: SampleRequest, opening: str, n: int, seed: int, home: int) -> list[Sample]:
        """Samples from one HTTP request."""
        stop, max_tokens = asked_stops(request.stop), request.max_tokens
        answer = None
        while answer is None:
            body = self._dialect.body(
                request.prefix,
                opening,
                max_tokens=max_tokens,
                temperature=request.temperature,
                seed=seed,
                n=n,
                stop=stop,
                alternatives=request.alternatives,
            )
            try:
                answer = await self._servers.ask(self._dialect.path, body, home=home)
            except ServerError as error:
                if not error.refused or not _TOO_LONG.search(error.said):
                    raise
                max_tokens //= 2  # servers refuse what may not fit, but for those that shorten it
                if not max_tokens:
                    return [_nothing_new(opening, "length")] * n
        return self._read(answer, request, opening, n)

    def _read(self, answer: Any, request: SampleRequest, opening: str, n: int) -> list[Sample]:
        url = self._servers.urls[0]
        try:
            choices = read_choices(answer)
        except ValueError as error:
            raise SetupError(f"{url} does not speak OpenAI's interface: {error}") from error
        if len(choices) != n:
            raise SetupError(f"{url} gave {len(choices)} samples where {n} were asked for")
        samples = [read_sample(choice, request, opening, self._table) for choice in choices]
        return self._counted(answer.get("usage") or {}, choices, samples, opening)

    def _counted(
        self, usage: dict[str, Any], choices: list[Choice], samples: list[Sample], opening: str
    ) -> list[Sample]:
        """The samples, with their tokens and the server's counts on the account."""
        told = sum(sum(sample.tokens) for sample in samples)
        size = sum(len(choice.text.encode()) for choice in choices)
        total = int(usage.get("completion_tokens") or told or -(-size // 4))
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self._usage.generated += total
        self._usage.prefilled += max(0, int(usage.get("prompt_tokens") or 0) - int(cached))
        return samples if told else share_tokens(samples, opening, total)


def _samples_or_refusal(answered: Answered) -> list[Sample] | RstarError:
    try:
        return answered.result()
    except ServerError as error:
        if not error.refused or error.status in _OF_ALL:
            raise
        return error


def _nothing_new(text: str, finish: Finish) -> Sample:
    """A sample that is its opening alone."""
    segments = tuple(Segment(step) for step in split_steps(text))
    none = (0,) * len(segments)
    return Sample(segments, (0.0,) * len(segments), finish, none)


def _seed(seed: int, draw: int) -> int:
    """A draw's seed as servers take it: below 2**62, so that they can count on from it."""
    digest = blake2b(f"{seed}\x1f{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2
