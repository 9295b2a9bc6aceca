"""What stages share: begin or skip, the record in the manifest, the policy to run, the summary to show."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rstar_cli import interrupts
from rstar_cli.adapters import STEPS
from rstar_cli.config import EngineConfig, GradingConfig, SandboxConfig, SearchConfig
from rstar_cli.errors import ConfigMismatchError, UsageError
from rstar_cli.grader import LENIENT, STRICT, Grader
from rstar_cli.jsonl import digest
from rstar_cli.layout import (
    EMBEDDED,
    PROGRESS,
    ROUND_FOLDER,
    check_unchanged,
    make_folder,
    model_path,
    read_manifest,
    write_manifest,
)
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import EngineInfo, Policy, StepScorer
from rstar_cli.ranks import is_main
from rstar_cli.records import Problem
from rstar_cli.sandbox import Sandbox
from rstar_cli.shards import Shard
from rstar_cli.stages.intact import as_settings, hashes_of, refuse_changed, refuse_changed_inputs
from rstar_cli.stages.versions import versions

Stop = Callable[[int], bool]
"""Asked with the tokens that this call has generated so far: whether the run's budget is spent."""

TICK_SECONDS = 5.0
"""Between two notes of what a stage has spent, which a kill can lose."""


@dataclass(slots=True)
class Summary:
    """What a stage says when it is done.

    Attributes:
        stage: as `generate round 1`.
        figures: name to value, in the order to show.
        files: what was written.
        next_command: the command that goes on from here; None at the end.
        notes: sentences that the user should read.
        partial: done in part (exit code 7): the budget is spent, and a larger one goes on.
        failed: why, by id, of problems that were given up; the rest is done (exit code 7, too).
        data: the figures as plain values, for `--json`.
        done_before: nothing was done now: it was there.
        headline: the outcome in a few words.
        columns: titles above the values, where each figure has several, or of the tables.
        tables: heading to a table's rows: name to cells, numbers, under `columns`; they stand above the figures.
    """

    stage: str
    figures: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    next_command: str | None = None
    notes: list[str] = field(default_factory=list)
    partial: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    done_before: bool = False
    headline: str = ""
    columns: tuple[str, ...] = ()
    tables: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)


def failures_told(failed: Mapping[str, str]) -> list[str]:
    """A note that names problems that were given up, the first ones; none where there are none."""
    if not failed:
        return []
    shown = "; ".join(f"{name}: {why}" for name, why in list(failed.items())[:3])
    return [f"{len(failed)} problems were given up, the rest is done: {shown}{' ...' if len(failed) > 3 else ''}"]


class StageRecord:
    """A stage's entry in a manifest, and the decision that hangs on it: begin, go on, or nothing to do.

    Args:
        manifest: the file.
        stage: the stage's name there.
        config: settings that results hang on.
        inputs: files that results hang on, by name.
        outputs: files that the stage makes, the one that others wait for first.
        told_by_rows: the outputs tell everything, so that a stop after the last of them and before the manifest's last
            word loses nothing; else the stage is done again, for its counts.
        shard: the part of the problems that is done, in files of its own; None: all of it.

    Attributes:
        outputs: what the stage, or its shard, writes.
    """

    def __init__(
        self,
        manifest: Path,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Path],
        outputs: Sequence[Path],
        *,
        told_by_rows: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self._told_by_rows = told_by_rows
        self._manifest = self._whole = manifest
        self._stage = stage
        self._inputs = dict(inputs)
        self.outputs = list(outputs)
        self._entry: dict[str, Any] = {
            "status": "running",
            "config": dict(config),
            "inputs": {name: hashes_of(path) for name, path in inputs.items()},
            "versions": versions(),
        }
        self._begun = self._ticked = time.monotonic()
        self._earlier: tuple[Mapping[str, int], float] = ({}, 0.0)
        self._merged: StageRecord | None = None
        if shard is not None:
            self._merged = copy(self)
            self._manifest, self.outputs = shard.path(manifest), [shard.path(path) for path in outputs]

    def is_complete(self) -> bool:
        """Whether the stage was done before from the same inputs and settings.

        Raises:
            ConfigMismatchError: it was begun or done with others, or nobody knows with which.
            DataError: an input or output is not what the stage that made it wrote.
        """
        if self._merged is not None and self._merged.is_complete():
            self._manifest, self.outputs = self._merged._manifest, self._merged.outputs
            return True
        refuse_changed_inputs(self._whole, self._stage, self._inputs, self._entry["inputs"])
        entry = read_manifest(self._manifest).get(self._stage)
        first = self.outputs[0]
        begun = partial(first)
        left = [path for path in (first, begun) if path.exists() and (path == first or path.stat().st_size)]
        if not left:
            return False
        if entry is None:
            raise ConfigMismatchError(
                f"{left[0]} is there, and {self._manifest} does not tell what it was made with",
                remedy=f"Restore the manifest, or remove {left[0]} to begin anew.",
            )
        asked = {**self._entry["config"], **as_settings(self._entry["inputs"])}
        before = {"config": {**entry.get("config", {}), **as_settings(entry.get("inputs", {}))}}
        remedy = f"Use the settings and inputs it was begun with, or remove {left[0]} to do it again."
        check_unchanged(before, asked, f"{self._stage} in {self._manifest.parent}", remedy)
        if not all(path.exists() for path in self.outputs):  # each is complete or absent
            return False
        if entry.get("status") != "complete":
            if not self._told_by_rows:
                return False
            self._take_over(entry)
            self.complete({"problems": digest(first).rows})
            if self.progress is not None:
                self.progress.unlink(missing_ok=True)  # of the process that was killed
        else:
            for path in self.outputs:
                refuse_changed(self._manifest, path, hashes_of(path))
        partial(first).unlink(missing_ok=True)
        return True

    def told_again(self, summary: Summary) -> Summary:
        """The summary of a stage that was done before, with what the manifest tells of it."""
        summary.done_before = True
        summary.headline = "done before"
        summary.data = read_manifest(self._manifest)[self._stage].get("counts", {})
        summary.figures = dict(summary.data)
        return summary

    def begin(self) -> None:
        """Record that the stage runs; what an earlier call of it has spent stays on the account."""
        for path in self.outputs:
            make_folder(path.parent)
        self._take_over(read_manifest(self._manifest).get(self._stage, {}))
        self._note("running", {})

    def _take_over(self, entry: Mapping[str, Any]) -> None:
        """Put what an earlier call spent on the account."""
        self._earlier = (entry.get("tokens", {}), entry.get("seconds", 0.0))

    def served_by(self, info: EngineInfo) -> None:
        """Have the entry tell which engine and model answered."""
        self._entry["engine"] = asdict(info)

    @property
    def spent_before(self) -> tuple[int, float]:
        """(tokens generated, seconds) that earlier calls have spent."""
        tokens, seconds = self._earlier
        return tokens.get("generated", 0), seconds

    @property
    def seconds(self) -> float:
        """Wall-clock time that the manifest tells of, of all calls."""
        return float(read_manifest(self._manifest)[self._stage]["seconds"])

    @property
    def progress(self) -> Path | None:
        """Where a run tells what it is doing; None outside a run."""
        folder = self._manifest.parent
        if not folder.name.startswith(ROUND_FOLDER):
            return None
        shard, file = Shard.named(self._manifest), folder.parent / PROGRESS
        return shard.path(file) if shard else file

    def tick(self, generated: int = 0) -> None:
        """Note now and then what this call has spent so far: tokens generated, and its time."""
        if time.monotonic() - self._ticked >= TICK_SECONDS:
            self._note("running", {"generated": generated} if generated else {})

    def stopped(self, tokens: Mapping[str, int]) -> None:
        """Record that the budget stopped the stage; a later call goes on."""
        self._note("stopped", tokens)

    def end_if_interrupted(self, tokens: Mapping[str, int]) -> None:
        """If a signal asked for it, record what this call has spent, and end the process; a later call goes on."""
        if interrupts.asked():
            self._note("running", tokens)
            interrupts.end()

    def complete(self, counts: Mapping[str, Any], tokens: Mapping[str, int] | None = None) -> None:
        """Record that the stage is done, with counts, and each output's hash and number of rows."""
        outputs = {path.name: hashes_of(path) for path in self.outputs}
        self._note("complete", tokens or {}, counts=dict(counts), outputs=outputs)

    def _note(self, status: str, tokens: Mapping[str, int], **more: Any) -> None:
        if not is_main():
            return
        self._ticked = time.monotonic()
        tokens_before, seconds_before = self._earlier
        spent = {name: tokens.get(name, 0) + tokens_before.get(name, 0) for name in (*tokens_before, *tokens)}
        seconds = round(seconds_before + self._ticked - self._begun, 1)
        entry = {**self._entry, "status": status, **({"tokens": spent} if spent else {}), "seconds": seconds, **more}
        write_manifest(self._manifest, self._stage, entry)


def partial(path: Path) -> Path:
    """The journal of an artifact that is not whole yet."""
    return path.with_name(path.name + ".partial")


def few_shot_of(config: EngineConfig, model: str) -> int:
    """Worked examples before a problem: as set, else 2 for a model that was not trained on the step format."""
    if config.few_shot is not None:
        return config.few_shot
    if config.engine == "openai" and model == EMBEDDED:  # the server's own model, of which nothing is known
        return 2
    return 0 if config.engine == "scripted" or knows_steps(model) else 2


def knows_steps(model: str) -> bool:
    """Whether a checkpoint was trained on the step format: its config, or that of its adapters, says `rstar_steps`."""
    path = Path(model_path(model))
    file = next((file for file in (path / "adapter_config.json", path / "config.json") if file.exists()), path)
    try:
        return bool(json.loads(file.read_bytes()).get(STEPS))
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
    if config.engine == "openai":
        from rstar_cli.engines.openai import ServerPolicy

        name = None if model == EMBEDDED else model
        return ServerPolicy.connect(config.base_url, name, concurrency=config.concurrency)
    if config.trust_remote_code and config.engine != "transformers":
        raise UsageError(
            "--trust-remote-code is for --engine transformers", remedy="Start such a server by yourself (openai)."
        )
    if config.engine == "vllm":
        from rstar_cli.engines.vllm import VllmPolicy

        return VllmPolicy.load(
            model_path(model), device=config.device, dtype=config.dtype, max_rows=config.batch or None
        )
    if config.engine == "vllm-server":
        from rstar_cli.engines.vllm_server import VllmServerPolicy

        return VllmServerPolicy.load(
            model_path(model),
            config.server_python,
            device=config.device,
            dtype=config.dtype,
            max_rows=config.batch or None,
        )
    from rstar_cli.engines.transformers import TransformersPolicy

    return TransformersPolicy.load(
        model_path(model),
        device=config.device,
        dtype=config.dtype,
        max_rows=config.batch or None,
        trust_remote_code=config.trust_remote_code,
    )


def open_scorer(config: SearchConfig, prm: str) -> StepScorer:
    """Load a PRM.

    Raises:
        SetupError: model or device are not to be had.
    """
    if config.engine == "scripted":
        from rstar_cli.engines.scripted import ScriptedScorer

        return ScriptedScorer()
    if config.engine == "vllm":
        from rstar_cli.engines.vllm_prm import VllmScorer

        return VllmScorer.load(prm, device=config.device, dtype=config.dtype, max_rows=config.batch or None)
    if config.engine == "vllm-server":
        from rstar_cli.engines.vllm_server_prm import VllmServerScorer, is_servable

        if is_servable(prm):  # public PRMs run here, beside the server
            place = prm_device(config)
            return VllmServerScorer.load(prm, config.server_python, device=place, dtype=config.dtype)
    from rstar_cli.engines.prm_adapters import read_scorer

    return read_scorer(prm, device=prm_device(config), dtype=config.dtype)


def prm_device(config: SearchConfig) -> str:
    """Where the PRM runs, `auto` the policy's device resolved."""
    return config.device if config.prm_device == "auto" else config.prm_device


def outside_prm(prm: str) -> str | None:
    """The PRM that work outside a run uses: none but one that is named.

    Raises:
        UsageError: `last` asks for a run's.
    """
    if prm == "last":
        raise UsageError("--prm last is a run's, and this is work outside one", remedy="Name a checkpoint directory.")
    return None if prm in ("auto", "none") else prm


def open_sandbox(config: SandboxConfig, *, tree: bool = False) -> Sandbox:
    """A sandbox as a stage's settings have it.

    Args:
        config: settings.
        tree: hold the states of steps: for a search.
    """
    return Sandbox(
        workers=config.exec_workers or None,
        timeout=config.exec_timeout,
        memory_mb=config.exec_memory,
        tree=tree,
        floor=config.isolation,
    )


def open_grader(config: GradingConfig) -> Grader:
    """A grader as a stage's settings have it."""
    return Grader(timeout=config.grade_timeout, policy=LENIENT if config.lenient else STRICT)


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
