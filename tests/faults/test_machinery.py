"""The tests' own means: what they inject happens, and what is left behind is seen."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.faults.common import Running, all_gone, environment, killed_at, left_behind, lines


def test_a_process_is_killed_at_the_change_that_was_chosen(tmp_path: Path) -> None:
    code = "import os\nfor i in range(4):\n fd = os.open('f', 1089, 0o600); os.write(fd, b'ab'); os.fsync(fd)"
    for more, size in (({}, 4), ({"before": True}, 3)):
        (tmp_path / "f").write_bytes(b"")
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment(**killed_at(3, "write,fsync", **more)),
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        assert (tmp_path / "f").stat().st_size == size


def test_what_is_left_behind_is_seen(tmp_path: Path) -> None:
    run = Running("sleep 30 & echo $! > pid", cwd=tmp_path, shell=True)
    assert run.end().code == 0
    assert any("sleep 30" in line for line in left_behind())
    child = int((tmp_path / "pid").read_text())
    subprocess.run(["kill", str(child)], check=True)
    all_gone()
    assert lines(tmp_path / "pid") == 1
