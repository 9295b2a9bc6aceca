"""Attacks on the tree: on paused states, on siblings and other trees, on the supervisor, its clock and its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.hostile.common import HOOK, TOOLS, Box, brief, look, memory_mb, wait_until

HONEST = [("ok", "1\n")]


def sleepless(box: Box) -> bool:
    """Whether nothing of the sandbox uses the CPU."""
    return wait_until(lambda: all(seen.state in "ST" for seen in look(box.supervisor).values()))


class TestSiblings:
    """One branch of three attacks: the results of the others, and of those after it, are right, in time."""

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param("for _ in range(9): say(b'\\1' + claim(stdout='forged'))", id="answer for all"),
            pytest.param("for _ in range(9): say(b'\\1' + claim(stdout='forged'))\nwhile True: pass", id="and go on"),
            pytest.param("for _ in range(9): say(b'H')", id="greet for all"),
            pytest.param("while True:\n    try: os.fork()\n    except OSError: pass", id="fork without end"),
            pytest.param("os.kill(os.getppid(), 9)", id="kill the parent"),
            pytest.param("os.kill(os.getppid(), 19)", id="stop the parent"),
            pytest.param("os.kill(os.getppid(), 18)", id="wake the parent"),
            pytest.param("os.kill(-1, 9)", id="kill all"),
            pytest.param("os.kill(-1, 18)", id="wake all"),
            pytest.param("os.killpg(0, 9)", id="kill the group"),
            pytest.param("os.closerange(0, 64)", id="close all"),
            pytest.param(
                "while True:\n    try:\n        while True: pass\n    except BaseException: pass", id="never end"
            ),
            pytest.param("assert call(101, 16, os.getppid(), 0, 0) == 1\nos._exit(0)", id="trace the parent"),
            pytest.param(
                "import resource\nresource.prlimit(os.getppid(), 9, (1 << 20, 1 << 20))", id="starve the parent"
            ),
            pytest.param(
                "import resource\nfor i in (0, 1, 3, 6, 7, 9): resource.prlimit(0, i, (0, 0))", id="starve itself"
            ),
            pytest.param(
                "guest = sys.modules['processes.program']\nguest.send_claim = guest.os = None", id="patch itself"
            ),
            pytest.param("ctypes.memset(id(x) + 24, 7, 4)", id="write into what is inherited"),
            pytest.param(
                "for it in gc.get_objects():\n    if isinstance(it, socket.socket): it.close()",
                id="close the sockets found",
            ),
            pytest.param(
                "call(273, 0, 24)\nfor op in (0, 1, 6, 7, 11, 13): call(202, id(x), op, 1, 0, 0, 0)", id="futex"
            ),
            pytest.param(
                "call(202, ctypes.byref(ctypes.c_int(os.getppid())), 6, 0, 0, 0, 0)", id="wait for the parent's lock"
            ),
            pytest.param("for command in range(17): call(324, 1 << command, 0)", id="membarrier"),
            pytest.param("for advice in range(26): call(28, id(x) & -4096, 4096, advice)", id="madvise"),
            pytest.param("kept = [bytearray(1 << 20) for _ in range(9999)]", id="all memory"),
        ],
    )
    def test_untouched(self, box: Box, attack: str) -> None:
        honest = ("print(x)", "print(x + 1)")
        started = time.monotonic()
        before, _, after = box.steps(["x = 1"], honest, [TOOLS + attack, "print(x)"], honest)
        one, _, two = box.steps(["x = 1"], honest[:1], [TOOLS + attack], honest[:1])
        assert time.monotonic() - started < 8
        assert brief(before) == brief(after) == [("ok", "1\n"), ("ok", "2\n")]
        assert brief(one) == brief(two) == HONEST

    def test_a_branch_that_dies_is_killed_at_once(self, box: Box) -> None:
        results = box.steps(["x = 1"], *[["import os\nos._exit(0)"]] * 100)
        assert {steps[0].status.value for steps in results} == {"killed"}

    def test_requests_at_once_answer_for_nobody_else(self, box: Box) -> None:
        forge = TOOLS + "for _ in range(9): say(b'\\1' + claim(stdout='forged'))"
        for _ in range(3):
            good = box.steps(["x = 1"], ["print(x)"], ["print(x)"], tree="good")
            evil = box.steps([forge], ["print(1)"], ["print(1)"])
            assert [brief(steps) for steps in good] == [HONEST] * 2
            assert len(evil) == 2


class TestParents:
    """A state that is forked from does not obey. Its own tree may suffer, for a bounded time; no other does."""

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param("def obey(sock, order, fd): os._exit(0)", id="leave"),
            pytest.param(
                "def obey(sock, order, fd):\n    sock.close()\n    os.close(fd)\n    os._exit(0)", id="hang up"
            ),
            pytest.param("def obey(sock, order, fd): os.write(fd, b'H'); os._exit(0)", id="greet for the child"),
            pytest.param("def obey(sock, order, fd): os.write(fd, b'')\n", id="an empty greeting"),
            pytest.param("def obey(sock, order, fd): os.write(fd, b'H' * 65000)", id="a long greeting"),
            pytest.param("def obey(sock, order, fd): os.write(fd, b'\\1{}')", id="a claim for a greeting"),
            pytest.param("def obey(sock, order, fd): raise LookupError", id="raise"),
            pytest.param("def obey(sock, order, fd): return order, 63", id="hand on no descriptor"),
            pytest.param(
                "def obey(sock, order, fd): return {'steps': [1], 'replay': 1, 'cpu': 'x'}, fd", id="a mad order"
            ),
            pytest.param(
                "def obey(sock, order, fd): return {**order, 'cpu': 10**6, 'steps': ['1 / 0'] * 99}, fd",
                id="other steps",
            ),
            pytest.param("def obey(sock, order, fd): return {**order, 'steps': []}, fd", id="no steps"),
            pytest.param("def obey(sock, order, fd): return order, os.dup(fd)", id="keep the child's socket"),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0: return order, fd\n    fork(); fork(); os._exit(0)",
                id="fork thrice",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0:\n        os.write(fd, b'H')\n        while True: "
                "fork()\n    while True: pass",
                id="a child that forks",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0: os._exit(0)\n    os.write(fd, b'H'); os._exit(0)",
                id="greet for a dead child",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0:\n        for _ in range(99): os.write(fd, b'H')\n"
                "        os._exit(0)\n    return receive(sock)",
                id="greet many times",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0:\n        time.sleep(0.05)\n        os.write("
                "fd, b'H')\n    os._exit(0)",
                id="an orphan greets",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork() == 0:\n        os.write(fd, b'H')\n"
                "        for _ in order['steps']: os.write(fd, b'\\1' + json.dumps(dict(status='ok', stdout='1\\n', "
                "error='')).encode())\n        while True: pass\n    return receive(sock)",
                id="a child that answers by itself",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    sock.send(b'H')\n    sock.send(b'\\1{}')\n    return order, fd",
                id="speak on the old socket",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    os.dup2(sock.fileno(), 0)\n    os.dup2(fd, 1)\n    os.dup2(fd, 2)\n"
                "    return order, fd",
                id="sockets for standard descriptors",
            ),
            pytest.param(
                "def obey(sock, order, fd):\n    for n in range(1, 65):\n        try: signal.signal(n, "
                "signal.SIG_IGN)\n        except (OSError, ValueError): pass\n    return order, fd",
                id="ignore signals",
            ),
            pytest.param(
                "def obey(sock, order, fd): return order, fd\ntry: signal.signal(18, lambda *a: os._exit(0))\n"
                "except PermissionError: pass",
                id="SIGCONT",
            ),
            pytest.param("def obey(sock, order, fd): time.sleep(99)", id="sleep"),
            pytest.param(
                "def obey(sock, order, fd):\n    if fork(): return receive(sock)\n    time.sleep(99)",
                id="a child that says nothing",
            ),
        ],
    )
    def test_disobeys(self, rough_box: Box, attack: str) -> None:
        code = f"{HOOK}x = 1\n{attack}\non_order(obey)"
        honest = rough_box.steps(["x = 1"], ["print(x)"], ["print(x)"], tree="good")
        before = len(rough_box.states())
        assert rough_box.steps([], [code])[0][0].ok
        assert len(rough_box.states()) == before + 1
        started = time.monotonic()
        rough_box.steps([code], ["print(x)"])
        took = time.monotonic() - started
        again = rough_box.steps(["x = 1"], ["print(x)"], ["print(x)"], tree="good")
        assert [brief(steps) for steps in honest + again] == [HONEST] * 4
        assert sleepless(rough_box)
        assert took < 4

    def test_siblings_of_a_state_that_disobeys(self, rough_box: Box) -> None:
        code = f"{HOOK}\non_order(lambda *order: os._exit(0))"
        rough_box.steps(["x = 1"], [code], ["x += 1"], ["x += 2"])
        for i in (1, 2):
            rough_box.steps(["x = 1", code], ["print(x)"])
            results = rough_box.steps(["x = 1", f"x += {i}"], ["print(x)"], ["print(x)"])
            assert [brief(steps) for steps in results] == [[("ok", f"{i + 1}\n")]] * 2

    def test_dead_children_that_nobody_reaps_leave_room_for_others(self) -> None:
        box = Box(scientific=False, states=8)
        with box.sandbox:
            code = (
                "import ctypes, signal\nx = 1\nctypes.CDLL(None).signal(17, None)\n"
                "try: signal.signal(signal.SIGCHLD, signal.SIG_DFL)\nexcept PermissionError: pass"
            )
            for _ in range(3):
                box.steps([code], *[["1 / 0"]] * 60)
                good = box.steps(["x = 1"], ["print(x)"], ["print(x)"], tree="good")
                assert [brief(steps) for steps in good] == [HONEST] * 2
            box.check()


class TestPauses:
    """What a paused state may keep: nothing but its memory."""

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param("kept = open(os.__file__)", id="an open file"),
            pytest.param("kept = os.dup(mine())", id="its socket again"),
            pytest.param("os.dup2(mine(), 0)", id="its socket as standard input"),
            pytest.param("os.dup2(os.open(os.__file__, 0), 1)", id="a file as standard output"),
            pytest.param("os.close(2)", id="no standard error"),
            pytest.param("kept = os.open('/usr/lib', os.O_PATH)", id="a place"),
            pytest.param(
                "fd = os.open('/dev/null', 0)\nfor i in range(3): os.dup2(fd, i)\nos.close(fd)",
                id="null devices of its own",
            ),
        ],
    )
    def test_descriptors(self, rough_box: Box, attack: str) -> None:
        box = rough_box
        before = set(box.states())
        assert box.steps([], [TOOLS + attack])[0][0].ok
        held = set(box.states()) - before
        harmless = "dev/null" in attack
        assert len(held) == harmless
        results = box.steps([TOOLS + attack], ["print(1)"], ["print(1)"])  # it runs again instead
        assert [brief(steps) for steps in results] == [HONEST] * 2

    @pytest.mark.parametrize("library", ["", "import sympy\n"], ids=["bare", "scientific"])
    def test_nothing_else_is_open(self, box: Box, library: str) -> None:
        code = f"{library}{TOOLS}print([fd for fd in range(64) if call(5, fd, b' ' * 256) == 0 and fd != mine()])"
        assert box.run(code).stdout == "[0, 1, 2]\n"
        before = set(box.states())
        assert box.steps([], [f"{library}x = 1"])[0][0].ok
        assert len(set(box.states()) - before) == 1

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param("say(b'\\1' + claim())\nwhile True: pass", id="never stop"),
            pytest.param(
                "say(b'\\1' + claim())\nimport signal\nsignal.signal(18, lambda *a: time.sleep(99))\n"
                "while True:\n    try: os.fork()\n    except OSError: pass",
                id="fork",
            ),
            pytest.param("for _ in range(99): say(b'\\1' + claim())", id="claims to come"),
            pytest.param("try:\n    while True: say(b'\\0' * 50000)\nexcept OSError: pass", id="fill the socket"),
            pytest.param("sys.setprofile(lambda *a: [None] * 10**6)", id="profile"),
        ],
    )
    def test_runs_on(self, rough_box: Box, attack: str) -> None:
        rough_box.steps([], [TOOLS + attack])
        assert sleepless(rough_box)
        good = rough_box.steps(["x = 1"], ["print(x)"], ["print(x)"], tree="good")
        assert [brief(steps) for steps in good] == [HONEST] * 2

    def test_a_child_may_not_use_what_its_parent_kept(self, box: Box) -> None:
        keep = f"{HOOK}kept = []\non_order(lambda sock, order, fd: kept.append(os.dup(fd)) or (order, fd))"
        attack = "print(1)\nfor fd in kept:\n    try: os.write(fd, b'\\1{}')\n    except OSError: pass"
        results = box.steps([keep], ["print(1)"], [attack], ["print(1)"], [attack], ["print(1)"])
        assert all(steps[0].status in ("ok", "protocol") for steps in results)
        assert [brief(results[i]) for i in (0, 2, 4)] == [HONEST] * 3


GROW = "import mmap\nmap = mmap.mmap(-1, {mb} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
HELD_MB = 128
CLAIM_AND_POPULATE = """
code = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
code.write(bytes.fromhex('51b8010000000f055f4c89c64c89cab81c0000000f05c3'))  # write, then at once madvise
at = lambda map: ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(map)))
both = ctypes.CFUNCTYPE(ctypes.c_long, *[ctypes.c_void_p] * 6)(at(code).value)
said = b'\\1' + claim()
both(mine(), said, len(said), at(map), len(map), 23)
"""


class TestMemory:
    """Paused states hold a bounded amount of memory together, whatever they do."""

    @pytest.fixture
    def small(self) -> Iterator[Box]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rstar_cli.sandbox.executor.spare_memory_mb", lambda: 2 * HELD_MB)
            box = Box(scientific=False, states=40)
        with box.sandbox:
            yield box
            box.check(restarts=True)

    @pytest.mark.parametrize(
        "attack",
        [
            pytest.param("x = b'x' * (50 << 20)", id="plain"),
            pytest.param(GROW.format(mb=150) + "map.madvise(23)", id="populated"),
            pytest.param(
                GROW.format(mb=150) + "map.madvise(14)\nmap.madvise(23)",
                id="on huge pages",
            ),
            pytest.param(
                TOOLS + GROW.format(mb=150) + CLAIM_AND_POPULATE,
                id="after the claim",
            ),
            pytest.param(
                HOOK + GROW.format(mb=100) + "on_order(lambda sock, *order: map.madvise(23) or order)", id="when forked"
            ),
        ],
    )
    def test_is_bounded(self, small: Box, attack: str) -> None:
        before = memory_mb(look(small.supervisor))
        for prefix, step in (([], attack), ([attack], "pass")):  # as states, then as states that were forked from
            for i in range(4):
                assert small.steps(prefix, [step], tree=f"evil {i}")[0][0].ok
            assert sleepless(small)
            assert memory_mb(look(small.supervisor)) - before < HELD_MB + 20
        assert brief(small.steps(["x = 1"], ["print(x)"], tree="good")[0]) == HONEST

    def test_states_are_bounded(self, small: Box) -> None:
        """A tree has half of them; the state of a tree that nobody uses any more may go, not its results."""
        small.steps([], *[[f"x = {i}"] for i in range(60)])
        assert len(small.states()) <= 21
        for i in range(60):
            small.steps([], ["x = 1"], tree=f"evil {i}")
        assert len(small.states()) <= 40
        assert brief(small.steps(["x = 1"], ["print(x)"], tree="evil 3")[0]) == HONEST


class TestProcessorTime:
    """A tree has a bounded amount of it for all its steps."""

    @pytest.mark.parametrize(
        "hog",
        [
            pytest.param("while True: pass", id="timeouts"),
            pytest.param("import time\nwhile time.process_time() < 0.02: pass", id="steps that end well"),
            pytest.param(
                "import os, time\nwhile time.process_time() < 0.02: pass\nos._exit(0)",
                id="steps that die",
            ),
        ],
    )
    def test_is_bounded(self, hog: str) -> None:
        box = Box(scientific=False, timeout=0.03)
        with box.sandbox:
            end = time.monotonic() + 8
            refused = False
            while not refused and time.monotonic() < end:
                box.steps([], *[[hog]] * 20, tree="evil")
                result = box.steps([], ["pass"], tree="evil")[0][0]
                refused = result.status == "timeout" and result.seconds == 0
            assert refused
            assert any(box.steps([], ["pass"], tree="good")[0][0].ok for _ in range(9))
            box.sandbox.forget("evil")
            assert any(box.steps([], ["pass"], tree="evil")[0][0].ok for _ in range(9))
