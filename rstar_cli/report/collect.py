"""What a run measured, round by round, as plain data: the content of `report.json` (DESIGN section 4).

It holds no clock time and nothing that tells a run in one go from one that was stopped and went on, so equal runs give
equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from rstar_cli.errors import DataError
from rstar_cli.jsonl import reading
from rstar_cli.layout import RoundDir, RunDir, read_manifest, write_bytes

_PAPER = "claim of rStar-Math (arXiv 2501.04519) for Qwen2.5-Math-7B on MATH"

CLAIMS: dict[str, dict[str, Any]] = {
    "paper pass@1": {
        "source": f"{_PAPER}: the policy alone; round 0 is the base model, greedy",
        "accuracy": [0.588, 0.696, 0.736, 0.758, 0.784],
    },
    "paper with search": {
        "source": f"{_PAPER}: the policy with search guided by the process reward model; 0.9 with 64 trajectories",
        "accuracy": [None, 0.752, 0.866, 0.87, 0.894],
    },
    "summary of paper": {
        "source": "claim of a widely read summary of rStar-Math, for a 7B model on MATH",
        "accuracy": [0.42, 0.68, 0.78, 0.85, 0.9],
    },
}
"""What others claim, by label: where it stands, and the accuracy in [0, 1] of rounds 0, 1, ..., None where it says
none. None of it was measured here, and it is another model on other problems."""

_KINDS = ("mcts", "swor", "uct", "puct", "beam", "dvts", "best_of_n", "weighted", "majority", "pass")
"""Methods beside `greedy`, the strongest use of gold last."""
_TRAININGS = ("train-policy", "train-prm")
_COUNTS = ("problems", "solved", "solutions", "sft", "pairs", "step labels")


class _Accuracy(BaseModel):
    """Figures of one group of problems; keys beside these are left out."""

    accuracy: float
    ci95: tuple[float, float]
    n: int


class _Figures(_Accuracy):
    """Figures of one method on one set."""

    by_level: dict[str, _Accuracy]
    by_subject: dict[str, _Accuracy] | None = None
    by_n: dict[int, _Accuracy] | None = None
    theory: dict[int, float] | None = None
    tokens: int
    tokens_per_solved: float | None = None


_METHODS = TypeAdapter(dict[str, _Figures])


def collect(run: RunDir) -> dict[str, Any]:
    """Everything that a report shows.

    Returns:
        `run` {base, seed}; `sets`, the names of the evaluated sets, the main one first, empty before the first
        evaluation; `rounds`, in order, each
        {round, eval {set: {method: {accuracy, ci95, n, by_level, tokens, and by_subject, by_n, theory and
        tokens_per_solved where the method has them}}}, prm, counts, contaminated}, the last three where the round has
        them: its PRM's accuracy on held-out pairs, `all` and by kind of pair, how many problems,
        solutions and training rows it made, and on how many problems of evaluation sets it trained; `claims`, see
        `CLAIMS`.

    Raises:
        DataError: a file of figures is damaged.
    """
    folders = run.rounds()
    found = {folder.number: _evaluations(folder) for folder in folders}
    names = {name for evaluations in found.values() for name in evaluations}
    sets = [*(name for name in run.recipe.eval_sets if name in names), *sorted(names - {*run.recipe.eval_sets})]
    rounds = [
        {
            "round": folder.number,
            "eval": {name: found[folder.number][name] for name in sets if name in found[folder.number]},
            **_training(folder),
        }
        for folder in folders
    ]
    return {
        "run": {"base": run.recipe.run.base, "seed": run.recipe.run.seed},
        "sets": sets,
        "rounds": rounds,
        "claims": CLAIMS,
    }


def write_report(run: RunDir) -> Path:
    """Write `report.json` into the run and return its path; for errors see `collect`."""
    write_bytes(run.report, orjson.dumps(collect(run), option=orjson.OPT_INDENT_2) + b"\n")
    return run.report


def shown_methods(report: dict[str, Any], name: str) -> list[str]:
    """The methods of a set that a curve shows: `greedy`, then of every other kind the one with the largest number."""
    keys = {key for entry in report["rounds"] for key in entry["eval"].get(name, {})}
    sizes = {kind: [int(key.partition("@")[2]) for key in keys if key.startswith(f"{kind}@")] for kind in _KINDS}
    return ["greedy", *(f"{kind}@{max(found)}" for kind, found in sizes.items() if found)]


def told_methods(report: dict[str, Any], name: str) -> list[str]:
    """The methods of a set that a table shows: those of `shown_methods`, and a search's variants beside it."""
    keys = list(dict.fromkeys(key for entry in report["rounds"] for key in entry["eval"].get(name, {})))
    told: list[str] = []
    for method in shown_methods(report, name):
        kind, at, number = method.partition("@")
        told += [method, *(key for key in keys if at and key.startswith(f"{kind}_top") and key.endswith(at + number))]
    return told


def series(report: dict[str, Any], name: str, method: str) -> dict[int, dict[str, Any]]:
    """Figures of a method on a set, by round."""
    return {
        entry["round"]: entry["eval"][name][method]
        for entry in report["rounds"]
        if method in entry["eval"].get(name, {})
    }


def last_figures(report: dict[str, Any]) -> dict[str, Any]:
    """Figures by method of the main set, in the last round that evaluated it; none of a run that did not."""
    name = next(iter(report["sets"]), "")
    found: list[dict[str, Any]] = [entry["eval"][name] for entry in report["rounds"] if name in entry["eval"]]
    return found[-1] if found else {}


def _evaluations(folder: RoundDir) -> dict[str, Any]:
    """Figures of a round: {set: {method: figures}}."""
    return {path.stem: figures_in(path) for path in folder.evaluations.glob("*.json")}


def figures_in(path: Path) -> dict[str, Any]:
    """The figures of a set by method, from the file of an evaluation.

    Raises:
        DataError: it is damaged.
    """
    with reading(path) as file:
        text = file.read()
    try:
        methods = _METHODS.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or None
        raise DataError(
            f"not figures of an evaluation: {first['msg']}",
            path=path,
            field=field,
            remedy="Remove the file and evaluate again.",
        ) from None
    return {method: figures.model_dump(mode="json", exclude_unset=True) for method, figures in methods.items()}


def _training(folder: RoundDir) -> dict[str, Any]:
    """What the manifest tells of a round's training data and PRM, where those stages are done.

    From `verify`, not from `generate`, whose counts are of its last call alone.
    """
    stages = read_manifest(folder.manifest)
    verified = stages.get("verify", {}).get("counts", {})
    held_out = stages.get("train-prm", {}).get("counts", {}).get("held-out accuracy")
    counts = {key: verified[key] for key in _COUNTS if key in verified}
    told = {"prm": held_out, "counts": counts, "contaminated": _contaminated(stages)}
    return {name: value for name, value in told.items() if value}


def _contaminated(stages: dict[str, Any]) -> int:
    """Problems of evaluation sets that the round searched or trained on, as it was allowed to."""
    searched = stages.get("generate", {}).get("counts", {}).get("contaminated", 0)
    trained = [stages.get(name, {}).get("counts", {}).get("contaminated problems", 0) for name in _TRAININGS]
    return int(max(searched, *trained))
