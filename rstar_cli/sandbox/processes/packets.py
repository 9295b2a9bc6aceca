"""What travels between the supervisor and the processes of programs: packets, on a pair of sockets for each process.

Down: an order, JSON `{"steps": [code], "replay": n, "cpu": seconds, "fork": bool}`: to fork, with the descriptor of the
new process's socket, or to run the steps itself; a large one in a sealed memfd.

Up: HELLO, then claims, JSON `{"status", "stdout", "error"}`: one when the replay ran, one a step. On Linux they are
SOCK_SEQPACKET, and the kernel tells the supervisor who sends; elsewhere frames in a stream.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SEQUENCED = sys.platform == "linux"
"""Whether this system has packets, their senders' pids, and memfds."""
PACKET_BYTES = 60_000
"""Longest payload of a packet; longer orders travel otherwise, longer claims in several."""
HELLO = b"H"
"""Begins the first packet of a process; its pid follows."""
MORE, LAST = 0, 1
"""First byte of a claim's packet: whether another follows."""
ERROR_BYTES = 2000
"""Longest error text of a claim, UTF-8."""
CLAIMABLE = ("ok", "error", "memory", "denied", "exit", "output_limit")
"""What a program can know of itself."""

_SIZE = struct.Struct("!I")
_FD = struct.Struct("i")
_CREDENTIALS = struct.Struct("iII")
_ADD_SEALS, _ALL_SEALS = 1033, 15
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # or a zygote that starts later would inherit what came
_STALL_SECONDS = 5.0
"""How long a stream may stop within a frame."""


class ClaimError(Exception):
    """A program broke the protocol."""


@dataclass(frozen=True, slots=True)
class Packet:
    """What came.

    Attributes:
        payload: empty where the peer is gone.
        pid: the sender, as the kernel has it; 0 where there is none left; None where the kernel does not tell.
        descriptors: those that were asked for.
    """

    payload: bytes
    pid: int | None
    descriptors: Sequence[int] = ()


def pair(portable: bool) -> tuple[socket.socket, socket.socket]:
    """A pair of sockets for packets; the first one, the supervisor's, tells who sends.

    Args:
        portable: use a stream.
    """
    if portable:
        ours, theirs = socket.socketpair()
        ours.settimeout(_STALL_SECONDS)
        return ours, theirs
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def receive(sock: socket.socket, deadline: float, descriptors: int = 0) -> Packet:
    """The packet that a readable socket of the supervisor holds; does not wait for one.

    Args:
        sock: the supervisor's end of a pair.
        deadline: by `time.monotonic()`, for the rest of a frame of a stream.
        descriptors: how many to take; there is no room for others, and the kernel drops them.

    Raises:
        ClaimError: it is too long.
        TimeoutError: a stream stopped within a frame.
    """
    streams = sock.type == socket.SOCK_STREAM
    size = _SIZE.size if streams else PACKET_BYTES + 1
    room = socket.CMSG_SPACE(_FD.size) * bool(descriptors)
    if not streams:
        room += socket.CMSG_SPACE(_CREDENTIALS.size)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_DONTWAIT | _CLOSE_ON_EXEC)
    pid, taken = 0, []
    for _, kind, sent in ancillary:
        if kind == socket.SCM_RIGHTS:
            taken += [fd for (fd,) in _FD.iter_unpack(sent[: len(sent) // _FD.size * _FD.size])]
        else:
            pid = _CREDENTIALS.unpack(sent)[0]
    while len(taken) > descriptors:
        os.close(taken.pop())
    if flags & socket.MSG_TRUNC:
        raise ClaimError("a packet too long")
    if not streams:
        return Packet(data, pid, taken)
    return Packet(_rest_of_frame(sock, data, deadline) if data else b"", None, taken)


def _rest_of_frame(sock: socket.socket, head: bytes, deadline: float) -> bytes:
    head += _read(sock, _SIZE.size - len(head), deadline)
    size = _SIZE.unpack(head)[0]
    if size > PACKET_BYTES + 1 or size == 0:
        raise ClaimError("a frame too long")
    return _read(sock, size, deadline)


def _read(sock: socket.socket, size: int, deadline: float | None = None) -> bytes:
    data = bytearray()
    while len(data) < size:
        if deadline is not None:
            sock.settimeout(max(min(deadline - time.monotonic(), _STALL_SECONDS), 1e-3))
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return bytes(data)


def send(sock: socket.socket, payload: bytes, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    """Send a packet.

    Raises:
        OSError: the peer is gone, or (with MSG_DONTWAIT) reads nothing.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_FD.pack, descriptors)))] if descriptors else []
    if sock.type != socket.SOCK_STREAM:
        sock.sendmsg([payload], rights, flags)
        return
    framed = _SIZE.pack(len(payload)) + payload
    sent = sock.sendmsg([framed], rights)
    sock.sendall(framed[sent:])


def send_order(sock: socket.socket, order: dict[str, Any], child: int | None = None) -> None:
    """Have a process fork, or run steps itself; never blocks where packets are sequenced.

    Args:
        sock: to the process.
        order: see above.
        child: descriptor that a new process answers on; None where there shall be none.

    Raises:
        OSError: the parent is gone, or reads nothing.
    """
    own = [] if child is None else [child]
    payload = json.dumps({**order, "fork": bool(own)}).encode()  # escaped: code may hold lone surrogates
    if len(payload) <= PACKET_BYTES or sock.type == socket.SOCK_STREAM:
        send(sock, payload, own, socket.MSG_DONTWAIT)
        return
    large = os.memfd_create("order", os.MFD_ALLOW_SEALING)
    try:
        with open(large, "wb", closefd=False) as file:
            file.write(payload)
        fcntl.fcntl(large, _ADD_SEALS, _ALL_SEALS)
        send(sock, b"\0", [*own, large], socket.MSG_DONTWAIT)
    finally:
        os.close(large)


def receive_order(sock: socket.socket) -> tuple[dict[str, Any], int | None] | None:
    """Wait for an order: it, and the new process's descriptor if it asks for one; None: the supervisor is gone."""
    streams = sock.type == socket.SOCK_STREAM
    try:
        size = _SIZE.size if streams else PACKET_BYTES
        payload, ancillary, _, _ = sock.recvmsg(size, socket.CMSG_SPACE(2 * _FD.size))
        if payload and streams:
            payload += _read(sock, _SIZE.size - len(payload))
            payload = _read(sock, _SIZE.unpack(payload)[0])
    except ConnectionError:
        return None
    if not payload:
        return None
    descriptors = [fd for fds in ancillary for (fd,) in _FD.iter_unpack(fds[2])]
    if payload == b"\0":
        large = descriptors.pop()
        payload = os.pread(large, os.fstat(large).st_size, 0)
        os.close(large)
    order = json.loads(payload)
    return order, descriptors[0] if order["fork"] else None


def send_claim(sock: socket.socket, payload: bytes) -> None:
    """Send a claim, in as many packets as it needs."""
    while len(payload) > PACKET_BYTES:
        send(sock, bytes([MORE]) + payload[:PACKET_BYTES])
        payload = payload[PACKET_BYTES:]
    send(sock, bytes([LAST]) + payload)
