"""The fork tree: held states change no result, are bounded, and are made again when they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar_cli.protocols import ExecuteRequest, ExecutionResult
from rstar_cli.sandbox import Sandbox
from tests.unit.test_sandbox_processes import processes, wait_until

STEPS = (
    "x = globals().get('x', 0) + 1\nprint(x)",
    "import random\nx = globals().get('x', 0)\nprint(x, random.random())",
    "log = globals().get('log', [])\nlog.append(len(log))\nprint(log)",
    "def f(n): return globals().get('x', 0) * n\nprint(f(3))",
    "print(sorted(name for name in globals() if name[0] != '_'))",
    "1 / 0",
)
"""What they print hangs on the steps before them."""


def paused() -> set[tuple[int, int]]:
    """(pid, start time) of our stopped descendants."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return ""

    return {process for process in processes(os.getpid()) if state(process[0]) == "T"}


def outcome(results: list[list[ExecutionResult]]) -> list[list[tuple[str, str, str]]]:
    return [[(result.status, result.stdout, result.error) for result in branch] for branch in results]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1, timeout=20, tree=True) as sandbox:
        sandbox.run("")
        if "grants" not in sandbox.layers():
            pytest.skip("states can't be held here: no seccomp listener")
        yield sandbox


@pytest.fixture(scope="class")
def one_shot() -> Iterator[Sandbox]:
    with Sandbox(workers=1, timeout=20) as sandbox:
        yield sandbox


@pytest.fixture(scope="class", params=[2, 1024])
def tree(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(workers=2, timeout=20, tree=True, states=request.param) as sandbox:
        yield sandbox


def step(sandbox: Sandbox, prefix: tuple[str, ...], *codes: str, tree: str = "t") -> list[ExecutionResult]:
    return [branch[0] for branch in sandbox.execute([ExecuteRequest(prefix, tuple((c,) for c in codes), tree)])[0]]


class TestSameResults:
    """A request's results hang on its steps alone: not on what was held, dropped, or run before."""

    requests = st.lists(
        st.builds(
            ExecuteRequest,
            st.lists(st.sampled_from(STEPS[:-1]), max_size=3).map(tuple),
            st.lists(st.lists(st.sampled_from(STEPS), min_size=1, max_size=2).map(tuple), min_size=1, max_size=3).map(
                tuple
            ),
            st.sampled_from(["", "a", "b"]),
        ),
        min_size=1,
        max_size=8,
    )

    @given(requests=requests)
    @settings(max_examples=25, deadline=None)
    def test_held_or_not(self, one_shot: Sandbox, tree: Sandbox, requests: list[ExecuteRequest]) -> None:
        found = [outcome(results) for results in tree.execute(requests)]
        alone = [outcome(tree.execute([request])[0]) for request in requests]
        plain = [outcome(results) for results in one_shot.execute(requests)]
        assert found == alone == plain

    def test_depth_first_with_sympy(self, sandbox: Sandbox) -> None:
        steps = (
            "from sympy import symbols, solve\nx = symbols('x')",
            "roots = solve(x**2 - 5*x + 6, x)\nprint(roots)",
            "print(sum(roots), x)",
        )
        found = [step(sandbox, steps[:depth], steps[depth])[0].stdout for depth in range(3)]
        assert found == ["", "[2, 3]\n", "5 x\n"]

    def test_a_path_that_comes_to_import_sympy(self, sandbox: Sandbox) -> None:
        first, second = "x = 2", "import sympy\nprint(sympy.sqrt(x))"
        assert step(sandbox, (), first)[0].ok
        assert [r.stdout for r in step(sandbox, (first,), second, "print(x)")] == ["sqrt(2)\n", "2\n"]
        assert step(sandbox, (first, second), "print(sympy.Integer(x) / 3)")[0].stdout == "2/3\n"

    def test_a_recursion_limit_that_a_step_sets(self, sandbox: Sandbox) -> None:
        first = "import sys\nsys.setrecursionlimit(20_000)\ndef f(n): return n and f(n - 1)"
        step(sandbox, (), first)
        assert all(result.ok for result in step(sandbox, (first,), "f(5_000)", "f(5_001)"))

    def test_large_steps(self, sandbox: Sandbox) -> None:
        large = "y = 1\n# " + "z" * 300_000
        step(sandbox, (), large)
        assert step(sandbox, (large,), "print(y)", large + "\nprint(y + 1)")[1].stdout == "2\n"

    def test_output_of_many_bytes(self, sandbox: Sandbox) -> None:
        code = "print('\\x01' * 65_000)\n"  # six bytes each in JSON
        for _ in range(2):
            assert step(sandbox, (), code)[0].stdout == "\x01" * 65_000 + "\n"


class TestHolding:
    def test_a_state_a_step_and_all_are_stopped(self, sandbox: Sandbox) -> None:
        step(sandbox, (), "x = 1", "x = 2", "1 / 0", "x = 3")
        assert len(paused()) == 3
        step(sandbox, ("x = 2",), "x += 1", "x += 2")
        assert len(paused()) == 5

    def test_only_new_code_runs(self, sandbox: Sandbox) -> None:
        slow = "import time\ntime.sleep(0.4)\nx = 1"
        step(sandbox, (), slow)
        started = time.monotonic()
        for i in range(4):
            found = step(sandbox, (slow,), f"print(x + {i})", f"print(x - {i})")
            assert [result.stdout for result in found] == [f"{1 + i}\n", f"{1 - i}\n"]
        assert time.monotonic() - started < 1.2, "four times 0.4 s of sleep were not slept again"

    def test_a_single_child_goes_on_in_the_same_process(self, sandbox: Sandbox) -> None:
        step(sandbox, (), "x = 1")
        before = paused()
        assert step(sandbox, ("x = 1",), "x += 1\nprint(x)")[0].stdout == "2\n"
        assert paused() == before
        found = step(sandbox, ("x = 1",), "print(x)", "print(x + 4)")  # its own state is gone, and made again
        assert [result.stdout for result in found] == ["1\n", "5\n"]
        assert step(sandbox, ("x = 1", "x += 1\nprint(x)"), "print(x + 5)")[0].stdout == "7\n"

    def test_a_single_child_that_fails(self, sandbox: Sandbox) -> None:
        step(sandbox, (), "x = 1")
        for failing, status in (("x = 5\n1 / 0", "error"), ("import os\nx = 6\nos._exit(0)", "killed")):
            assert step(sandbox, ("x = 1",), failing)[0].status == status
            assert step(sandbox, ("x = 1",), "print(x)")[0].stdout == "1\n"

    def test_a_whole_completion_holds_nothing(self, sandbox: Sandbox) -> None:
        results = sandbox.execute([ExecuteRequest((), (("x = 1", "x += 1", "print(x)"),), "t")])[0][0]
        assert results[-1].stdout == "2\n"
        assert not paused()

    def test_forgotten_trees_hold_nothing(self, sandbox: Sandbox) -> None:
        step(sandbox, (), "x = 1", "x = 2", tree="a")
        step(sandbox, (), "x = 1", tree="b")
        sandbox.forget("a")
        sandbox.forget("never heard of")
        sandbox.run("")
        assert wait_until(lambda: len(paused()) == 1)
        sandbox.forget("b")
        sandbox.run("")
        assert wait_until(lambda: not paused())
        assert step(sandbox, ("x = 2",), "print(x)", tree="a")[0].stdout == "2\n"

    def test_bounded(self) -> None:
        with Sandbox(workers=1, timeout=20, tree=True, states=6) as sandbox:
            for tree in ("a", "b", "c"):
                for i in range(5):
                    step(sandbox, (), f"x = {i}", tree=tree)
                assert len(paused()) <= 6
            for tree in ("c", "a"):  # given up or not
                assert step(sandbox, ("x = 4",), "print(x)", tree=tree)[0].stdout == "4\n"

    def test_open_files_are_not_held(self, sandbox: Sandbox) -> None:
        opens = "import os\nfile = open(os.__file__)"
        assert step(sandbox, (), opens, "x = 1")[0].ok
        assert len(paused()) == 1
        first, second = step(sandbox, (opens,), "print(file.readline())", "print(file.readline())")
        assert first.ok
        assert first.stdout == second.stdout

    def test_no_state_of_another_tree(self, sandbox: Sandbox) -> None:
        tag = "import time\nx = time.perf_counter_ns()"
        step(sandbox, (), tag, tree="a")
        a, again = (result.stdout for result in step(sandbox, (tag,), "print(x)", "print( x)", tree="a"))
        b = step(sandbox, (tag,), "print(x)", tree="b")[0].stdout
        assert a == again != b


class TestLoss:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGCONT])
    def test_paused_processes_that_somebody_signals(self, sandbox: Sandbox, number: int) -> None:
        step(sandbox, (), "x = 1")
        for pid, _ in paused():
            os.kill(pid, number)
        assert [r.stdout for r in step(sandbox, ("x = 1",), "print(x)", "print(x + 1)")] == ["1\n", "2\n"]

    def test_a_zygote_that_is_killed(self, sandbox: Sandbox) -> None:
        step(sandbox, (), "x = 1")
        (held,) = paused()
        parent = int(Path(f"/proc/{held[0]}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert wait_until(lambda: not paused()), "its namespace ends with it"
        assert [r.stdout for r in step(sandbox, ("x = 1",), "print(x)", "print(x + 1)")] == ["1\n", "2\n"]

    def test_host_killed_with_states_held(self) -> None:
        script = (
            "from rstar_cli.sandbox import Sandbox\nfrom rstar_cli.protocols import ExecuteRequest\nimport time\n"
            "box = Sandbox(workers=2, timeout=60, tree=True)\n"
            "box.execute([ExecuteRequest((), ((f'x = {i}',),), f't{i}') for i in range(20)])\n"
            "print('ready', flush=True)\ntime.sleep(60)"
        )
        host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert host.stdout is not None
        assert host.stdout.readline() == "ready\n"
        children = processes(host.pid)
        assert len(children) >= 22
        host.kill()
        host.wait()
        host.stdout.close()
        assert wait_until(lambda: not (children & processes(0)), 2)


def test_a_tree_that_burns_its_time_gets_no_more() -> None:
    with Sandbox(workers=1, timeout=0.05, tree=True) as sandbox:
        burn = "import time\nend = time.process_time() + 0.03\nwhile time.process_time() < end: pass\n# "
        found = [step(sandbox, (), f"{burn}{i}", tree="greedy")[0].status for i in range(400)]
        assert "ok" in found[:100]
        assert set(found[300:]) == {"timeout"}
        assert any(step(sandbox, (), f"x = {i}", tree="modest")[0].ok for i in range(5))


def test_memory_of_held_states_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar_cli.sandbox.executor.spare_memory_mb", lambda: 2 * 60)
    with Sandbox(workers=1, timeout=20, tree=True) as sandbox:
        for i in range(12):
            assert step(sandbox, (), f"x = bytearray(10 << 20)  # {i}", tree=f"t{i}")[0].ok
        assert 2 <= len(paused()) <= 5


def test_memory_that_a_held_state_takes_later_is_charged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar_cli.sandbox.executor.spare_memory_mb", lambda: 2 * 60)
    grows = (
        "import sys\nkept = []\nprogram = sys.modules['processes.program']\nreceive = program.receive_order\n"
        "def grow(sock):\n    order = receive(sock)\n    kept.append(bytearray(b'x') * (20 << 20))\n    return order\n"
        "program.receive_order = grow"
    )
    with Sandbox(workers=1, timeout=20, tree=True) as sandbox:
        for i in range(6):
            step(sandbox, (), f"{grows}  # {i}", tree=f"t{i}")
            step(sandbox, (f"{grows}  # {i}",), "x = 1", tree=f"t{i}")
        own = sum(resident(pid) for pid, _ in paused())
        assert own < 150 << 20, "six times 20 MiB, had the first ones not been given up"


def test_a_dropped_parents_memory_does_not_stay_uncharged_with_its_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rstar_cli.sandbox.executor.spare_memory_mb", lambda: 2 * 100)
    with Sandbox(workers=1, timeout=20, tree=True) as sandbox:
        for i in range(12):
            large, tree = f"x = bytearray(b'x') * (20 << 20)  # {i}", f"t{i}"
            step(sandbox, (), large, tree=tree)
            step(sandbox, (large,), "y = 1", tree=tree)
            step(sandbox, (large, "y = 1"), "z = 1", tree=tree)
        assert sum(proportional(pid) for pid, _ in paused()) < 160 << 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def proportional(pid: int) -> int:
    """Bytes of memory, those that are shared divided by the number of sharers."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
