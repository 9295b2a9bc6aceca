"""What travels between host and supervisor, which trust each other: a stream of frames, each a length and JSON.

Host to supervisor: `{"tree", "scientific", "prefix": [code], "branches": [[code]]}`, answered strictly in order, and
`{"forget": tree}`. Back: `{"started"}`, then answers: `{"results": [[[status, stdout, error, seconds]]], "layers"}`, a
list of steps a branch; or `{"failed": why}`.
"""

from __future__ import annotations

import json
import select
import socket
import struct
from typing import Any

_SIZE = struct.Struct("!I")


class Stream:
    """Frames of JSON over a stream socket that nobody else reads; blocking.

    Args:
        sock: a connected stream socket.
        watch: becomes readable when the peer's process ends, if the system tells: its forks may keep the socket open.
    """

    def __init__(self, sock: socket.socket, watch: int | None) -> None:
        self.socket = sock
        self._poll = select.poll()  # not select: a host may have many descriptors
        for descriptor in [sock.fileno(), *([] if watch is None else [watch])]:
            self._poll.register(descriptor, select.POLLIN)
        self._buffer = bytearray()

    def read(self) -> Any | None:
        """The next message; None where the peer is gone."""
        if not self._fill(_SIZE.size):
            return None
        end = _SIZE.size + _SIZE.unpack_from(self._buffer)[0]
        if not self._fill(end):
            return None
        message = json.loads(self._buffer[_SIZE.size : end])
        del self._buffer[:end]
        return message

    def pending(self) -> bool:
        """Whether some of the next message is there."""
        return bool(self._buffer or self._poll.poll(0))

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            ready = {descriptor for descriptor, _ in self._poll.poll()}
            try:
                data = self.socket.recv(1 << 18) if self.socket.fileno() in ready else b""
            except ConnectionError:
                return False
            if not data:
                return False
            self._buffer += data
        return True


def frame(message: Any) -> bytes:
    """A message of a stream."""
    payload = json.dumps(message).encode()  # escaped: code may hold lone surrogates
    return _SIZE.pack(len(payload)) + payload


def take_frames(buffer: bytearray) -> list[bytes]:
    """Cut the whole frames off the front of what has come; returns their payloads."""
    payloads, start = [], 0
    while len(buffer) - start >= _SIZE.size:
        end = start + _SIZE.size + _SIZE.unpack_from(buffer, start)[0]
        if end > len(buffer):
            break
        payloads.append(bytes(buffer[start + _SIZE.size : end]))
        start = end
    del buffer[:start]
    return payloads
