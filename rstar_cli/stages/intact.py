"""Artifacts of a run that were changed since their stage wrote them: nothing is built on them silently."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rstar_cli.errors import DataError
from rstar_cli.jsonl import digest
from rstar_cli.layout import read_manifest

SHARED = "problems"
"""The input that several stages of a round have, and all must see alike."""


def hashes_of(path: Path) -> dict[str, Any]:
    """A file by hash and rows; a checkpoint directory by the hashes of its weights."""
    if path.is_dir():
        return {"files": {p.name: digest(p).sha256 for p in sorted(path.glob("*.safetensors"))}}
    return digest(path)._asdict()


def as_settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs by name and hashes, told beside settings where a change of either is refused."""
    return {f"input {name}": value for name, value in inputs.items()}


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


def refuse_changed_inputs(manifest: Path, stage: str, inputs: Mapping[str, Path], now: Mapping[str, Any]) -> None:
    """Refuse inputs that are not what the stages that made or read them before had.

    Args:
        manifest: of the stage that asks.
        stage: its name.
        inputs: its inputs by name.
        now: their hashes.

    Raises:
        DataError: names the other stage.
    """
    for name, path in inputs.items():
        refuse_changed(path.parent / "manifest.json", path, now[name])
        if name == SHARED:
            _refuse_other_problems(manifest, stage, path, now[name])


def _refuse_other_problems(manifest: Path, stage: str, path: Path, now: Mapping[str, Any]) -> None:
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
