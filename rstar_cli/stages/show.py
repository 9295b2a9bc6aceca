"""show: find one search tree of a run or a file, to look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rstar_cli.errors import DataError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.options import ShowPlace
from rstar_cli.records import Problem, Tree
from rstar_cli.report.tree import Shown

EXAMPLES = 3
"""Ids that an error names."""


def find_tree(place: ShowPlace) -> Shown:
    """The tree that is asked for.

    Raises:
        DataError: there is no such problem.
        MissingArtifactError: there is no such run, or its round has no trees yet.
    """
    if place.trees is not None:
        return Shown(_pick(place.trees, place.problem), None, _settings(Path(f"{place.trees}.manifest.json")), "file")
    run = RunDir.find(place.run_dir)
    files = run.round(place.round)
    partial = files.trees.with_name(f"{files.trees.name}.partial")
    trees = partial if partial.exists() and not files.trees.exists() else files.trees
    if trees is not partial:
        run.require(trees, "generate", place.round)
    tree = _pick(trees, place.problem)
    problems: Iterable[Problem] = read_rows(files.problems, Problem) if files.problems.exists() else ()
    problem = next((p for p in problems if p.id == tree.problem_id), None)
    return Shown(tree, problem, _settings(files.manifest), f"round {place.round}")


def _settings(manifest: Path) -> dict[str, object]:
    """How the trees were searched, where a manifest tells of it."""
    return dict(read_manifest(manifest).get("generate", {}).get("config", {}))


def _pick(trees: Path, wanted: str | None) -> Tree:
    """The tree of a problem by its id or its number from 1; the first one where nothing is asked for."""
    seen: list[str] = []
    for number, tree in enumerate(read_rows(trees, Tree), 1):
        if wanted is None or wanted in (tree.problem_id, str(number)):
            return tree
        seen.append(tree.problem_id)
    if not seen:
        raise DataError("holds no tree", path=trees)
    some = ", ".join(seen[:EXAMPLES])
    raise DataError(
        f"has no tree of problem {wanted}: it holds {len(seen)}, such as {some}",
        path=trees,
        remedy=f"Give an id, or a number from 1 to {len(seen)}.",
    )
