"""Live figures of a stage: a bar where there is a terminal, a heartbeat line where there is none. All on stderr.

A run's `progress.json` holds the same for whoever asks from elsewhere (`rstar status`).
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from types import TracebackType

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rstar_cli.jsonl import replacing
from rstar_cli.ranks import is_main

HEARTBEAT_SECONDS = 10.0
"""Between two lines where there is no terminal."""
FILE_SECONDS = 2.0
"""Between two writings of the file."""


class StageProgress:
    """Progress of one stage.

    Args:
        title: what is counted, as `generate round 1`.
        total: how many there are.
        done: how many were finished before (a resume).
        console: where to; stderr by default.
        file: `progress.json` of the run; None: outside a run.
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, console: Console | None = None, file: Path | None = None
    ) -> None:
        self._file = file if is_main() else None
        self._written = -FILE_SECONDS
        self._console = console or Console(stderr=True, quiet=not is_main())
        self._title = title
        self._total = total
        self._done = done
        self._begun = time.monotonic()
        self._started_with = done
        self._last_line = self._begun
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> StageProgress:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=10),
                MofNCompleteColumn(),
                TimeRemainingColumn(compact=True),  # all of it fits into 80 columns
                TextColumn("{task.fields[figures]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, figures="")
        self._write("")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self._begun

    def rate(self, count: float, unit: str) -> str:
        """A count as a rate since the beginning, as `9.1k tok/s`."""
        per_second = count / max(self.seconds, 1e-6)
        number = f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.0f}"
        return f"{number} {unit}/s"

    def update(self, done: int, *figures: str) -> None:
        """Show how many are done and the stage's figures, as `61% solved` and `9.1k tok/s`."""
        self._done = done
        text = "  ".join(figures)
        self._write(text)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, figures=text)
        elif time.monotonic() - self._last_line >= HEARTBEAT_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(
                f"{self._title}: {done}/{self._total}  {text}  left {self._left()}", highlight=False, soft_wrap=True
            )

    def _write(self, figures: str) -> None:
        """Put what is shown into the file, now and then."""
        now = time.monotonic()
        if self._file is None or now - self._written < FILE_SECONDS:
            return
        self._written = now
        told = {
            "stage": self._title,
            "done": self._done,
            "total": self._total,
            "figures": figures,
            "left": self._left(),
            "seconds": round(self.seconds, 1),
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        with replacing(self._file) as write:
            write(orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")

    def _left(self) -> str:
        fresh = self._done - self._started_with
        if fresh < 10:  # too few to tell: loading is in their time
            return "?"
        seconds = self.seconds / fresh * max(self._total - self._done, 0)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
