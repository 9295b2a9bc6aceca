"""SIGINT and SIGTERM: asked once, a stage finishes what is in flight; asked twice, the process ends within seconds.

What a stage has finished is in its journal already, so ending at any moment loses only what is in flight. A job that a
shell started with `&` ignores SIGINT, and goes on doing so; SIGTERM works everywhere.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

GRACE_SECONDS = 20.0
"""In which what is in flight may be finished: batch systems leave 30 between SIGTERM and SIGKILL."""
CLOSING_SECONDS = 8.0
"""In which files, engines and sandboxes may be closed after that."""
LAST_SECONDS = 3.0
"""The same after a second signal; then the process is gone, whatever it does."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

ItemT = TypeVar("ItemT")


class _State:
    """Of the process: the first signal's number, what is being finished and for how long, whether it is ending."""

    number: int = 0
    finishing: str = ""
    patience: float | None = 0.0
    ending: bool = False


def install(farewell: Callable[[], None]) -> None:
    """Handle the signals from here on; to be called once, by the main thread.

    Args:
        farewell: says the last words where the process has to be ended by force.
    """
    for number in SIGNALS:
        if number != signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    signal.signal(signal.SIGALRM, _on_alarm)
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reads, farewell), name="rstar-signals", daemon=True).start()


def asked() -> bool:
    """Whether a signal has asked the process to end."""
    return _State.number > 0


def exit_code() -> int:
    """130 after SIGINT, 143 after SIGTERM."""
    return 128 + (_State.number or signal.SIGTERM)


def end() -> NoReturn:
    """End the process, closing everything on the way out."""
    _State.ending = True
    raise SystemExit(exit_code())


def end_if_asked() -> None:
    """End the process if a signal has asked for that."""
    if asked():
        end()


def ignore() -> None:
    """Heed no signal any more: at its end Python restores the defaults, and one more would change the exit code."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def finishing(what: str, seconds: float | None = GRACE_SECONDS) -> Iterator[None]:
    """Within the block a first signal ends nothing: the block looks at `asked` and comes to its end soon.

    Args:
        what: what is finished then, for the message.
        seconds: how long that may take before the process is ended from within; None: as long as it takes.
    """
    before = _State.finishing, _State.patience
    _State.finishing, _State.patience = what, seconds
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _State.finishing, _State.patience = before


def until_asked(items: Iterable[ItemT]) -> Iterator[ItemT]:
    """The items, until a signal asks the process to end."""
    for item in items:
        if asked():
            return
        yield item


def _on_signal(number: int, _frame: FrameType | None) -> None:
    first = not asked()
    if first:
        _State.number = number
    if first and _State.finishing:
        limit = "" if _State.patience is None else f", {_State.patience:.0f} s at most"
        told = f"interrupted: finishing {_State.finishing}{limit}; a second signal ends at once\n"
        os.write(2, told.encode())  # unbuffered: the stream may be in the middle of a write
        if _State.patience is not None:
            signal.setitimer(signal.ITIMER_REAL, _State.patience)
    elif not _State.ending:
        end()


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    if _State.finishing and not _State.ending:
        end()


def _watch(signals: int, farewell: Callable[[], None]) -> None:
    """End the process by force where the signals' handlers do not come to it: the main thread may be deep in C code."""
    count, deadline = 0, float("inf")
    while True:
        left = None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
        if not select.select([signals], [], [], left)[0]:
            farewell()
            os._exit(exit_code())
        fresh = sum(number in SIGNALS for number in os.read(signals, 64))
        count += fresh
        if fresh and count > 1:
            deadline = min(deadline, time.monotonic() + LAST_SECONDS)
        elif fresh and _State.patience is not None:
            deadline = time.monotonic() + _State.patience + CLOSING_SECONDS
