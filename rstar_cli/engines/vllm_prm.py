"""A process reward model (PRM) by vLLM's pooling: a sequence classifier with one label.

Each step end is a request of its own, pooled at its last token (task `classify`): these use vLLM's prefix cache, so
that a solution's beginning is computed once.
One pass with the values of all tokens (`token_classify`) does not read that
cache and would run the whole prefix for each branch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_cli.engines import checkpoint
from rstar_cli.engines.prm import BEYOND_CONTEXT, to_value, value_scale
from rstar_cli.engines.vllm_start import SCORER_SHARE, Engine
from rstar_cli.errors import SetupError
from rstar_cli.protocols import EngineInfo, ScoreRequest, Segment
from rstar_cli.tokens import StepTokenizer


class VllmScorer:
    """A PRM: the value of a solution is tanh(score / scale), the score being its last token's.

    A solution longer than the model's context has the value `BEYOND_CONTEXT`.

    Args:
        engine: vLLM with a sequence classifier.

    Raises:
        SetupError: it has not one label, or its value scale is no positive number.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizer = engine.tokenizer
        self._scale = classifier_scale(engine.config.hf_config, engine.name)
        self._scored = 0

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", dtype: str = "auto", max_rows: int | None = None
    ) -> VllmScorer:
        """Load a checkpoint directory or a hub id.

        Args:
            model: where it is.
            device: `auto`, `cpu` or `cuda`.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
            max_rows: solutions read at once; None: vLLM's own choice.

        Raises:
            SetupError: vLLM, the model or the device are not to be had, or the model is not fit.
        """
        engine = Engine(model, device, dtype, SCORER_SHARE, max_rows, runner="pooling")
        try:
            return cls(engine)
        except SetupError:
            engine.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return EngineInfo("vllm", self._engine.name, self._tokenizer.fingerprint, self._engine.device)

    @property
    def scored(self) -> int:
        """Tokens run through the model so far; those that vLLM found in its cache don't count."""
        return self._scored

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: the value of the solution after each segment, in [-1, 1], rounded to 4 decimals.

        Token ids in segments must be of this tokenizer (`info.tokenizer`).

        Raises:
            SetupError: the tokenizer writes tokens that the model does not know, vLLM's engine died, or a score is not
                a finite number.
        """
        ends = [[step_ends(self._tokenizer, each.prefix, branch) for branch in each.branches] for each in requests]
        values = self._values({ids for branches in ends for branch in branches for ids in branch})
        return [[tuple(values[ids] for ids in branch) for branch in branches] for branches in ends]

    def forget(self, prompt: Segment) -> None:
        """Nothing to do: vLLM drops what was not used for longest."""

    def close(self) -> None:
        """Free the memory."""
        self._engine.close()

    def _values(self, solutions: set[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
        from vllm import PoolingParams

        values = dict.fromkeys(solutions, BEYOND_CONTEXT)
        running: dict[str, tuple[int, ...]] = {}
        for ids in sorted(solutions, key=lambda ids: (len(ids), ids)):  # the shorter ones are prefixes of longer ones
            checkpoint.check_tokens(ids, self._engine.vocabulary, self._engine.name)
            if len(ids) <= self._engine.context:
                running[self._engine.add(ids, PoolingParams(task="classify", use_activation=False))] = ids
        while running:
            for name, output in self._engine.step():
                ids = running.pop(name)
                self._scored += len(ids) - output.num_cached_tokens
                values[ids] = to_value(float(output.outputs.data.flatten()[0]), self._scale, self._engine.name)
        return values


def classifies(config: Any) -> bool:
    """Whether a model's config names a sequence classifier, which vLLM takes as it is."""
    return any(kind.endswith("ForSequenceClassification") for kind in getattr(config, "architectures", None) or ())


def classifier_scale(config: Any, name: str) -> float:
    """By what the scores of a model that is not at hand itself are divided, from its config; see `value_scale`."""
    kinds = ", ".join(getattr(config, "architectures", None) or ())
    return value_scale(config, name, kinds, classifies=classifies(config))


def step_ends(tokenizer: StepTokenizer, prefix: Sequence[Segment], branch: Sequence[Segment]) -> list[tuple[int, ...]]:
    """Token ids of the solution up to the end of each of a branch's segments."""
    return [tuple(tokenizer.prefix_ids([*prefix, *branch[: i + 1]])) for i in range(len(branch))]
