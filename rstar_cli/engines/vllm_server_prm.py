"""A process reward model (PRM) on a vLLM server of our own, beside the policy's.

Each step end is a prompt of its own, scored at its last token as in `vllm_prm.py`; token ids go over the wire, so that
the model reads what training read. `/classify` names raw scores `probs`: the activation is off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from rstar_cli.engines import checkpoint
from rstar_cli.engines.openai_http import Servers
from rstar_cli.engines.prm import BEYOND_CONTEXT, to_value
from rstar_cli.engines.vllm_prm import classifier_scale, classifies, step_ends
from rstar_cli.engines.vllm_server import VllmServer
from rstar_cli.errors import SetupError
from rstar_cli.protocols import EngineInfo, ScoreRequest, Segment
from rstar_cli.tokens import StepTokenizer

PORTION = 64
"""Solutions in a request."""

CONCURRENCY = 16
"""Requests under way at once."""


def is_servable(model: str) -> bool:
    """Whether a vLLM server can take a PRM: a classifier such as `rstar train-prm` makes, not one of another head.

    Raises:
        SetupError: there is no such model.
    """
    return classifies(_read_config(model))


def _read_config(model: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SetupError(f"no PRM at {model}: {error}", remedy="Give a checkpoint directory, or a hub id.") from error


class VllmServerScorer:
    """A PRM on a server: the value of a solution is tanh(score / scale), the score being its last token's.

    A solution longer than the model's context has the value `BEYOND_CONTEXT`.

    Args:
        server: the running server.
        tokenizer: the model's.
        config: the model's.
        name: what to call it.

    Raises:
        SetupError: the model is no classifier with one label, or its value scale is no positive number.
    """

    def __init__(self, server: VllmServer, tokenizer: StepTokenizer, config: Any, *, name: str) -> None:
        self._scale = classifier_scale(config, name)
        self._vocabulary = int(config.vocab_size)
        self._tokenizer = tokenizer
        self._name = name
        self._server = server
        self._servers = Servers([server.url], CONCURRENCY)
        try:
            told = self._servers.start(self._servers.ask("/models")).result()
            self._context = int(told["data"][0]["max_model_len"])
        except BaseException:
            self._servers.close()
            raise

    @classmethod
    def load(cls, model: str, python: str, *, device: str = "auto", dtype: str = "auto") -> VllmServerScorer:
        """Start a server for a checkpoint directory or a hub id.

        Args:
            model: where it is.
            python: of the virtual environment with vLLM.
            device: `auto`, `cpu` or `cuda`.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.

        Raises:
            SetupError: the model is not to be had or not fit, or the server does not come up.
        """
        config = _read_config(model)
        classifier_scale(config, model)  # before the server, which takes its time
        tokenizer = StepTokenizer.load(model)
        server = VllmServer.start(python, model, device=device, dtype=dtype, scores=True)
        try:
            return cls(server, tokenizer, config, name=model)
        except BaseException:
            server.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return EngineInfo("vllm-server", self._name, self._tokenizer.fingerprint, "server")

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: the value of the solution after each segment, in [-1, 1], rounded to 4 decimals.

        Token ids in segments must be of this tokenizer (`info.tokenizer`).

        Raises:
            SetupError: the tokenizer writes tokens that the model does not know, the server failed, or a score is not
                a finite number.
        """
        ends = [[step_ends(self._tokenizer, r.prefix, branch) for branch in r.branches] for r in requests]
        # the shorter ones are prefixes of longer ones, which then find them in the server's cache
        asked = sorted({ids for branches in ends for branch in branches for ids in branch}, key=lambda i: (len(i), i))
        for ids in asked:
            checkpoint.check_tokens(ids, self._vocabulary, self._name)
        readable = [ids for ids in asked if len(ids) <= self._context]
        scores = self._servers.start(self._ask(readable)).result()
        values = dict.fromkeys(asked, BEYOND_CONTEXT)
        values |= {ids: to_value(s, self._scale, self._name) for ids, s in zip(readable, scores, strict=True)}
        return [[tuple(values[ids] for ids in branch) for branch in branches] for branches in ends]

    def forget(self, prompt: Segment) -> None:
        """Nothing to do: vLLM drops what was not used for longest."""

    def close(self) -> None:
        """Hang up and end the server."""
        try:
            self._servers.close()
        finally:
            self._server.close()

    async def _ask(self, solutions: Sequence[tuple[int, ...]]) -> list[float]:
        portions = [solutions[i : i + PORTION] for i in range(0, len(solutions), PORTION)]
        return [score for part in await asyncio.gather(*map(self._portion, portions)) for score in part]

    async def _portion(self, solutions: Sequence[tuple[int, ...]]) -> list[float]:
        """Raw scores of solutions, in order."""
        body = {"model": self._server.model, "input": solutions, "use_activation": False}
        answer = await self._servers.ask("../classify", body)
        try:
            told = sorted(answer["data"], key=lambda each: each["index"])
            scores = [float(each["probs"][0]) for each in told]
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise SetupError(f"the vLLM server's /classify answers with something else: {error!r}") from error
        if len(scores) != len(solutions):
            raise SetupError(f"the vLLM server gave {len(scores)} scores for {len(solutions)} solutions")
        return scores
