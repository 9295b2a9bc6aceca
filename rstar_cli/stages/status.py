"""status: what a run has done, is doing, and what comes next."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import orjson

from rstar_cli.config import STAGES, EvolveConfig
from rstar_cli.errors import DataError
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.shards import Shard
from rstar_cli.stages.common import Summary

LATE_SECONDS = 60.0
"""Age of the progress from which it is told."""
_MARKS = {"running": "begun", "stopped": "stopped by the budget"}


def status(run: RunDir) -> Summary:
    """A line a round, what is at work now, and the next command."""
    names = list(STAGES)
    rounds = {folder.number: folder.manifest for folder in run.rounds()}
    done = {number: {stage: _stage(stage, file, run) for stage in names} for number, file in rounds.items()}
    at_work = [told for file in (run.progress, *Shard.found(run.progress).values()) if (told := _working(file))]
    summary = Summary("status", columns=tuple(names))
    for number, stages in done.items():
        summary.figures[f"round {number}"] = tuple(told["text"] for told in stages.values())
    seconds = sum(told["seconds"] for stages in done.values() for told in stages.values())
    tokens = sum(told["tokens"] for stages in done.values() for told in stages.values())
    for now in at_work:
        late = f"  (last heard of {now['age'] / 60:.0f} min ago)" if now["age"] > LATE_SECONDS else ""
        shown = f"{now['stage']}: {now['done']:,} of {now['total']:,}  {now['figures']}  left {now['left']}"
        summary.notes.append(f"at work: {shown}{late}")
    if not at_work:
        summary.next_command = _next(run, done)
        summary.notes.append("Nothing is at work." if summary.next_command else "All rounds of the recipe are done.")
    summary.notes.append(f"In all {seconds / 60:,.1f} minutes and {tokens:,} generated tokens.")
    summary.data = {
        "rounds": {
            str(number): {name: told["status"] for name, told in stages.items()} for number, stages in done.items()
        },
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "at_work": at_work,
    }
    return summary


def _stage(stage: str, manifest: Path, run: RunDir) -> dict[str, Any]:
    """Of a stage in a round: status, text to show, seconds and generated tokens; `evaluate` has entries of each set."""
    entries = read_manifest(manifest)
    own = [entry for name, entry in entries.items() if name.split()[0] == stage]
    found = [entry.get("status", "") for entry in own]
    state = next((s for s in ("running", "stopped") if s in found), "complete" if found else "")
    if stage == "evaluate" and own and any(f"evaluate {name} greedy" not in entries for name in run.recipe.eval_sets):
        state = "running"  # it was ended between two sets
    seconds = sum(entry.get("seconds", 0.0) for entry in own)
    text = f"done, {seconds:,.0f} s" if state == "complete" else _MARKS.get(state, "-")
    if not own and (parts := _shards(stage, manifest)):
        state, text = "running", f"{sum(parts.values())} of {len(parts)} shards"
    tokens = sum(entry.get("tokens", {}).get("generated", 0) for entry in own)
    return {"status": state, "text": text, "seconds": seconds, "tokens": tokens}


def _shards(stage: str, manifest: Path) -> dict[int, bool]:
    """Whether each shard of a stage is done; empty where it was not dealt out."""
    done: dict[int, bool] = {}
    for shard, file in Shard.found(manifest).items():
        own = [entry for name, entry in read_manifest(file).items() if name.split()[0] == stage]
        if own:
            done = dict.fromkeys(range(1, shard.count + 1), False) | done
            done[shard.index] = all(entry.get("status") == "complete" for entry in own)
    return done


def _working(file: Path) -> dict[str, Any] | None:
    """What `progress.json` tells, and its age in seconds, where the process that wrote it lives.

    Of another host that is not known. The file may go at any moment: its stage is done then.
    """
    try:
        told: dict[str, Any] = orjson.loads(file.read_bytes())
        told["age"] = round(time.time() - file.stat().st_mtime, 1)
        if told["host"] == socket.gethostname():
            os.kill(told["process"], 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except PermissionError:  # it lives, as somebody else's
        return told
    except (ValueError, KeyError, TypeError):
        raise DataError("not the progress of a stage", path=file, remedy="Remove the file.") from None
    return told


def _next(run: RunDir, done: dict[int, dict[str, dict[str, Any]]]) -> str | None:
    """The command that goes on; None where all of the recipe's rounds are done."""
    rounds = run.recipe.stage(EvolveConfig, "evolve", 0, {}).rounds
    for number in range(rounds + 1):
        for stage in ("evaluate",) if number == 0 else STAGES:
            if done.get(number, {}).get(stage, {}).get("status") != "complete":
                return run.command(stage, number)
    return None
