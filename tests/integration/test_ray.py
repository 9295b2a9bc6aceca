"""`--launcher ray` on a local cluster of two cores, all on loopback: the artifacts are those of one process."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.layout import model_path
from tests.helpers import ROOT, rstar

pytest.importorskip("ray", reason="needs the package ray")
RAY = str(Path(sys.executable).with_name("ray"))
ON_RAY = ("--launcher", "ray", "--actors", "2")
SEARCH = ("generate", "--problems", "p.jsonl", "--engine", "scripted", "--output")


@pytest.fixture(scope="module", autouse=True)
def logs() -> Iterator[Path]:
    """A cluster as a user starts one, and its logs; what these tests start finds it by its address."""
    root = tempfile.mkdtemp(prefix="ray-")  # a socket's path has room for 107 bytes: pytest's own folders are too deep
    port = str(20000 + os.getpid() % 20000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    begin = [RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    begin += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={root}"]
    subprocess.run(begin, env=environment, check=True, capture_output=True, timeout=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield Path(root, "session_latest", "logs")
    subprocess.run([RAY, "stop", "--force"], check=False, capture_output=True, timeout=120)
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of 200 problems."""
    root = tmp_path_factory.mktemp("one")
    rstar("problems", "make", "--count", "200", "--output", "p.jsonl", cwd=root)
    rstar(*SEARCH, "one.jsonl", cwd=root)
    return root


def start(command: list[str], cwd: Path, errors: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rstar_cli", *command], cwd=cwd, stderr=errors, text=True, env=environment
    )


def actors(logs: Path, kind: str = "RstarActor") -> list[int]:
    """Pids of those alive, by Ray's logs (`worker-ID-JOB-PID.out`) and by titles, which not every machine shows."""
    told = [out for out in logs.glob("worker-*.out") if f":actor_name:{kind}\n" in out.read_text()]
    pids = {int(out.stem.rpartition("-")[2]) for out in told}
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if place.read_bytes().startswith(f"ray::{kind}".encode()):
                pids.add(int(place.parent.name))
    return sorted(pid for pid in pids if alive(pid))


def some_actor(begun: subprocess.Popen[str], logs: Path, kind: str = "RstarActor") -> int:
    """Pid of one at work; the command must be under way."""
    found = actors(logs, kind)
    assert begun.poll() is None, begun.communicate()
    if not found:
        begun.kill()
        pytest.skip("neither Ray's logs nor the processes' titles tell here which of them are actors")
    return found[0]


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone_within(seconds: float, logs: Path) -> bool:
    deadline = time.monotonic() + seconds
    while actors(logs) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not actors(logs)


def until_rows(begun: subprocess.Popen[str], journal: Path) -> None:
    while begun.poll() is None and not (journal.exists() and journal.stat().st_size):
        time.sleep(0.02)


def test_two_actors_make_the_artifact_of_one_process(one: Path, logs: Path) -> None:
    rstar(*SEARCH, "two.jsonl", *ON_RAY, cwd=one)
    assert (one / "two.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()
    assert gone_within(10, logs)


def test_more_actors_than_cores_share_them(one: Path) -> None:
    rstar(*SEARCH, "three.jsonl", "--launcher", "ray", "--actors", "3", cwd=one)
    assert (one / "three.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()


def test_a_killed_actor_loses_nothing(one: Path, logs: Path) -> None:
    begun = start([*SEARCH, "killed.jsonl", *ON_RAY, "--rollouts", "48", "--in-flight", "4"], one, subprocess.PIPE)
    until_rows(begun, one / "killed.jsonl.partial")
    os.kill(some_actor(begun, logs), signal.SIGKILL)
    _, told = begun.communicate(timeout=300)
    assert begun.returncode == 0, told
    assert "Traceback" not in told
    rstar(*SEARCH, "whole.jsonl", "--rollouts", "48", cwd=one)
    assert (one / "killed.jsonl").read_bytes() == (one / "whole.jsonl").read_bytes()


def test_a_killed_driver_leaves_no_actor_and_goes_on_alone(one: Path, logs: Path) -> None:
    """The journal is the driver's, and the launcher is a matter of the machine: one process may end what two began."""
    begun = start([*SEARCH, "begun.jsonl", *ON_RAY, "--in-flight", "4"], one, subprocess.DEVNULL)
    journal = one / "begun.jsonl.partial"
    until_rows(begun, journal)
    some_actor(begun, logs)
    begun.kill()
    begun.wait()
    assert journal.exists(), "it was killed on the way"
    assert gone_within(30, logs)
    rstar(*SEARCH, "begun.jsonl", cwd=one)
    assert (one / "begun.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()


def test_verified_by_actors(one: Path, logs: Path) -> None:
    """Also where one is killed: Ray starts it again, and it verifies again what it had."""
    rstar("init", "--run", "run", cwd=one)
    rstar("generate", "--run", "run", "--round", "1", "--problems", "p.jsonl", "--engine", "scripted", cwd=one)
    shutil.copytree(one / "run", one / "killed")
    rstar("verify", "--run", "run", "--round", "1", cwd=one)
    begun = start(["verify", "--run", "killed", "--round", "1", *ON_RAY], one, subprocess.PIPE)
    deadline = time.monotonic() + 60
    while begun.poll() is None and not actors(logs, "RstarVerifier") and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(some_actor(begun, logs, "RstarVerifier"), signal.SIGKILL)
    _, told = begun.communicate(timeout=300)
    assert begun.returncode == 0, told
    for name in ("solutions", "sft", "pairs", "step_labels"):
        made = [one / root / "round_1" / f"{name}.jsonl" for root in ("run", "killed")]
        assert made[0].read_bytes() == made[1].read_bytes()


def test_an_evaluation_by_a_real_model_at_a_relative_path(one: Path) -> None:
    """Actors begin in the folder where the cluster was started, which is another one."""
    shutil.copytree(model_path("embedded"), one / "model")
    measure = ("evaluate", "--policy", "model", "--benchmark", "p.jsonl", "--limit", "12", "--samples", "3")
    rstar(*measure, "--output", "here", cwd=one)
    rstar(*measure, "--output", "there", *ON_RAY, cwd=one)
    for name in ("p.json", "p.greedy.jsonl", "p.samples.jsonl"):
        assert (one / "here" / name).read_bytes() == (one / "there" / name).read_bytes()


def test_an_actor_that_cannot_load_its_model_says_so(one: Path) -> None:
    (one / "empty").mkdir()
    command = ("generate", "--problems", "p.jsonl", "--policy", "empty", "--output", "none.jsonl", "--launcher", "ray")
    done = rstar(*command, cwd=one, check=False)
    assert done.returncode == 5, done.stderr
    assert "empty holds no config.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_crew_is_whole_again_for_its_next_task(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its only actor dies after the last problem of a task; an evaluation has several."""
    ray = pytest.importorskip("ray")
    from rstar_cli.config import GenerateConfig
    from rstar_cli.jsonl import read_rows
    from rstar_cli.records import Problem
    from rstar_cli.stages.crew import Models
    from rstar_cli.stages.ray_crew import RayCrew
    from rstar_cli.stages.searching import search_problems

    problems = list(read_rows(one / "p.jsonl", Problem))[:3]
    config = GenerateConfig(engine="scripted", rollouts=2, launcher="ray", actors=1)
    solve = functools.partial(search_problems, few_shot=0, seed=1, budget=None)
    with RayCrew(Models(config, "scripted", None, 0, problems)) as crew:
        rows = crew.rows(solve, problems, lambda: False)
        first = [next(rows).problem_id for _ in problems]
        ray.kill(next(iter(crew._actors.values())))
        first += [row.problem_id for row in rows]
        second = [row.problem_id for row in crew.rows(solve, problems, lambda: False)]
    ray.shutdown()
    assert sorted(first) == sorted(second) == sorted(problem.id for problem in problems)


def test_rays_client_is_refused(one: Path) -> None:
    done = rstar(*SEARCH, "none.jsonl", *ON_RAY, cwd=one, check=False, RAY_ADDRESS="ray://127.0.0.1:10001")
    assert done.returncode == 5, done.stderr
    assert "Ray's client" in done.stderr


def test_a_cluster_without_the_folder(one: Path) -> None:
    """Another machine of a cluster that shares no file system."""
    command = (*SEARCH, "none.jsonl", *ON_RAY)
    code = (
        "import os, sys; from rstar_cli.cli import main; "
        f"sys.argv = {['rstar', *command]!r}; import pathlib; "
        "pathlib.Path.cwd = classmethod(lambda cls: cls('/nowhere')); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=one, capture_output=True, text=True, timeout=300)
    assert done.returncode == 5, done.stderr
    assert "/nowhere is not to be had on" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_cluster_at_the_address(one: Path) -> None:
    done = rstar(*SEARCH, "none.jsonl", *ON_RAY, cwd=one, check=False, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 5, done.stderr
    assert "no Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr
