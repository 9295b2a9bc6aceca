"""show: find one search tree of a run or a file, to look at; where asked for, valued by a PRM."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from rstar_cli.errors import DataError, UsageError
from rstar_cli.extract import segments
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.options import ShowPlace
from rstar_cli.protocols import ScoreRequest, Segment
from rstar_cli.records import Problem, SolutionRow, Tree, TreeNode
from rstar_cli.report.tree import VALID, Shown, way_to
from rstar_cli.stages.common import outside_prm
from rstar_cli.stages.problem_sets import read_source
from rstar_cli.stages.tools import Retokenized

EXAMPLES = 3
"""Ids that an error names."""


def find_tree(place: ShowPlace) -> Shown:
    """The tree that is asked for.

    Raises:
        DataError: there is no such problem.
        MissingArtifactError: there is no such run, or its round has no trees yet, or no PRM.
        UsageError: a file of trees has no `--prm last`, or a round no `--problems`.
        SetupError: the PRM is not to be had.
    """
    shown = _found(place)
    if place.prm in (None, "none"):
        return shown
    if place.trees is not None or place.prm != "last":
        prm = outside_prm(place.prm)
        return _valued(shown, prm, prm) if prm is not None else shown
    return _valued(shown, str(RunDir.find(place.run_dir).prm_of(place.round)), f"round {place.round}")


def _found(place: ShowPlace) -> Shown:
    if place.trees is not None:
        tree = _pick(place.trees, place.problem)
        asked = read_source(str(place.problems), None) if place.problems is not None else ()
        settings = _settings(Path(f"{place.trees}.manifest.json"))
        return Shown(tree, _problem_of(tree, asked), settings, place.trees.name)
    if place.problems is not None:
        raise UsageError("--problems goes with --trees", remedy="A round has its own problems: leave it out.")
    run = RunDir.find(place.run_dir)
    files = run.round(place.round)
    partial = files.trees.with_name(f"{files.trees.name}.partial")
    trees = partial if partial.exists() and not files.trees.exists() else files.trees
    if trees is not partial:
        run.require(trees, "generate", place.round)
    tree = _pick(trees, place.problem)
    problems: Iterable[Problem] = read_rows(files.problems, Problem) if files.problems.exists() else ()
    shown = Shown(tree, _problem_of(tree, problems), _settings(files.manifest), f"round {place.round}")
    return replace(shown, verified=_verified(files.solutions, tree))


def _problem_of(tree: Tree, problems: Iterable[Problem]) -> Problem | None:
    return next((problem for problem in problems if problem.id == tree.problem_id), None)


def _verified(solutions: Path, tree: Tree) -> dict[int, str]:
    """By leaf, the verdict on each solution of a tree that `verify` has run again."""
    rows = read_rows(solutions, SolutionRow) if solutions.exists() else ()
    return {row.node_ids[-1]: row.verdict.value for row in rows if row.problem_id == tree.problem_id}


def _valued(shown: Shown, prm: str, name: str) -> Shown:
    """The tree with every step that ran valued by a PRM."""
    from rstar_cli.engines.prm_adapters import read_scorer

    tree = shown.tree
    below: dict[int, list[TreeNode]] = {}
    for node in tree.nodes:
        if node.parent is not None and node.stop in VALID:
            below.setdefault(node.parent, []).append(node)
    scorer = read_scorer(prm)
    if scorer.info.tokenizer != tree.tokenizer:
        scorer = Retokenized(scorer)
    requests = [
        ScoreRequest(
            (Segment(tree.prompt), *_segments(way_to(tree, tree.nodes[parent]))),
            tuple((Segment(child.text, child.token_ids),) for child in children),
        )
        for parent, children in below.items()
    ]
    with closing(scorer):
        found = scorer.score(requests)
    values = {
        child.id: value
        for children, branches in zip(below.values(), found, strict=True)
        for child, (value,) in zip(children, branches, strict=True)
    }
    nodes = tuple(node.model_copy(update={"prm_score": values.get(node.id)}) for node in tree.nodes)
    return replace(shown, tree=tree.model_copy(update={"nodes": nodes}), prm=name)


def _segments(steps: Iterable[TreeNode]) -> list[Segment]:
    return [Segment(part.text, part.token_ids) for part in segments(steps)]


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
