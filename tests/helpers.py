"""What several tests share: an executor for scripted steps, and one call that runs a search to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rstar_cli.engines.scripted import ScriptedPolicy, ScriptedScorer
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import ExecuteRequest, ExecutionResult, Grade
from rstar_cli.records import ExecutionStatus, Verdict
from rstar_cli.search.driver import Driver
from rstar_cli.search.grow import Growth
from rstar_cli.search.mcts import Plan
from rstar_cli.search.sampling import derive_seed
from rstar_cli.search.tree import Tree
from rstar_cli.stages.tools import begin

ROOT = Path(__file__).resolve().parent.parent
GROWTH = Growth(max_step_tokens=256, max_tokens=1024, max_depth=8)


def shared(*parts: str) -> Path:
    """A file of the data that lies beside the checkout; skips the test where it is absent."""
    path = Path(os.environ.get("RSTAR_SHARED", ROOT.parent / "shared")).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared data ($RSTAR_SHARED)")
    return path


def rstar(
    *args: str, cwd: Path, check: bool = True, timeout: float = 600, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "rstar_cli", *args],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


class LineExecutor:
    """Knows the lines that the scripted engine writes, and no others: no process, for tests of the search alone."""

    def __init__(self) -> None:
        self.steps = 0

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        return [[self._branch(branch) for branch in request.branches] for request in requests]

    def _branch(self, codes: Sequence[str]) -> list[ExecutionResult]:
        results = []
        for code in codes:
            self.steps += 1
            if "1 / 0" in code:
                results.append(ExecutionResult(ExecutionStatus.ERROR, error="ZeroDivisionError: division by zero"))
                break
            printed = code.partition("print('")[2].partition("')")[0]
            results.append(ExecutionResult(ExecutionStatus.OK, stdout=f"{printed}\n" if printed else ""))
        return results

    def forget(self, tree: str) -> None:
        pass

    def close(self) -> None:
        pass


def scripted_trees(
    count: int,
    *,
    in_flight: int = 8,
    seed: int = 0,
    see_gold: bool = True,
    scored: bool = False,
    backwards: bool = False,
    wrong_gold: bool = False,
    executor: LineExecutor | None = None,
    more: Callable[[], bool] = lambda: True,
    **config: object,
) -> tuple[dict[str, Tree], ScriptedPolicy]:
    """Search `count` made-up problems with the scripted engine, and with its PRM where `scored`.

    `backwards` takes the problems in the other order; `wrong_gold` gives each problem the answer of another one.
    """
    prompts = {f"p{i}": render_prompt(f"What is {i} plus {i * i}?") for i in range(count)}
    gold = {key: str(i + i * i) for i, key in enumerate(prompts)}
    policy = ScriptedPolicy({prompts[key]: gold[key] for key in prompts})
    if wrong_gold:
        gold = dict(zip(gold, [*list(gold.values())[1:], "0"], strict=True))
    if backwards:
        prompts = dict(reversed(prompts.items()))
    settings: dict[str, object] = {
        "method": "uct",
        "rollouts": 8,
        "candidates": 4,
        "exploration": 1.4,
        "rollout_style": "complete",
        "growth": replace(GROWTH, scored=scored),
    }
    plan = Plan(**{**settings, **config})  # type: ignore[arg-type]

    def grade(answers: list[tuple[str, str | None]]) -> list[Grade | None]:
        if not see_gold:
            return [None] * len(answers)
        return [Grade(Verdict.CORRECT if gold[k] == a else Verdict.INCORRECT, "test") for k, a in answers]

    searches = ((key, *begin(prompt, derive_seed(seed, key), plan)) for key, prompt in prompts.items())
    driver = Driver(policy, executor or LineExecutor(), grade, ScriptedScorer() if scored else None, more)
    return dict(driver.run(searches, in_flight)), policy
