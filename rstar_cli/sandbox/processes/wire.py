"""What travels between host, supervisor, zygote and programs.

Host and supervisor trust each other: a stream of frames, each a length and JSON. Host to supervisor: requests, answered
strictly in order (`supervisor`); back: a list of [branch, status, stdout, error, seconds], the one answer to a request.

Supervisor and programs talk in packets (SOCK_SEQPACKET, a pair for each process). Down: an order, JSON
`{"steps": [code], "replay": n, "cpu": seconds}`, with the descriptor of the new process's socket; a large one in
a sealed memfd. Up: HELLO, then claims, JSON `{"status", "stdout", "error"}`: one when the replay ran, one a step.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
from typing import Any

_SIZE = struct.Struct("!I")
_FD = struct.Struct("i")

ERROR_BYTES = 2000
"""Longest error text of a claim, UTF-8."""
PACKET_BYTES = 60_000
"""Longest payload of a packet."""
HELLO = b"H"
MORE, LAST = 0, 1
"""First byte of a claim's packet: whether another follows."""
CLAIMABLE = ("ok", "error", "memory", "denied", "exit", "output_limit")
"""What a program can know of itself."""

_ADD_SEALS, _ALL_SEALS = 1033, 15


class Stream:
    """Frames of JSON over a stream socket that nobody else reads; blocking.

    Args:
        sock: a connected stream socket.
        watch: becomes readable when the peer's process ends: a fork of it may keep the socket open.
    """

    def __init__(self, sock: socket.socket, watch: int) -> None:
        self.socket = sock
        self._watch = watch
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
        return bool(self._buffer or select.select([self.socket], [], [], 0)[0])

    def _fill(self, size: int) -> bool:
        while len(self._buffer) < size:
            ready = select.select([self.socket, self._watch], [], [])[0]
            try:
                data = self.socket.recv(1 << 18) if self.socket in ready else b""
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


def send_order(sock: socket.socket, order: dict[str, Any], child: int) -> None:
    """Have a process fork; never blocks.

    Args:
        sock: to the parent.
        order: see above.
        child: descriptor that the new process answers on.

    Raises:
        OSError: the parent is gone, or reads nothing.
    """
    payload = json.dumps(order).encode()
    if len(payload) <= PACKET_BYTES:
        _send(sock, payload, [child])
        return
    large = os.memfd_create("order", os.MFD_ALLOW_SEALING)
    try:
        with open(large, "wb", closefd=False) as file:
            file.write(payload)
        fcntl.fcntl(large, _ADD_SEALS, _ALL_SEALS)
        _send(sock, b"\0", [child, large])
    finally:
        os.close(large)


def _send(sock: socket.socket, payload: bytes, descriptors: list[int]) -> None:
    packed = b"".join(map(_FD.pack, descriptors))
    sock.sendmsg([payload], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)], socket.MSG_DONTWAIT)


def receive_order(sock: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Wait for an order: it, and the descriptor of the new process's socket; None where the supervisor is gone."""
    try:
        payload, ancillary, _, _ = sock.recvmsg(PACKET_BYTES, socket.CMSG_SPACE(2 * _FD.size))
    except ConnectionError:
        return None
    if not payload:
        return None
    child, *large = (fd for fds in ancillary for (fd,) in _FD.iter_unpack(fds[2]))
    if large:
        payload = os.pread(large[0], os.fstat(large[0]).st_size, 0)
        os.close(large[0])
    return json.loads(payload), child


def send_claim(sock: socket.socket, payload: bytes) -> None:
    """Send a claim, in as many packets as it needs."""
    while len(payload) > PACKET_BYTES:
        sock.send(b"\0" + payload[:PACKET_BYTES])
        payload = payload[PACKET_BYTES:]
    sock.send(b"\1" + payload)
