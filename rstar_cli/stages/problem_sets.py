"""Which problems a round trains on and is evaluated on. Drawn once, by hash of the run's seed, and kept as files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from rstar_cli.config import EvalSetConfig, parse_levels
from rstar_cli.contamination import Known
from rstar_cli.errors import ConfigMismatchError, DataError, UsageError
from rstar_cli.jsonl import STRICT, Aside, read_rows, read_unique, write_rows
from rstar_cli.layout import RunDir, make_folder
from rstar_cli.records import Problem, Tree, Verdict
from rstar_cli.search.sampling import derive_seed

LEAST_WEIGHT = 0.02
"""Weight of a level that every first rollout solved, or none; the most is 0.25."""


def read_source(source: str, limit: int | None, aside: Aside = STRICT) -> list[Problem]:
    """Problems of a file or a benchmark, all with answers; `aside` takes a file's bad lines."""
    from rstar_cli.problems.sources import resolve

    problems = list(islice(resolve(source, aside=aside), limit))
    if not problems:
        raise DataError("holds no problem", path=source)
    return problems


def content_of(problems: Sequence[Problem]) -> list[int]:
    """How many problems, and a 64-bit number that tells what they ask and answer, in any order: for manifests."""
    return [len(problems), derive_seed(*sorted(f"{p.id}\x1f{p.problem}\x1f{p.answer}" for p in problems))]


def round_problems(
    run: RunDir, number: int, source: str | None, limit: int | None, aside: Aside = STRICT
) -> list[Problem]:
    """The exact problem set of a round: as kept, as given, or drawn from the run's pool or the generator.

    Args:
        run: the run.
        number: the round, from 1.
        source: file or benchmark that replaces the round's own.
        limit: take only the first so many.
        aside: takes bad lines of `source`.

    Raises:
        ConfigMismatchError: another set is kept and trees were begun on it.
    """
    files = run.round(number)
    kept = list(read_unique(files.problems, Problem, "id")) if files.problems.exists() else None
    if kept is not None and source is None and (limit is None or limit == len(kept)):
        return kept
    if source is None:
        _keep_pool(run)
    wanted = read_source(source, limit, aside) if source else draw_problems(run, number)[:limit]
    if kept is not None and content_of(kept) == content_of(wanted):  # the order makes no difference
        return kept
    if kept is not None:
        begun = [p for p in (files.trees, files.trees.with_name("trees.jsonl.partial")) if p.exists()]
        if begun:
            raise ConfigMismatchError(
                f"{files.problems} holds another problem set, and {begun[0]} was begun on it",
                remedy=f"Take another --run, or remove {files.root} to do the round again.",
            )
    make_folder(files.root)
    write_rows(files.problems, wanted)
    return wanted


def draw_problems(run: RunDir, number: int) -> list[Problem]:
    """The problems that a round draws: from the run's pool or the recipe's source, else from the generator.

    Problems that are in the run's evaluation sets, exactly or nearly (`contamination.py`), are left out.
    """
    config = run.recipe.run
    known = Known(problem.problem for _, problem in evaluated_problems(run))
    problems = _pool(run)
    if problems is not None:
        if config.level_weights != "equal":
            raise UsageError(
                f"[run] level-weights = {config.level_weights!r} is for generated problems, and the run has its own",
                remedy="Leave the key out of the recipe.",
            )
        problems = [p for p in problems if known.find(p.problem) is None]
        if not problems:
            raise DataError(
                "every problem is in an evaluation set too",
                path=run.pool if run.pool.exists() else config.source,
                remedy="Name another [run] source, or smaller evaluation sets.",
            )
        problems.sort(key=lambda p: derive_seed(config.seed, "train", number, p.id))
        return problems[: config.count]
    from rstar_cli.problems.synthetic import make_problems

    seed, levels = derive_seed(config.seed, "train", number), _level_weights(run, number)
    drawn = config.count
    while True:
        problems = [p for p in make_problems(drawn, seed, levels, split="train") if known.find(p.problem) is None]
        if len(problems) >= config.count:
            return problems[: config.count]
        drawn += config.count - len(problems)


def evaluated_problems(run: RunDir) -> list[tuple[str, Problem]]:
    """(set, problem) of all that the run's recipe evaluates on."""
    return [(name, problem) for name in run.recipe.eval_sets for problem in eval_problems(run, name, keep=False)]


def _level_weights(run: RunDir, number: int) -> dict[int, float]:
    """How often each level of generated problems is drawn for a round; equal in round 1, where nothing is known.

    With `learnability` a level weighs p (1 - p), the variance of a rollout's reward (Foster et al. 2025,
    arXiv 2502.12272: such problems teach most), but a little at least: else a level that no rollout solved would never
    be tried again.
    """
    levels = parse_levels(run.recipe.run.levels)
    if run.recipe.run.level_weights == "equal" or number == 1:
        return dict.fromkeys(levels, 1.0)
    last = run.round(number - 1)
    level_of = {p.id: p.level for p in read_rows(run.require(last.problems, "generate", number - 1), Problem)}
    tried, right = Counter[int](), Counter[int]()
    for tree in read_rows(run.require(last.trees, "generate", number - 1), Tree):
        level = level_of.get(tree.problem_id)
        if level is not None and tree.rollouts:
            tried[level] += 1
            right[level] += tree.nodes[tree.rollouts[0].leaf].verdict is Verdict.CORRECT
    shares = {level: right[level] / tried[level] if tried[level] else 0.0 for level in levels}
    return {level: share * (1 - share) + LEAST_WEIGHT for level, share in shares.items()}


def _pool(run: RunDir) -> list[Problem] | None:
    """The problems that rounds draw from: those imported into the run, else the recipe's source; None: generated."""
    if run.pool.exists():
        return list(read_unique(run.pool, Problem, "id"))
    source = run.recipe.run.source
    return None if source == "synthetic" else read_source(source, None)


def _keep_pool(run: RunDir) -> None:
    """Make the recipe's source the run's pool, so that later rounds need neither hub nor file."""
    if run.recipe.run.source != "synthetic" and not run.pool.exists():
        make_folder(run.root)
        write_rows(run.pool, read_source(run.recipe.run.source, None))


def eval_problems(run: RunDir, name: str, *, keep: bool = True) -> list[Problem]:
    """An evaluation set of the run's recipe; made on first use and, with `keep`, written."""
    path = run.eval_set(name)
    if path.exists():
        return list(read_unique(path, Problem, "id"))
    problems = _make_eval_set(run.recipe.run.seed, name, run.recipe.eval_sets[name])
    if keep:
        make_folder(path.parent)
        write_rows(path, problems)
    return problems


def _make_eval_set(run_seed: int, name: str, config: EvalSetConfig) -> list[Problem]:
    if config.source != "synthetic":
        there = read_source(config.source, None)
        by_hash = sorted(there, key=lambda p: derive_seed(run_seed, "eval", name, p.id))
        chosen = {p.id for p in by_hash[: config.count]}  # not the first ones: files are often sorted by subject
        return [p for p in there if p.id in chosen]
    from rstar_cli.problems.synthetic import make_problems

    count = config.count or 500
    seed = derive_seed(run_seed, "eval", name)
    levels = parse_levels(config.levels)
    if not config.rare:
        return make_problems(count, seed, levels, split=config.split)
    drawn = count
    rare: list[Problem] = []
    while len(rare) < count:  # about one in twelve is rare
        drawn *= 4
        rare = [p for p in make_problems(drawn, seed, levels, split=config.split) if (p.model_extra or {}).get("rare")]
    return rare[:count]


def eval_name(source: str) -> str:
    """The name that results of a benchmark or file go by."""
    return Path(source).stem if Path(source).suffix else source
