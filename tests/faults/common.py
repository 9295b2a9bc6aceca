"""What the tests of faults share: the command line as a process that is watched, and killed at a chosen moment.

A test marks itself a subreaper (see conftest.py), so that whatever a run leaves behind becomes a child of the test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.helpers import ROOT

INJECTED = Path(__file__).parent / "injected"
"""Folder of a `sitecustomize.py`: with it on PYTHONPATH a process kills itself at a moment, or its clock jumps."""
CLOCKED = (
    "manifest.json",
    "report.html",
    "train_log.jsonl",
    *(f"{what}_by_stage.{kind}" for what in ("time", "tokens") for kind in ("svg", "png")),
)
"""Files that hold clock times."""
ENDS_WITHIN = 8.0
"""Seconds after a run's end in which everything of it has to be gone."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


class Running:
    """A command at work. Its output goes to files, so that nobody has to read it while it runs."""

    def __init__(self, *args: str, cwd: Path, shell: bool = False, **env: str) -> None:
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        command = [sys.executable, "-m", "rstar_cli", *args]
        self.process = subprocess.Popen(
            ["sh", "-c", args[0]] if shell else command,
            cwd=cwd,
            env=environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return os.pread(self._err.fileno(), 1 << 20, 0).decode()

    @property
    def stdout(self) -> str:
        """What it has written so far."""
        return os.pread(self._out.fileno(), 1 << 20, 0).decode()

    def send(self, number: int) -> None:
        """Send it a signal, to it alone."""
        self.process.send_signal(number)

    def until(self, happened: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until something has happened; the command must not end before."""
        deadline = time.monotonic() + seconds
        while not happened():
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.stderr}"
            assert time.monotonic() < deadline, f"nothing happened: {self.stderr}"
            time.sleep(0.002)

    def end(self, seconds: float = 300.0) -> Done:
        """Wait for its end. Whatever it is, it comes without a traceback."""
        try:
            self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        said = [os.pread(file.fileno(), 1 << 24, 0).decode() for file in (self._out, self._err)]
        self._out.close()
        self._err.close()
        assert "Traceback" not in said[1], said[1]
        return Done(self.process.returncode, *said)

    def kill(self) -> Done:
        """SIGKILL, to the parent alone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        return self.end()


def environment(**more: str) -> dict[str, str]:
    """Of a command: this checkout's package, one thread, no network. A PYTHONPATH given comes first."""
    path = os.pathsep.join(part for part in (more.pop("PYTHONPATH", ""), str(ROOT)) if part)
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **more}


def rstar(*args: str, cwd: Path, code: int = 0, **env: str) -> Done:
    """Run a command to its end, which has to be the expected one."""
    done = Running(*args, cwd=cwd, **env).end()
    assert done.code == code, f"exit {done.code}, not {code}: {shlex.join(args)}\n{done.stdout}\n{done.stderr}"
    return done


def sh(line: str, cwd: Path, **env: str) -> Done:
    """Run a line of shell; `rstar` in it is this checkout's."""
    line = line.replace("rstar ", f"{shlex.quote(sys.executable)} -m rstar_cli ")
    return Running(line, cwd=cwd, shell=True, **env).end()


def killed_at(event: int, kinds: str = "", *, before: bool = False) -> dict[str, str]:
    """Environment in which a process kills itself at its `event`-th change on the disk, from 1.

    Args:
        event: which one.
        kinds: of these alone, by name with commas between: write, fsync, replace, rename, unlink, ftruncate.
        before: instead of what it was about to do; a write is done by half.
    """
    told = {"event": event, "kinds": kinds.split(",") if kinds else [], "before": before}
    return {"PYTHONPATH": str(INJECTED), "RSTAR_TEST_KILL": json.dumps(told)}


def artifacts(folder: Path) -> dict[str, str]:
    """Every file below a folder by its hash; of those that hold clock times the times are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in CLOCKED:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found | {str(p.relative_to(folder)): _timeless(p) for p in folder.rglob("*manifest.json")}


def _timeless(manifest: Path) -> str:
    """What a manifest tells of files and settings, whatever the way there was."""
    stages = json.loads(manifest.read_bytes())["stages"]
    kept = ("status", "config", "inputs", "outputs")
    return json.dumps({name: {key: told.get(key) for key in kept} for name, told in sorted(stages.items())})


def manifest_of(run: Path, number: int) -> dict[str, Any]:
    """The stages that a round's manifest tells of."""
    stages: dict[str, Any] = json.loads((run / f"round_{number}/manifest.json").read_bytes())["stages"]
    return stages


_ELDERS: set[int] = set()


def note_elders() -> None:
    """Remember which children this process has already, such as another test's browser: they are nobody's orphans."""
    _ELDERS.clear()
    _ELDERS.update(child.pid for child in psutil.Process().children(recursive=True))


def left_behind() -> list[str]:
    """Processes of runs that have ended: this process has become their parent. Dead ones are buried."""
    left = []
    for child in _descendants(psutil.Process()):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE:
                left.append(" ".join(child.cmdline())[:200])
            elif child.ppid() == os.getpid():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)
    return left


def _descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in process.children():
            if child.pid not in _ELDERS:
                yield child
                yield from _descendants(child)


def all_gone() -> None:
    """Assert that nothing of any run is left, a few seconds after its end."""
    deadline = time.monotonic() + ENDS_WITHIN
    while (left := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, left


def lines(path: Path) -> int:
    """Whole lines of a file that may not be there."""
    try:
        return path.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def write_problems(path: Path, problems: list[Mapping[str, Any]]) -> Path:
    """A file of problems."""
    path.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    return path
