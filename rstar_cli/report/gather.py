"""What the report page shows beside accuracies: what became of candidates and solutions, time, settings, origins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RoundDir, RunDir, read_manifest
from rstar_cli.metrics import wilson
from rstar_cli.records import Choice, EvalRow, EvalSample, Problem, SolutionRow, Verdict
from rstar_cli.report.searches import ANSWERS, read_searches

LONGEST = 1500
"""Characters of a solution that the page holds."""
_LOOSE = frozenset({"seed", "policy", "prm", "model", "few_shot"})
"""Settings that differ from round to round by themselves."""


def gather(run: RunDir) -> dict[str, Any]:
    """Plain data, by part.

    Returns:
        `rounds`: of each {round, searches (see `Searches`), choices {choice: solutions}, coverage {level: (problems
        with a right solution, problems)}, stages {stage: {seconds, tokens, status}}, calibration [[value, share right,
        solutions]]}; `changed`: settings that are not the same in all rounds, each {stage, setting, values {round:
        value}}; `origins`: {name: texts}; `hashes`: {round: {name of what it was verified from: SHA-256}}; `problems`:
        of the main set, see `_problems`; `same`: {set: {round: {accuracy, ci95, n, tokens}}}, greedy decoding on those
        of a set's problems that other methods were given, where these are fewer; `sets`: settings by set;
        `temperature`: of the last samples, None: none were drawn; `run`: the run's path, as it was given.
    """
    folders = run.rounds()
    manifests = {folder.number: read_manifest(folder.manifest) for folder in folders}
    main = next(iter(run.recipe.eval_sets), "")
    return {
        "rounds": [_round(folder, manifests[folder.number], main) for folder in folders],
        "changed": list(_changed(manifests)),
        "origins": _origins(run, manifests),
        "hashes": _hashes(manifests),
        "problems": _problems(run, folders, main),
        "same": {name: found for name in run.recipe.eval_sets if (found := _same(folders, name))},
        "sets": run.recipe.eval_sets,
        "temperature": _temperature(manifests),
        "run": str(run.root),
    }


def _same(folders: Iterable[RoundDir], name: str) -> dict[int, dict[str, Any]]:
    """Greedy decoding by round, on the problems of a set that other methods were given too, where these are fewer."""
    found = {}
    for folder in folders:
        greedy = folder.evaluations / f"{name}.greedy.jsonl"
        others = [path for path in sorted(folder.evaluations.glob(f"{name}.*.jsonl")) if path != greedy]
        if not greedy.exists() or not others:
            continue
        rows = {row.problem_id: row for row in read_rows(greedy, EvalRow)}
        ids = {row.problem_id for path in others for row in read_rows(path, EvalRow)} & {*rows}
        if 0 < (n := len(ids)) < len(rows):
            right = sum(rows[key].samples[0].verdict is Verdict.CORRECT for key in ids)
            tokens = sum(rows[key].tokens for key in ids)
            found[folder.number] = {"accuracy": right / n, "ci95": wilson(right, n), "n": n, "tokens": tokens}
    return found


def _temperature(manifests: dict[int, dict[str, Any]]) -> float | None:
    drawn = [
        entry.get("config", {}).get("temperature")
        for stages in manifests.values()
        for name, entry in stages.items()
        if name.startswith("evaluate ") and name.endswith(" samples")
    ]
    return drawn[-1] if drawn else None


def _round(folder: RoundDir, stages: dict[str, Any], main: str) -> dict[str, Any]:
    choices, verdicts = _solutions(folder.solutions)
    solved = {problem for (problem, _), verdict in verdicts.items() if verdict == Verdict.CORRECT}
    return {
        "round": folder.number,
        "searches": read_searches(folder, verdicts),
        "choices": choices,
        "coverage": _coverage(folder.problems, solved) if choices else {},
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


def _solutions(path: Path) -> tuple[dict[str, int], dict[tuple[str, int], str]]:
    """Verified solutions: how many by what they are used for, and the verdict of each by its problem and leaf."""
    if not path.exists():
        return {}, {}
    counts: Counter[str] = Counter()
    verdicts: dict[tuple[str, int], str] = {}
    for row in read_rows(path, SolutionRow):
        counts[row.choice] += 1
        verdicts[row.problem_id, row.node_ids[-1]] = row.verdict.value
    return {choice.value: counts[choice] for choice in Choice}, verdicts


def _coverage(path: Path, solved: set[str]) -> dict[int, tuple[int, int]]:
    """By level: problems with a right solution, and all of them; problems without a level do not count."""
    levels: dict[int, list[bool]] = {}
    for problem in read_rows(path, Problem) if path.exists() else ():
        if problem.level is not None:
            levels.setdefault(problem.level, []).append(problem.id in solved)
    return {level: (sum(found), len(found)) for level, found in sorted(levels.items())}


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


def _origins(run: RunDir, manifests: dict[int, dict[str, Any]]) -> dict[str, list[str]]:
    """Where the figures come from: base, seed, sources, versions, engines."""
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
        "base": [config.base],
        "seed": [str(config.seed)],
        "training problems": [config.source, f"{config.count:,} a round"],
        "engine": engines,
        "versions": versions,
    }
    return {name: texts for name, texts in origins.items() if texts}


def _hashes(manifests: dict[int, dict[str, Any]]) -> dict[int, dict[str, str]]:
    """SHA-256 of what each round's training rows were made from."""
    found = {
        number: {name: str(told.get("sha256", "")) for name, told in stages.get("verify", {}).get("inputs", {}).items()}
        for number, stages in manifests.items()
    }
    return {number: hashes for number, hashes in found.items() if hashes}


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _problems(run: RunDir, folders: list[RoundDir], main: str) -> dict[str, Any]:
    """The main set's problems with each round's greedy answer, and the last round's samples.

    Returns:
        `columns`: the rounds; `sampled`: the last round with samples, None: none has; `rows`: of each problem
        [id, level, text, gold, answers, samples, written]; an answer is [text, verdict]; `samples` tells of each
        answer [text, verdict, times, mean value by the PRM or None], the commonest first, and is None where none were
        drawn; `written`: what the last round wrote greedily, its first LONGEST characters; empty: not known.
    """
    if not run.eval_set(main).exists():
        return {"columns": [], "sampled": None, "rows": []}
    found: dict[int, dict[str, list[Any]]] = {}
    sampled: int | None = None
    written: dict[str, str] = {}
    for folder in folders:
        path = folder.evaluations / f"{main}.greedy.jsonl"
        if path.exists():
            rows = list(read_rows(path, EvalRow))
            found[folder.number] = {r.problem_id: [r.samples[0].answer, r.samples[0].verdict.value] for r in rows}
            written = {row.problem_id: row.samples[0].text[:LONGEST] for row in rows}
        if (folder.evaluations / f"{main}.samples.jsonl").exists():
            sampled = folder.number
    samples: dict[str, list[list[Any]]] = {}
    if sampled is not None:
        drawn = read_rows(run.round(sampled).evaluations / f"{main}.samples.jsonl", EvalRow)
        samples = {row.problem_id: _answers(row) for row in drawn}
    told = [
        [
            problem.id,
            problem.level,
            problem.problem,
            problem.answer,
            [answers.get(problem.id, [None, ""]) for answers in found.values()],
            samples.get(problem.id),
            written.get(problem.id, ""),
        ]
        for problem in read_rows(run.eval_set(main), Problem)
    ]
    return {"columns": list(found), "sampled": sampled, "rows": told}


def _answers(row: EvalRow) -> list[list[Any]]:
    """A problem's sampled answers by group, the commonest first: [text, verdict, times, mean PRM value or None]."""
    groups: dict[int | None, list[EvalSample]] = {}
    for sample in row.samples:
        groups.setdefault(sample.group, []).append(sample)
    told: list[list[Any]] = []
    for samples in sorted(groups.values(), key=len, reverse=True)[:ANSWERS]:
        scores = [sample.score for sample in samples if sample.score is not None]
        value = round(sum(scores) / len(scores), 2) if scores else None
        told.append([samples[0].answer, samples[0].verdict.value, len(samples), value])
    return told
