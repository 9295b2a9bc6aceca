"""How much of the engine's bare decode speed a search keeps: python benchmarks/engine_share.py [problems] [threads]

Prints tokens/s of the embedded model, in one run each:
  bare      as many complete solutions as the search has rollouts at once, all asked for at once, nothing else to do
  stubbed   `generate`'s search with a sandbox that answers at once (every step ok, every program prints 7)
  real      the same search with the real sandbox
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch

from rstar_cli.config import GenerateConfig
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.grader import Grader
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.prompts import COMPLETION_STOPS, render_prompt
from rstar_cli.protocols import ExecuteRequest, ExecutionResult, SampleRequest, Segment, StepExecutor
from rstar_cli.recipe import load_recipe
from rstar_cli.records import ExecutionStatus, Problem
from rstar_cli.sandbox import Sandbox
from rstar_cli.stages.generate import search_problems
from rstar_cli.stages.tools import Tools


class Stub:
    """A sandbox that takes no time."""

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        ok = ExecutionResult(ExecutionStatus.OK, stdout="7\n")
        silent = ExecutionResult(ExecutionStatus.OK)
        return [[[ok if "print" in c else silent for c in branch] for branch in r.branches] for r in requests]

    def forget(self, tree: str) -> None:
        pass

    def close(self) -> None:
        pass


def bare(problems: list[Problem], config: GenerateConfig) -> float:
    policy = TransformersPolicy.load(model_path("embedded"))
    requests = [
        SampleRequest((Segment(render_prompt(p.problem)),), 2, i, COMPLETION_STOPS, config.max_tokens, 1.0)
        for i, p in enumerate(problems)
    ]
    policy.sample(requests[:4])
    before, begun = policy.usage.generated, time.monotonic()
    policy.sample(requests)
    return (policy.usage.generated - before) / (time.monotonic() - begun)


def searched(problems: list[Problem], config: GenerateConfig, sandbox: StepExecutor) -> float:
    policy = TransformersPolicy.load(model_path("embedded"))
    gold = {p.id: p.answer for p in problems}
    begun = time.monotonic()
    with Grader() as grader:
        for _ in search_problems(problems, Tools(policy, sandbox, grader), gold, config, 0, 1):
            pass
    return policy.usage.generated / (time.monotonic() - begun)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    torch.set_num_threads(int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    config = load_recipe(None).stage(GenerateConfig, "generate", 1, {})
    problems = make_problems(count, 900_000)
    for _ in range(2):
        fast = bare(problems, config)
        stubbed = searched(problems, config, Stub())
        with Sandbox(tree=True) as sandbox:
            real = searched(problems, config, sandbox)
        print(f"bare {fast:,.0f}  stubbed {stubbed:,.0f} ({stubbed / fast:.0%})  real {real:,.0f} ({real / fast:.0%})")


if __name__ == "__main__":
    main()
