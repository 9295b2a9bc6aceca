"""Any causal language model of `transformers` as a policy: our own decode loop around the model's own forward pass."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.cores import leave_one_core
from rstar_cli.engines.cache import BatchStates, Entry, Ids, PrefixCache
from rstar_cli.engines.decode import DecodeLoop, Endings, Prefix, Row, Shape, signed64
from rstar_cli.errors import SetupError
from rstar_cli.prompts import STEP_END
from rstar_cli.protocols import EngineInfo, Sample, SampleRequest, Segment, TokenUsage
from rstar_cli.tokens import StepTokenizer

if TYPE_CHECKING:
    from torch import Tensor

CACHE_SHARE = 0.25
"""Share of the free memory that kept keys and values may take; a batch may take as much again."""

MAX_ROWS = 1024
"""Most samples decoded at once by default."""

ROW_TOKENS = 1024
"""Tokens of a row, for the estimate of how many rows fit."""

ADMIT_SHARE = 0.35
"""New rows wait until they are this share of the rows under way: taking them in costs passes of its own."""

PREFILL_TOKENS = 8192
"""Tokens, padding counted, of one forward pass over new prefixes."""


class TransformersPolicy:
    """A causal language model that proposes steps.

    Keys and values are kept along the tree (`cache.py`), n samples share them, and sample i of a
    request depends on (model, prefix, seed, i) alone.

    Args:
        model: a causal language model whose layers all attend to everything before them.
        tokenizer: its tokenizer.
        name: what to call it.
        max_rows: samples decoded at once.
        cache_bytes: memory for kept keys and values.
    """

    def __init__(self, model: Any, tokenizer: StepTokenizer, *, name: str, max_rows: int, cache_bytes: int) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._name = name
        self._max_rows = max_rows
        self._cache = PrefixCache(cache_bytes)
        self._usage = TokenUsage()
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._shape = Shape((config.num_hidden_layers, heads, width), model.dtype, model.device)
        may_close = _closing_tokens(tokenizer, config.vocab_size).to(model.device)
        self._endings = Endings(self._closes, may_close, _eos_tokens(model, tokenizer))
        self._loop = DecodeLoop(self._forward, self._shape, self._endings, self._keep)
        self._waiting: deque[tuple[int, SampleRequest]] = deque()
        self._open: dict[int, _Asked] = {}

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", dtype: str = "auto", max_rows: int | None = None
    ) -> TransformersPolicy:
        """Load a checkpoint directory or a hub id.

        Args:
            model: where it is.
            device: `auto` (a GPU where there is one), `cpu` or `cuda`. On a CPU, PyTorch gets all cores but one, which
                is the sandbox's, or what OMP_NUM_THREADS says.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
            max_rows: samples decoded at once; None: as many as a quarter of the free memory holds, at most 1024.

        Raises:
            SetupError: model or device are not to be had, or the architecture is not fit.
        """
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        if device == "cuda" and not torch.cuda.is_available():
            raise SetupError("no CUDA device is to be seen", remedy="Give --device cpu, or check the driver.")
        place = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        if place == "cpu":
            leave_one_core()
        number = {"auto": torch.bfloat16 if place == "cuda" else torch.float32}.get(dtype) or getattr(torch, dtype)
        tokenizer = StepTokenizer.load(model)
        try:
            loaded = AutoModelForCausalLM.from_pretrained(
                str(model), dtype=number, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
            )
        except (OSError, ValueError) as error:
            raise SetupError(
                f"no model at {model}: {error}",
                remedy="Give a checkpoint directory with config.json and model.safetensors, or a hub id within reach.",
            ) from error
        kinds = set(getattr(loaded.config.get_text_config(), "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise SetupError(
                f"{model} has layers of {', '.join(sorted(kinds))}: only full attention keeps states along a tree",
                remedy="Take a model with full attention in every layer, as Qwen2 and Llama have.",
            )
        rows = max_rows or (512 if place == "cuda" else 256)
        free = torch.cuda.mem_get_info()[0] if place == "cuda" else _free_memory()
        return cls(loaded.to(place), tokenizer, name=str(model), max_rows=rows, cache_bytes=int(CACHE_SHARE * free))

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        device = str(self._shape.device)
        return EngineInfo("transformers", self._name, self._tokenizer.fingerprint, device)

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far."""
        return self._usage

    def count_tokens(self, segment: Segment) -> int:
        """Tokens of a segment."""
        return len(self._tokenizer.encode(segment.text) if segment.token_ids is None else segment.token_ids)

    def forget(self, prompt: Segment) -> None:
        """Free the states of every prefix with this prompt."""
        self._cache.forget(tuple(self._tokenizer.prefix_ids([prompt])))

    def close(self) -> None:
        """Free the model and everything kept."""
        self._model = None
        self._cache = PrefixCache(0)

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in; `poll` gives its samples under this ticket."""
        self._waiting.append((ticket, request))

    def poll(self) -> list[tuple[int, list[Sample]]]:
        """Decode until a request is answered; returns (ticket, samples) of those that are. Empty: nothing is asked."""
        import torch

        with torch.inference_mode():
            while self._waiting or self._loop.live:
                self._admit()
                if answered := self._answered(self._loop.step()):
                    return answered
        return []

    def sample(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """Answer requests, in their order. Nothing else may be under way."""
        for ticket, request in enumerate(requests):
            self.submit(ticket, request)
        answers: dict[int, list[Sample]] = {}
        while len(answers) < len(requests):
            answers.update(self.poll())
        return [answers[ticket] for ticket in range(len(requests))]

    def _admit(self) -> None:
        """Take waiting requests in when there is place and they are enough."""
        live = self._loop.live
        waiting = sum(request.n for _, request in self._waiting)
        if not waiting or (live and waiting < ADMIT_SHARE * live):
            return
        taken: list[_Asked] = []
        while self._waiting and (live == 0 or live + self._waiting[0][1].n <= self._max_rows):
            ticket, request = self._waiting.popleft()
            taken.append(_Asked(ticket, request, self._tokenizer))
            live += request.n
        if taken:
            self._prefill(taken)
            self._open.update((asked.ticket, asked) for asked in taken)
            self._loop.add([asked.prefix() for asked in taken])

    def _answered(self, ended: Sequence[Row]) -> list[tuple[int, list[Sample]]]:
        answered: list[tuple[int, list[Sample]]] = []
        for row in ended:
            self._usage.generated += len(row.ids) + (row.finish == "eos")
            asked = self._open[row.ticket]
            asked.ended.append(row)
            if len(asked.ended) == asked.request.n:
                del self._open[row.ticket]
                rows = sorted(asked.ended, key=lambda r: r.draw)
                answered.append((row.ticket, [self._sample(r) for r in rows]))
        return answered

    def _prefill(self, asked: Sequence[_Asked]) -> None:
        """Run what is new of each prefix through the model, all but its last token, and keep its states."""
        todo: dict[Ids, _Asked] = {}
        for prefix in asked:
            prefix.entry = self._cache.longest(prefix.prompt, prefix.ids, prefix.ends)
            self._usage.prefilled += prefix.missing + prefix.request.n  # each row runs the last token itself
            if prefix.missing:
                todo.setdefault(prefix.ids, prefix)
        group: list[_Asked] = []
        for prefix in sorted(todo.values(), key=lambda p: p.missing):
            if group and (len(group) + 1) * prefix.missing > PREFILL_TOKENS:
                self._prefill_group(group)
                group = []
            group.append(prefix)
        if group:
            self._prefill_group(group)
        for prefix in asked:
            if prefix.missing:
                prefix.entry = todo[prefix.ids].entry

    def _prefill_group(self, group: Sequence[_Asked]) -> None:
        import torch

        device = self._shape.device
        new = max(prefix.missing for prefix in group)
        end = max(prefix.covered for prefix in group) + new
        states = BatchStates(self._shape.states, len(group), end, self._shape.dtype, device)
        ids = torch.zeros((len(group), new), dtype=torch.int64)
        for row, prefix in enumerate(group):
            states.load(row, prefix.entry)
            ids[row, : prefix.missing] = torch.tensor(prefix.ids[prefix.covered : -1])
        covered = torch.tensor([prefix.covered for prefix in group])
        positions = covered[:, None] + torch.arange(new)  # shorter rows run on into padding, which nobody looks at
        self._forward(ids.to(device), positions.to(device), states)
        for row, prefix in enumerate(group):
            kept = states.slice(row, prefix.covered, prefix.covered + prefix.missing)
            prefix.entry = self._cache.keep(prefix.prompt, prefix.ids, prefix.entry, kept)

    def _keep(self, row: Row, states: Tensor) -> None:
        """Keep the states of a row that ended, segment by segment, for requests that will go on from there."""
        prefix = self._open[row.ticket]
        parent, before = prefix.entry, 0
        for end in row.ends or [len(row.ids)]:
            ids = prefix.ids + tuple(row.ids[:end])
            parent = self._cache.keep(prefix.prompt, ids, parent, states[:, :, :, before:end])
            before = end

    def _forward(self, ids: Tensor, positions: Tensor, states: BatchStates) -> Tensor:
        cache, mask = states.at(positions)
        out = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    def _closes(self, row: Row) -> bool:
        """Note a segment that the newest token ended; whether it ended the sample."""
        begin = row.ends[-1] if row.ends else 0
        text = self._tokenizer.decode(row.ids[begin:])
        if any(tag in text for tag in row.stop):
            row.ends.append(len(row.ids))
            return True
        if STEP_END in text:
            row.ends.append(len(row.ids))
        return False

    def _sample(self, row: Row) -> Sample:
        ends = list(row.ends)
        if not ends or ends[-1] < len(row.ids):
            ends.append(len(row.ids))
        segments: list[Segment] = []
        logprobs: list[float] = []
        begin = 0
        for end in ends:
            ids = tuple(row.ids[begin:end])
            segments.append(Segment(self._tokenizer.decode(ids), ids))
            logprobs.append(round(sum(row.logprobs[begin:end]), 4))  # the last digits hang on the batch
            begin = end
        assert row.finish is not None  # noqa: S101
        return Sample(tuple(segments), tuple(logprobs), row.finish)


class _Asked:
    """A request under way.

    Attributes:
        ticket: what it is known by.
        request: what was asked.
        ids: token ids of the whole prefix.
        prompt: the prompt's.
        ends: token counts at which the prefix's segments end.
        entry: the longest part whose states are kept.
        ended: rows that are done.
    """

    __slots__ = ("ended", "ends", "entry", "ids", "prompt", "request", "ticket")

    def __init__(self, ticket: int, request: SampleRequest, tokenizer: StepTokenizer) -> None:
        self.ticket = ticket
        self.request = request
        self.prompt: Ids = tuple(tokenizer.prefix_ids(request.prefix[:1]))
        ids = list(self.prompt)
        self.ends = [len(ids)]
        for segment in request.prefix[1:]:
            ids += tokenizer.encode(segment.text) if segment.token_ids is None else segment.token_ids
            self.ends.append(len(ids))
        self.ids: Ids = tuple(ids)
        self.entry: Entry | None = None
        self.ended: list[Row] = []

    def prefix(self) -> Prefix:
        """The prefix with its rows, once its states are kept."""
        asked = self.request
        rows = tuple(
            Row(
                self.ticket,
                draw,
                signed64(asked.seed ^ ((draw + 1) * 0xD1342543DE82EF95)),
                asked.temperature,
                asked.stop,
                asked.max_tokens,
                len(self.ids),
            )
            for draw in range(asked.n)
        )
        return Prefix(len(self.ids), self.ids[-1], self.entry, rows)

    @property
    def covered(self) -> int:
        """Tokens with kept states."""
        return self.entry.covered if self.entry is not None else 0

    @property
    def missing(self) -> int:
        """Tokens, the last one left out, that must go through the model first."""
        return len(self.ids) - 1 - self.covered


def _eos_tokens(model: Any, tokenizer: StepTokenizer) -> frozenset[int]:
    found: set[int] = set()
    for ids in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.hf.eos_token_id):
        found.update(ids if isinstance(ids, list) else [ids] if ids is not None else [])
    return frozenset(found)


def _closing_tokens(tokenizer: StepTokenizer, vocabulary: int) -> Tensor:
    """Tokens whose text holds the last character of the tags. Shape [vocabulary], bool."""
    import torch

    closing = torch.zeros(vocabulary, dtype=torch.bool)
    for text, token in tokenizer.hf.get_vocab().items():
        if STEP_END[-1] in text and token < vocabulary:
            closing[token] = True
    return closing


def _free_memory() -> int:
    """Bytes of memory that are free, or 4 GiB where the system does not tell."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 << 30
