"""Any causal language model of `transformers` as a policy: our own decode loop around the model's own forward pass."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.engines import checkpoint
from rstar_cli.engines.cache import BatchStates, PrefixCache
from rstar_cli.engines.decode import DecodeLoop, Endings, Prefix, Row, Shape, signed64
from rstar_cli.engines.prefix import CachedPrefix, prefill, run_model
from rstar_cli.errors import MemoryFullError
from rstar_cli.prompts import STEP_END
from rstar_cli.protocols import EngineInfo, Sample, SampleRequest, Segment, TokenUsage
from rstar_cli.tokens import StepTokenizer

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

ROW_TOKENS = 512
"""Tokens that a sample is thought to take where it may take more, for the estimate of how many fit."""

ADMIT_SHARE = 0.35
"""New rows wait until they are this share of the rows under way: taking them in costs passes of its own."""


class TransformersPolicy:
    """A causal language model that proposes steps.

    Keys and values are kept along the tree (`cache.py`), n samples share them, and sample i of a request depends on
    (model, prefix, seed, i) alone. A sequence ends at the model's context length at the latest.

    Args:
        model: a causal language model whose layers all attend to everything before them.
        tokenizer: its tokenizer.
        name: what to call it.
        max_rows: samples decoded at once.
        memory: bytes for kept keys and values, and as many for those of the batch.

    Raises:
        SetupError: the architecture is not fit.
    """

    def __init__(self, model: Any, tokenizer: StepTokenizer, *, name: str, max_rows: int, memory: int) -> None:
        import torch

        self._model = model.eval()
        self._tokenizer = tokenizer
        self._name = name
        self._max_rows = max_rows
        self._memory = memory
        self._cache = PrefixCache(memory)
        self._usage = TokenUsage()
        self._shape = Shape(checkpoint.state_shape(model), model.dtype, model.device)
        self._context = checkpoint.context_length(model)
        vocabulary = model.get_input_embeddings().num_embeddings
        may_close = torch.zeros(vocabulary, dtype=torch.bool, device=model.device)
        eos = checkpoint.eos_tokens(tokenizer, model.generation_config.eos_token_id, model.config.eos_token_id)
        self._endings = Endings(self._closes, may_close, eos)
        self._tag_ends: set[str] = set()
        self._watch_for((STEP_END,))
        self._loop = DecodeLoop(self._forward, self._shape, self._endings, self._keep)
        self._waiting: deque[_Asked] = deque()
        self._open: dict[int, _Asked] = {}
        self._smaller = False  # since the memory was full

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        max_rows: int | None = None,
        trust_remote_code: bool = False,
    ) -> TransformersPolicy:
        """Load a checkpoint directory or a hub id.

        Args:
            model: where it is.
            device: `auto` (a GPU where there is one), `cpu` or `cuda`. On a CPU, PyTorch gets all cores but one, which
                is the sandbox's, or what OMP_NUM_THREADS says.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
            max_rows: samples decoded at once; None: 256 on a CPU, 512 on a GPU, fewer where they would take more than a
                quarter of the free memory.
            trust_remote_code: run code that the checkpoint brings.

        Raises:
            SetupError: model or device are not to be had, or the architecture is not fit.
        """
        loaded, tokenizer = checkpoint.load(model, device, dtype, trust_remote_code=trust_remote_code)
        place = loaded.device.type
        return cls(
            loaded,
            tokenizer,
            name=str(model),
            max_rows=max_rows or (512 if place == "cuda" else 256),
            memory=int(checkpoint.MEMORY_SHARE * checkpoint.free_memory(str(loaded.device))),
        )

    @property
    def model(self) -> Any:
        """The model itself, for comparisons."""
        return self._model

    @property
    def tokenizer(self) -> StepTokenizer:
        """Its tokenizer."""
        return self._tokenizer

    @property
    def eos(self) -> frozenset[int]:
        """Its end-of-sequence tokens."""
        return self._endings.eos

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        device = str(self._shape.device)
        return EngineInfo("transformers", self._name, self._tokenizer.fingerprint, device, alternatives=256)

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far."""
        return self._usage

    def count_tokens(self, segment: Segment) -> int:
        """Tokens of a segment."""
        return len(self._tokenizer.segment_ids(segment))

    def forget(self, prompt: Segment) -> None:
        """Free the states of every prefix with this prompt."""
        self._cache.forget(tuple(self._tokenizer.prefix_ids([prompt])))

    def close(self) -> None:
        """Free the model and everything kept."""
        self._waiting.clear()
        self._open.clear()
        self._loop.clear()
        self._cache = PrefixCache(0)
        self._model = None

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in; `poll` gives its samples under this ticket.

        Raises:
            SetupError: the tokenizer writes tokens that the model does not know.
        """
        asked = _Asked(ticket, request, self._tokenizer)
        checkpoint.check_tokens(asked.ids, len(self._endings.may_close), self._name)
        self._watch_for(request.stop)
        self._usage.generated += bool(request.opening)
        self._wait(asked)

    def _wait(self, asked: _Asked) -> None:
        """Put a request behind those that wait."""
        for row in asked.to_begin:
            if row.given and self._closes(row):
                row.finish = "stop"
        self._waiting.append(asked)

    def poll(self) -> list[tuple[int, list[Sample]]]:
        """Decode until a request is answered; returns (ticket, samples) of those that are. Empty: nothing is asked.

        Where the device's memory is full, what is under way is begun anew, once, with half as much at a time.

        Raises:
            MemoryFullError: it was full again.
        """
        import torch

        try:
            return self._decode()
        except torch.OutOfMemoryError as error:
            told = f"the memory of {self._shape.device} is full with {self._loop.live} samples under way"
            if self._smaller:
                raise MemoryFullError(told, remedy="Give a smaller --batch, or a smaller model.") from error
        self._begin_anew(told)
        return self.poll()

    def _decode(self) -> list[tuple[int, list[Sample]]]:
        import torch

        with torch.inference_mode():
            while self._waiting or self._loop.live:
                ended = self._admit()
                if self._loop.live:
                    ended += self._loop.step()
                if answered := self._answered(ended):
                    return answered
        return []

    def _begin_anew(self, why: str) -> None:
        """Halve the memory that is used, and begin all requests again: a sample is the same whenever it is drawn."""
        import torch

        self._smaller = True
        self._max_rows = max(1, (self._loop.live or self._max_rows) // 2)
        self._memory //= 2
        logger.warning("%s: going on with %d at once", why, self._max_rows)
        asked = {each.ticket: each.request for each in (*self._open.values(), *self._waiting)}
        self._waiting.clear()
        self._open.clear()
        self._loop = DecodeLoop(self._forward, self._shape, self._endings, self._keep)
        self._cache = PrefixCache(self._memory)
        if self._shape.device.type == "cuda":
            torch.cuda.empty_cache()
        for ticket, request in sorted(asked.items()):
            self._wait(_Asked(ticket, request, self._tokenizer))

    def sample(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """Answer requests, in their order. Nothing else may be under way."""
        for ticket, request in enumerate(requests):
            self.submit(ticket, request)
        answers: dict[int, list[Sample]] = {}
        while len(answers) < len(requests):
            answers.update(self.poll())
        return [answers[ticket] for ticket in range(len(requests))]

    def _watch_for(self, tags: Sequence[str]) -> None:
        """Have rows looked at when a token comes that may end one of these tags."""
        for character in {tag[-1] for tag in tags} - self._tag_ends:
            self._tag_ends.add(character)
            may_close = self._endings.may_close
            may_close |= checkpoint.tokens_with(self._tokenizer, character, len(may_close)).to(may_close.device)

    def _admit(self) -> list[Row]:
        """Take waiting rows in when there is place and they are enough; returns those for which there is no context."""
        live = self._loop.live
        waiting = sum(len(asked.to_begin) for asked in self._waiting)
        if live and min(waiting, self._max_rows - live) < ADMIT_SHARE * live:
            return []
        taken: list[tuple[_Asked, list[Row]]] = []
        full: list[Row] = []
        longest = self._loop.longest
        while self._waiting:
            asked = self._waiting[0]
            longest = max(longest, len(asked.ids) + min(asked.request.max_tokens, ROW_TOKENS))
            fit = max(1, self._memory // (longest * self._shape.token_bytes))
            count = min(len(asked.to_begin), min(self._max_rows, fit) - live)
            if count <= 0:
                break
            rows, asked.to_begin = asked.to_begin[:count], asked.to_begin[count:]
            if not asked.to_begin:
                self._waiting.popleft()
            self._open[asked.ticket] = asked
            if rows[0].finish is None and self._bounded(rows):
                taken.append((asked, rows))
                live += count
                self._usage.prefilled += count  # each row runs the prefix's last token itself
            else:
                full += rows
        if taken:
            prefixes, room = [asked for asked, _ in taken], self._memory // self._shape.token_bytes
            self._usage.prefilled += prefill(prefixes, self._cache, self._forward, self._shape, room)
            self._loop.add([asked.prefix(rows) for asked, rows in taken])
        return full

    def _bounded(self, rows: Sequence[Row]) -> bool:
        """Hold rows of one request to the model's context; False where nothing of it is left, which ends them."""
        room = self._context - rows[0].start - rows[0].given if self._context is not None else rows[0].limit
        for row in rows:
            row.limit = min(row.limit, room)
            row.finish = None if room > 0 else "length"
        return room > 0

    def _answered(self, ended: Sequence[Row]) -> list[tuple[int, list[Sample]]]:
        """Note rows that ended; returns the requests that are answered by it."""
        answered: list[tuple[int, list[Sample]]] = []
        for row in ended:
            self._usage.generated += len(row.logprobs) + self._sampled_end(row)
            asked = self._open[row.ticket]
            asked.ended.append(row)
            if len(asked.ended) == asked.request.n:
                del self._open[row.ticket]
                rows = sorted(asked.ended, key=lambda r: r.draw)
                answered.append((row.ticket, [self._sample(r) for r in rows]))
        return answered

    def _keep(self, row: Row, states: Tensor) -> None:
        """Keep the states of a row that ended, for requests that will go on from anywhere within it."""
        asked = self._open[row.ticket]
        self._cache.keep(asked.prompt, asked.ids + tuple(row.ids[row.given : -1]), asked.entry, states)

    def _forward(self, ids: Tensor, positions: Tensor, states: BatchStates) -> Tensor:
        """Logits of the last position, [rows, vocabulary]."""
        out = run_model(self._model, ids, positions, states, logits_to_keep=1)
        logits: Tensor = out.logits[: len(ids), -1]
        return logits

    def _closes(self, row: Row) -> bool:
        """Note a segment that the newest token ended; whether it ended the sample."""
        begin = row.ends[-1] if row.ends else 0
        most = max(len(tag.encode()) for tag in (*row.stop, STEP_END))  # a token holds a byte at least
        text = self._tokenizer.decode(row.ids[max(begin, len(row.ids) - most) :])
        stops = any(tag in text for tag in row.stop)
        if stops or STEP_END in text:
            row.ends.append(len(row.ids))
        return stops

    def _sampled_end(self, row: Row) -> bool:
        """Whether the row ended by an end-of-sequence token of its own, not by one of its opening."""
        return row.finish == "eos" and not (row.ids and row.ids[-1] in self._endings.eos)

    def _sample(self, row: Row) -> Sample:
        ends = list(row.ends)
        if not ends or ends[-1] < len(row.ids) or self._sampled_end(row):
            ends.append(len(row.ids))
        segments: list[Segment] = []
        logprobs: list[float] = []
        counts: list[int] = []
        begin = 0
        for end in ends:
            ids = tuple(row.ids[begin:end])
            segments.append(Segment(self._tokenizer.decode(ids), ids))
            first, last = max(begin - row.given, 0), max(end - row.given, 0)
            logprobs.append(round(sum(row.logprobs[first:last]), 4))  # on a GPU the last digits hang on the batch
            counts.append(last - first)
            begin = end
        counts[-1] += self._sampled_end(row)
        assert row.finish is not None  # noqa: S101
        return Sample(tuple(segments), tuple(logprobs), row.finish, tuple(counts), tuple(row.told))


class _Asked(CachedPrefix):
    """A request under way.

    Attributes:
        ticket: what it is known by.
        request: what was asked.
        to_begin: rows that wait for a place.
        ended: rows that are done.
    """

    __slots__ = ("ended", "request", "ticket", "to_begin")

    def __init__(self, ticket: int, request: SampleRequest, tokenizer: StepTokenizer) -> None:
        super().__init__(request.prefix, tokenizer, request.opening)
        given = len(request.opening)
        self.ticket = ticket
        self.request = request
        self.to_begin = [
            Row(
                ticket,
                draw,
                signed64(request.seed ^ ((draw + 1) * 0xD1342543DE82EF95)),
                request.temperature,
                request.stop,
                request.max_tokens,
                len(self.ids) - given,
                list(request.opening),
                given,
                request.alternatives,
            )
            for draw in range(request.n)
        ]
        self.ended: list[Row] = []

    def prefix(self, rows: Sequence[Row]) -> Prefix:
        """The prefix with some of its rows, once its states are kept."""
        return Prefix(len(self.ids), self.ids[-1], self.entry, tuple(rows))
