"""The sandbox's processes: many programs over workers, zygotes that die, and nothing left behind."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rstar_cli.errors import SetupError, UsageError
from rstar_cli.protocols import ExecuteRequest, StepExecutor
from rstar_cli.records import ExecutionStatus
from rstar_cli.sandbox import Sandbox
from rstar_cli.sandbox import worker as worker_module
from rstar_cli.sandbox.worker import Job, Worker

OK = ExecutionStatus.OK


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(workers=1, timeout=20) as sandbox:
        yield sandbox


def processes(ancestor: int) -> set[tuple[int, int]]:
    """(pid, start time) of all live descendants."""
    parents: dict[int, int] = {}
    starts: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)], starts[int(entry.name)] = int(fields[1]), int(fields[19])
    found: set[int] = set()
    grown = {ancestor}
    while grown:
        grown = {pid for pid, parent in parents.items() if parent in grown and pid not in found}
        found |= grown
    return {(pid, starts[pid]) for pid in found}


def open_descriptors() -> set[str]:
    with os.scandir("/proc/self/fd") as entries:
        return {entry.name for entry in entries}


def all_processes() -> set[tuple[int, int]]:
    return processes(0)


@functools.cache
def level_of_this_machine() -> str:
    with Sandbox(workers=1) as sandbox:
        return sandbox.isolation()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class TestManyPrograms:
    def test_in_order_over_workers(self) -> None:
        with Sandbox(workers=2, timeout=20) as sandbox:
            codes = [f"print({i})" if i % 7 else f"import time\ntime.sleep(0.02)\nprint({i})" for i in range(150)]
            codes[20] = "import sympy\nprint(sympy.Integer(20))"
            assert [result.stdout for result in sandbox.run_many(codes)] == [f"{i}\n" for i in range(150)]
            assert sandbox.counts == {OK: 150}

    def test_streams_while_the_input_waits(self, sandbox: Sandbox) -> None:
        more = threading.Event()

        def codes() -> Iterator[str]:
            yield "print(1)"
            yield "print(2)"
            assert more.wait(30)
            yield "print(3)"

        results = sandbox.run_many(codes())
        assert [next(results).stdout, next(results).stdout] == ["1\n", "2\n"]
        assert sandbox.run("print('between')").stdout == "between\n"
        more.set()
        assert [result.stdout for result in results] == ["3\n"]

    def test_the_host_sleeps_while_the_last_programs_run(self, sandbox: Sandbox) -> None:
        started = time.process_time()
        assert [result.ok for result in sandbox.run_many(["import time\ntime.sleep(1)"])] == [True]
        assert time.process_time() - started < 0.3

    def test_takes_a_bounded_number_ahead(self, sandbox: Sandbox) -> None:
        taken = 0

        def codes() -> Iterator[str]:
            nonlocal taken
            while True:
                taken += 1
                yield "print(1)"

        results = sandbox.run_many(codes())
        assert [next(results).ok for _ in range(5)] == [True] * 5
        results.close()
        assert taken < 100
        assert wait_until(lambda: not any(thread.name == "programs" for thread in threading.enumerate()))
        assert sandbox.run("print(1)").ok

    def test_the_inputs_error_comes_through(self, sandbox: Sandbox) -> None:
        def codes() -> Iterator[str]:
            yield "print(1)"
            raise LookupError("line 2")

        results = sandbox.run_many(codes())
        assert next(results).stdout == "1\n"
        with pytest.raises(LookupError, match="line 2"):
            next(results)

    def test_counts(self) -> None:
        with Sandbox(workers=1) as sandbox:
            sandbox.execute([ExecuteRequest(("x = 1", "y = 2"), (("x", "1 / 0", "x"), ("quit()",)))])
            assert sandbox.counts == {OK: 1, ExecutionStatus.ERROR: 1, ExecutionStatus.EXIT: 1}

    def test_many_requests_at_once(self, sandbox: Sandbox) -> None:
        requests = [ExecuteRequest((f"x = {i}",), tuple((f"print(x + {j})",) for j in range(3))) for i in range(60)]
        started = time.process_time()
        results = sandbox.execute(requests)
        assert [[steps[0].stdout for steps in node] for node in results] == [
            [f"{i + j}\n" for j in range(3)] for i in range(60)
        ]
        assert time.process_time() - started < 1, "the host does next to nothing"


class TestZygotesThatDie:
    def test_zygotes_that_die_lose_the_request_but_no_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        killed: list[int] = []

        def kill_when_it_runs(worker: Worker, job: Job) -> None:
            assert wait_until(lambda: worker.jobs[0] is job, 30)
            time.sleep(0.5)  # it has come to the supervisor
            killed.append(worker._process.pid)
            worker._process.kill()

        def give(worker: Worker, job: Job) -> None:
            real(worker, job)
            if "victim" in job.request.branches[0][0]:
                threading.Thread(target=kill_when_it_runs, args=(worker, job)).start()

        real = Worker.give
        monkeypatch.setattr(Worker, "give", give)
        codes = ["print(1)", "import time; time.sleep(60)  # victim", "print(2)"]
        with Sandbox(workers=1, timeout=90) as sandbox:
            results = sandbox.execute([ExecuteRequest((), ((code,),)) for code in codes])
            assert sandbox.counts == {OK: 2, ExecutionStatus.LOST: 1}
        assert len(set(killed)) == 2, "tried twice"
        assert [(steps[0][0].status, steps[0][0].stdout) for steps in results] == [
            ("ok", "1\n"),
            ("lost", ""),
            ("ok", "2\n"),
        ]

    def test_zygotes_that_never_start_are_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_module, "_BOOT", "import sys; sys.exit(3)")
        with Sandbox(workers=1) as sandbox, pytest.raises(SetupError, match="ended at its start"):
            sandbox.run("print(1)")

    def test_zygotes_say_why_they_cant_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spoilt = "sys.modules['sympy'] = None; from processes.zygote"
        boot = worker_module._BOOT.replace(
            "main()",
            f"import processes.zygotes as z; z._BOOT = z._BOOT.replace('from processes.zygote', {spoilt!r}); main()",
        )
        monkeypatch.setattr(worker_module, "_BOOT", boot)
        with Sandbox(workers=1) as sandbox:
            assert sandbox.run("print(1)").ok
            with pytest.raises(SetupError, match="sympy"):
                sandbox.run("import sympy")


class TestLeftovers:
    def test_is_a_step_executor(self) -> None:
        executor: StepExecutor = Sandbox(workers=1)
        executor.close()
        executor.close()

    @pytest.mark.parametrize(
        "bad", [{"workers": 0}, {"timeout": 0}, {"memory_mb": 0}, {"output_bytes": -1}, {"states": 1}]
    )
    def test_limits_out_of_range(self, bad: dict[str, int]) -> None:
        with pytest.raises(UsageError):
            Sandbox(**bad)  # type: ignore[arg-type]

    def test_close_leaves_no_process_and_no_descriptor(self) -> None:
        descriptors, before = open_descriptors(), processes(os.getpid())
        with Sandbox(workers=2, timeout=20) as sandbox:
            sandbox.execute([ExecuteRequest((), (("print(1)",),)) for _ in range(8)])
            sandbox.run("import sympy")
            list(sandbox.run_many(["print(1)"]))
            assert len(processes(os.getpid()) - before) >= 3
        assert processes(os.getpid()) == before
        assert open_descriptors() == descriptors
        with pytest.raises(RuntimeError, match="closed"):
            sandbox.run("print(1)")

    def test_no_process_stays_after_a_program(self, sandbox: Sandbox) -> None:
        sandbox.run("")
        before = processes(os.getpid())
        sandbox.run("import os\nwhile os.fork(): pass")
        sandbox.run("import os\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        while True: pass")
        sandbox.run("import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)], daemon=True).start()")
        assert processes(os.getpid()) == before

    @pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(99)"])
    def test_host_killed(self, code: str) -> None:
        script = (
            "import sys\nfrom rstar_cli.sandbox import Sandbox\nfrom rstar_cli.protocols import ExecuteRequest\n"
            "box = Sandbox(workers=2, timeout=60, tree=True)\nbox.run('')\nprint('ready', flush=True)\n"
            f"box.execute([ExecuteRequest(('x = 1',), (({code!r},),) * 2, 'tree')] * 4)"
        )
        host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert host.stdout is not None
        try:
            assert host.stdout.readline() == "ready\n"
            # per worker: supervisor, zygote, the prefix's process and the branch's
            assert wait_until(lambda: len(processes(host.pid)) >= 8, 20)
            children = processes(host.pid)
        finally:
            host.kill()
            host.wait()
            host.stdout.close()
        assert wait_until(lambda: not (children & all_processes()), 10)

    def test_host_with_many_descriptors(self) -> None:
        script = (
            "import os, resource\nhard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))\n"
            "kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)] if hard > 2000 else []\n"
            "from rstar_cli.sandbox import Sandbox\nprint(Sandbox(workers=1).run('print(1)').stdout)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "1\n\n"

    def test_host_gone_while_a_fork_of_it_lives(self) -> None:
        script = (
            "import os, time\nfrom rstar_cli.sandbox import Sandbox\nbox = Sandbox(workers=1)\nbox.run('')\n"
            "fork = os.fork()\nif fork == 0: time.sleep(60)\nprint(fork, flush=True)\ntime.sleep(60)"
        )
        host = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert host.stdout is not None
        fork = int(host.stdout.readline())
        children = {process for process in processes(host.pid) if process[0] != fork}
        try:
            assert len(children) == 2
            host.kill()
            host.wait()
            assert wait_until(lambda: not (children & all_processes()), 10)
        finally:
            os.kill(fork, signal.SIGKILL)
            host.stdout.close()


@pytest.mark.parametrize(
    ("without", "level"),
    [
        (("pid",), "landlock+seccomp"),
        (("mount",), "landlock+seccomp"),
        (("grants",), "full"),
        (("pid", "grants"), "landlock+seccomp"),
        (("seccomp",), "rlimits"),
        (("pid", "landlock", "seccomp"), "rlimits"),
        (("packets", "pid", "landlock", "seccomp"), "rlimits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
class TestWithoutALayer:
    """Where the system lacks a layer programs run all the same, and still leave nothing."""

    @pytest.fixture
    def bare(self, without: tuple[str, ...]) -> Iterator[Sandbox]:
        with Sandbox(workers=1, timeout=20, tree=True, without=without) as sandbox:
            yield sandbox

    def test_runs(self, bare: Sandbox, without: tuple[str, ...], level: str) -> None:
        assert set(without).isdisjoint(bare.layers())
        if level_of_this_machine() == "full":
            assert bare.isolation() == level
        results = bare.execute([ExecuteRequest(("x = 1",), (("x += 1", "print(x)"), ("1 / 0",), ("print(x)",)), "t")])[
            0
        ]
        assert [steps[-1].status for steps in results] == ["ok", "error", "ok"]
        assert [steps[-1].stdout for steps in results] == ["2\n", "", "1\n"]
        assert bare.run("import sympy\nprint(sympy.sqrt(8))").stdout == "2*sqrt(2)\n"
        assert bare.run("x = bytearray(10**10)").status == "memory"

    def test_floor(self, without: tuple[str, ...], level: str, caplog: pytest.LogCaptureFixture) -> None:
        if level_of_this_machine() != "full":
            pytest.skip("this machine has less itself")
        above = {"rlimits": "landlock+seccomp", "landlock+seccomp": "full"}.get(level)
        with Sandbox(workers=1, without=without, floor=level) as sandbox:
            assert sandbox.run("print(1)").ok
        assert ("can read your files" in caplog.text) is (level == "rlimits")
        if above is not None:
            with (
                Sandbox(workers=1, without=without, floor=above) as sandbox,
                pytest.raises(SetupError, match=re.escape(level)),
            ):
                sandbox.run("print(1)")

    def test_no_process_stays(self, bare: Sandbox, level: str) -> None:
        bare.run("")
        before = processes(os.getpid())
        fork = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(99)"
        for request in (ExecuteRequest((), ((fork,),)), ExecuteRequest(("x = 1",), ((fork,), ("print(x)",)))):
            assert bare.execute([request])[0][-1][0].status in ("ok", "error", "denied")
            assert wait_until(lambda: processes(os.getpid()) == before)

    def test_a_branch_that_kills_its_parent_takes_no_sibling_with_it(self, bare: Sandbox, level: str) -> None:
        killer = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(0.2)"
        results = bare.execute([ExecuteRequest((), ((killer,), ("print(1)",)), "t")])[0]
        assert results[0][0].status in ("lost", "killed", "denied", "ok"), (
            "pid 1 of a namespace can not be killed from within"
        )
        assert results[1][0].stdout == "1\n"

    def test_close_ends_what_runs(self, bare: Sandbox, level: str) -> None:
        before = processes(os.getpid())
        results = bare.run_many(["print(1)", "import time; time.sleep(99)"])
        assert next(results).ok
        assert wait_until(lambda: len(processes(os.getpid()) - before) >= 3)
        bare.close()
        assert processes(os.getpid()) == before
