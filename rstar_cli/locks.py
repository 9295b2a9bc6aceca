"""One writer at a time: a lock file that names its holder.

The kernel holds the lock (`flock`) and drops it with the process, `kill -9` included, on network file systems that
know locks too. So a file that a dead process left is no obstacle, whatever it says.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rstar_cli.errors import LockedError, StorageError
from rstar_cli.jsonl import storage_errors


@contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which is gone afterwards.

    Args:
        path: the file, in a folder that is there.
        what: what its holder works on, for the message.

    Raises:
        LockedError: another process holds it; names that process and its host.
        StorageError: the file can't be made, or its file system knows no locks.
    """
    handle = _lock(path, what)
    try:
        with storage_errors(path, "write"):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # before the lock goes: what another process locks then is a new file
        os.close(handle)


def _lock(path: Path, what: str) -> int:
    """An open and locked file that is still the one at `path`."""
    while True:
        with storage_errors(path, "write"):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:  # its holder ended between our two steps
            pass
        except BlockingIOError:
            raise _told(handle, what) from None
        except OSError as error:
            raise StorageError(
                f"{path}: can't lock it: {error.strerror}",
                remedy="Mount this file system with locks (NFS: without nolock; Lustre: -o flock), or use another.",
            ) from error
        os.close(handle)


def _told(handle: int, what: str) -> LockedError:
    """Who holds a lock, and what to do."""
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
        process, host = int(holder["process"]), str(holder["host"])
    except (ValueError, KeyError, TypeError):  # it is being written
        return LockedError(f"another process is at work on {what}", remedy="Let it end, or stop it.")
    where = "" if host == socket.gethostname() else f" on {host}"
    return LockedError(
        f"process {process} on {host} is at work on {what}",
        remedy=f"Let it end, or stop it{where}: kill {process}",
    )
