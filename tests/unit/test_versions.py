"""Which commit a manifest tells of."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rstar_cli
from rstar_cli.stages.versions import versions

ASK = "from rstar_cli.stages.versions import versions; print(versions().get('git', ''))"
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def asked(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", ASK], env={"PYTHONPATH": str(folder)}, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def copied(folder: Path) -> Path:
    """The package without its large files."""
    shutil.copytree(
        Path(rstar_cli.__file__).parent, folder / "rstar_cli", ignore=shutil.ignore_patterns("*.s*", "__py*")
    )
    return folder


@needs_git
def test_the_commit_of_a_checkout_and_whether_it_was_edited(tmp_path: Path) -> None:
    git(copied(tmp_path), "init", "-q")
    assert asked(tmp_path) == "", "a repository that does not hold the package says nothing of it"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "all")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert asked(tmp_path) == commit[:12]
    (tmp_path / "rstar_cli" / "config.py").open("a").write("# edited\n")
    assert asked(tmp_path) == f"{commit[:12]}-dirty"


def test_versions_of_what_results_hang_on() -> None:
    found = versions()
    assert found["rstar"] == rstar_cli.__version__
    assert found["python"] == sys.version.split()[0]
    assert found["torch"].startswith("2")
