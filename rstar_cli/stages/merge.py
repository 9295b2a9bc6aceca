"""merge: the shards of a stage become the artifact that one process would have written, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from rstar_cli.errors import DataError, MissingArtifactError
from rstar_cli.jsonl import digest, read_rows, reading, replacing, storage_errors
from rstar_cli.layout import RunDir, check_unchanged, read_manifest, write_manifest
from rstar_cli.locks import held
from rstar_cli.options import MergePlace
from rstar_cli.records import EvalRow
from rstar_cli.report import write_report
from rstar_cli.shards import Shard
from rstar_cli.stages.common import Summary
from rstar_cli.stages.evaluate import write_figures
from rstar_cli.stages.figures import figures_of


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage that was done in shards.

    Attributes:
        name: in manifests.
        outputs: the whole artifacts.
        manifest: the whole one.
        flags: those of its command but `--shard`; to tell of a part that is missing.
        order: the file whose rows' problems give the order; None: one row a problem, dealt out in order.
    """

    name: str
    outputs: list[Path]
    manifest: Path
    flags: str
    order: Path | None = None

    def again(self, shard: object) -> str:
        return f"rstar {self.name.split()[0]} {self.flags} --shard {shard}"

    def is_complete(self) -> bool:
        entry = read_manifest(self.manifest).get(self.name, {})
        return entry.get("status") == "complete" and all(path.exists() for path in self.outputs)


def merge(place: MergePlace, run: RunDir | None) -> Summary:
    """Join the shards of every stage of a round, or of an output outside a run; what is joined is removed.

    Raises:
        MissingArtifactError: there are no shards, or some are missing or not done.
        DataError: shards of different counts, or a file that is not as its shard left it.
        ConfigMismatchError: shards with different settings or inputs.
        LockedError: another process is at a whole stage, or joins it.
    """
    stages = _stages(place, run)
    with ExitStack() as stack:
        for name in dict.fromkeys(stage.name.split()[0] for stage in stages):
            if run is not None:
                stack.enter_context(run.locked(name, place.round))
            else:
                output = stages[0].outputs[0]
                lock = output.with_name(f".{output.name if name == 'generate' else name}.lock")
                stack.enter_context(held(lock, str(output)))
        return _join(stages, place, run)


def _join(stages: Sequence[_Stage], place: MergePlace, run: RunDir | None) -> Summary:
    summary = Summary("merge")
    for stage in stages:
        if not stage.is_complete():
            rows = _merge(stage)
            summary.figures[stage.name] = f"{rows:,} rows of {len(_found(stage))} shards"
            summary.files += stage.outputs
        kind = stage.name.split()
        if kind[0] == "evaluate":
            figures = figures_of(kind[2], list(read_rows(stage.outputs[0], EvalRow)))
            write_figures(stage.outputs[0].parent, kind[1], kind[2], figures)
            if run is not None:
                write_report(run)
    _remove(stages)
    if run is not None:
        summary.stage = f"merge round {place.round}"
        following = {"generate": "verify", "verify": "train-policy"}.get(stages[-1].name)
        summary.next_command = run.command(following, place.round) if following else None
    return summary


def _stages(place: MergePlace, run: RunDir | None) -> list[_Stage]:
    """What there is to join."""
    files = run.round(place.round) if run is not None else None
    if run is not None and files is not None:
        manifest, folder, trees = files.manifest, files.evaluations, files.trees
        rows = [files.solutions, files.sft, files.pairs, files.step_labels]
        flags = f"--round {place.round} --run {run.root}"
    else:
        output = place.output or Path()
        manifest = output / "manifest.json" if output.is_dir() else output.with_name(output.name + ".manifest.json")
        folder, trees, rows = output, output, []
        flags = "..."
    shards = Shard.found(manifest)
    if not shards:
        raise MissingArtifactError(
            f"there are no shards beside {manifest}", remedy=f"Make them: rstar generate {flags} --shard 1/2"
        )
    names = list(dict.fromkeys(name for path in shards.values() for name in read_manifest(path)))
    known = {
        "generate": _Stage("generate", [trees], manifest, flags, files.problems if files is not None else None),
        "verify": _Stage("verify", rows, manifest, flags, trees),
    }
    for name in names:
        if name not in known:
            _, set_name, kind = name.split()
            known[name] = _Stage(name, [folder / f"{set_name}.{kind}.jsonl"], manifest, flags)
    return [stage for name, stage in known.items() if name in names]


def _found(stage: _Stage) -> dict[Shard, dict[str, Any]]:
    """The manifest entries of the shards that have done something of the stage."""
    entries = {shard: read_manifest(path).get(stage.name) for shard, path in Shard.found(stage.manifest).items()}
    return {shard: entry for shard, entry in entries.items() if entry is not None}


def _merge(stage: _Stage) -> int:
    """Check and join the shards of one stage; the number of rows of its first artifact."""
    entries = _found(stage)
    _check(stage, entries)
    outputs: dict[str, dict[str, Any]] = {}
    for whole in stage.outputs:
        paths = [shard.path(whole) for shard in entries]
        order = _ids(stage.order) if stage.order is not None else None
        with ExitStack() as stack:
            lines = [stack.enter_context(reading(path)) for path in paths]
            write = stack.enter_context(replacing(whole))
            sha, rows = hashlib.sha256(), 0
            with storage_errors(whole, "join"):
                for line in _dealt(lines, order, whole):
                    write(line)
                    sha.update(line)
                    rows += 1
        outputs[whole.name] = {"sha256": sha.hexdigest(), "rows": rows}
    write_manifest(stage.manifest, stage.name, _entry(list(entries.values()), outputs))
    return int(outputs[stage.outputs[0].name]["rows"])


def _check(stage: _Stage, entries: Mapping[Shard, Mapping[str, Any]]) -> None:
    counts = sorted({shard.count for shard in entries})
    if len(counts) > 1:
        raise DataError(
            f"{stage.name} was done in {' and in '.join(map(str, counts))} shards",
            path=stage.manifest.parent,
            remedy=f"Remove the files of one division, such as *-of-{counts[0]}.*",
        )
    done = {shard.index for shard, entry in entries.items() if entry.get("status") == "complete"}
    missing = [f"{index}/{counts[0]}" for index in range(1, counts[0] + 1) if index not in done]
    if missing:
        raise MissingArtifactError(
            f"{stage.name}: not done are the shards {', '.join(missing)}",
            remedy=f"Run: {stage.again(missing[0])}",
        )
    first, *others = entries.items()
    asked = {**first[1]["config"], "inputs": first[1]["inputs"]}
    for shard, entry in others:
        begun = {"config": {**entry["config"], "inputs": entry["inputs"]}}
        remedy = (
            f"Do one of them again: remove *.{first[0].index}-of-{shard.count}.* or *.{shard.index}-of-{shard.count}.*"
        )
        check_unchanged(begun, asked, f"shard {shard} of {stage.name}", remedy)
    if stage.order is None and stage.name == "generate" and any("failed" in e["counts"] for e in entries.values()):
        raise DataError(
            "parts gave problems up, and outside a run nothing tells where they stood",
            path=stage.outputs[0],
            remedy="Take the parts as they are, or do the search in a run.",
        )
    for shard, entry in entries.items():
        for path in map(shard.path, stage.outputs):
            if not path.exists() or digest(path)._asdict() != entry["outputs"].get(path.name):
                raise DataError(
                    "is not as its shard left it", path=path, remedy=f"Remove it and run: {stage.again(shard)}"
                )


def _dealt(files: Sequence[BinaryIO], order: Iterable[str] | None, whole: Path) -> Iterator[bytes]:
    """The rows of the shards' files in the order of one process."""
    groups = [groupby(file, _problem) for file in files]
    waiting = [next(group, None) for group in groups]
    if order is None:  # one row each in turn, until there are none
        seen: set[str] = set()
        turn = 0
        while (head := waiting[turn]) is not None:
            if head[0] in seen:
                raise DataError(f"two shards hold problem {head[0]!r}", path=whole, remedy="Make the shards anew.")
            seen.add(head[0])
            yield from head[1]
            waiting[turn] = next(groups[turn], None)
            turn = (turn + 1) % len(files)
    else:
        for position, problem in enumerate(order):
            turn = position % len(files)
            head = waiting[turn]
            if head is not None and head[0] == problem:
                yield from head[1]
                waiting[turn] = next(groups[turn], None)
    left = next((head[0] for head in waiting if head is not None), None)
    if left is not None:
        raise DataError(f"problem {left!r} is out of turn", path=whole, remedy="Make the shards anew.")


def _problem(line: bytes) -> str:
    return str(orjson.loads(line)["problem_id"])


def _ids(rows: Path) -> Iterator[str]:
    """The problems of a file of trees, or of problems."""
    with reading(rows) as file:
        for line in file:
            row = orjson.loads(line)
            yield str(row["problem_id"] if "problem_id" in row else row["id"])


def _entry(entries: Sequence[Mapping[str, Any]], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the whole: counts, tokens and seconds summed, shares averaged over the shards' time."""
    seconds = sum(entry["seconds"] for entry in entries)
    counts: dict[str, Any] = {}
    for name in dict.fromkeys(name for entry in entries for name in entry["counts"]):
        told = [(entry["counts"][name], entry["seconds"] or 1.0) for entry in entries if name in entry["counts"]]
        if isinstance(told[0][0], dict):  # problems that were given up, and why
            counts[name] = {key: why for given_up, _ in told for key, why in given_up.items()}
        elif any(isinstance(value, float) for value, _ in told):
            counts[name] = round(sum(value * weight for value, weight in told) / sum(weight for _, weight in told), 3)
        else:
            counts[name] = sum(value for value, _ in told)
    spent = [entry["tokens"] for entry in entries if "tokens" in entry]
    tokens = {
        name: sum(told.get(name, 0) for told in spent) for name in dict.fromkeys(n for told in spent for n in told)
    }
    merged = {**entries[0], "seconds": round(seconds, 1), "counts": counts, "outputs": dict(outputs)}
    return {**merged, "shards": len(entries), **({"tokens": tokens} if tokens else {})}


def _remove(stages: Sequence[_Stage]) -> None:
    """Remove the shards' files: the whole artifacts hold all of them."""
    for manifest in Shard.found(stages[0].manifest):
        for stage in stages:
            for whole in stage.outputs:
                manifest.path(whole).unlink(missing_ok=True)
        manifest.path(stages[0].manifest).unlink(missing_ok=True)
