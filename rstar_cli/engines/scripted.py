"""Shipped stand-ins for models: a deterministic script that answers any problem, and one that scores its steps.

For tests, demos and dry runs. The policy writes real steps in the real format, which really run: sound steps, slips
(the program ends with a wrong answer), steps that crash, and text that is no step, in the shares below. What it writes
depends on the request's seed and prefix alone.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence

from rstar_cli.prompts import ANSWER, ANSWER_END, CODE_END, OUTPUT, OUTPUT_END, STEP_END
from rstar_cli.protocols import EngineInfo, Finish, Sample, SampleRequest, ScoreRequest, Segment, TokenUsage

SHARES = {"sound": 0.62, "slip": 0.2, "crash": 0.12, "malformed": 0.06}
"""How often each kind of step is written."""

_SLIP = re.compile(r"^\s*#.*\bslip\b", re.MULTILINE)


class ScriptedPolicy:
    """The stand-in for a policy.

    Args:
        answers: the right answer by prompt text; the script is "right" where it ends without a slip. A prompt that is
            not among them gets the answer 0.
    """

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._answers = answers
        self._usage = TokenUsage()
        self._asked: list[tuple[int, SampleRequest]] = []

    @property
    def info(self) -> EngineInfo:
        """What the engine is; a token is a byte of UTF-8."""
        return EngineInfo(name="scripted", model="scripted", tokenizer="bytes", device="none")

    @property
    def usage(self) -> TokenUsage:
        """Bytes written and read so far."""
        return self._usage

    def count_tokens(self, segment: Segment) -> int:
        """Bytes of a segment."""
        return len(segment.text.encode())

    def submit(self, ticket: int, request: SampleRequest) -> None:
        """Take a request in."""
        self._asked.append((ticket, request))

    def poll(self) -> list[tuple[int, list[Sample]]]:
        """Answer every request by the script."""
        asked, self._asked = self._asked, []
        return [(ticket, [self._write(request, i) for i in range(request.n)]) for ticket, request in asked]

    def forget(self, prompt: Segment) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Nothing is held."""

    def _write(self, request: SampleRequest, draw: int) -> Sample:
        prompt = request.prefix[0].text
        done = "".join(segment.text for segment in request.prefix[1:])
        place = f"{prompt}\x1f{done}" if request.temperature == 0 else f"{request.seed}\x1f{draw}"
        rng = random.Random(place)  # seeded by text: the same on every machine
        written: list[str] = []
        logprobs: list[float] = []
        while not written or not written[-1].endswith(request.stop):
            text, share = self._step(prompt, done + "".join(written), rng)
            written.append(text)
            logprobs.append(math.log(share))
            if STEP_END not in text and not text.endswith(request.stop):
                break
        segments = tuple(Segment(text, tuple(text.encode())) for text in written)
        counts = tuple(len(segment.token_ids or ()) for segment in segments)
        self._usage.generated += sum(counts)
        finish: Finish = "stop" if written[-1].endswith(request.stop) else "length"
        return Sample(segments, tuple(logprobs), finish, counts)

    def _step(self, prompt: str, done: str, rng: random.Random) -> tuple[str, float]:
        """The next step's text and how likely it is."""
        if CODE_END in done:
            printed = done.rpartition(OUTPUT)[2].partition(OUTPUT_END)[0]
            return f"{ANSWER}\\boxed{{{printed}}}{ANSWER_END}", 1.0
        number = done.count(STEP_END) + 1
        if number > 1 + len(prompt) % 3:
            answer = self._answers.get(prompt, "0")
            shown = f"{answer}1" if "slip" in done else answer
            return f"\n# the answer\nprint({shown!r})\n{CODE_END}", 1.0
        (kind,) = rng.choices(list(SHARES), weights=list(SHARES.values()))
        way = rng.randint(1, 4)  # several ways of each kind, so that candidates differ
        share = SHARES[kind] / 4
        if kind == "malformed":
            return f"\n# step {number}, way {way}, without an end", share
        line = "1 / 0" if kind == "crash" else f"v{number} = {way}"
        return f"\n# step {number}: {kind}\n{line}\n{STEP_END}", share


class ScriptedScorer:
    """The stand-in for a process reward model: steps whose comments tell of a slip are worth less, with some noise."""

    def __init__(self) -> None:
        self._scored = 0

    @property
    def info(self) -> EngineInfo:
        """What the engine is; a token is a byte of UTF-8."""
        return EngineInfo(name="scripted", model="scripted", tokenizer="bytes", device="none")

    @property
    def scored(self) -> int:
        """Bytes of branches read so far."""
        return self._scored

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: values after each segment, in [-1, 1], rounded to 4 decimals; of the text alone."""
        return [[self._values(request.prefix, branch) for branch in request.branches] for request in requests]

    def forget(self, prompt: Segment) -> None:
        """Nothing is cached."""

    def close(self) -> None:
        """Nothing is held."""

    def _values(self, prefix: Sequence[Segment], branch: Sequence[Segment]) -> tuple[float, ...]:
        prompt, done = prefix[0].text, "".join(segment.text for segment in prefix[1:])
        values: list[float] = []
        for segment in branch:
            self._scored += len(segment.text.encode())
            done += segment.text
            digest = hashlib.blake2b((prompt + done).encode(), digest_size=8).digest()
            noise = int.from_bytes(digest, "big") / 2**63 - 1  # in [-1, 1]
            values.append(round((-0.6 if _SLIP.search(done) else 0.6) + 0.3 * noise, 4))
        return tuple(values)
