"""Requests to one or several HTTP servers with the same model: where they go, how often they are tried, what failed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from email.utils import parsedate_to_datetime
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rstar_cli.errors import SetupError, UsageError

if TYPE_CHECKING:
    import httpx2

KEY_VARIABLES = ("RSTAR_API_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the servers' key; the first that is set counts."""

TRIES = 8
"""How often a request is made before it is given up: for most of a minute, in which a proxy may come back."""

WAIT_SECONDS = 0.5
"""Before the second try; doubles from try to try, up to WAIT_MOST."""

WAIT_MOST = 30.0
"""Seconds between two tries at most, but for a server that asks for more."""

ASKED_WAIT_MOST = 120.0
"""Seconds that a server's Retry-After is heeded at most."""

CONNECT_SECONDS = 10.0
"""Time to connect."""

ANSWER_SECONDS = 1200.0
"""Time without a byte after which an answer is given up: nothing comes before its last token is sampled."""

SAID_MOST = 300
"""Characters of a server's own words in an error."""

_HERE = ("127.0.0.1", "localhost", "::1")

_TRY_AGAIN = frozenset({408, 409, 425, 429})
"""Statuses below 500 that may pass."""

AnswerT = TypeVar("AnswerT")


class ServerError(SetupError):
    """A server that can't be reached or refuses.

    Attributes:
        status: HTTP status; None where no answer came.
        said: the server's own words, cut; the key is never among them.
    """

    def __init__(self, message: str, *, remedy: str = "", status: int | None = None, said: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.said = said

    @property
    def refused(self) -> bool:
        """Whether the server read the request and won't have it, now or later."""
        if self.status is None or self.status in _TRY_AGAIN:
            return False
        return 400 <= self.status <= 501  # 500: it fell over it


def read_urls(text: str) -> list[str]:
    """Base URLs, separated by commas, each as `http://HOST:PORT/v1`; `/v1` is added to one without a path.

    Raises:
        UsageError: none is given, or one is no URL or holds a password or a query.
    """
    urls = [part.strip().rstrip("/") for part in text.split(",") if part.strip()]
    if not urls:
        raise UsageError("the openai engine needs a server", remedy="Give --base-url http://HOST:PORT/v1.")
    return [_checked(url) for url in urls]


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(
            f"a base URL holds no user, password or query (that of {parts.hostname} does)",
            remedy=f"Put the key into {KEY_VARIABLES[0]} and give --base-url http://HOST:PORT/v1.",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"{url!r} is no base URL", remedy="One looks like http://HOST:PORT/v1.")
    return url if parts.path else f"{url}/v1"


def _read_key() -> str:
    """The servers' key; empty where there is none.

    Raises:
        UsageError: it can't be sent.
    """
    name = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    key = os.environ[name].strip() if name else ""
    if not key.isascii() or not key.isprintable():
        raise UsageError(f"the key in {name} has characters that no key has", remedy="Set it anew.")
    return key


class Servers:
    """Servers that answer alike, and a thread that speaks to them.

    Requests of one home go to one server, so that its prefix cache helps; where that fails, the next one is tried.

    Args:
        urls: base URLs, as `read_urls` gives them.
        concurrency: requests under way at once.
    """

    def __init__(self, urls: list[str], concurrency: int) -> None:
        self.urls = urls
        self._key = _read_key()
        self._loop = asyncio.new_event_loop()
        self._places = asyncio.Semaphore(concurrency)
        self._client = self._make_client(concurrency)
        self._thread = Thread(target=self._loop.run_forever, name="rstar-servers", daemon=True)
        self._thread.start()

    def _make_client(self, concurrency: int) -> httpx2.AsyncClient:
        import httpx2

        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, pool=None),
            limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            trust_env=not all(urlsplit(url).hostname in _HERE for url in self.urls),  # no proxy where all are here
        )

    def start(self, work: Coroutine[Any, Any, AnswerT]) -> Future[AnswerT]:
        """Run work that asks the servers, in their thread; returns at once."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Drop what is under way, and the connections: servers that notice stop sampling."""
        if self._loop.is_closed():
            return
        self.start(self._hang_up()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _hang_up(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()

    async def ask(self, path: str, body: dict[str, Any] | None = None, *, home: int = 0, tries: int = TRIES) -> Any:
        """The JSON that a server answers with. Failures that may pass are tried again, ever later.

        Args:
            path: below the base URL, as `/completions`; with `..` before it, beside it.
            body: to POST as JSON; None: GET.
            home: number of the server to ask first.
            tries: how often to ask.

        Raises:
            ServerError: it failed for good, or as often as it was tried.
        """
        async with self._places:
            for number in range(tries):
                url = _join(self.urls[(home + number) % len(self.urls)], path)
                answer, error, asked_wait = await self._once(url, body)
                if error is None:
                    return answer
                if number == tries - 1 or (error.refused and error.status != 500):
                    raise error
                await asyncio.sleep(_wait(number) if asked_wait is None else asked_wait)
        raise AssertionError("tried not even once")

    async def _once(self, url: str, body: dict[str, Any] | None) -> tuple[Any, ServerError | None, float | None]:
        """(answer, what failed, seconds that the server wants us to wait)."""
        import httpx2

        try:
            reply = await self._client.request("GET" if body is None else "POST", url, json=body)
        except httpx2.TransportError as error:
            why = self._shown(str(error)) or type(error).__name__
            remedy = "Check --base-url, and that the server runs and is reached from here."
            return None, ServerError(f"no answer from {url}: {why}", remedy=remedy, said=why), None
        if reply.is_success:
            try:
                return reply.json(), None, None
            except ValueError:
                said = self._shown(reply.text)
                return None, ServerError(f"{url} answered with what is no JSON: {said}", status=400, said=said), None
        said, status = self._shown(_message(reply.text)), reply.status_code
        remedy = ""
        if status in (401, 403):
            remedy = f"Put the server's key into the environment as {KEY_VARIABLES[0]} (or {KEY_VARIABLES[1]})."
        failed = ServerError(f"{url} answered {status}: {said}", remedy=remedy, status=status, said=said)
        return None, failed, _asked_wait(reply.headers.get("Retry-After"))

    def _shown(self, text: str) -> str:
        """A server's words for an error: on one line, cut, the key struck out."""
        line = " ".join(text.split())
        if self._key:
            line = line.replace(self._key, "***")
        return line if len(line) <= SAID_MOST else f"{line[:SAID_MOST]}..."


def _join(base: str, path: str) -> str:
    return base.removesuffix("/v1") + path.removeprefix("..") if path.startswith("..") else base + path


def _message(text: str) -> str:
    """What an error's body says, in the ways that servers put it."""
    try:
        found = json.loads(text)
    except ValueError:
        return text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else json.dumps(found)


def _wait(number: int) -> float:
    """Seconds before the next try: doubling, with jitter, so that requests that failed together don't come together."""
    return min(WAIT_MOST, WAIT_SECONDS * 2.0**number) * random.uniform(0.5, 1.0)


def _asked_wait(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), ASKED_WAIT_MOST)
