"""Fixtures of the attacks. They run where the sandbox is whole; elsewhere they would reach this machine."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.sandbox import Sandbox
from tests.hostile.common import SECRET, Box, count_descriptors


@pytest.fixture(scope="package")
def shared_box() -> Iterator[Box]:
    with Sandbox(workers=1) as sandbox:
        if sandbox.isolation() != "full":
            pytest.skip(f"this machine isolates programs by {', '.join(sandbox.layers())} alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RSTAR_TEST_SECRET", SECRET)
        box = Box()
        with box.sandbox:
            yield box


@pytest.fixture
def box(shared_box: Box) -> Iterator[Box]:
    """The sandbox, looked over after the test."""
    before = count_descriptors(os.getpid())
    yield shared_box
    shared_box.check()
    assert count_descriptors(os.getpid()) == before


@pytest.fixture(scope="package")
def shared_rough_box(shared_box: Box) -> Iterator[Box]:
    box = Box(scientific=False)
    with box.sandbox:
        yield box


@pytest.fixture
def rough_box(shared_rough_box: Box) -> Iterator[Box]:
    """A sandbox for attacks that may cost the zygote, and with it its states."""
    yield shared_rough_box
    shared_rough_box.check(restarts=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Things of the host to attack, checked afterwards."""
    places = {name: tmp_path / name.lower() for name in ("HOME", "TMPD", "CWD")}
    for path in places.values():
        path.mkdir()
    canary, library = places["HOME"] / "private.txt", Path(os.__file__)
    canary.write_text(SECRET)
    os.utime(canary, (1e9, 1e9))
    before = [describe(path) for path in (canary, library, library.parent)]
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
    assert [describe(path) for path in (canary, library, library.parent)] == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cwd", "home", "private.txt", "tmpd"]


def describe(path: Path) -> tuple[int, ...]:
    seen = path.stat()
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns, seen.st_nlink, seen.st_size
