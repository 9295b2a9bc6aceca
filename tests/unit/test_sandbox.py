"""The sandbox: every status, state that steps share and branches don't, limits, exactness, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.records import ExecutionStatus
from rstar_cli.sandbox import Sandbox
from rstar_cli.sandbox.processes.claims import read_claim
from rstar_cli.sandbox.worker import Job

OK = ExecutionStatus.OK
OUTPUT_BYTES = 4096
TREE = "a tree"


@pytest.fixture(scope="module", params=[False, True], ids=["one-shot", "tree"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=1, timeout=20, memory_mb=256, output_bytes=OUTPUT_BYTES, tree=request.param) as sandbox:
        yield sandbox


@pytest.fixture(scope="module", params=[False, True], ids=["one-shot", "tree"])
def hasty(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One that waits half a second: enough for steps that print a word, on a busy machine too."""
    with Sandbox(workers=1, timeout=0.5, tree=request.param) as sandbox:
        sandbox.run("")
        yield sandbox


def branch(sandbox: Sandbox, *steps: str, prefix: tuple[str, ...] = ()) -> list[ExecutionResult]:
    return sandbox.execute([ExecuteRequest(prefix, (steps,), TREE)])[0][0]


class TestStatuses:
    @pytest.mark.parametrize(
        ("code", "status", "error"),
        [
            ("x = 1", "ok", ""),
            ("x = 1\ny = 2\n1 / 0", "error", "ZeroDivisionError: division by zero (line 3)"),
            ("def f():\n    return {}['k']\n\nf()", "error", "KeyError: 'k' (line 2)"),
            ("a = 1\nb = = 2", "error", "SyntaxError: invalid syntax (line 2)"),
            ("raise KeyboardInterrupt", "error", "KeyboardInterrupt (line 1)"),
            ("input()", "error", "EOFError: EOF when reading a line (line 1)"),
            ("def f(n): return f(n + 1)\nf(0)", "error", "RecursionError: maximum recursion depth exceeded (line 1)"),
            ("str(10**5000)", "error", None),
            ("print('\\ud800')", "error", None),
            ("x = '\ud800'", "error", None),
            ("x = 1\0", "error", None),
            (
                "import nothing_of_this_name",
                "error",
                "ModuleNotFoundError: No module named 'nothing_of_this_name' (line 1)",
            ),
            (
                "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})",
                "error",
                "E: <its text can't be had> (line 1)",
            ),
            ("raise ValueError('x' * 10**6)", "error", None),
            ("x = bytearray(10**10)", "memory", "MemoryError (line 1)"),
            ("x = [0]\nwhile True: x += x", "memory", "MemoryError (line 2)"),
            ("open('/tmp/written', 'w').write('x')", "denied", None),
            ("raise PermissionError(13, 'no')", "denied", "PermissionError: [Errno 13] no (line 1)"),
            ("import sys\nsys.exit(0)", "exit", "SystemExit: 0 (line 2)"),
            ("quit()", "exit", "SystemExit: None (line 1)"),
            ("import os\nos._exit(0)", "killed", ""),
            ("import os\nos.kill(os.getpid(), 9)", "denied", None),
            ("import os\nos.abort()", "killed", ""),
            ("import os\nos.fork()", "denied", None),
            ("import subprocess\nsubprocess.run('true')", "denied", None),
            ("import socket\nsocket.socket()", "denied", None),
            ("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_DFL)", "denied", None),
            ("import ctypes\nctypes.string_at(0)", "killed", ""),
            ("while True: print('y' * 1000)", "output_limit", None),
            ("print('x' * 5000)", "output_limit", None),
            ("try:\n    print('x' * 5000)\nexcept BaseException: pass", "output_limit", None),
        ],
    )
    def test_of_code(self, sandbox: Sandbox, code: str, status: str, error: str | None) -> None:
        result = sandbox.run(code)
        assert result.status == status, result
        assert result.ok is (status == "ok")
        if error is not None:
            assert result.error == error
        assert (result.error == "") is (status in ("ok", "killed"))
        assert len(result.error.encode()) <= 2000

    @pytest.mark.parametrize(
        "code",
        [
            "while True: pass",
            "import time\ntime.sleep(99)",
            "x = 7 ** (10 ** 8)",
            "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            "import signal\nfor s in (1, 2, 10, 12, 14, 15, 24): signal.signal(s, signal.SIG_IGN)\nwhile True: pass",
        ],
    )
    def test_timeout(self, hasty: Sandbox, code: str) -> None:
        started = time.monotonic()
        result = hasty.run(code)
        assert (result.status, result.error) == ("timeout", "")
        assert 0.45 < result.seconds < 5
        assert time.monotonic() - started < 10

    def test_prefix_that_fails_gives_each_branch_one_lost(self, sandbox: Sandbox) -> None:
        request = ExecuteRequest(("x = 1", "1 / 0"), (("print(x)", "print(x)"), ("x",)), TREE)
        results = sandbox.execute([request])[0]
        assert [[result.status for result in steps] for steps in results] == [["lost"], ["lost"]]


class TestState:
    def test_steps_share_branches_dont(self, sandbox: Sandbox) -> None:
        prefix = ("import math\nx = [1]", "def f(): return x\nprint('never seen')")
        branches = (
            ("x.append(2)\nprint(f())", "print(len(f()))"),
            ("print(f())", "x = 5\nprint(f(), math.pi)"),
            ("del x\nmath.pi = 3", "print(x)", "print('never run')"),
            ("import builtins\nbuiltins.len = None\nx.clear()",),
            ("print(len(f()), math.pi > 3)",),
        )
        results = sandbox.execute([ExecuteRequest(prefix, branches, TREE)])[0]
        assert [[result.stdout for result in steps] for steps in results] == [
            ["[1, 2]\n", "2\n"],
            ["[1]\n", "5 3.141592653589793\n"],
            ["", ""],
            [""],
            ["1 True\n"],
        ]
        assert results[2][1].error == "NameError: name 'x' is not defined (line 1)"

    def test_programs_dont_see_each_other(self, sandbox: Sandbox) -> None:
        sandbox.run("import math\nmath.pi = 3\nleft = 1")
        assert sandbox.run("import math\nprint(math.pi, 'left' in globals())").stdout == "3.141592653589793 False\n"

    def test_a_branch_that_times_out_disturbs_no_sibling(self, hasty: Sandbox) -> None:
        branches = (
            ("print(x)",),
            ("print('kept')", "while True: pass", "print('never')"),
            ("print(x + 1)",),
            ("print(x + 2)",),
        )
        results = hasty.execute([ExecuteRequest(("x = 1",), branches, TREE)])[0]
        assert [[(result.status, result.stdout) for result in steps] for steps in results] == [
            [("ok", "1\n")],
            [("ok", "kept\n"), ("timeout", "")],
            [("ok", "2\n")],
            [("ok", "3\n")],
        ]

    def test_a_branch_that_dies_disturbs_no_sibling(self, sandbox: Sandbox) -> None:
        dies = "import ctypes\nctypes.string_at(0)"
        branches = ((dies,), ("print(x)",), (dies,), ("print(x)",))
        results = sandbox.execute([ExecuteRequest(("x = 1",), branches, TREE)])[0]
        assert [steps[0].status for steps in results] == ["killed", "ok", "killed", "ok"]

    def test_nothing_to_run(self, sandbox: Sandbox) -> None:
        assert sandbox.execute([]) == []
        assert sandbox.execute([ExecuteRequest(("x = 1",), ())]) == [[]]
        assert sandbox.execute([ExecuteRequest((), ((), ("print(1)",)))])[0][0] == []

    def test_main_is_a_module_of_its_own(self, sandbox: Sandbox) -> None:
        steps = branch(
            sandbox,
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int",
            "import pickle\nprint(pickle.loads(pickle.dumps(P(3))), __name__, P.__module__)",
            "import sys\nprint(sys.argv, sys.modules['__main__'].P is P, sorted(n for n in globals() if n[0] != '_'))",
        )
        assert steps[1].stdout == "P(x=3) __main__ __main__\n"
        assert steps[2].stdout == "[''] True ['P', 'dataclass', 'pickle', 'sys']\n"

    @given(values=st.lists(st.integers(-(10**30), 10**30), min_size=1, max_size=5), split=st.integers(0, 5))
    @settings(max_examples=25, deadline=None)
    def test_prefix_or_branch_is_the_same(self, sandbox: Sandbox, values: list[int], split: int) -> None:
        steps = tuple(f"x = {value}\ntotal = globals().get('total', 0) + x\nprint(total)" for value in values)
        prefix, rest = steps[:split], steps[split:]
        whole = branch(sandbox, *steps)
        assert [result.stdout for result in whole] == [f"{sum(values[: i + 1])}\n" for i in range(len(values))]
        if rest:
            parts = sandbox.execute([ExecuteRequest(prefix, (rest, rest), TREE)])[0]
            assert [[r.stdout for r in part] for part in parts] == [[r.stdout for r in whole[split:]]] * 2


class TestDeterminism:
    CODE = "import random\nprint(random.random(), hash('text'), {'a', 'b', 'c'})"

    def test_equal_programs_print_equal_text(self, sandbox: Sandbox) -> None:
        outputs = {sandbox.run(self.CODE).stdout for _ in range(3)}
        assert len(outputs) == 1

    def test_the_random_state_survives_forks(self, sandbox: Sandbox) -> None:
        draw = "print(random.random())"
        branches = ((draw,), (draw,), (draw,))
        forked = sandbox.execute([ExecuteRequest(("import random", "random.seed(7)", draw), branches, TREE)])[0]
        straight = branch(sandbox, "import random\nrandom.seed(7)", draw, draw)[2]
        assert {steps[0].stdout for steps in forked} == {straight.stdout}

    def test_numpy_and_sympy_are_seeded(self, sandbox: Sandbox) -> None:
        code = "import numpy as np, sympy as sp\nprint(np.random.rand(), sp.core.random.random())"
        first, second = sandbox.run(code), sandbox.run(code)
        assert first.ok, first.error
        assert first.stdout == second.stdout


class TestOutput:
    def test_exact(self, sandbox: Sandbox) -> None:
        code = "print(10**400)\nprint(0.1 + 0.2, 1e300 * 1e10, float('nan'))\nprint('a\\rb\\r\\n\\u2028\\0', end='')"
        assert sandbox.run(code).stdout == f"{10**400}\n0.30000000000000004 inf nan\na\rb\r\n\u2028\0"

    @pytest.mark.parametrize("text", ["x", "\0", "\U0001f9ee", "\u6c49"])
    def test_cap_counts_bytes(self, sandbox: Sandbox, text: str) -> None:
        fits = OUTPUT_BYTES // len(text.encode())
        full = sandbox.run(f"print({text!r} * {fits}, end='')")
        assert (full.status, full.stdout) == ("ok", text * fits)
        over = sandbox.run(f"print({text!r} * {fits} + 'xxxx', end='')")
        assert over.status == "output_limit"
        assert over.stdout.startswith(text * fits)
        assert len(over.stdout.encode()) <= OUTPUT_BYTES

    def test_of_a_failed_step_is_kept(self, sandbox: Sandbox) -> None:
        assert sandbox.run("print('before')\n1 / 0").stdout == "before\n"

    def test_bytes_that_are_no_text(self, sandbox: Sandbox) -> None:
        result = sandbox.run("import sys\nsys.stdout.buffer.write(b'\\xff' * 4000)")
        assert result.ok
        assert set(result.stdout) == {"\ufffd"}
        assert len(result.stdout.encode()) <= OUTPUT_BYTES

    def test_goes_where_the_program_directs_it(self, sandbox: Sandbox) -> None:
        code = (
            "import contextlib, io, sys, warnings\nbuffer = io.StringIO()\nwith contextlib.redirect_stdout(buffer):\n"
            "    print('inside')\nprint(buffer.getvalue().upper(), end='')\nprint('unseen', file=sys.stderr)\n"
            "sys.__stdout__.write('unseen')\nwarnings.warn('unseen')"
        )
        result = sandbox.run(code)
        assert (result.status, result.stdout) == ("ok", "INSIDE\n")


class TestSources:
    def test_large(self, sandbox: Sandbox) -> None:
        code = "\n".join(f"x{i} = {i}" for i in range(60_000)) + f"\n# {'z' * 300_000}\nprint(x59999)"
        assert len(code) > 1_000_000
        assert sandbox.run(code).stdout == "59999\n"

    def test_unicode_and_coding_cookie(self, sandbox: Sandbox) -> None:
        assert sandbox.run("# -*- coding: latin-1 -*-\nä = 'ß√'\nprint(ä)").stdout == "ß√\n"

    def test_recursion_goes_as_deep_as_in_plain_python(self, sandbox: Sandbox) -> None:
        code = "def depth(n):\n    try: return depth(n + 1)\n    except RecursionError: return n\nprint(depth(0))"
        plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert int(plain) <= int(sandbox.run(code).stdout) <= int(plain) + 5

    def test_many_branches(self, sandbox: Sandbox) -> None:
        branches = tuple((f"print(x + {i})",) for i in range(150))
        results = sandbox.execute([ExecuteRequest(("x = 1",), branches, TREE)])[0]
        assert [steps[0].stdout for steps in results] == [f"{i + 1}\n" for i in range(150)]

    def test_scientific_only_where_imported(self) -> None:
        def scientific(*steps: str) -> bool:
            return Job(ExecuteRequest(steps[:-1], (steps[-1:],))).scientific

        assert scientific("import sympy as sp")
        assert scientific("x = 1", "from sympy.abc import x\nprint(x)")
        assert scientific("from numpy import array", "print(1)")
        assert scientific("def f():\n    import math, mpmath")
        assert scientific("x = 1; import numpy")
        assert not scientific("# sympy could solve it\nprint('from numpy')")
        assert not scientific("import math\nsympathy = 1")
        assert not scientific("# import sympy\nimport mathematics")


class TestClaims:
    """What a program may say of itself."""

    def claim(self, **fields: object) -> bytes:
        return json.dumps({"status": "ok", "stdout": "", "error": "", **fields}).encode()

    def test_proper(self) -> None:
        assert read_claim(self.claim(stdout="42\n"), 100) == (OK, "42\n", "")
        assert read_claim(self.claim(status="exit", error="é" * 1000), 100)[0] == "exit"

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"ok",
            b"\xff",
            b"null",
            b'["status", "stdout", "error"]',
            b'{"status": "ok", "stdout": ""}',
            b'{"status": "ok", "stdout": "", "error": "", "verdict": "correct"}',
            b'{"status": "ok", "stdout": NaN, "error": ""}',
            b'{"status": "ok", "stdout": "\\ud800", "error": ""}',
            b'{"status": "ok", "stdout": "", "error": ""} {}',
            b'{"status": {"ok": 1}, "stdout": "", "error": ""}',
            b'{"status": ["ok"], "stdout": "", "error": ""}',
            b'{"status": "ok", "stdout": 1, "error": ""}',
            b'{"status": "ok", "stdout": "", "error": null}',
            b'{"status": "OK", "stdout": "", "error": ""}',
            *(
                b'{"status": "%s", "stdout": "", "error": ""}' % s
                for s in (b"timeout", b"killed", b"protocol", b"lost")
            ),
            b'{"status": "ok", "stdout": "%s", "error": ""}' % (b"x" * 101),
            b'{"status": "ok", "stdout": "%s", "error": ""}' % ("\u6c49" * 34).encode(),
            b'{"status": "error", "stdout": "", "error": "%s"}' % (b"x" * 2001),
            b"[" * 100_000,
            b'{"a":' * 100_000,
        ],
    )
    def test_refused(self, payload: bytes) -> None:
        assert read_claim(payload, 100) == ("protocol", "", "")

    @given(
        payload=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    def test_never_raises(self, payload: bytes) -> None:
        assert read_claim(payload, 100)[0] == "protocol"
