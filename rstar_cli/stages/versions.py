"""Which versions made an artifact, for manifests."""

from __future__ import annotations

import json
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import rstar_cli

_RECORDED = ("torch", "transformers", "vllm", "trl", "peft", "sympy", "math-verify")
_SECONDS = 5.0
"""How long git may take; on a slow disk a commit is not worth a wait."""


def versions() -> dict[str, str]:
    """Versions of Python, of this package and its commit, and of the packages that results hang on."""
    found = {"python": platform.python_version(), "rstar": rstar_cli.__version__}
    if commit := _commit():
        found["git"] = commit
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str:
    """The commit of this package: of the checkout it lies in, `-dirty` where that was edited, or that pip installed.

    Empty where neither is known. A checkout that only holds the environment that the package is in says nothing.
    """
    folder = Path(rstar_cli.__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py"):
        return _git(folder, "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*")
    try:
        told = json.loads(metadata.distribution("rstar-cli").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    return str(told.get("vcs_info", {}).get("commit_id", ""))


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
