"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Have the commands hear SIGINT, even where the tests were started in the background, where it is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
