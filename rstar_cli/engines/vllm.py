"""vLLM's offline engine as a policy: continuous batching, and prefixes kept in its own cache.

Run with vLLM 0.32 on a CPU. What it holds of the protocol's promises: a sample's random numbers are those of a
generator of its own, seeded by (seed, i) alone. The logits do hang on the batch in their last digits, so a rare draw or
a near tie may come out otherwise beside other requests (VLLM_BATCH_INVARIANT=1 ends that on GPUs that can).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rstar_cli.engines import checkpoint
from rstar_cli.engines.vllm_start import POLICY_SHARE, Engine
from rstar_cli.prompts import STEP_END
from rstar_cli.protocols import Drawn, EngineInfo, Finish, Sample, SampleRequest, Segment, TokenUsage

ALTERNATIVES = 20
"""Most alternatives to a token that are told of."""


@dataclass(slots=True, eq=False)
class _Row:
    """One sample under way.

    Attributes:
        ticket: its request.
        draw: its number among the request's samples.
        request: what was asked.
        start: token ids that it goes on from: the prefix and the opening.
        ids: tokens sampled so far, the end-of-sequence token left out.
        logprobs: of each, at temperature 1.
        drawn: each with its alternatives, the end-of-sequence token too; empty unless asked for.
        ends: (tokens, opening counted, at which a segment ends; characters of the last token behind its tag).
        finish: why it ended; None while it runs.
    """

    ticket: int
    draw: int
    request: SampleRequest
    start: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def step_ids(self) -> list[int]:
        """Tokens of its segments: the opening's and the sampled ones."""
        return [*self.request.opening, *self.ids]


class VllmPolicy:
    """A causal language model, or LoRA adapters of one, that proposes steps.

    Args:
        engine: vLLM with the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._tokenizer = engine.tokenizer
        config = engine.config
        told = config.try_get_generation_config().get("eos_token_id"), getattr(config.hf_config, "eos_token_id", None)
        self._eos = checkpoint.eos_tokens(engine.tokenizer, *told)
        self._usage = TokenUsage()
        self._running: dict[str, _Row] = {}
        self._ended: dict[int, list[_Row]] = {}
        self._answered: list[tuple[int, list[Sample]]] = []
        self._text = lru_cache(maxsize=1 << 18)(self._decode)

    @classmethod
    def load(
        cls, model: str | Path, *, device: str = "auto", dtype: str = "auto", max_rows: int | None = None
    ) -> VllmPolicy:
        """Load a checkpoint directory, one of LoRA adapters, or a hub id.

        Args:
            model: where it is.
            device: `auto`, `cpu` or `cuda`.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
            max_rows: samples decoded at once; None: vLLM's own choice.

        Raises:
            SetupError: vLLM, the model or the device are not to be had.
        """
        options = {"max_logprobs": ALTERNATIVES, "logprobs_mode": "raw_logprobs"}  # raw: at temperature 1
        return cls(Engine(model, device, dtype, POLICY_SHARE, max_rows, **options))

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return EngineInfo("vllm", self._engine.name, self._tokenizer.fingerprint, self._engine.device, ALTERNATIVES)

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far; those of prefixes that vLLM found in its cache don't count."""
        return self._usage

    def count_tokens(self, segment: Segment) -> int:
        """Tokens of a segment."""
        return len(self._tokenizer.segment_ids(segment))

    def forget(self, prompt: Segment) -> None:
        """Nothing to do: vLLM drops what was not used for longest."""

    def close(self) -> None:
        """Drop what is under way and free the memory."""
        self._running.clear()
        self._ended.clear()
        self._answered.clear()
        self._engine.close()

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in; the engine begins with it at once. `poll` gives its samples under this ticket.

        Raises:
            SetupError: the tokenizer writes tokens that the model does not know.
        """
        start = (*self._tokenizer.prefix_ids(request.prefix), *request.opening)
        checkpoint.check_tokens(start, self._engine.vocabulary, self._engine.name)
        self._usage.generated += bool(request.opening)
        self._ended[ticket] = []
        for draw in range(request.n):
            row = _Row(ticket, draw, request, start)
            if request.opening:
                self._begin(row)
            self._go_on(row)

    def poll(self) -> list[tuple[int, list[Sample]]]:
        """Wait until a request is answered; (ticket, samples) of those that are. Empty: nothing is asked.

        Raises:
            SetupError: vLLM's engine died.
        """
        while self._running and not self._answered:
            for name, output in self._engine.step():
                row = self._running.pop(name)
                self._usage.prefilled += len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
                self._take(row, output.outputs[0])
                self._go_on(row)
        answered, self._answered = self._answered, []
        return answered

    def _begin(self, row: _Row) -> None:
        """Note what the opening ends already: a step, or all of it."""
        if row.request.opening[-1] in self._eos:
            row.finish = "eos"
        elif self._closes(row):
            row.finish = "stop"

    def _go_on(self, row: _Row) -> None:
        """Ask the engine for a row's next tokens, or note that it has ended."""
        limit = min(row.request.max_tokens, self._engine.context - len(row.start)) - len(row.ids)
        if row.finish is None and limit > 0:
            self._running[self._engine.add((*row.start, *row.ids), self._params(row, limit))] = row
            return
        row.finish = row.finish or "length"
        ended = self._ended[row.ticket]
        ended.append(row)
        if len(ended) == row.request.n:
            del self._ended[row.ticket]
            samples = [self._sample(each) for each in sorted(ended, key=lambda r: r.draw)]
            self._answered.append((row.ticket, samples))

    def _params(self, row: _Row, limit: int) -> Any:
        """The parameters of a row's next tokens."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        request = row.request
        tags = [self._tokenizer.encode(tag) for tag in request.stop]
        return SamplingParams(
            temperature=request.temperature,
            seed=_seed(request.seed, row.draw, len(row.ids)),
            max_tokens=limit,
            stop=[*request.stop, *_remainders(self._text(tuple(row.step_ids[-_longest(request) :])), request.stop)],
            stop_token_ids=[*self._eos, *(ids[0] for ids in tags if len(ids) == 1)],
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
            logprobs=request.alternatives,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _take(self, row: _Row, completion: Any) -> None:
        """Put tokens that came to their row, up to a stop tag.

        vLLM's own text is not read: it is cut at a stop tag, while its tokens are not.
        """
        self._usage.generated += len(completion.token_ids)
        for token, likely in zip(completion.token_ids, completion.logprobs, strict=False):
            if row.request.alternatives:
                row.drawn.append(_drawn(token, likely, row.request.alternatives))
            if token in self._eos:
                row.finish = "eos"
                return
            row.ids.append(token)
            row.logprobs.append(likely[token].logprob)
            if self._closes(row):
                row.finish = "stop"
                return

    def _closes(self, row: _Row) -> bool:
        """Note a segment that the newest token ended; whether it ended the sample."""
        tags = (*row.request.stop, STEP_END)
        newest = self._text((row.step_ids[-1],))
        if newest.isascii() and not any(tag[-1] in newest for tag in tags):
            return False
        ids = row.step_ids
        begin = row.ends[-1][0] if row.ends else 0
        text = self._tokenizer.decode(ids[max(begin, len(ids) - _longest(row.request)) :])
        found = [(text.rfind(tag) + len(tag), tag in row.request.stop) for tag in tags if tag in text]
        if not found:
            return False
        place, stops = max(found)
        row.ends.append((len(ids), len(text) - place))
        return stops

    def _sample(self, row: _Row) -> Sample:
        """A row that ended as segments: the text up to each tag; its tokens where they end with the tag, too."""
        ids, opening = row.step_ids, len(row.request.opening)
        given_eos = row.finish == "eos" and ids[-1:] and ids[-1] in self._eos  # the opening's own: no new token
        if given_eos:
            ids = ids[:-1]
        ends = list(row.ends)
        if not ends or ends[-1][0] < len(ids):
            ends.append((len(ids), 0))
        segments: list[Segment] = []
        logprobs: list[float] = []
        counts: list[int] = []
        begin, behind = 0, ""  # behind: what the last token held behind its tag
        for end, more in ends:
            text = behind + self._tokenizer.decode(ids[begin:end])
            exact = not behind and not more
            text, behind = text[: len(text) - more], text[len(text) - more :]
            segments.append(Segment(text, tuple(ids[begin:end]) if exact else None))
            new = slice(max(0, begin - opening), max(0, end - opening))
            logprobs.append(round(sum(row.logprobs[new]), 4))
            counts.append(len(row.ids[new]))
            begin = end
        assert row.finish is not None  # noqa: S101
        counts[-1] += row.finish == "eos" and not given_eos
        return Sample(tuple(segments), tuple(logprobs), row.finish, tuple(counts), tuple(row.drawn))

    def _decode(self, ids: tuple[int, ...]) -> str:
        return self._tokenizer.decode(ids)


def _longest(request: SampleRequest) -> int:
    """Tokens at most that hold a tag of a request: a token holds a byte at least."""
    return max(len(tag.encode()) for tag in (*request.stop, STEP_END))


def _remainders(text: str, tags: Sequence[str]) -> list[str]:
    """What is left of tags that a text may have begun: vLLM looks for tags in what is new alone.

    It may stop at such a remainder elsewhere, too; the sample then goes on in another request.
    """
    return [tag[most:] for tag in tags for most in range(1, len(tag)) if text.endswith(tag[:most])]


def _seed(seed: int, draw: int, place: int) -> int:
    """Seed of a sample's tokens from a place on, 63 bits. vLLM's own rule, seed + i, has neighbours share samples."""
    mixed = seed ^ ((draw + 1) * 0xD1342543DE82EF95) ^ (place * 0x9E3779B97F4A7C15)
    return mixed & ((1 << 63) - 1)


def _drawn(token: int, likely: Mapping[int, Any], most: int) -> Drawn:
    """A token and the likeliest ones, from vLLM's log-probabilities: those and the token's own."""
    left_out = len(likely) > most  # then the token is none of the likeliest
    ids = sorted(likely, key=lambda i: (left_out and i == token, -likely[i].logprob, i))
    return Drawn(token, tuple(ids), tuple(round(likely[i].logprob, 4) for i in ids))
