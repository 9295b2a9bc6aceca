"""What stages share: begin or skip, the record in the manifest, the policy to run, the summary to show."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rstar_cli.config import EngineConfig, SandboxConfig
from rstar_cli.errors import UsageError
from rstar_cli.jsonl import digest
from rstar_cli.layout import check_unchanged, make_folder, model_path, read_manifest, write_manifest
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Policy
from rstar_cli.records import Problem
from rstar_cli.sandbox import Sandbox

_RECORDED = ("torch", "transformers", "trl", "peft", "sympy", "math-verify")


@dataclass(slots=True)
class Summary:
    """What a stage says when it is done.

    Attributes:
        stage: as `generate round 1`.
        figures: name to value, in the order to show.
        files: what was written.
        next_command: the command that goes on from here; None at the end.
        notes: sentences that the user should read.
        partial: done in part (exit code 7).
        data: the figures as plain values, for `--json`.
        done_before: nothing was done now: it was there.
    """

    stage: str
    figures: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    next_command: str | None = None
    notes: list[str] = field(default_factory=list)
    partial: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    done_before: bool = False


class StageRecord:
    """A stage's entry in a manifest, and the decision that hangs on it: begin, go on, or nothing to do.

    Args:
        manifest: the file.
        stage: the stage's name there.
        config: settings that results hang on.
        inputs: files that results hang on, by name.
        outputs: files that the stage makes, the one that others wait for first.
    """

    def __init__(
        self,
        manifest: Path,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Path],
        outputs: Sequence[Path],
    ) -> None:
        self._manifest = manifest
        self._stage = stage
        self._outputs = list(outputs)
        self._entry: dict[str, Any] = {
            "status": "running",
            "config": dict(config),
            "inputs": {name: _identity(path) for name, path in inputs.items()},
            "versions": _versions(),
        }
        self._begun = time.monotonic()

    def is_complete(self) -> bool:
        """Whether the stage was done before from the same inputs and settings.

        Raises:
            ConfigMismatchError: it was begun or done with others.
        """
        entry = read_manifest(self._manifest).get(self._stage)
        first = self._outputs[0]
        left = [path for path in (first, partial(first)) if path.exists()]
        if entry is None or not left:
            return False
        asked = {**self._entry["config"], **_flat(self._entry["inputs"])}
        begun = {"config": {**entry.get("config", {}), **_flat(entry.get("inputs", {}))}}
        remedy = f"Use the settings and inputs it was begun with, or remove {left[0]} to do it again."
        check_unchanged(begun, asked, f"{self._stage} in {self._manifest.parent}", remedy)
        # outputs are complete or absent: a stop between the last of them and the manifest's last word loses nothing
        return all(path.exists() for path in self._outputs)

    def told_again(self, summary: Summary) -> Summary:
        """The summary of a stage that was done before, with what the manifest tells of it."""
        summary.done_before = True
        summary.data = read_manifest(self._manifest)[self._stage].get("counts", {})
        summary.figures = dict(summary.data)
        return summary

    def begin(self) -> None:
        """Record that the stage runs."""
        for path in self._outputs:
            make_folder(path.parent)
        write_manifest(self._manifest, self._stage, self._entry)

    def complete(self, counts: Mapping[str, Any], **more: Any) -> None:
        """Record that the stage is done, with counts, and each output's hash and number of rows."""
        entry = {
            **self._entry,
            "status": "complete",
            "counts": dict(counts),
            **more,
            "outputs": {path.name: _identity(path) for path in self._outputs},
            "seconds": round(time.monotonic() - self._begun, 1),
        }
        write_manifest(self._manifest, self._stage, entry)


def partial(path: Path) -> Path:
    """The journal of an artifact that is not whole yet."""
    return path.with_name(path.name + ".partial")


def _identity(path: Path) -> dict[str, Any]:
    """A file by hash and rows; a checkpoint directory by the hashes of its weights."""
    if path.is_dir():
        return {"files": {p.name: digest(p).sha256 for p in sorted(path.glob("*.safetensors"))}}
    return digest(path)._asdict()


def _flat(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {f"input {name}": value for name, value in inputs.items()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "rstar": metadata.version("rstar-cli")}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def few_shot_of(config: EngineConfig, model: str) -> int:
    """Worked examples before a problem: as set, else 2 for a model that was not trained on the step format."""
    if config.few_shot is not None:
        return config.few_shot
    return 0 if config.engine == "scripted" or knows_steps(model) else 2


def knows_steps(model: str) -> bool:
    """Whether a checkpoint was trained on the step format: its config says `rstar_steps`."""
    file = Path(model_path(model)) / "config.json"
    try:
        return bool(json.loads(file.read_bytes()).get("rstar_steps"))
    except (OSError, ValueError, AttributeError):
        return False  # a hub id, or no checkpoint: loading it will say so


def open_policy(config: EngineConfig, model: str, problems: Iterable[Problem], few_shot: int) -> Policy:
    """Load the engine that a stage asks for.

    Raises:
        SetupError: model or device are not to be had.
    """
    if config.engine == "scripted":
        from rstar_cli.engines.scripted import ScriptedPolicy

        return ScriptedPolicy({render_prompt(p.problem, few_shot): p.answer for p in problems})
    from rstar_cli.engines.transformers import TransformersPolicy

    return TransformersPolicy.load(
        model_path(model), device=config.device, dtype=config.dtype, max_rows=config.batch or None
    )


def open_sandbox(config: SandboxConfig) -> Sandbox:
    """A sandbox as a stage's settings have it."""
    return Sandbox(workers=config.exec_workers or None, timeout=config.exec_timeout, memory_mb=config.exec_memory)


def refuse_run_flags(stage: str, **flags: object) -> None:
    """Refuse flags that make no sense together with work outside a run.

    Raises:
        UsageError: names the first of them that was given.
    """
    for name, value in flags.items():
        if value is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} belongs to a run and was given with flags of work outside one",
                remedy=f"See `rstar {stage} --help`.",
            )
