"""What travels between host, zygote and program.

Host to zygote: frames of JSON `{"prefix": [code], "branches": [[code]]}`, answered strictly in order. Zygote to host:
records, each a header and a payload. Program to zygote: frames, first an empty one when the prefix ran, then one claim
a step, JSON `{"status", "stdout", "error"}`. Claims are passed on unread; the host judges them.
"""

from __future__ import annotations

import socket
import struct
import time
from enum import IntEnum

SIZE = struct.Struct("!I")
"""Head of a frame: payload bytes."""
RECORD = struct.Struct("!BIdI")
"""Head of a record: kind, branch, seconds, payload bytes."""

ERROR_BYTES = 2000
"""Longest error text of a claim, UTF-8."""


class Record(IntEnum):
    """Kinds of records that a zygote sends."""

    READY = 0
    """It serves; the payload is a JSON list of its isolation layers."""
    FAILED = 1
    """It can't serve; the payload says why."""
    CLAIM = 2
    """A step's claim about itself, as the program sent it."""
    TIMEOUT = 3
    KILLED = 4
    """The program ended without a claim for its next step."""
    PROTOCOL = 5
    """The program sent a frame that is too long."""
    LOST = 6
    """The prefix did not run."""
    DONE = 7
    """The request is answered."""


class FrameError(Exception):
    """A frame longer than its reader takes."""


class FrameReader:
    """Reads frames from a stream socket that nobody else reads.

    Args:
        sock: a connected stream socket.
        limit: longest payload accepted, bytes.
    """

    def __init__(self, sock: socket.socket, limit: int) -> None:
        self._sock = sock
        self._limit = limit
        self._buffer = bytearray()

    def read(self, deadline: float | None = None) -> bytes | None:
        """The next payload; None where the peer is gone.

        Args:
            deadline: by `time.monotonic()`; None waits for ever.

        Raises:
            TimeoutError: the deadline passed.
            FrameError: the peer announces more than the limit.
        """
        if not self._fill(SIZE.size, deadline):
            return None
        size = SIZE.unpack_from(self._buffer)[0]
        if size > self._limit:
            raise FrameError(f"a frame of {size} bytes")
        end = SIZE.size + size
        if not self._fill(end, deadline):
            return None
        payload = bytes(self._buffer[SIZE.size : end])
        del self._buffer[:end]
        return payload

    def close(self, deadline: float) -> bool:
        """Wait for the end of the peer, and of whoever shares its end, dropping what it still sends; close ours.

        Returns:
            Whether it ended by the deadline.
        """
        with self._sock:
            try:
                while self._fill(1, deadline):
                    self._buffer.clear()
            except TimeoutError:
                return False
            return True

    def _fill(self, size: int, deadline: float | None) -> bool:
        while len(self._buffer) < size:
            # the socket's own timeout would start anew with each byte
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._sock.settimeout(left)
            try:
                data = self._sock.recv(1 << 18)
            except ConnectionError:
                return False
            if not data:
                return False
            self._buffer += data
        return True


def frame(payload: bytes) -> bytes:
    """A payload with its head."""
    return SIZE.pack(len(payload)) + payload


def record(kind: Record, branch: int = 0, seconds: float = 0.0, payload: bytes = b"") -> bytes:
    """A record with its head."""
    return RECORD.pack(kind, branch, seconds, len(payload)) + payload
