"""What the attacks share: a sandbox that is looked over after each of them, and tools for the attackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.sandbox import Sandbox

SECRET = "s3cr3t-of-the-host"
TIMEOUT = 0.6
MEMORY_MB = 256
HOME = ("home = 41",)
GUESTS = (("home += 0", "print(home)"), ("home += 1", "print(home)"))
"""A tree that lives through all attacks: the state after its first step stays, those of two steps are not kept."""

TOOLS = """
import ctypes, errno, gc, json, os, socket, stat, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(number), *args) == -1 else 0
def mine():
    return next(fd for fd in range(3, 64) if is_socket(fd))
def is_socket(fd):
    try: return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError: return False
def say(data):
    os.write(mine(), data)
def claim(status='ok', stdout='', error='', **more):
    return json.dumps({'status': status, 'stdout': stdout, 'error': error, **more}).encode()
"""

HOOK = """
import ctypes, json, os, signal, socket, struct, sys, time
guest = sys.modules['processes.program']
fork, receive = ctypes.PyDLL(None).fork, guest.receive_order
def on_order(obey):
    def wrapped(sock):
        order = receive(sock)
        return obey(sock, *order) if order else order
    guest.receive_order = wrapped
"""
"""For a step that lies in wait for the order to fork: `on_order(f)`, f(socket, order, descriptor)."""


REFUSED = {
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "pidfd_open": 434, "pidfd_send_signal": 424,
    "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440,
    "kcmp": 312, "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "shutdown": 48,
    "setsockopt": 54, "sendmmsg": 307, "memfd_create": 319, "memfd_secret": 447, "shmget": 29, "msgget": 68,
    "semget": 64, "mq_open": 240, "add_key": 248, "keyctl": 250, "userfaultfd": 323, "io_uring_setup": 425,
    "bpf": 321, "perf_event_open": 298, "seccomp": 317, "landlock_restrict_self": 446, "personality": 135,
    "arch_prctl": 158, "modify_ldt": 154, "iopl": 172, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442,
    "open_by_handle_at": 304, "openat2": 437, "mknod": 133, "mkdir": 83, "rename": 82, "link": 86, "symlink": 88,
    "unlink": 87, "chmod": 90, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchownat": 260, "utimensat": 280,
    "setxattr": 188, "truncate": 76, "ftruncate": 77, "fallocate": 285, "flock": 73, "umask": 95, "setuid": 105,
    "setresuid": 117, "setgroups": 116, "capset": 126, "setrlimit": 160, "setpriority": 141, "sched_setaffinity": 203,
    "sched_setscheduler": 144, "sched_setattr": 314, "ioprio_set": 251, "setsid": 112, "setpgid": 109, "alarm": 37,
    "setitimer": 38, "timer_create": 222, "timerfd_create": 283, "signalfd4": 289, "eventfd2": 290,
    "epoll_create1": 291, "inotify_init1": 294, "pipe2": 293, "splice": 275, "clock_settime": 227, "settimeofday": 164,
    "sethostname": 170, "syslog": 103, "init_module": 175, "reboot": 169, "mlockall": 151, "set_mempolicy": 238,
    "migrate_pages": 256, "move_pages": 279,
}  # fmt: skip
"""Calls that no program needs; numbers of x86-64."""


@dataclass(frozen=True)
class Seen:
    """A process, as the kernel tells of it.

    Attributes:
        parent: its parent's pid.
        state: R, S, T, Z, ...
    """

    parent: int
    state: str


def look(ancestor: int) -> dict[int, Seen]:
    """All descendants of a process, dead ones that nobody reaped included."""
    everything: dict[int, Seen] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            everything[int(entry.name)] = Seen(int(fields[1]), fields[0])
    found: dict[int, Seen] = {}
    grown = {ancestor}
    while grown:
        grown = {pid for pid, seen in everything.items() if seen.parent in grown and pid not in found}
        found |= {pid: everything[pid] for pid in grown}
    return found


def memory_mb(pids: Iterable[int]) -> float:
    """MiB of memory of processes, each page counted once for all that share it among them."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def count_descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def brief(results: Sequence[ExecutionResult]) -> list[tuple[str, str]]:
    """Statuses and outputs alone."""
    return [(result.status.value, result.stdout) for result in results]


class Box:
    """A sandbox of one worker, and what is known of its processes.

    Args:
        scientific: use the zygote with numpy and sympy too.
        settings: as `Sandbox` takes them.

    Attributes:
        sandbox: it.
        lasting: processes that no attack may end: the supervisor, two zygotes, and the states of a tree of our own.
    """

    def __init__(self, *, scientific: bool = True, **settings: object) -> None:
        self._symbolic = ["import sympy\nprint(sympy.sqrt(8))"] if scientific else []
        limits = {"timeout": TIMEOUT, "memory_mb": MEMORY_MB, **settings}
        self.sandbox = Sandbox(workers=1, tree=True, **limits)  # type: ignore[arg-type]
        self._trees: set[str] = set()
        self._answers()
        self.lasting = frozenset(look(self.supervisor)) | {self.supervisor}
        self._most = len(self.lasting)
        self._descriptors = count_descriptors(self.supervisor)

    @property
    def supervisor(self) -> int:
        worker = self.sandbox._workers[0]
        assert worker is not None
        return worker._process.pid

    def run(self, code: str) -> ExecutionResult:
        return self.sandbox.run(code)

    def steps(self, prefix: Sequence[str], *branches: Sequence[str], tree: str = "evil") -> list[list[ExecutionResult]]:
        """Run branches of single or several steps in a tree, which ends with the test."""
        self._trees.add(tree)
        return self.sandbox.execute([ExecuteRequest(tuple(prefix), tuple(map(tuple, branches)), tree)])[0]

    def states(self) -> dict[int, Seen]:
        """Processes that hold states: all but the supervisor and the zygotes, its children."""
        return {pid: seen for pid, seen in look(self.supervisor).items() if seen.parent != self.supervisor}

    def forget(self) -> None:
        for tree in self._trees:
            self.sandbox.forget(tree)
        self._trees.clear()

    def check(self, *, restarts: bool = False) -> None:
        """Right answers, no process and no descriptor more than there were, none that runs, none missing.

        Args:
            restarts: whether a zygote may have been given up, and with it its states.
        """
        self.forget()
        self._answers()
        missing = self.lasting - {self.supervisor, *look(self.supervisor)}
        assert restarts or not missing, "processes that no attack may end have ended"
        assert wait_until(lambda: self._at_rest(same=not missing)), (look(self.supervisor), self.lasting)
        self.lasting = frozenset(look(self.supervisor)) | {self.supervisor}
        assert count_descriptors(self.supervisor) <= self._descriptors

    def _at_rest(self, *, same: bool) -> bool:
        """Whether none runs of the processes that last, or of at most as many in their place."""
        seen = look(self.supervisor)
        right = seen.keys() | {self.supervisor} == self.lasting if same else len(seen) < self._most
        return right and all(it.state in "ST" for it in seen.values())

    def _answers(self) -> None:
        """A right and a wrong program, sympy and a tree still get their own results."""
        good, bad, *symbolic = self.sandbox.run_many(["print(2**10 + 1)", "raise ValueError(1)", *self._symbolic])
        assert (good.status, good.stdout) == ("ok", "1025\n")
        assert (bad.status, bad.error) == ("error", "ValueError: 1 (line 1)")
        assert brief(symbolic) == [("ok", "2*sqrt(2)\n")] * len(self._symbolic)
        guests = self.sandbox.execute([ExecuteRequest(HOME, GUESTS, "home")])[0]
        assert [brief(steps) for steps in guests] == [[("ok", ""), ("ok", "41\n")], [("ok", ""), ("ok", "42\n")]]
