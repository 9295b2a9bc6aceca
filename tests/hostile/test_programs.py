"""Single programs that attack: the kernel's calls, the host's files, the claim, memory, and what comes after them."""

from __future__ import annotations

import errno
import time

import pytest

from tests.hostile.common import REFUSED, SECRET, TOOLS, Box


@pytest.mark.parametrize(("number"), REFUSED.values(), ids=REFUSED)
def test_refused_call(shared_box: Box, number: int) -> None:
    result = shared_box.run(
        f"{TOOLS}print(*(call({number}, *args) for args in ((), (1, 0, 0, 0), (0, 0, 1 << 16, 8))))"
    )
    assert (result.status, result.stdout) == ("ok", f"{errno.EPERM} {errno.EPERM} {errno.EPERM}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param("435, b'\\0' * 88, 88", errno.ENOSYS, id="clone3"),
        pytest.param("56, 17, 0, 0, 0, 0", errno.EPERM, id="clone as fork"),
        pytest.param("56, 0x01200011, 0, 0, 0, 0", errno.EPERM, id="clone as glibc"),
        pytest.param("56, ctypes.c_long(17 | 1 << 32), 0, 0, 0, 0", errno.EPERM, id="clone with bits above"),
        pytest.param("56, 0x00008011, 0, 0, 0, 0", errno.EPERM, id="clone a sibling"),
        pytest.param("56, 0x00004111, 0, 0, 0, 0", errno.EPERM, id="clone as vfork"),
        pytest.param("56, 0x003d0f00, 0, 0, 0, 0", errno.EPERM, id="clone a thread"),
        pytest.param("56, 0x00000411, 0, 0, 0, 0", errno.EPERM, id="clone with our descriptors"),
        pytest.param("56, 0x10000011, 0, 0, 0, 0", errno.EPERM, id="clone into a user namespace"),
        pytest.param("0x40000000 + 39", errno.EPERM, id="x32 getpid"),
        pytest.param("0x40000000 + 57", errno.EPERM, id="x32 fork"),
        pytest.param("9, 0, 4096, 3, 0x21, -1, 0", errno.EPERM, id="mmap shared"),
        pytest.param("9, 0, 4096, 3, 0x23, -1, 0", errno.EPERM, id="mmap shared and validated"),
        pytest.param("9, 0, 1 << 21, 3, 0x40022, -1, 0", errno.ENOMEM, id="mmap of the machine's huge pages"),
        pytest.param("72, mine(), 4, 0x2000", errno.EPERM, id="F_SETFL O_ASYNC"),
        pytest.param("72, mine(), 8, 1", errno.EPERM, id="F_SETOWN"),
        pytest.param("72, mine(), 10, 9", errno.EPERM, id="F_SETSIG"),
        pytest.param("72, 0, 6, b'\\0' * 64", errno.EPERM, id="F_SETLK"),
        pytest.param("72, os.open(os.__file__, 0), 1024, 0", errno.EPERM, id="F_SETLEASE"),
        pytest.param("72, os.open(os.path.dirname(os.__file__), 0), 1026, 1", errno.EPERM, id="F_NOTIFY"),
        pytest.param("16, mine(), 0x5452, b'\\1\\0\\0\\0'", errno.EPERM, id="FIOASYNC"),
        pytest.param("16, mine(), 0x5421, b'\\1\\0\\0\\0'", errno.EPERM, id="FIONBIO"),
        pytest.param("16, mine(), 0x8904, b'\\0' * 64", errno.EPERM, id="SIOCGPGRP"),
        pytest.param("16, 0, 0x5412, b'x'", errno.EPERM, id="TIOCSTI"),
        pytest.param("157, 1, 18, 0, 0, 0", errno.EPERM, id="go on when the parent ends"),
        pytest.param("157, 4, 0, 0, 0, 0", errno.EPERM, id="PR_SET_DUMPABLE"),
        pytest.param("157, 15, b'init) S 1', 0, 0, 0", errno.EPERM, id="another name"),
        pytest.param("157, 36, 1, 0, 0, 0", errno.EPERM, id="adopt orphans"),
        pytest.param("157, 0x59616d61, -1, 0, 0, 0", errno.EPERM, id="PR_SET_PTRACER"),
        pytest.param("302, 1, 9, 0, b'\\0' * 16", errno.EPERM, id="read the zygote's limits"),
        pytest.param("302, os.getppid(), 9, b'\\0' * 16, 0", errno.EPERM, id="take the zygote's memory"),
        pytest.param("302, 0, 9, b'\\xff' * 16, 0", errno.EPERM, id="more memory"),
        pytest.param("302, 0, 0, b'\\xff' * 16, 0", errno.EPERM, id="more CPU time"),
        pytest.param("302, 0, 7, b'\\xff' * 16, 0", errno.EPERM, id="more descriptors"),
        pytest.param("436, 3, 64, 2", errno.EPERM, id="unshare descriptors"),
        pytest.param("302, ctypes.c_long(1 << 32), 7, 0, b'\\0' * 16", 0, id="our own limits, with bits above"),
    ],
)
def test_judged_call(shared_box: Box, arguments: str, expected: int) -> None:
    result = shared_box.run(f"{TOOLS}print(call({arguments}))")
    assert (result.status, result.stdout) == ("ok", f"{expected}\n")


MACHINE_CODE = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
page.write(bytes.fromhex({code!r}))
print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))())
"""


class TestPrograms:
    @pytest.mark.parametrize(
        ("code", "statuses"),
        [
            pytest.param(MACHINE_CODE.format(code="b814000000cd80c3"), {"killed"}, id="getpid by int 80"),
            pytest.param(MACHINE_CODE.format(code="b802000000cd80c3"), {"killed"}, id="fork by int 80"),
            pytest.param(MACHINE_CODE.format(code="b839000000" + "0f05c3"), {"ok"}, id="fork by our own machine code"),
            pytest.param(MACHINE_CODE.format(code="0f0b"), {"killed"}, id="an illegal instruction"),
            pytest.param("import ctypes; ctypes.string_at(0)", {"killed"}, id="a null pointer"),
            pytest.param("import os; os.abort()", {"killed"}, id="abort"),
            pytest.param("import os; os._exit(0)", {"killed"}, id="leave without a word"),
            pytest.param("import signal\nsignal.raise_signal(9)", {"denied"}, id="kill itself"),
            pytest.param("import os; os.nice(-5)", {"denied", "error"}, id="priority"),
            pytest.param("x = b'x'\nwhile True: x += x", {"memory"}, id="bytes without end"),
            pytest.param("bytearray(1 << 40)", {"memory"}, id="a terabyte"),
            pytest.param(
                "import zlib\nbomb = zlib.compress(bytes(1 << 24))\nkept = []\n"
                "while True: kept.append(zlib.decompress(bomb))",
                {"memory", "timeout"},
                id="unpack without end",
            ),
            pytest.param(
                TOOLS + "kept = []\nwhile True: kept.append(libc.sbrk(1 << 24)); assert kept[-1] != -1",
                {"error", "memory", "killed"},
                id="brk without end",
            ),
            pytest.param(
                TOOLS + "libc.mmap.restype = ctypes.c_long\n"
                "sizes = [libc.mmap(0, ctypes.c_long(1 << 26), 3, 0x8022, -1, 0) for _ in range(99)]\n"
                "assert sum(size != -1 for size in sizes) <= 4",
                {"ok"},
                id="populate without end",
            ),
            pytest.param(
                "import mmap\nmap = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
                "while True: map.resize(2 * len(map))",
                {"memory", "error"},
                id="mremap without end",
            ),
            pytest.param(
                "x = ()\nfor _ in range(10**6): x = (x,)\ndel x\nx = []\nx.append(x)\nprint(x == [x])",
                {"ok", "error", "killed"},
                id="deep tuples",
            ),
            pytest.param("exec('(' * 10**5)", {"error", "memory", "killed"}, id="deep source"),
            pytest.param("f(" * 3000 + ")" * 3000, {"error", "memory"}, id="deep source of the step itself"),
            pytest.param(
                "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
                {"error", "memory", "killed", "timeout"},
                id="deep calls",
            ),
            pytest.param("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", {"timeout"}, id="regular expression"),
            pytest.param(
                "class E(Exception):\n    def __str__(self):\n        while True: pass\nraise E",
                {"timeout"},
                id="a text without end",
            ),
            pytest.param("raise ValueError('x' * 10**7)", {"error"}, id="a long error"),
            pytest.param("raise ValueError('\\ud800' * 9000)", {"error"}, id="an error of surrogates"),
            pytest.param("raise type('\\ud800\\n', (Exception,), {})", {"error"}, id="a name of surrogates"),
            pytest.param("x = '\ud800'", {"error"}, id="source of surrogates"),
            pytest.param("x = 1\0", {"error"}, id="source with a null"),
            pytest.param(
                "class S(str):\n    def __format__(self, spec): raise SystemExit\n    encode = None\n"
                "class E(Exception):\n    def __str__(self): return S('x')\nraise E",
                {"error", "killed", "exit"},
                id="a text of its own kind",
            ),
            pytest.param(
                "class M(type):\n    @property\n    def __name__(cls): raise SystemExit\n"
                "class E(Exception, metaclass=M): pass\nraise E",
                {"error", "killed"},
                id="a name that raises",
            ),
            pytest.param(
                "class E(Exception): __class__ = property(lambda self: 1 / 0)\nraise E",
                {"error", "killed"},
                id="a class that raises",
            ),
            pytest.param(
                "import builtins\nfor name in dir(builtins): setattr(builtins, name, None)",
                {"killed", "error"},
                id="no builtins",
            ),
            pytest.param(
                "import os, signal\nos.write = os.close = os._exit = signal.signal = None\n"
                "import json\njson.dumps = None",
                {"ok"},
                id="no os",
            ),
            pytest.param(
                "import sys\nframe = sys._getframe()\nwhile frame := frame.f_back:\n"
                "    for value in list(frame.f_locals.values()):\n        if hasattr(value, 'sendall'): value.close()",
                {"killed"},
                id="close the socket in the frames above",
            ),
            pytest.param("import sys\nsys.stdout.write('x' * 65537)", {"output_limit"}, id="a byte too much"),
            pytest.param("print('\\x00' * 65535)", {"ok"}, id="output that JSON makes six times longer"),
            pytest.param(
                "import sys\nwhile True:\n    try: print('x' * 9999)\n    except BaseException: pass",
                {"timeout"},
                id="output without end",
            ),
            pytest.param(
                TOOLS + "while True:\n    try: os.fork()\n    except OSError: pass", {"timeout"}, id="fork bomb"
            ),
        ],
    )
    def test_ends_as_it_should(self, box: Box, place: dict[str, str], code: str, statuses: set[str]) -> None:
        started = time.monotonic()
        result = box.run(code)
        assert result.status in statuses, result
        assert len(result.stdout.encode()) <= 65536
        assert len(result.error.encode()) <= 2000
        assert time.monotonic() - started < 10

    @pytest.mark.parametrize(
        "code",
        [
            pytest.param("print(open({CANARY!r}).read())", id="read"),
            pytest.param("open({CANARY!r}, 'r+').write('x')", id="write"),
            pytest.param("import os; os.stat({CANARY!r})", id="stat"),
            pytest.param("import os; os.open({CANARY!r}, os.O_PATH)", id="O_PATH"),
            pytest.param("import os; os.chdir({HOME!r})", id="chdir"),
            pytest.param("import os; os.open({HOME!r}, os.O_TMPFILE | os.O_RDWR)", id="O_TMPFILE"),
            pytest.param("open('/proc/self/status')", id="our status"),
            pytest.param("open('/proc/1/environ', 'rb')", id="the zygote's environment"),
            pytest.param("open('/proc/1/root' + {CANARY!r})", id="by the zygote's root"),
            pytest.param("open('/etc/passwd')", id="accounts"),
            pytest.param("open('/dev/mem', 'rb')", id="the machine's memory"),
            pytest.param("import os; os.listdir('/')", id="list the root"),
            pytest.param("import os; os.open('/tmp/x', os.O_CREAT | os.O_WRONLY)", id="make a file"),
            pytest.param("import os; os.open('..' * 0 + '../' * 40 + {CANARY!r}[1:], 0)", id="up and up"),
            pytest.param("import os; open(os.__file__, 'r+')", id="write the library"),
            pytest.param("import os; open(os.__file__, 'w')", id="empty the library"),
            pytest.param("import os; os.utime(os.__file__)", id="touch the library"),
            pytest.param("import os; os.rename(os.__file__, os.__file__ + 'x')", id="rename the library"),
            pytest.param("import os; os.link(os.__file__, '/tmp/os')", id="link the library"),
            pytest.param("import rstar_cli.grader", id="our own modules"),
        ],
    )
    def test_reaches_no_file(self, box: Box, place: dict[str, str], code: str) -> None:
        result = box.run(code.format(**place))
        assert result.status in ("error", "denied"), result
        assert SECRET not in result.stdout

    def test_the_stack_tells_no_secret(self, box: Box) -> None:
        code = TOOLS + (
            "place = ctypes.c_void_p.in_dll(libc, 'program_invocation_name').value & -4096\nseen = b''\n"
            "while call(21, ctypes.c_void_p(place), 0) != errno.EFAULT:\n"
            "    seen += ctypes.string_at(place, 4096)\n    place += 4096\n"
            "print(dict(os.environ), b'LC_ALL' in seen, seen)"
        )
        result = box.run(code)
        assert "b'LC_ALL'" not in result.stdout
        assert "True" in result.stdout, result
        for secret in (SECRET, "RSTAR_"):
            assert secret not in result.stdout

    @pytest.mark.parametrize(
        ("code", "statuses"),
        [
            pytest.param("say(b'')", {"protocol"}, id="empty packet"),
            pytest.param("say(b'H')", {"protocol"}, id="greet again"),
            pytest.param("say(b'\\2' + claim())", {"protocol"}, id="another kind of packet"),
            pytest.param("say(b'\\1')", {"protocol"}, id="empty claim"),
            pytest.param("say(b'\\1[]')", {"protocol"}, id="list"),
            pytest.param("say(b'\\1' + claim()[:-1])", {"protocol"}, id="half a claim"),
            pytest.param("say(b'\\1' + claim() + b' {}')", {"protocol"}, id="a claim and more"),
            pytest.param("say(b'\\1\\xff\\xfe' + claim())", {"protocol"}, id="no UTF-8"),
            pytest.param("say(b'\\1' + claim('correct'))", {"protocol"}, id="another status"),
            pytest.param("say(b'\\1' + claim('timeout'))", {"protocol"}, id="what only the supervisor can know"),
            pytest.param("say(b'\\1' + claim('lost'))", {"protocol"}, id="lost"),
            pytest.param("say(b'\\1' + claim(['ok']))", {"protocol"}, id="a list for a status"),
            pytest.param("say(b'\\1' + claim({}))", {"protocol"}, id="a dict for a status"),
            pytest.param("say(b'\\1' + claim(stdout=1))", {"protocol"}, id="a number for output"),
            pytest.param("say(b'\\1' + claim(stdout=float('nan')))", {"protocol"}, id="NaN for output"),
            pytest.param("say(b'\\1' + claim(stdout='\\ud800'))", {"protocol"}, id="surrogates for output"),
            pytest.param("say(b'\\1' + claim(verdict='correct'))", {"protocol"}, id="a verdict"),
            pytest.param("say(b'\\1' + claim(error='x' * 2001))", {"protocol"}, id="a long error"),
            pytest.param(
                "say(b'\\1' + claim()[:-1] + b', \"status\": \"error\"}')",
                {"error"},
                id="two statuses: the last one counts",
            ),
            pytest.param("say(b'\\1' + b'x' * 60001)", {"protocol"}, id="a packet too long"),
            pytest.param("say(b'\\0' + b'[' * 60000)\nsay(b'\\1' + b'[' * 60000)", {"protocol"}, id="deep JSON"),
            pytest.param("say(b'\\0' + b'9' * 60000)\nsay(b'\\1' + b'9' * 60000)", {"protocol"}, id="a long number"),
            pytest.param("while True: say(b'\\0' + b'x' * 60000)", {"protocol"}, id="more and more"),
            pytest.param("while True: say(b'\\0')", {"timeout"}, id="nothing, again and again"),
            pytest.param("while True:\n    say(b'\\0 ')\n    time.sleep(0.01)", {"timeout"}, id="drip"),
            pytest.param("say(b'\\0' + claim())\nos._exit(0)", {"killed"}, id="half, then leave"),
            pytest.param("for _ in range(50): say(b'\\1' + claim('error'))\nwhile True: pass", {"error"}, id="many"),
            pytest.param(
                "s = socket.socket(fileno=mine())\n"
                "for fds in ([0], [0] * 60, [s.fileno()] * 9):\n"
                "    s.sendmsg([b'\\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f'{len(fds)}i', *fds))])\n"
                "s.send(b'\\1' + claim(stdout='with descriptors'))\ntime.sleep(9)",
                {"ok"},
                id="descriptors that come along",
            ),
            pytest.param(
                "s = socket.socket(fileno=mine())\n"
                "for pid in (1, 0, os.getpid() + 1):\n"
                "    data = struct.pack('iII', pid, os.getuid(), os.getgid())\n"
                "    try: s.sendmsg([b'\\1' + claim()], [(socket.SOL_SOCKET, 2, data)])\n"
                "    except OSError: pass\n    else: time.sleep(9)\nraise LookupError",
                {"error"},
                id="another's credentials",
            ),
            pytest.param(
                "s = socket.socket(fileno=mine())\nfds = struct.pack('i', s.fileno())\n"
                "s.sendmsg([b'\\0'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])\nos._exit(0)",
                {"killed"},
                id="keep the socket alive by itself",
            ),
        ],
    )
    def test_claims(self, box: Box, code: str, statuses: set[str]) -> None:
        result = box.run(TOOLS + "import struct\n" + code)
        assert result.status in statuses, result
        assert SECRET not in result.stdout


NEXT = "import json, os, random, sympy, sys\nx = sympy.Symbol('x')\n" + (
    "print(sympy.factor(x**2 - 1), sympy.simplify(sympy.sin(x)**2 + sympy.cos(x)**2), sympy.sqrt(8), "
    "json.dumps({'a': 1}), random.random(), sys.getrecursionlimit(), sys.getswitchinterval(), os.getcwd(), len(str(x)))"
)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            "import sys\nfor name in list(sys.modules):\n    if name != 'sys': sys.modules[name] = None",
            id="no modules",
        ),
        pytest.param(
            "import sympy\nsympy.sqrt = sympy.factor = lambda x: 42\nsympy.Symbol.__str__ = lambda self: 'y'",
            id="another sympy",
        ),
        pytest.param(
            "import gc, functools\nfor it in gc.get_objects():\n"
            "    if isinstance(it, dict) and type(it) is dict and len(it) < 9:\n"
            "        try: it.update({key: 42 for key in it})\n        except BaseException: pass",
            id="poison dicts",
        ),
        pytest.param(
            "import ctypes, sympy\nctypes.memset(id(sympy.S.One) + 8, 255, 8)\nctypes.memset(id(5) + 24, 7, 4)",
            id="write into objects",
        ),
        pytest.param(
            "import random, sympy, sys, os\nrandom.seed(9)\nsys.setrecursionlimit(99)\nsys.setswitchinterval(9)\n"
            "os.chdir(os.path.dirname(os.__file__))\nsys.path.clear()",
            id="state of the process",
        ),
        pytest.param(
            "import os, sympy\nfor fd in range(3):\n    os.lseek(fd, 99, 0)\n    os.dup2(os.open(os.__file__, 0), fd)",
            id="standard descriptors",
        ),
    ],
)
def test_the_next_program_sees_nothing_of_it(box: Box, code: str) -> None:
    code = f"import sympy\n{code}"
    expected = box.run(NEXT)
    assert expected.ok
    box.run(code)
    result = box.run(NEXT)
    assert (result.status, result.stdout) == ("ok", expected.stdout)
    box.steps([], [code])
    assert box.steps([], [NEXT])[0][0].stdout == expected.stdout
    assert box.run("try: input()\nexcept EOFError: print(1)").stdout == "1\n"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import atexit\n@atexit.register\ndef f():\n    while True: pass", id="atexit"),
        pytest.param("class A:\n    def __del__(self):\n        while True: pass\nsys.keep = A()", id="finalizer"),
        pytest.param("gc.callbacks.append(lambda *a: time.sleep(9))", id="gc"),
        pytest.param("sys.settrace(lambda *a: time.sleep(0.2))", id="trace"),
        pytest.param("sys.setprofile(lambda *a: time.sleep(0.2))", id="profile"),
        pytest.param("sys.addaudithook(lambda *a: time.sleep(9))", id="audit"),
        pytest.param(
            "import signal\nfor n in (1, 2, 10, 12, 15, 24):\n    signal.signal(n, lambda *a: time.sleep(9))",
            id="signals",
        ),
        pytest.param("sys.stdout.flush = lambda: time.sleep(9)", id="flush"),
        pytest.param("say(b'\\1' + claim(stdout='mine'))\nwhile True: pass", id="claim, then stay"),
        pytest.param("say(b'\\1' + claim())\nwhile True: call(57)", id="claim, then fork"),
        pytest.param(
            "say(b'\\1' + claim())\ntry:\n    while True: say(b'\\1' + claim())\nexcept OSError: pass",
            id="claim without end",
        ),
    ],
)
def test_nothing_goes_on_after_the_claim(box: Box, code: str) -> None:
    started = time.monotonic()
    result = box.run(TOOLS + code)
    assert result.status in ("ok", "timeout")
    assert time.monotonic() - started < 5


def test_a_source_as_large_as_memory_costs_no_zygote() -> None:
    with Box(memory_mb=32).sandbox as sandbox:
        assert sandbox.run("x = '\U0001f600" + "a" * (8 << 20) + "'").status == "memory"
