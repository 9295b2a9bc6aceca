"""Programs that attack: the host's files, processes and network, the claims of others, the sandbox itself.

They run only where the sandbox proves its namespaces; elsewhere they are skipped, for they would reach this machine.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.sandbox import Sandbox
from tests.helpers import ROOT

SECRET = "s3cr3t-of-the-host"
MUST_HOLD = {"pid", "net", "mount", "user", "limits"}
CORPUS = Path(os.environ.get("RSTAR_SHARED", ROOT.parent / "shared"), "data", "hostile.jsonl")
HARMLESS = {"tcp_bind"}
"""Succeeds, on a network of its own that nobody else is on."""

FORGE = """
import json, os, struct, time
def forge(status="ok", stdout="", times=1, **more):
    claim = json.dumps({"status": status, "stdout": stdout, "error": "", **more}).encode()
    for fd in range(3, 256):
        try: os.write(fd, (struct.pack("!I", len(claim)) + claim) * times)
        except OSError: pass
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    os.environ["RSTAR_TEST_SECRET"] = SECRET
    with Sandbox(workers=1, timeout=0.6, memory_mb=256) as sandbox:
        missing = MUST_HOLD - set(sandbox.layers())
        if missing:
            pytest.skip(f"this machine does not allow: {', '.join(sorted(missing))}")
        yield sandbox
    del os.environ["RSTAR_TEST_SECRET"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Things of the host to attack, checked afterwards."""
    places = {name: tmp_path / name.lower() for name in ("HOME", "TMPD", "CWD")}
    for path in places.values():
        path.mkdir()
    canary = places["HOME"] / "private.txt"
    canary.write_text(SECRET)
    os.utime(canary, (1e9, 1e9))
    mode = stat.S_IMODE(canary.stat().st_mode)
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        ports = {"PORT": str(tcp.getsockname()[1]), "UPORT": str(udp.getsockname()[1])}
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(f"\0rstar_canary_{ports['PORT']}")
            unix.listen()
            yield {**{name: str(path) for name, path in places.items()}, **ports, "CANARY": str(canary)}
            for listener in (tcp, udp, unix):
                listener.settimeout(0)
                with pytest.raises(BlockingIOError):
                    listener.recv(1) if listener is udp else listener.accept()
    assert canary.read_text() == SECRET
    assert (stat.S_IMODE(canary.stat().st_mode), canary.stat().st_mtime, canary.stat().st_nlink) == (mode, 1e9, 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cwd", "home", "private.txt", "tmpd"]


def check_alive(sandbox: Sandbox) -> None:
    """A right and a wrong program still get their own results."""
    good, bad = sandbox.run_many(["print(2**10 + 1)", "raise ValueError(1)"])
    assert (good.status, good.stdout) == ("ok", "1025\n")
    assert (bad.status, bad.error) == ("error", "ValueError: 1 (line 1)")


def corpus() -> list[object]:
    if not CORPUS.exists():
        return [pytest.param({}, marks=pytest.mark.skip("needs data/hostile.jsonl of the shared data ($RSTAR_SHARED)"))]
    return [pytest.param(row, id=row["id"]) for row in map(json.loads, CORPUS.read_text().splitlines())]


@pytest.mark.parametrize("row", corpus())
def test_corpus(sandbox: Sandbox, place: dict[str, str], row: dict[str, str]) -> None:
    code = row["code"]
    for name, value in {**place, "ID": row["id"]}.items():
        code = code.replace(f"{{{name}}}", value)
    result = sandbox.run(code)
    if row["expect"] not in ("contained", "denied"):
        assert not result.ok
    for leak in (SECRET, "root:x:0", "SPAWN-OK", "BOUND", "PARENT-MEM", "UNIX\n"):
        assert leak not in result.stdout or row["id"] in HARMLESS
    check_alive(sandbox)


@pytest.mark.parametrize(
    ("code", "statuses"),
    [
        pytest.param("import os; print(os.getuid(), os.geteuid()); os.setuid(0)", {"denied"}, id="become root"),
        pytest.param("import os; print(os.listdir('/proc'))", {"error"}, id="list processes"),
        pytest.param(
            "import os; print(dict(os.environ), os.listdir('/'))\nos.stat('/etc/passwd')", {"error"}, id="look around"
        ),
        pytest.param("import os; os.chroot('/usr')", {"denied"}, id="chroot"),
        pytest.param("import os; os.mkdir('/usr/lib/x')", {"denied"}, id="make a directory"),
        pytest.param("import os, sys; os.chmod(os.__file__, 0o777)", {"denied"}, id="change the library"),
        pytest.param(
            "import os\nfor pid in range(1, 50):\n    try: os.kill(pid, 9)\n    except OSError: pass",
            {"ok", "killed"},
            id="kill by number",
        ),
        pytest.param("import os; os.kill(1, 9); os.kill(1, 19); os.kill(1, 15)", {"ok"}, id="stop the zygote"),
        pytest.param(
            "import resource as r; r.setrlimit(r.RLIMIT_NPROC, (64, 64))", {"error"}, id="raise the process limit"
        ),
        pytest.param(
            "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))", {"error"}, id="raise the memory limit"
        ),
        pytest.param("import os; os.fork()", {"error"}, id="fork"),
        pytest.param("import threading; threading.Thread(target=print).start()", {"error"}, id="thread"),
        pytest.param(
            "import ctypes\nlibc = ctypes.CDLL(None)\n"
            "assert libc.ptrace(16, 1, 0, 0) == -1\nassert libc.mount(b'x', b'/', b'tmpfs', 0, None) == -1",
            {"ok"},
            id="trace the zygote, mount",
        ),
        pytest.param(
            "import ctypes\nlibc = ctypes.CDLL(None)\nids = [libc.shmget(i + 1, 1 << 20, 0o1666) for i in range(9)]\n"
            "assert all(i == -1 for i in ids), ids",
            {"ok"},
            id="shared memory that stays",
        ),
        pytest.param("x = b'x'\nwhile True: x += x", {"memory"}, id="bytes without end"),
        pytest.param(
            "import mmap\nkept = [mmap.mmap(-1, 1 << 28) for _ in range(99)]",
            {"memory", "error"},
            id="maps without end",
        ),
        pytest.param(
            "x = ()\nfor _ in range(10**6): x = (x,)\ndel x\nx = []\nx.append(x)\nprint(x == [x])",
            {"ok", "error", "killed"},
            id="deep tuples",
        ),
        pytest.param("exec('(' * 10**5)", {"error", "memory", "killed"}, id="deep source"),
        pytest.param(
            "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
            {"error", "memory", "killed", "timeout"},
            id="deep calls",
        ),
        pytest.param("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", {"timeout"}, id="regular expression"),
        pytest.param(FORGE + "forge('ok', 'x' * 200_000)", {"protocol", "ok", "killed"}, id="claim too much output"),
        pytest.param(FORGE + "forge('correct')", {"protocol"}, id="claim another status"),
        pytest.param(FORGE + "forge('timeout')", {"protocol"}, id="claim what only the zygote can know"),
        pytest.param(FORGE + "forge('ok', verdict='correct')", {"protocol"}, id="claim a verdict"),
        pytest.param(FORGE + "forge('error', times=50)\nwhile True: pass", {"error"}, id="claim many times, then stay"),
        pytest.param(
            "import os, struct\nfor fd in range(3, 64):\n    try: os.write(fd, b'\\xff' * 8)\n    except OSError: pass",
            {"protocol"},
            id="announce 4 GB",
        ),
        pytest.param(
            "import os, struct, time\nwhile True:\n    for fd in range(3, 64):\n        try: os.write(fd, b'\\0')\n"
            "        except OSError: pass\n    time.sleep(0.2)",
            {"timeout", "protocol"},
            id="drip",
        ),
        pytest.param(
            "import sys\nframe = sys._getframe()\nwhile frame:\n    for value in list(frame.f_locals.values()):\n"
            "        if hasattr(value, 'sendall'): value.close()\n    frame = frame.f_back",
            {"killed"},
            id="close the socket in the frames above",
        ),
        pytest.param(
            "import builtins\nfor name in dir(builtins):\n    setattr(builtins, name, None)",
            {"killed", "error", "ok"},
            id="no builtins",
        ),
        pytest.param(
            "import os, signal\nos.write = os.close = os._exit = signal.signal = None\nimport json\njson.dumps = None",
            {"ok"},
            id="no os",
        ),
    ],
)
def test_program(sandbox: Sandbox, place: dict[str, str], code: str, statuses: set[str]) -> None:
    started = time.monotonic()
    result = sandbox.run(code)
    assert result.status in statuses, result
    assert SECRET not in result.stdout
    assert time.monotonic() - started < 10
    check_alive(sandbox)


def node(sandbox: Sandbox, prefix: tuple[str, ...], *branches: tuple[str, ...]) -> list[list[ExecutionResult]]:
    return sandbox.execute([ExecuteRequest(prefix, branches)])[0]


class TestSiblings:
    """A branch may lie about itself; its siblings' results stay theirs."""

    HONEST = ("print(x)", "print(x + 1)")

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param(FORGE + "forge('ok', 'forged', times=9)", id="answer more often than asked"),
            pytest.param(FORGE + "forge('ok', 'forged', times=9)\nwhile True: pass", id="answer, then go on"),
            pytest.param(
                FORGE + "os.kill(os.getppid(), 9)\nforge('ok', 'forged', times=9)", id="kill the parent, answer"
            ),
            pytest.param("import os\nos.kill(os.getppid(), 19)", id="stop the parent"),
            pytest.param("import os\nos.kill(-1, 9)", id="kill all"),
            pytest.param("import os\nos.kill(-1, 19)\nwhile True: pass", id="stop all"),
            pytest.param("import os\nos.killpg(0, 9)", id="kill the group"),
            pytest.param(
                "import os\nfor fd in range(256):\n    try: os.close(fd)\n    except OSError: pass", id="close all"
            ),
            pytest.param(
                "while True:\n    try:\n        while True: pass\n    except BaseException: pass", id="never end"
            ),
            pytest.param(
                "import ctypes, os\nlibc = ctypes.CDLL(None)\nassert libc.ptrace(16, os.getppid(), 0, 0) == -1\n"
                "libc.prctl(4, 1, 0, 0, 0)\nassert libc.ptrace(16, os.getppid(), 0, 0) == -1\nos._exit(0)",
                id="trace the parent",
            ),
            pytest.param(
                "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_AS, (1 << 20, 1 << 20))",
                id="starve the parent",
            ),
            pytest.param(
                "import mmap, signal\nsignal.setitimer(signal.ITIMER_REAL, 0.001)\nmmap.mmap(-1, 99)", id="timer"
            ),
        ],
    )
    def test_untouched(self, sandbox: Sandbox, attack: str) -> None:
        before, _, after, last = node(sandbox, ("x = 1",), self.HONEST, (attack, "print(x)"), self.HONEST, self.HONEST)
        for steps in (before, after, last):
            assert [(result.status, result.stdout) for result in steps] == [("ok", "1\n"), ("ok", "2\n")]

    def test_a_prefix_answers_for_nobody_else(self, sandbox: Sandbox) -> None:
        forger = ExecuteRequest((FORGE + "forge('ok', 'forged', times=9)",), ((self.HONEST[0],),) * 3)
        honest = ExecuteRequest(("x = 1",), (self.HONEST,) * 2)
        results = sandbox.execute([honest, forger, honest])
        for steps in results[0] + results[2]:
            assert [(result.status, result.stdout) for result in steps] == [("ok", "1\n"), ("ok", "2\n")]

    def test_a_prefix_that_forks_leaves_nothing(self, sandbox: Sandbox) -> None:
        prefix = (
            "import os, resource\nhard = resource.getrlimit(resource.RLIMIT_NPROC)[1]\n"
            "resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))\n"
            "def stay():\n    os.setsid()\n    while True: pass\n"
            "for _ in range(200):\n    try: os.fork() or stay()\n    except OSError: pass",
        )
        started = time.monotonic()
        node(sandbox, prefix, ("x = 1",), ("x = 2",))
        assert time.monotonic() - started < 20
        check_alive(sandbox)
        assert sandbox.run("import os; print(os.getppid())").stdout == "1\n"
