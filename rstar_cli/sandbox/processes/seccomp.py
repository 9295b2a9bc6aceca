"""The filter of system calls: a program gets what computing needs, and may fork only where the supervisor grants it.

An allowlist for x86-64, as a BPF program that the kernel runs at every call; what is not on it fails with EPERM. Some
calls are allowed for some arguments alone. man pages: seccomp(2), seccomp_unotify(2), bpf(4).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterable

_ALLOWED = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "pread64": 17, "readv": 19, "writev": 20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25,
    "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35, "getpid": 39, "sendto": 44, "recvfrom": 45,
    "sendmsg": 46, "recvmsg": 47, "getsockname": 51, "getsockopt": 55, "exit": 60, "uname": 63, "getcwd": 79,
    "chdir": 80, "readlink": 89, "gettimeofday": 96, "getrlimit": 97, "getrusage": 98, "sysinfo": 99, "times": 100,
    "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108, "getppid": 110, "getpgrp": 111, "getgroups": 115,
    "getresuid": 118, "getresgid": 120, "sigaltstack": 131, "gettid": 186, "time": 201, "futex": 202,
    "sched_getaffinity": 204, "getdents64": 217, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "openat": 257, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "dup3": 292, "getrandom": 318, "membarrier": 324,
    "statx": 332, "rseq": 334, "faccessat2": 439, "getcpu": 309,
}  # fmt: skip
"""Calls that are allowed whatever their arguments; numbers of x86-64."""

_MMAP, _SIGACTION, _IOCTL, _CLONE, _FCNTL, _PRCTL, _PRLIMIT64, _CLONE3, _CLOSE_RANGE = (
    9,
    13,
    16,
    56,
    72,
    157,
    302,
    435,
    436,
)
_FORKS = (17, 0x01200011)
"""Flags of a plain fork: SIGCHLD alone, or as glibc calls it."""
_FCNTLS = (0, 1, 2, 3, 1030)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC: none that has the kernel send signals."""
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX: what opening a file in Python asks."""
_SIGNALS = (17, 18)
"""SIGCHLD, which stays ignored so that the kernel reaps, and SIGCONT, which shall not run code when a pause ends."""
_SHARED_ANONYMOUS = 0x21
_PDEATHSIG, _SIGKILL = 1, 9

_ARCH_X86_64 = 0xC000003E
_X32_BIT = 0x40000000
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16
_ALLOW, _NOTIFY, _KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
_DENY, _UNKNOWN = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS

_SYS_SECCOMP, _SET_FILTER, _NEW_LISTENER = 317, 1, 8
_NOTIF_RECV, _NOTIF_SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Whether the filter knows this machine's system calls."""
    return sys.platform == "linux" and os.uname().machine == "x86_64" and sys.maxsize > 1 << 32


def install(*, notify: bool) -> int:
    """Filter the calls of this process and all that it forks, for ever. Needs NO_NEW_PRIVS.

    Args:
        notify: whether forks ask the holder of the listener; else they are left as they are, for `forbid_forks`.

    Returns:
        The listener's descriptor (see `Listener`) with `notify`, else 0.

    Raises:
        OSError: the kernel can't do it, or (EBUSY) somebody listens already.
    """
    return _install(_program(_NOTIFY if notify else _ALLOW), _NEW_LISTENER if notify else 0)


def forbid_forks() -> None:
    """Put a second filter on top, without any fork: for a child where there is no listener."""
    _install([(_LOAD, 0, 0, _NUMBER), *_case(_CLONE, [(_RETURN, 0, 0, _DENY)]), (_RETURN, 0, 0, _ALLOW)], 0)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _install(program: list[Instruction], flags: int) -> int:
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
    libc = ctypes.CDLL(None, use_errno=True)
    described = _Program(len(program), ctypes.addressof(code))
    result: int = libc.syscall(_SYS_SECCOMP, _SET_FILTER, flags, ctypes.byref(described))
    if result < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return result


def _program(forks: int) -> list[Instruction]:
    """The filter; `forks` is what a plain fork comes to."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, _ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_ABOVE, 0, 1, _X32_BIT),
        (_RETURN, 0, 0, _DENY),
    ]
    program += _case(_MMAP, _masked(3, _SHARED_ANONYMOUS))
    program += _case(_SIGACTION, _unless(0, _SIGNALS))
    program += _case(_CLONE, _among(0, _FORKS, forks))
    if forks == _ALLOW:
        program += _case(_SYS_SECCOMP, [(_RETURN, 0, 0, _ALLOW)])  # for `forbid_forks`: a filter only takes away
    program += _case(_CLONE3, [(_RETURN, 0, 0, _UNKNOWN)])  # glibc then takes clone, whose flags we can see
    program += _case(_FCNTL, _among(1, _FCNTLS))
    program += _case(_IOCTL, _among(1, _IOCTLS))
    program += _case(_PRLIMIT64, _among(0, (0,)))
    program += _case(_CLOSE_RANGE, _among(2, (0,)))
    program += _case(_PRCTL, [*_load(0), (_JUMP_EQUAL, 0, 3, _PDEATHSIG), *_among(1, (_SIGKILL,))])
    for number in sorted(_ALLOWED.values()):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    return [*program, (_RETURN, 0, 0, _DENY)]


def _case(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body`, which returns, for one system call; the number is loaded, and still is after other calls."""
    return [(_JUMP_EQUAL, 0, len(body), number), *body]


def _load(argument: int) -> list[Instruction]:
    """Load the low half of an argument: of every argument that we judge the kernel reads no more, or refuses more."""
    return [(_LOAD, 0, 0, _ARGUMENTS + 8 * argument)]


def _among(argument: int, values: Iterable[int], verdict: int = _ALLOW) -> list[Instruction]:
    """Return `verdict` where the argument is one of these values, else refuse."""
    body = _load(argument)
    for value in values:
        body += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, verdict)]
    return [*body, (_RETURN, 0, 0, _DENY)]


def _unless(argument: int, values: Iterable[int]) -> list[Instruction]:
    """Refuse where the argument is one of these values, else allow."""
    body = _load(argument)
    for value in values:
        body += [(_JUMP_EQUAL, 0, 1, value), (_RETURN, 0, 0, _DENY)]
    return [*body, (_RETURN, 0, 0, _ALLOW)]


def _masked(argument: int, bits: int) -> list[Instruction]:
    """Refuse where the argument has all of these bits, else allow."""
    return [
        *_load(argument),
        (_AND, 0, 0, bits),
        (_JUMP_EQUAL, 0, 1, bits),
        (_RETURN, 0, 0, _DENY),
        (_RETURN, 0, 0, _ALLOW),
    ]


class Listener:
    """The supervisor's end of the filter: learns of every fork that is tried, and grants or refuses it.

    Args:
        descriptor: what `install` returned, in the zygote.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def answer(self, granted: int | None) -> bool:
        """Answer the next fork that is tried, if there is one.

        Args:
            granted: pid, in our namespace, of the one process that may fork now.

        Returns:
            Whether it was that process, and may fork.
        """
        notice = bytearray(80)
        try:
            fcntl.ioctl(self.descriptor, _NOTIF_RECV, notice)
        except OSError:
            return False  # it has died since
        identity, pid = struct.unpack_from("QI", notice)
        allowed: bool = pid == granted
        # going on with the call is safe: what the filter judged lies in registers
        answer = struct.pack("QqiI", identity, 0, 0 if allowed else -errno.EPERM, _CONTINUE if allowed else 0)
        try:
            fcntl.ioctl(self.descriptor, _NOTIF_SEND, bytearray(answer))
        except OSError:
            return False
        return allowed

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)
