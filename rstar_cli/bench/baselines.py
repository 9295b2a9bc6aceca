"""What a sandbox is compared with: a fresh interpreter for every step, and `exec` in a loop. Neither isolates."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from rstar_cli.bench.programs import StepProgram
from rstar_cli.errors import RstarError

_LOOP = """
import contextlib, io, json, sys, time
import numpy, sympy
paths = json.load(sys.stdin)
started = time.perf_counter()
for path in paths:
    names = {"__name__": "__main__"}
    for code in path:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)
print(time.perf_counter() - started)
"""


def fresh_process(programs: Sequence[StepProgram], workers: int) -> float:
    """Steps a second where each is a new `python -c` that runs its whole prefix first."""
    codes = ["\n".join(path) for path in _paths(programs)]
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda code: _python(code, ""), codes))
    return len(codes) / (time.perf_counter() - started)


def exec_loop(programs: Sequence[StepProgram], workers: int) -> float:
    """Steps a second of `exec` in a warm interpreter a core, the prefix run again for every step."""
    paths = _paths(programs)
    parts = [part for i in range(workers) if (part := paths[i::workers])]
    with ThreadPoolExecutor(workers) as pool:
        seconds = list(pool.map(lambda part: float(_python(_LOOP, json.dumps(part))), parts))
    return len(paths) / max(seconds)


def _paths(programs: Sequence[StepProgram]) -> list[tuple[str, ...]]:
    """Each step of each program, with those before it."""
    return [program.steps[: i + 1] for program in programs for i in range(len(program.steps))]


def _python(code: str, given: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RstarError(f"a program of the benchmark failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
