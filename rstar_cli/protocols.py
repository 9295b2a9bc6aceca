"""What search asks of the world, and the plain values that cross that border.

`search/` knows only these. Engines, the sandbox and the grader fulfil them; tests use the shipped scripted engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from rstar_cli.errors import RstarError
from rstar_cli.records import ExecutionStatus, Verdict

Finish = Literal["stop", "eos", "length"]
"""Why sampling ended: a stop tag, the model's end-of-sequence token, or the token limit."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that is tokenised by itself: the prompt, one step, or one output block.

    Attributes:
        text: the text, tags included.
        token_ids: the ids as sampled; None where the engine shall tokenise the text itself.
    """

    text: str
    token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Ask for n continuations of one prefix.

    Attributes:
        prefix: the prompt, then every segment so far; at least the prompt.
        n: how many continuations, >= 1.
        seed: 64-bit seed; continuation i depends on (model, prefix, seed, i) alone, never on the batch it ran in.
        stop: tags that end a continuation; the tag belongs to the text.
        max_tokens: token limit of one continuation.
        temperature: 0 is greedy (then n is 1).
        opening: first tokens of the next step, chosen already; the continuation goes on from them. They may close that
            step: then it is a segment without new tokens, and if they end with a stop tag the continuation is empty.
            The last one counts as generated.
        alternatives: how many of the likeliest tokens to tell of at each new token (`Sample.drawn`); 0: none. At most
            the engine's `EngineInfo.alternatives`.
    """

    prefix: tuple[Segment, ...]
    n: int
    seed: int
    stop: tuple[str, ...]
    max_tokens: int
    temperature: float
    opening: tuple[int, ...] = ()
    alternatives: int = 0


LEAST_SHARE = 1e-4
"""Alternatives that are less than this times as likely as the likeliest, at the sampling temperature, are left out."""


class Drawn(NamedTuple):
    """A sampled token, and the likeliest ones that might have stood in its place.

    Attributes:
        token: the one that was sampled.
        ids: the likeliest tokens, likeliest first; the sampled one is the last of them where it is none of these.
        logprobs: of `ids` at temperature 1, nats, rounded to 4 decimals.
    """

    token: int
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One continuation, cut into steps after each `<end_of_step>` tag.

    Attributes:
        segments: the steps in order, at least one; the first begins with the request's opening; the last one may be
            unfinished (see `finish`).
        logprobs: the policy's log-probability of each segment's new tokens at temperature 1, nats, <= 0.
        finish: why it ended.
        tokens: new tokens of each segment; the end-of-sequence token counts for the last one, and is an empty segment
            where it comes after a whole step.
        drawn: the new tokens one by one, the end-of-sequence token too; empty unless alternatives were asked for.
    """

    segments: tuple[Segment, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    tokens: tuple[int, ...]
    drawn: tuple[Drawn, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself, for manifests.

    Attributes:
        name: `scripted`, `transformers`, ...
        model: name or path of the model.
        tokenizer: fingerprint of the tokenizer; token ids of equal fingerprints may be mixed.
        device: where it runs.
        alternatives: most alternatives to a token that a policy can tell of; 0: it can't.
    """

    name: str
    model: str
    tokenizer: str
    device: str
    alternatives: int = 0


@dataclass(slots=True)
class TokenUsage:
    """Tokens computed by an engine since it was made: sampled ones, and those of prefixes run through the model."""

    generated: int = 0
    prefilled: int = 0


class Policy(Protocol):
    """A model that proposes steps."""

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far."""

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in; `poll` gives its samples under this ticket."""

    def poll(self) -> Sequence[tuple[int, list[Sample] | RstarError]]:
        """Work until a request is answered; (ticket, its n samples) of those that are. Empty: nothing is asked.

        In place of samples stands the error of a request that is refused, where others may well be answered.
        """

    def count_tokens(self, segment: Segment) -> int:
        """Tokens of a segment, as the model reads it."""

    def forget(self, prompt: Segment) -> None:
        """Free whatever is cached for prefixes that start with this prompt: its search is over."""

    def close(self) -> None:
        """Give back memory and devices."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask a process reward model what continuations of one prefix are worth.

    Attributes:
        prefix: the prompt, then every segment so far; at least the prompt.
        branches: per branch, its new segments in order, at least one.
    """

    prefix: tuple[Segment, ...]
    branches: tuple[tuple[Segment, ...], ...]


class StepScorer(Protocol):
    """A process reward model (PRM)."""

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: the value in [-1, 1] of the solution as it stands after each of its segments.

        A value depends on (model, prefix, segments so far) alone, never on the batch.
        """

    def forget(self, prompt: Segment) -> None:
        """Free whatever is cached for prefixes that start with this prompt: its search is over."""

    def close(self) -> None:
        """Give back memory and devices."""


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """What became of one step's or program's code.

    Attributes:
        status: the outcome; failure is decided by it alone, never by the text.
        stdout: what this step printed (or the whole program), capped.
        error: exception type and message, with the step's own line; empty when ok.
        seconds: wall-clock time by the supervising side.
    """

    status: ExecutionStatus
    stdout: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end."""
        return self.status is ExecutionStatus.OK


@dataclass(frozen=True, slots=True)
class ExecuteRequest:
    """Run several branches, each a list of steps, on top of one common prefix of steps that ran well before.

    Attributes:
        prefix: code of the steps so far, in order; may be empty.
        branches: per branch, the code of its new steps in order; a branch ends at its first step that fails.
        tree: whose steps they are; states are shared within a tree alone. Empty: of none, nothing is kept.
    """

    prefix: tuple[str, ...]
    branches: tuple[tuple[str, ...], ...]
    tree: str = ""


class StepExecutor(Protocol):
    """Runs untrusted Python."""

    def execute(self, requests: Sequence[ExecuteRequest]) -> list[list[list[ExecutionResult]]]:
        """Per request, per branch: the results of its steps up to and with the first failure.

        Branches never see each other's effects. A prefix that fails on replay (it ran well before, so this is rare:
        a timeout on a loaded machine) gives every branch one result `lost`.
        """

    def forget(self, tree: str) -> None:
        """Free what is kept of a tree: its search is over. May be called from any thread."""

    def close(self) -> None:
        """End every process."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict and the grading stage that decided it (`string`, `number`, `symbolic`, `none`, ...)."""

    verdict: Verdict
    decided_by: str


class AnswerGrader(Protocol):
    """Compares answers with gold."""

    def grade(self, pairs: Sequence[tuple[str, str | None]]) -> list[Grade]:
        """Grade (gold, prediction) pairs, in order; a prediction of None is `no_answer`."""

    def close(self) -> None:
        """End every process."""
