"""A process reward model (PRM) on the layers of `transformers`: our own classifier with one label, or another head."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.engines import checkpoint
from rstar_cli.engines.cache import BatchStates, Entry, Ids, PrefixCache, whole
from rstar_cli.engines.decode import Shape
from rstar_cli.engines.prefix import CachedPrefix, batches, extend, lengthened, prefill, run_model
from rstar_cli.errors import MemoryFullError, SetupError
from rstar_cli.protocols import EngineInfo, ScoreRequest, Segment
from rstar_cli.tokens import StepTokenizer

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

VALUE_SCALE = "rstar_value_scale"
"""The attribute of config.json that says by what a score is divided before its tanh; 1 where it is missing."""

BEYOND_CONTEXT = -1.0
"""Value of a solution that is longer than the model's context: it can't be read to its end, so it counts as wrong."""


@dataclass(frozen=True, slots=True)
class Head:
    """How last hidden states become values: tanh(score / scale).

    A softmax over two classes is such a head, too: 2p - 1 = tanh((logit of the good one - logit of the bad one) / 2).

    Attributes:
        score: hidden states [n, hidden] -> scores [n]; row by row, n a multiple of `cache.TILE`.
        scale: > 0.
    """

    score: Callable[[Tensor], Tensor]
    scale: float


class TransformersScorer:
    """A process reward model: the value of a solution is tanh(score / scale), the score being its last token's.

    Keys and values are kept along the tree (`cache.py`), siblings share those of their prefix, and a branch's segments
    are scored in one pass. A value depends on (model, prefix, segments so far) alone, never on the batch. A solution
    longer than the model's context has the value `BEYOND_CONTEXT`.

    Args:
        model: a model whose layers all attend to everything before them.
        tokenizer: its tokenizer.
        name: what to call it.
        memory: bytes for kept keys and values, and as many for those of the batch.
        head: on top of its layers; None: the model is a sequence classifier with one label, and has one.

    Raises:
        SetupError: the architecture is not fit, or the value scale is no positive number.
    """

    def __init__(
        self, model: Any, tokenizer: StepTokenizer, *, name: str, memory: int, head: Head | None = None
    ) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._name = name
        self._cache = PrefixCache(memory)
        self._scored = 0
        self._head = head or _classifier_head(model, name)
        self._shape = Shape(checkpoint.state_shape(model), model.dtype, model.device)
        self._room = memory // self._shape.token_bytes
        self._smaller = False  # since the memory was full
        self._context = checkpoint.context_length(model)
        self._vocabulary = model.get_input_embeddings().num_embeddings

    @classmethod
    def load(cls, model: str | Path, *, device: str = "auto", dtype: str = "auto") -> TransformersScorer:
        """Load a checkpoint directory or a hub id.

        Args:
            model: where it is.
            device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`. On a CPU, PyTorch gets all cores but
                one, which is the sandbox's, or what OMP_NUM_THREADS says.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32`, `bfloat16` or `4bit`.

        Raises:
            SetupError: model or device are not to be had, or the model is not fit.
        """
        loaded, tokenizer = checkpoint.load(model, device, dtype, "SequenceClassification")
        return cls(loaded, tokenizer, name=str(model), memory=memory_beside(loaded.device))

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return EngineInfo("transformers", self._name, self._tokenizer.fingerprint, str(self._shape.device))

    @property
    def scored(self) -> int:
        """Tokens run through the model so far, padding not counted."""
        return self._scored

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: the value of the solution after each segment, in [-1, 1], rounded to 4 decimals.

        Token ids in segments must be of this tokenizer (`info.tokenizer`).

        Where the device's memory is full it begins again, once, with half as much at a time.

        Raises:
            SetupError: the tokenizer writes tokens that the model does not know, or a score is not a finite number.
            MemoryFullError: the memory was full again.
        """
        import torch

        try:
            return self._score(requests)
        except torch.OutOfMemoryError as error:
            told = f"the memory of {self._shape.device} is full while {self._name} scores steps"
            if self._smaller:
                raise MemoryFullError(told, remedy="Give a smaller --batch, or a smaller model.") from error
        logger.warning("%s: going on with half as many at once", told)
        self._smaller = True
        self._room //= 2
        self._cache = PrefixCache(self._room * self._shape.token_bytes)
        if self._shape.device.type == "cuda":
            torch.cuda.empty_cache()
        return self.score(requests)

    def _score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        import torch

        asked = [_Asked(request, self._tokenizer, self._context) for request in requests]
        for prefix in asked:
            for branch in prefix.branches:
                checkpoint.check_tokens(branch.ids, self._vocabulary, self._name)
        with torch.inference_mode():
            for portion in self._portions(asked):
                self._scored += prefill(portion, self._cache, self._forward, self._shape, self._room)
                readable = [branch for prefix in portion for branch in prefix.branches if branch.ends]
                for batch in batches(readable, self._shape, self._room):
                    self._run(batch)
                for prefix in portion:
                    prefix.entry = None  # from here on the cache alone says what stays in memory
        return [[tuple(branch.values) for branch in prefix.branches] for prefix in asked]

    def forget(self, prompt: Segment) -> None:
        """Free the states of every prefix with this prompt."""
        self._cache.forget(tuple(self._tokenizer.prefix_ids([prompt])))

    def close(self) -> None:
        """Free the model and everything kept."""
        self._cache = PrefixCache(0)
        self._model = None

    def _portions(self, asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
        """Cut requests that can be read into portions whose prefixes' states fit into memory side by side."""
        portion: list[_Asked] = []
        tokens = 0
        for prefix in asked:
            if any(branch.ends for branch in prefix.branches):
                tokens += len(prefix.ids)
                if portion and tokens > self._room:
                    yield portion
                    portion, tokens = [], len(prefix.ids)
                portion.append(prefix)
        if portion:
            yield portion

    def _run(self, batch: Sequence[_Branch]) -> None:
        """Score the segments of branches in one forward pass, and keep the branches' states."""
        hidden, states = extend(batch, self._forward, self._shape)
        places = [(row, end - 1 - branch.prefix.covered) for row, branch in enumerate(batch) for end in branch.ends]
        values = iter(self._values(hidden[tuple(zip(*places, strict=True))]))
        for row, branch in enumerate(batch):
            self._scored += len(branch.new)
            for segment in range(len(branch.ends)):
                branch.values[segment] = next(values)
            kept = states.slice(row, branch.prefix.covered, len(branch.ids) - 1)
            self._cache.keep(branch.prefix.prompt, branch.ids[:-1], branch.entry, kept)

    def _forward(self, ids: Tensor, positions: Tensor, states: BatchStates) -> Tensor:
        """Last hidden states, [rows, q, hidden]."""
        hidden: Tensor = run_model(self._model.base_model, ids, positions, states).last_hidden_state
        return hidden

    def _values(self, hidden: Tensor) -> list[float]:
        """Values of hidden states [n, hidden]."""
        import torch

        padding = (0, 0, 0, whole(len(hidden)) - len(hidden))
        scores = self._head.score(torch.nn.functional.pad(hidden, padding))[: len(hidden)]
        return [to_value(score, self._head.scale, self._name) for score in scores.tolist()]


class _Asked(CachedPrefix):
    """A request under way: its prefix, and its branches.

    Args:
        request: what was asked.
        tokenizer: the model's.
        context: most tokens that the model reads; None: no limit.
    """

    __slots__ = ("branches",)

    def __init__(self, request: ScoreRequest, tokenizer: StepTokenizer, context: int | None) -> None:
        super().__init__(request.prefix, tokenizer)
        self.branches: list[_Branch] = []
        for segments in request.branches:
            ids, ends = lengthened(self.ids, segments, tokenizer)
            within = [end for end in ends if context is None or end <= context]
            self.branches.append(_Branch(self, ids[: max(within, default=0)], within, [BEYOND_CONTEXT] * len(ends)))


@dataclass(frozen=True, slots=True, eq=False)
class _Branch:
    """A branch of a request.

    Attributes:
        prefix: what it goes on from.
        ids: token ids of prefix and branch, those of segments beyond the model's context left out.
        ends: token counts at which its segments end, those beyond the context left out.
        values: of the solution after each segment; of those beyond the context from the start.
    """

    prefix: _Asked
    ids: Ids
    ends: list[int]
    values: list[float]

    @property
    def entry(self) -> Entry | None:
        """Kept states of the prefix."""
        return self.prefix.entry

    @property
    def new(self) -> Ids:
        """Tokens to run: the prefix's last one, and the branch's."""
        return self.ids[self.prefix.covered :]


def memory_beside(device: Any) -> int:
    """Bytes that a PRM may take for kept keys and values (and again for its batch) on a device, its weights loaded.

    Half a share: the policy beside it has been promised two, which it need not have taken yet.
    """
    return int(checkpoint.MEMORY_SHARE / 2 * checkpoint.free_memory(str(device)))


def _classifier_head(model: Any, name: str) -> Head:
    """The head of a sequence classifier.

    Raises:
        SetupError: the model does not give one score a token, or states a scale that is no positive number.
    """
    scale = value_scale(model.config, name, type(model).__name__, classifies=hasattr(model, "score"))
    return Head(lambda hidden: model.score(hidden)[:, 0], scale)


def to_value(score: float, scale: float, name: str) -> float:
    """The value in [-1, 1] of a model's score, rounded to 4 decimals.

    Args:
        score: what the model gives.
        scale: by what it is divided before its tanh.
        name: what to call the model.

    Raises:
        SetupError: the score is not a finite number.
    """
    if not math.isfinite(score):
        raise SetupError(
            f"{name} gives scores that are not finite numbers",
            remedy="Give --dtype float32, or train the process reward model again at a lower learning rate.",
        )
    return round(math.tanh(score / scale), 4)


def value_scale(config: Any, name: str, kind: str, *, classifies: bool) -> float:
    """By what a model's scores are divided before their tanh, > 0.

    Args:
        config: the model's, of transformers.
        name: what to call the model.
        kind: its class.
        classifies: whether it has a head over labels.

    Raises:
        SetupError: it does not give one score a token, or states a scale that is no positive number.
    """
    if config.num_labels != 1 or not classifies:
        raise SetupError(
            f"{name} is no process reward model: {kind or 'a model'} with {config.num_labels} label(s), a head `score` "
            "over one label is needed",
            remedy="Give a checkpoint that `rstar train-prm` made, or a reward model with one label.",
        )
    scale = getattr(config, VALUE_SCALE, 1.0)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise SetupError(
            f"config.json of {name}: {VALUE_SCALE} must be a positive number, not {scale!r}",
            remedy="Give a checkpoint that `rstar train-prm` made, or correct its config.json.",
        )
    return float(scale)
