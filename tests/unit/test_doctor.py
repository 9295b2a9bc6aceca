"""The doctor: attacks that are judged by what they leave behind, and a remedy for what is missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import rstar_cli.doctor.checkup as checkup
import rstar_cli.doctor.parts as parts
from rstar_cli.doctor import examine
from rstar_cli.doctor.attacks import Outcome
from rstar_cli.doctor.remedies import LAYERS, System, remedies
from rstar_cli.errors import SetupError
from rstar_cli.sandbox.levels import isolation_of
from tests.helpers import rstar

UBUNTU = System("Linux", "x86_64", (6, 8), root=False, container=False, gvisor=False, sysctls={}, modules="capability")
ALL = tuple(LAYERS)
linux = pytest.mark.skipif(sys.platform != "linux", reason="layers are Linux's")


def test_this_machine_is_told(tmp_path: Path) -> None:
    """As a user sees it; the exit code is that of the self-test."""
    done = rstar("doctor", "--json", cwd=tmp_path, check=False)
    data = json.loads(done.stdout)["data"]
    assert done.returncode == (0 if data["fit"] else 5), done.stderr
    assert data["machine"]["cores"] >= 1
    assert data["machine"]["devices"][0] == "cpu"
    assert list(data["layers"]) == list(LAYERS)
    assert data["isolation"] == isolation_of([name for name, holds in data["layers"].items() if holds])
    assert len(data["self_test"]) > 10
    assert data["fit"] == all(row["held"] for row in data["self_test"] if row["promised"])
    assert data["packages"]["torch"]["fits"]
    assert data["engines"]["transformers"]
    assert data["grader"] == {"fit": True, "why": ""}
    assert list(tmp_path.iterdir()) == [], "it leaves nothing"


def test_tokens_are_told_of_and_never_told(tmp_path: Path) -> None:
    done = rstar("doctor", cwd=tmp_path, check=False, HF_TOKEN="hf_secret", RSTAR_API_KEY="sk-secret")
    assert "tokens" in done.stderr
    assert "HF_TOKEN, no WANDB_API_KEY, RSTAR_API_KEY" in " ".join(done.stderr.split())
    assert "secret" not in done.stderr + done.stdout


def test_what_is_missing_or_too_old_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=99", "no-such-package>=1", 'x; extra == "y"'])
    monkeypatch.setattr(checkup, "attack", lambda _: [])
    monkeypatch.setattr(parts, "CASES", [("1", "2", "correct")])
    found = examine()
    assert [(p.name, p.fits) for p in found.packages] == [("torch", False), ("no-such-package", False)]
    assert "no-such-package is missing (>=1 is needed)" in found.figures()["packages"]
    assert "Install torch: pip install 'torch>=99'" in found.remedies
    assert found.failure == "the grader says incorrect of '2' against '1', not correct"


@linux
def test_what_a_layer_kept_out_comes_in_without_it() -> None:
    """The attacks are real: with no layer but the limits they succeed, and the doctor does not call that a failure."""
    found = examine(without=("pid", "landlock"))
    held = {outcome.name: outcome.held for outcome in found.outcomes}
    assert found.level == "rlimits"
    assert not held["read a file of yours"]
    assert not held["see your processes"]
    assert held["write to a file"]
    assert held["loop for ever"]
    assert held["stop others from running"]
    assert not found.failure
    assert "this level does not promise it" in found.figures()["  read a file of yours"]
    assert found.figures()["  landlock"].startswith("missing")
    assert found.remedies


def test_a_broken_promise_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = [Outcome("fork", held=False, promised=True), Outcome("swim", held=False, promised=False)]
    monkeypatch.setattr(checkup, "attack", lambda _: outcomes)
    found = examine()
    assert "fork" in found.failure
    assert "swim" not in found.failure
    assert not found.data()["fit"]
    assert "NOT HELD" in found.figures()["  fork"]


def test_a_sandbox_that_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> list[Outcome]:
        raise SetupError("no processes left", remedy="End some.")

    monkeypatch.setattr(checkup, "attack", fail)
    found = examine()
    assert "no processes left" in found.failure
    assert found.remedies[-1] == "End some."
    assert found.level == "none"
    assert found.figures()["isolation"] == "none"


@pytest.mark.parametrize(
    ("missing", "system", "says"),
    [
        ({"pid", "net", "mount"}, replace(UBUNTU, container=True), "seccomp=unconfined"),
        ({"pid"}, replace(UBUNTU, sysctls={"kernel/apparmor_restrict_unprivileged_userns": "1"}), "Ubuntu"),
        ({"pid"}, replace(UBUNTU, sysctls={"kernel/unprivileged_userns_clone": "0"}), "unprivileged_userns_clone=1"),
        ({"pid"}, replace(UBUNTU, sysctls={"user/max_user_namespaces": "0"}), "max_user_namespaces=10000"),
        ({"pid"}, replace(UBUNTU, gvisor=True, container=True), "gVisor"),
        ({"pid"}, UBUNTU, "allow unshare"),
        ({"mount"}, replace(UBUNTU, kernel=(5, 4)), "Linux 5.12"),
        ({"mount"}, UBUNTU, "apparmor=unconfined"),
        ({"user"}, replace(UBUNTU, root=True), "root's home"),
        ({"landlock"}, replace(UBUNTU, kernel=(5, 4)), "Linux 5.13"),
        ({"landlock"}, UBUNTU, "lsm=landlock,capability"),
        ({"seccomp", "grants"}, replace(UBUNTU, machine="aarch64"), "aarch64"),
        ({"grants"}, UBUNTU, "replay prefixes"),
        (set(ALL) - {"limits"}, replace(UBUNTU, name="Darwin"), "Linux container"),
    ],
)
def test_each_lack_has_its_remedy(missing: set[str], system: System, says: str) -> None:
    (told,) = remedies([layer for layer in ALL if layer not in missing], system)
    assert says in told


def test_nothing_is_told_where_nothing_is_missing() -> None:
    assert remedies(ALL, UBUNTU) == []
