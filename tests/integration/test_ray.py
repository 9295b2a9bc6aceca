"""`--launcher ray` on a local cluster of two cores, all on loopback: the artifacts are those of one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, rstar

pytest.importorskip("ray", reason="needs the package ray")
RAY = str(Path(sys.executable).with_name("ray"))
ON_RAY = ("--launcher", "ray", "--actors", "2")
SEARCH = ("generate", "--problems", "p.jsonl", "--engine", "scripted", "--output")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster as a user starts one; what these tests start finds it by its address."""
    port = str(20000 + os.getpid() % 20000)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    begin = [RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=2"]
    begin += ["--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(begin, env=environment, check=True, capture_output=True, timeout=120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield
    subprocess.run([RAY, "stop", "--force"], check=False, capture_output=True, timeout=120)


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


def actors() -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if place.read_bytes().startswith(b"ray::RstarActor"):
                found.append(int(place.parent.name))
        except OSError:
            continue  # it has ended
    return found


def gone_within(seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while actors() and time.monotonic() < deadline:
        time.sleep(0.2)
    return not actors()


def test_two_actors_make_the_artifact_of_one_process(one: Path) -> None:
    rstar(*SEARCH, "two.jsonl", *ON_RAY, cwd=one)
    assert (one / "two.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()
    assert gone_within(10)


def test_more_actors_than_cores_share_them(one: Path) -> None:
    rstar(*SEARCH, "three.jsonl", "--launcher", "ray", "--actors", "3", cwd=one)
    assert (one / "three.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()


def test_a_killed_actor_loses_nothing(one: Path) -> None:
    begun = start([*SEARCH, "killed.jsonl", *ON_RAY, "--rollouts", "48", "--in-flight", "4"], one, subprocess.PIPE)
    journal = one / "killed.jsonl.partial"
    while not (journal.exists() and journal.stat().st_size) and begun.poll() is None:
        time.sleep(0.02)
    victim = actors()[0]
    os.kill(victim, signal.SIGKILL)
    _, told = begun.communicate(timeout=300)
    assert begun.returncode == 0, told
    assert "Traceback" not in told
    rstar(*SEARCH, "whole.jsonl", "--rollouts", "48", cwd=one)
    assert (one / "killed.jsonl").read_bytes() == (one / "whole.jsonl").read_bytes()


def test_a_killed_driver_leaves_no_actor_and_goes_on_alone(one: Path) -> None:
    """The journal is the driver's, and the launcher is a matter of the machine: one process may end what two began."""
    begun = start([*SEARCH, "begun.jsonl", *ON_RAY, "--in-flight", "4"], one, subprocess.DEVNULL)
    journal = one / "begun.jsonl.partial"
    while not (journal.exists() and journal.stat().st_size) and begun.poll() is None:
        time.sleep(0.02)
    begun.kill()
    begun.wait()
    assert journal.exists(), "it was killed on the way"
    assert gone_within(30)
    rstar(*SEARCH, "begun.jsonl", cwd=one)
    assert (one / "begun.jsonl").read_bytes() == (one / "one.jsonl").read_bytes()


def test_an_evaluation_by_a_real_model(one: Path) -> None:
    measure = ("evaluate", "--policy", "embedded", "--benchmark", "p.jsonl", "--limit", "12", "--samples", "3")
    rstar(*measure, "--output", "here", cwd=one)
    rstar(*measure, "--output", "there", *ON_RAY, cwd=one)
    for name in ("p.json", "p.greedy.jsonl", "p.samples.jsonl"):
        assert (one / "here" / name).read_bytes() == (one / "there" / name).read_bytes()


def test_an_actor_that_cannot_load_its_model_says_so(one: Path) -> None:
    (one / "empty").mkdir()
    command = ("generate", "--problems", "p.jsonl", "--policy", "empty", "--output", "none.jsonl", "--launcher", "ray")
    done = rstar(*command, cwd=one, check=False)
    assert done.returncode == 5, done.stderr
    assert "empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_cluster_at_the_address(one: Path) -> None:
    done = rstar(*SEARCH, "none.jsonl", *ON_RAY, cwd=one, check=False, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 5, done.stderr
    assert "no Ray cluster" in done.stderr
    assert "Traceback" not in done.stderr
