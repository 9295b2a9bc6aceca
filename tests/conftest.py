"""What holds for all tests."""

from __future__ import annotations

import os
import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Leave the hub alone, and have the commands hear SIGINT, even where the tests were started in the background."""
    if config.option.markexpr != "network":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else each question is asked again for half a minute
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
