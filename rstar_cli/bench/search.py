"""What a search costs by itself: CPU and memory a node, with a model, an executor and a grader that cost nothing.

CPU is that of the whole process less what the stand-ins of `table.py` took; the driver's threads are in it. Every
measurement has the same number of rollouts in all, so that small trees and large ones are told as well.
"""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from rstar_cli.bench.memory import peak_mb
from rstar_cli.bench.table import RIGHT, STEPS, EqualGrader, LineExecutor, TablePolicy
from rstar_cli.config import GenerateConfig
from rstar_cli.engines.scripted import ScriptedPolicy
from rstar_cli.journal import Journal
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.progress import StageProgress
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import Grade
from rstar_cli.search.mcts import Method, Search
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Tree
from rstar_cli.stages.searching import search_problems
from rstar_cli.stages.tools import Tools, begin, plan_of

METHODS: dict[Method, tuple[int, ...]] = {"uct": (4, 16, 48, 64, 256), "swor": (4, 16, 64, 256)}
"""Rollouts by method; `uct` of 48 rollouts and 12 candidates, every node expanded, is upstream's setting."""
CANDIDATES = 12
LEAST, MOST = 4, 256
"""Rollouts whose costs a node are compared."""
SHARES = (0.1, 0.5, 1.0)
"""Parts of the queue after which its memory is read."""


def measure(trees: int, queued: int) -> dict[str, Any]:
    """Measure all; plain values by part.

    Args:
        trees: searched at once.
        queued: problems of the queue, searched with the scripted engine.
    """
    settings = [(method, rollouts) for method, all_ in METHODS.items() for rollouts in all_]
    repetitions = 3 if trees >= 4 else 1  # of fewer trees it is for trying the command out
    report: dict[str, Any] = {"trees": trees, "candidates": CANDIDATES}
    with StageProgress("bench search", len(settings) + 1) as progress:
        progress.update(0, "queue")
        report["queue"] = _queue(queued)  # first: peaks of memory are the process's
        searches: dict[str, dict[str, dict[str, float]]] = {method: {} for method in METHODS}
        for i, (method, rollouts) in enumerate(settings, 1):
            progress.update(i, f"{method}, {rollouts} rollouts")
            tries = [_search(method, rollouts, trees) for _ in range(repetitions)]
            found = {name: median(each[name] for each in tries) for name in tries[0]}
            searches[method][str(rollouts)] = found | {"bytes_a_node": _bytes(method, rollouts)}
    report["searches"] = searches
    report["growth"] = {
        method: found[str(MOST)]["cpu_ms_a_node"] / found[str(LEAST)]["cpu_ms_a_node"]
        for method, found in searches.items()
    }
    return report


def _search(method: Method, rollouts: int, trees: int) -> dict[str, float]:
    """Milliseconds of CPU a node, and what was searched."""
    policy, executor = TablePolicy(), LineExecutor()
    tools = Tools(policy, executor, EqualGrader())
    count = nodes = 0
    gc.collect()
    begun = time.process_time()
    driver = tools.driver(_grade)
    for _, tree in driver.run(_searches(method, rollouts, trees * MOST // rollouts), trees):
        count += 1
        nodes += len(tree.nodes)
        tools.forget(tree)
    spent = time.process_time() - begun - policy.seconds - executor.seconds
    return {
        "problems": count,
        "trees_in_flight": driver.flow.most_in_flight,
        "nodes": nodes,
        "nodes_a_tree": nodes / count,
        "cpu_seconds": spent,
        "stub_seconds": policy.seconds + executor.seconds,
        "cpu_ms_a_node": 1000 * spent / nodes,
    }


def _bytes(method: Method, rollouts: int) -> float:
    """Bytes a node of a tree that is held."""
    tools = Tools(TablePolicy(), LineExecutor(), EqualGrader())
    list(tools.driver(_grade).run(_searches(method, 1, 1), 1))  # what is made once
    gc.collect()
    tracemalloc.start()
    held = [tree for _, tree in tools.driver(_grade).run(_searches(method, rollouts, max(1, 16 // rollouts)), 1)]
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / sum(len(tree.nodes) for tree in held)


def _searches(method: Method, rollouts: int, count: int) -> Iterator[tuple[str, Tree, Search]]:
    config = GenerateConfig(method=method, rollouts=rollouts, candidates=CANDIDATES, max_depth=STEPS + 4)
    plan = plan_of(config, Tools(TablePolicy(), LineExecutor(), EqualGrader()))
    for i in range(count):
        prompt = render_prompt(f"What is {i} plus {i * i}? Give the whole number.")
        yield str(i), *begin(prompt, derive_seed(0, i), plan)


def _grade(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
    return list(EqualGrader().grade([(RIGHT, answer) for _, answer in answers]))


def _queue(count: int) -> dict[str, Any]:
    """Peak memory of the process along a queue of problems, each tree written to a file as `generate` does."""
    problems = make_problems(count, 0)
    policy = ScriptedPolicy({render_prompt(problem.problem): problem.answer for problem in problems})
    tools = Tools(policy, LineExecutor(), EqualGrader())
    config = GenerateConfig(max_depth=8, max_step_tokens=256, max_tokens=1024)
    marks = {max(1, round(share * count)): f"{share:.0%}" for share in SHARES}
    peaks: dict[str, float] = {"before": peak_mb()}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder, "trees.jsonl")) as journal:
        for number, row in enumerate(search_problems(problems, tools, config, seed=0), 1):
            journal.append(row)
            if number in marks:
                peaks[marks[number]] = peak_mb()
        size = journal.path.stat().st_size
    return {
        "problems": count,
        "rollouts": config.rollouts,
        "method": config.method,
        "trees_in_flight": min(count, config.in_flight),
        "seconds": time.monotonic() - begun,
        "file_mb": size / 1e6,
        "peak_mb": peaks,
    }


def describe(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each figure, in the order to show."""
    for method, found in report["searches"].items():
        for rollouts, each in found.items():
            yield (
                f"{method}, {rollouts} rollouts",
                f"{each['cpu_ms_a_node']:.4f} ms and {each['bytes_a_node']:,.0f} bytes a node "
                f"({each['nodes']:,.0f} nodes, {each['nodes_a_tree']:,.0f} a tree)",
            )
        yield f"{method}, {MOST} against {LEAST}", f"{report['growth'][method]:.2f} times the CPU a node"
    queue = report["queue"]
    peaks = ", ".join(f"{peak:.0f} MB {place}" for place, peak in queue["peak_mb"].items())
    yield f"queue of {queue['problems']:,}", f"{peaks} ({queue['seconds']:.0f} s, {queue['file_mb']:.0f} MB of trees)"
