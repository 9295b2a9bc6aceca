"""Signals to a process that does not come to look at them, and to one that takes too long to finish."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.helpers import ROOT

SCRIPT = """
import hashlib, os, sys, time
from rstar_cli import interrupts
interrupts.install(lambda: os.write(2, b"farewell"))
what, seconds, work = sys.argv[1], float(sys.argv[2]) or None, sys.argv[3]
with interrupts.finishing(what, seconds):
    print("begun", flush=True)
    if work == "deep":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes of C code that no handler gets into
    while work == "loop" or not interrupts.asked():
        time.sleep(0.01)
print("left", flush=True)
interrupts.end_if_asked()
"""


def ended(number: int, times: int, what: str, seconds: float, work: str) -> tuple[int, float, str, str]:
    """(exit code, seconds, stdout, stderr) of a process that is sent a signal."""
    command = [sys.executable, "-c", SCRIPT, what, str(seconds), work]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(60, process.kill)
        watch.start()
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        begun = time.monotonic()
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.1)
        out, told = process.communicate()
        watch.cancel()
    return process.returncode, time.monotonic() - begun, out, told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_is_seen_to(number: int, code: int) -> None:
    returned, _, out, told = ended(number, 1, "the work", 20, "")
    assert (returned, out) == (code, "left\n")
    assert told == "interrupted: finishing the work, 20 s at most; a second signal ends at once\n"


def test_as_long_as_it_takes_has_no_limit() -> None:
    assert ended(signal.SIGINT, 1, "it", 0, "")[3] == "interrupted: finishing it; a second signal ends at once\n"


def test_what_takes_too_long_is_ended_from_within() -> None:
    returned, seconds, out, told = ended(signal.SIGTERM, 1, "the work", 0.5, "loop")
    assert (returned, out) == (143, "")
    assert 0.4 < seconds < 5
    assert "farewell" not in told, "it closes what it has open"


def test_deep_in_c_code_a_second_signal_ends_it_by_force() -> None:
    returned, seconds, out, told = ended(signal.SIGTERM, 2, "the work", 20, "deep")
    assert (returned, out) == (143, "")
    assert 2.5 < seconds < 5
    assert told.endswith("farewell")
