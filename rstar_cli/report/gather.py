"""What the report page shows beside accuracies: what became of candidates and solutions, time, settings, origins.

Trees are read as plain objects: they are the run's own, large, and nothing here hangs on their every field.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rstar_cli.jsonl import read_objects, read_rows
from rstar_cli.layout import RoundDir, RunDir, read_manifest
from rstar_cli.records import Choice, EvalRow, Problem, Verdict

BINS = 20
"""Bins of a histogram of values in [-1, 1]."""
_FAILURES = {"error": "error", "timeout": "timeout", "memory": "out of memory"}
_FATES = {"malformed": "no step", "duplicate": "duplicate", "depth": "too deep"}
_LOOSE = frozenset({"seed", "policy", "prm", "model", "few_shot"})
"""Settings that differ from round to round by themselves."""


def gather(run: RunDir) -> dict[str, Any]:
    """Plain data, by part.

    Returns:
        `rounds`: of each {round, fates {fate: candidates}, q [BINS counts], choices {choice: solutions}, stages {stage:
        {seconds, tokens, status}}, calibration [[value, share right, solutions]]}; `changed`: settings that are not
        the same in all rounds, each {stage, setting, values {round: value}}; `origins`: {name: text}; `problems`: of
        the main set by the last round that evaluated it, see `_problems`.
    """
    folders = run.rounds()
    manifests = {folder.number: read_manifest(folder.manifest) for folder in folders}
    main = next(iter(run.recipe.eval_sets), "")
    return {
        "rounds": [_round(folder, manifests[folder.number], main) for folder in folders],
        "changed": list(_changed(manifests)),
        "origins": _origins(run, manifests),
        "problems": _problems(run, folders, main),
    }


def _round(folder: RoundDir, stages: dict[str, Any], main: str) -> dict[str, Any]:
    fates, q = _trees(folder.trees)
    return {
        "round": folder.number,
        "fates": dict(fates),
        "q": q,
        "choices": _choices(folder.solutions),
        "stages": {
            name: {
                "seconds": entry.get("seconds", 0.0),
                "tokens": entry.get("tokens", {}).get("generated", 0),
                "status": entry.get("status", ""),
            }
            for name, entry in stages.items()
        },
        "calibration": _calibration(folder.evaluations / f"{main}.samples.jsonl"),
    }


def _trees(path: Path) -> tuple[Counter[str], list[int]]:
    """What became of the candidates, and the Q of those that were visited."""
    fates: Counter[str] = Counter()
    q = [0] * BINS
    for _, tree in read_objects(path) if path.exists() else ():
        nodes: Any = tree["nodes"]
        for node in nodes[1:]:
            fates[_fate(node)] += 1
            if node["visits"]:
                q[min(BINS - 1, int((node["q"] + 1) / 2 * BINS))] += 1
    return fates, q


def _fate(node: dict[str, Any]) -> str:
    stop = node["stop"]
    if stop == "failed":
        return _FAILURES.get((node["execution"] or {}).get("status", ""), "stopped otherwise")
    return str(_FATES.get(stop, "ran"))


def _choices(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    counts = Counter(str(row.get("choice")) for _, row in read_objects(path))
    return {choice.value: counts[choice.value] for choice in Choice}


def _calibration(path: Path) -> list[tuple[float, float, int]]:
    """(mean chance that the PRM gives, share right, solutions) by tenth of the chance (v + 1) / 2."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    for row in read_rows(path, EvalRow) if path.exists() else ():
        for sample in row.samples:
            if sample.score is not None:
                chance = (sample.score + 1) / 2
                bins[min(9, int(chance * 10))].append((chance, sample.verdict is Verdict.CORRECT))
    return [(sum(c for c, _ in b) / len(b), sum(r for _, r in b) / len(b), len(b)) for b in bins if b]


def _changed(manifests: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Settings whose value is not the same in every round that has the stage."""
    stages = dict.fromkeys(stage for entries in manifests.values() for stage in entries)
    for stage in stages:
        configs = {n: entries[stage].get("config", {}) for n, entries in manifests.items() if stage in entries}
        for setting in dict.fromkeys(key for config in configs.values() for key in config):
            values = {number: config.get(setting) for number, config in configs.items()}
            if setting not in _LOOSE and len({repr(value) for value in values.values()}) > 1:
                yield {"stage": stage, "setting": setting, "values": values}


def _origins(run: RunDir, manifests: dict[int, dict[str, Any]]) -> dict[str, str]:
    """Where the figures come from: base, seed, sources, versions, engines, hashes of what was trained on."""
    entries = [entry for stages in manifests.values() for entry in stages.values()]
    versions = _distinct(
        f"{name} {version}" for entry in entries for name, version in entry.get("versions", {}).items()
    )
    engines = _distinct(
        f"{entry['engine'].get('name', '')} on {entry['engine'].get('device', '')}"
        for entry in entries
        if "engine" in entry
    )
    config = run.recipe.run
    origins = {
        "base": config.base,
        "seed": str(config.seed),
        "training problems": f"{config.source}, {config.count} a round",
        "engine": ", ".join(engines),
        "versions": ", ".join(versions),
    }
    for number, stages in manifests.items():
        for name, told in stages.get("verify", {}).get("inputs", {}).items():
            origins[f"{name} of round {number}, SHA-256"] = str(told.get("sha256", ""))
    return {name: text for name, text in origins.items() if text}


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _problems(run: RunDir, folders: list[RoundDir], main: str) -> dict[str, Any]:
    """The main set's problems with each round's greedy answer.

    Returns:
        `columns`: the rounds; `rows`: of each problem [id, level, text, gold, answers]; an answer is [text, verdict].
    """
    if not run.eval_set(main).exists():
        return {"columns": [], "rows": []}
    found: dict[int, dict[str, list[Any]]] = {}
    for folder in folders:
        path = folder.evaluations / f"{main}.greedy.jsonl"
        if path.exists():
            rows = read_rows(path, EvalRow)
            found[folder.number] = {r.problem_id: [r.samples[0].answer, r.samples[0].verdict.value] for r in rows}
    told = [
        [p.id, p.level, p.problem, p.answer, [found[n].get(p.id, [None, ""]) for n in found]]
        for p in read_rows(run.eval_set(main), Problem)
    ]
    return {"columns": list(found), "rows": told}
