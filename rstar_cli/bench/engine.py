"""How much of the transformers engine's speed a search gets, and what the engine's own tricks are worth.

All in one run, on one policy and one set of problems. Speeds are told twice: of generated tokens, and of all tokens
that went through the model, since a search runs prompts and outputs, too, and has fewer generated tokens for them than
`bare` has.

- `bare`: as many complete solutions as the search has rollouts at once, all asked for at once, nothing else to do;
- `stubbed`: a search with a sandbox that answers at once; `real`: the same with the real one;
- `generate`: the stubbed search's own requests, answered by `model.generate` of transformers in lockstep, batch by
  batch: what a plain implementation does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from rstar_cli.config import GenerateConfig, parse_levels
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.grader import Grader
from rstar_cli.layout import PACKAGED, model_path
from rstar_cli.options import BenchEnginePlace
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.prompts import COMPLETION_STOPS, render_prompt
from rstar_cli.protocols import (
    ExecuteRequest,
    ExecutionResult,
    Policy,
    SampleRequest,
    Segment,
    StepExecutor,
    TokenUsage,
)
from rstar_cli.recipe import Recipe, load_recipe
from rstar_cli.records import ExecutionStatus, Problem
from rstar_cli.sandbox import Sandbox
from rstar_cli.search.driver import Flow
from rstar_cli.stages.common import few_shot_of
from rstar_cli.stages.searching import search_problems
from rstar_cli.stages.tools import Tools

PLAIN_BATCH = 64
"""Sequences that `model.generate` decodes at once; on a CPU more are no faster."""


class StubSandbox:
    """A sandbox that takes no time: every step runs, every program prints 7."""

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        """Answer at once."""
        printed, silent = ExecutionResult(ExecutionStatus.OK, stdout="7\n"), ExecutionResult(ExecutionStatus.OK)
        return [[[printed if "print" in c else silent for c in branch] for branch in r.branches] for r in requests]

    def forget(self, tree: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


class Recorder:
    """A policy that notes what it is asked, by the round of its prompt: the first request of each, the second, ..."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.rounds: list[list[SampleRequest]] = []
        self._asked: dict[str, int] = {}
        self.poll, self.forget, self.close = policy.poll, policy.forget, policy.close
        self.count_tokens, self.info, self.usage = policy.count_tokens, policy.info, policy.usage

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Note a request and hand it on."""
        number = self._asked.get(request.prefix[0].text, 0)
        self._asked[request.prefix[0].text] = number + 1
        if number == len(self.rounds):
            self.rounds.append([])
        self.rounds[number].append(request)
        self.policy.submit(ticket, request)


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens/s: those generated, and all that went through the model."""

    generated: float
    run: float

    @classmethod
    def of(cls, usage: TokenUsage, requests: Sequence[SampleRequest], seconds: float) -> Speed:
        """Of an engine that answered these requests in so many seconds.

        The last sampled token of a row is not run, while the prefix's last one is, in the row's place; and an opening's
        last token counts as generated and as prefilled.
        """
        twice = sum(request.n + bool(request.opening) for request in requests)
        return cls(usage.generated / seconds, (usage.generated + usage.prefilled - twice) / seconds)


def measure(place: BenchEnginePlace) -> dict[str, Any]:
    """Measure one policy; tokens/s are of generated tokens.

    Returns:
        `tokens_per_second` {bare, stubbed, real, replay, generate}, `replay` being the engine's own speed on the
        requests that `generate` is given; `model_tokens_per_second` {bare, stubbed, real}, of all tokens that went
        through the model; `engine_idle` of stubbed and real, shares in [0, 1]; `prefill` {computed,
        unique, ratio}: tokens of prefixes that were run through the model, and distinct tokens of the trees.
    """
    recipe = load_recipe(None) if place.policy in PACKAGED else Recipe("", "defaults")
    given = {"method": place.method, "rollouts": place.rollouts, "device": place.device, "batch": place.batch}
    given |= {"enough": 0, "escalate": ""}  # the stub solves nothing: every problem would go on to the last number
    config = recipe.stage(GenerateConfig, "generate", 1, given)
    problems = make_problems(place.count, place.seed, parse_levels("1-5"), "validation")
    speeds = {"bare": _bare(problems, config, place)}
    with closing(_open(place)) as policy:
        recorder = Recorder(policy)
        speeds["stubbed"], flow, unique = _searched(problems, config, recorder, StubSandbox())
        prefill = {"computed": policy.usage.prefilled, "unique": unique}
    with closing(_open(place)) as policy, Sandbox(tree=True) as sandbox:
        speeds["real"], real_flow, _ = _searched(problems, config, Recorder(policy), sandbox)
    replayed = _replayed(recorder.rounds[: place.replayed], place)
    return {
        "policy": place.policy,
        "problems": place.count,
        "method": place.method,
        "rollouts": place.rollouts,
        "tokens_per_second": {name: round(each.generated, 1) for name, each in speeds.items()} | replayed,
        "model_tokens_per_second": {name: round(each.run, 1) for name, each in speeds.items()},
        "engine_idle": {"stubbed": round(flow.idle, 3), "real": round(real_flow.idle, 3)},
        "prefill": {**prefill, "ratio": round(prefill["computed"] / prefill["unique"], 3)},
    }


def describe(report: dict[str, Any]) -> dict[str, str]:
    """Name to text, in the order to show; what compares is said as a ratio."""
    speed, run = report["tokens_per_second"], report["model_tokens_per_second"]
    idle, prefill = report["engine_idle"], report["prefill"]
    searched = f"{report['method']}, {report['rollouts']} rollouts of {report['problems']} problems"
    return {
        "policy": f"{report['policy']}, {searched}",
        "bare decode": f"{speed['bare']:,.0f} tokens/s generated, {run['bare']:,.0f} through the model",
        "search, sandbox stubbed": f"{_shares(speed, run, 'stubbed')}; engine idle {idle['stubbed']:.1%}",
        "search, real sandbox": f"{_shares(speed, run, 'real')}; engine idle {idle['real']:.1%}",
        "prefill": f"{prefill['computed']:,} tokens run, {prefill['ratio']:.2f} of the trees' {prefill['unique']:,}",
        "on the same requests": (
            f"{speed['replay']:,.0f} tokens/s, {speed['replay'] / speed['generate']:.1f} times model.generate's "
            f"{speed['generate']:,.0f}"
        ),
    }


def _shares(generated: dict[str, float], run: dict[str, float], name: str) -> str:
    told = (f"{speed[name]:,.0f} ({speed[name] / speed['bare']:.0%} of bare)" for speed in (generated, run))
    return "{}, {}".format(*told)


def _open(place: BenchEnginePlace) -> TransformersPolicy:
    return TransformersPolicy.load(model_path(place.policy), device=place.device, max_rows=place.batch or None)


def _bare(problems: Sequence[Problem], config: GenerateConfig, place: BenchEnginePlace) -> Speed:
    few_shot = few_shot_of(config, place.policy)
    requests = [
        SampleRequest(
            (Segment(render_prompt(p.problem, few_shot)),), place.rollouts, i, COMPLETION_STOPS, config.max_tokens, 1.0
        )
        for i, p in enumerate(problems)
    ]
    with closing(_open(place)) as policy:
        policy.sample([replace(request, n=1, seed=-1) for request in requests[:4]])  # warm-up
    with closing(_open(place)) as policy:
        begun = time.monotonic()
        policy.sample(requests)
        return Speed.of(policy.usage, requests, time.monotonic() - begun)


def _searched(
    problems: list[Problem], config: GenerateConfig, policy: Recorder, sandbox: StepExecutor
) -> tuple[Speed, Flow, int]:
    """(its speed, how the time went, distinct tokens of the trees)."""
    unique = 0
    with Grader() as grader:
        tools = Tools(policy, sandbox, grader)
        for tree in search_problems(problems, tools, config, seed=1):
            unique += tree.tokens_generated + tree.tokens_prefilled
    asked = [request for requests in policy.rounds for request in requests]
    return Speed.of(policy.usage, asked, tools.flow.seconds), tools.flow, unique


def _replayed(rounds: Sequence[Sequence[SampleRequest]], place: BenchEnginePlace) -> dict[str, float]:
    """Generated tokens/s of the engine and of `model.generate` on the same requests, a round of them at a time."""
    with closing(_open(place)) as policy:
        begun = time.monotonic()
        for requests in rounds:
            policy.sample(requests)
        ours = policy.usage.generated / (time.monotonic() - begun)
    with closing(_open(place)) as policy:
        begun, tokens = time.monotonic(), 0
        for requests in rounds:
            for first in range(0, len(requests), PLAIN_BATCH):
                tokens += _generate(policy, requests[first : first + PLAIN_BATCH])
        return {"replay": round(ours, 1), "generate": round(tokens / (time.monotonic() - begun), 1)}


def _generate(policy: TransformersPolicy, requests: Sequence[SampleRequest]) -> int:
    """Answer requests by one call of `model.generate`; the tokens up to each one's stop."""
    import torch

    model, tokenizer = policy.model, policy.tokenizer
    rows = [tokenizer.prefix_ids(r.prefix) + list(r.opening) for r in requests for _ in range(r.n)]
    width = max(map(len, rows))
    pad = tokenizer.hf.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    stops = {token for tag in requests[0].stop for token in tokenizer.encode(tag)[-1:]}
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            max_new_tokens=max(r.max_tokens for r in requests),
            eos_token_id=sorted(stops | policy.eos),
            pad_token_id=pad,
        )
    ends = torch.tensor(sorted(stops | policy.eos), device=model.device)
    ended = torch.isin(out[:, width:], ends).int().cumsum(-1)
    return int((ended == 0).sum() + (ended[:, -1] > 0).sum())
