"""Artifacts of a run that were changed since their stage wrote them: nothing is built on them silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rstar_cli.errors import DataError
from rstar_cli.layout import read_manifest

SHARED = "problems"
"""The input that several stages of a round have, and all must see alike."""


def refuse_changed(manifest: Path, path: Path, now: Mapping[str, Any]) -> None:
    """Refuse a file or checkpoint that is not what its stage wrote.

    Args:
        manifest: of the stage that wrote it; one that is not there tells nothing.
        path: the artifact.
        now: its hashes, as manifests have them.

    Raises:
        DataError: names the stage that wrote it.
    """
    for stage, entry in read_manifest(manifest).items():
        wrote = entry.get("outputs", {}).get(path.name)
        if wrote is not None and wrote != now:
            raise DataError(
                f"was changed since `{stage}` wrote it (its SHA-256 is not that of {manifest})",
                path=path,
                remedy=f"Restore it, or remove it and run `{stage}` again.",
            )


def refuse_other_problems(manifest: Path, stage: str, path: Path, now: Mapping[str, Any]) -> None:
    """Refuse a problem set that is not what another stage of the round was begun on.

    Raises:
        DataError: names the stage.
    """
    for other, entry in read_manifest(manifest).items():
        had = entry.get("inputs", {}).get(SHARED)
        if other != stage and had is not None and had != now:
            raise DataError(
                f"was changed since `{other}` read it (its SHA-256 is not that of {manifest})",
                path=path,
                remedy="Restore it, or do the round again: remove its folder.",
            )
