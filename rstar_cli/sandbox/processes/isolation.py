"""What a zygote gives up before it runs anything, layer by layer, each where the system has it.

- `pid`, `net`, `mount`: namespaces of its own, so that programs see no other process, no network, and no file but
  Python's own and the system libraries, read-only (as bubblewrap does it: https://github.com/containers/bubblewrap).
  With them come those of System V objects and of the host's name.
- `user`: as root, a user id that nothing else has, or a user namespace as an ordinary user; no capability in any case.
- `limits`: no file may be written, no core, bounded memory, 64 descriptors (`program` adds CPU time).

Linux only; elsewhere there is `limits` alone. `landlock` and `seccomp` come on top. man pages: namespaces(7),
pivot_root(2), mount_setattr(2), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NAMESPACES = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_SYS_MOUNT_SETATTR = 442  # on every architecture
_AT_RECURSIVE = 0x8000
_MOUNT_READ_ONLY, _MOUNT_NO_SETUID = 1, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
_SIGKILL = 9
_MADV_COLLAPSE = 25
_PR_SET_THP_DISABLE = 41
_NOBODY = 65534

_VISIBLE = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/usr/share/zoneinfo",
    "/etc/localtime",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/urandom",
)


def _call(name: str, *args: object) -> None:
    """Call libc, raising OSError where it fails."""
    if getattr(_libc, name)(*args) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def enter_namespaces(visible: Sequence[Path], without: Sequence[str]) -> list[str]:
    """Move into namespaces of our own; the pid namespace begins with the next child.

    Args:
        visible: what programs may read, from `visible_paths`.
        without: layers to leave out; naming `pid` leaves out all namespaces.

    Returns:
        The layers that were entered.
    """
    if sys.platform != "linux" or "pid" in without:
        return []
    uid, gid = os.geteuid(), os.getegid()
    try:
        _call("unshare", _NAMESPACES)
    except OSError:
        try:
            _call("unshare", _NAMESPACES | _NEWUSER)
            _map_user(uid, gid)
        except OSError:
            return []
    layers = ["pid", "net"]
    socket.sethostname("sandbox")
    _close_ipc()
    if "mount" in without:
        return layers
    try:
        _private_root(visible)
        layers.append("mount")
    except OSError:
        os.chdir("/")  # the host's files stay visible, to the extent that our user may read them
    return layers


def _map_user(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_NOBODY} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{_NOBODY} {gid} 1")


def _close_ipc() -> None:
    """Allow no System V object: they would outlive the program that made them."""
    for name, value in (("shmmni", "0"), ("msgmni", "0"), ("sem", "0 0 0 0")):
        try:
            Path("/proc/sys/kernel", name).write_text(value)
        except OSError:  # older kernels let only the real root do so; the objects end with the zygote
            return


def visible_paths(extra: Sequence[str]) -> list[Path]:
    """Existing paths that a program needs, none below another, none of them the root.

    Args:
        extra: directories that programs may read, beside Python's prefix and the system libraries.
    """
    if sys.platform != "linux":
        return []
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]
    maps = [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    libraries = {str(Path(path).parent) for path in maps if path.startswith("/")}
    named = {Path(path).absolute() for path in (*_VISIBLE, *prefixes, *extra, *libraries)}
    kept: list[Path] = []
    for path in sorted(named | {path.resolve() for path in named}, key=lambda path: (len(path.parts), str(path))):
        if path.exists() and path.parent != path and not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _private_root(visible: Sequence[Path]) -> None:
    """Make a read-only root that holds the visible paths alone."""
    os.umask(0o022)
    base = Path("/proc")  # there on every Linux, and no Python lives in it
    _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    _call("mount", b"tmpfs", bytes(base), b"tmpfs", 0, b"mode=755,size=1m")
    for path in visible:
        place = base / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            place.symlink_to(path.readlink())
            continue
        if path.is_dir():
            place.mkdir()
        else:
            place.touch()
        _call("mount", bytes(path), bytes(place), None, _MS_BIND | _MS_REC, None)
    (base / "tmp").mkdir(exist_ok=True)  # empty and read-only: to write there is denied, wherever Python lives
    attributes = (ctypes.c_uint64 * 4)(_MOUNT_READ_ONLY | _MOUNT_NO_SETUID, 0, 0, 0)
    _call("syscall", _SYS_MOUNT_SETATTR, -100, bytes(base), _AT_RECURSIVE, ctypes.byref(attributes), 32)
    os.chdir(base)
    _call("pivot_root", b".", b".")  # stacks the old root on the new one, see pivot_root(2)
    _call("umount2", b".", _MNT_DETACH)
    os.chdir("/")


def drop_privileges(namespaces: Sequence[str], processes: int, identity: int) -> list[str]:
    """Give up user id and capabilities for good, and lower the limits that all programs share.

    Args:
        namespaces: those that were entered.
        processes: most processes of one zygote, where it has a user id or namespace of its own.
        identity: below 2**28, of this zygote alone on this machine: as root it becomes the user id.

    Returns:
        The layers that hold from now on.
    """
    layers = []
    os.umask(0o077)
    own_user = sys.platform == "linux" and os.geteuid() == 0 and _become_nobody(identity)
    if own_user or (namespaces and os.geteuid() == _NOBODY):
        layers.append("user")
    if sys.platform == "linux":
        for capability in range(64):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        header, empty = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        _call("capset", ctypes.byref(header), ctypes.byref(empty))
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))  # 0 would still start a core_pattern that is a pipe
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    if layers:
        _bound_processes(processes)
    return [*layers, "limits"]


def hide_memory() -> None:
    """Have no process of our user trace this one or read its memory, its forks included.

    Not where calls are filtered: programs can't trace there, and the supervisor looks at their descriptors.
    """
    if sys.platform == "linux":
        _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def _become_nobody(identity: int) -> bool:
    """As root: change to a user id that nothing else has, if Python can be read by it."""
    for uid in (0x70000000 + identity, _NOBODY):
        if _readable_as(uid):
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            return True
    return False


def _readable_as(uid: int) -> bool:
    """Whether a user can import: tried in a child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            code = 0 if all(os.access(path, os.R_OK) for path in (os.__file__, sys.prefix)) else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _bound_processes(most: int) -> None:
    """Bound the processes of this user, unless the system counts those of others with ours (before Linux 5.14)."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, hard))
    try:
        child = os.fork()
    except BlockingIOError:
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        return
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (bound, bound))


def open_proc() -> int | None:
    """/proc, to be kept open across the change of root; None where there is none."""
    try:
        return os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None


def _read(proc: int, name: str) -> str:
    with open(os.open(f"self/{name}", os.O_RDONLY, dir_fd=proc), encoding="utf-8", errors="replace") as file:
        return file.read()


def memory_limit(proc: int | None, allowance: int) -> int:
    """Bytes of address space that a fork of this process may have.

    Args:
        proc: from `open_proc`. Without it there is no telling what we map, and no limit.
        allowance: bytes on top of what is mapped now.
    """
    if proc is None:
        return resource.RLIM_INFINITY
    return int(_read(proc, "statm").split()[0]) * os.sysconf("SC_PAGE_SIZE") + allowance


def collapse_memory(proc: int | None) -> None:
    """Put our heap on huge pages, where the kernel can (Linux 6.1): a fork then copies far less of the page tables.

    No more of them from then on: what a program touches is told from its page faults, each of one small page.

    Args:
        proc: from `open_proc`.
    """
    if proc is None:
        return
    huge = 2 << 20
    for line in _read(proc, "maps").splitlines():
        places, rights, *rest = line.split()
        if "w" in rights and (len(rest) == 3 or rest[3] == "[heap]"):
            start, end = (int(place, 16) for place in places.split("-"))
            start, end = -(-start // huge) * huge, end // huge * huge
            if start < end:
                _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
    _libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill us when our parent ends. Call after the last change of credentials, which clears it.

    Args:
        parent: what `os.getppid()` must be: a parent that ended before the call sends nothing. 0 where the parent is
            outside our pid namespace.
    """
    if sys.platform == "linux":
        _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends, so that none is lost."""
    if sys.platform == "linux":
        _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
