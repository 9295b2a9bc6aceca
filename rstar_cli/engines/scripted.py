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
from collections import defaultdict
from collections.abc import Mapping, Sequence

from rstar_cli.prompts import ANSWER, ANSWER_END, CODE_END, OUTPUT, OUTPUT_END, STEP_END
from rstar_cli.protocols import Drawn, EngineInfo, Finish, Sample, SampleRequest, ScoreRequest, Segment, TokenUsage

SHARES = {"sound": 0.62, "slip": 0.2, "crash": 0.12, "malformed": 0.06}
"""How often each kind of step is written."""

WAYS = 4
"""Ways of writing each kind."""

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
        return EngineInfo(name="scripted", model="scripted", tokenizer="bytes", device="none", alternatives=256)

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
        opening = bytes(request.opening)
        written: list[bytes] = []
        logprobs: list[float] = []
        drawn: list[Drawn] = []
        ended = False
        while not ended:
            ways = self._ways(prompt, done + b"".join(written).decode(), opening)
            (step,) = rng.choices(list(ways), list(ways.values()))
            written.append(step)
            logprobs.append(math.log(ways[step] / sum(ways.values())))
            if request.alternatives:
                drawn += _told(step, ways, len(opening))
            opening = b""
            ended = step.decode().endswith(request.stop) or not step.decode().endswith(STEP_END)
        counts = [len(step) for step in written]
        counts[0] -= len(request.opening)
        self._usage.generated += sum(counts) + bool(request.opening)
        segments = tuple(Segment(step.decode(), tuple(step)) for step in written)
        finish: Finish = "stop" if segments[-1].text.endswith(request.stop) else "length"
        return Sample(segments, tuple(logprobs), finish, tuple(counts), tuple(drawn))

    def _ways(self, prompt: str, done: str, opening: bytes) -> dict[bytes, float]:
        """Every next step that begins with the opening, and how likely each is."""
        if CODE_END in done:
            printed = done.rpartition(OUTPUT)[2].partition(OUTPUT_END)[0]
            return {f"{ANSWER}\\boxed{{{printed}}}{ANSWER_END}".encode(): 1.0}
        number = done.count(STEP_END) + 1
        if number > 1 + len(prompt) % 3:
            answer = self._answers.get(prompt, "0")
            shown = f"{answer}1" if "slip" in done else answer
            return {f"\n# the answer\nprint({shown!r})\n{CODE_END}".encode(): 1.0}
        ways: dict[bytes, float] = {}
        for kind, share in SHARES.items():
            for way in range(1, WAYS + 1):  # several of each kind, so that candidates differ
                line = "1 / 0" if kind == "crash" else f"v{number} = {way}"
                step = f"\n# step {number}: {kind}, way {way}\n{line}\n{STEP_END}"
                if kind == "malformed":
                    step = f"\n# step {number}, way {way}, without an end"
                ways[step.encode()] = share / WAYS
        return {step: share for step, share in ways.items() if step.startswith(opening)}


def _told(step: bytes, ways: Mapping[bytes, float], begun: int) -> list[Drawn]:
    """What the script might have written in the place of each byte of a step, from byte `begun` on."""
    drawn: list[Drawn] = []
    for place in range(begun, len(step)):
        shares: defaultdict[int, float] = defaultdict(float)
        for way, share in ways.items():
            if way[:place] == step[:place] and len(way) > place:
                shares[way[place]] += share
        total = sum(shares.values())
        ids = sorted(shares, key=lambda byte: (-shares[byte], byte))
        drawn.append(Drawn(step[place], tuple(ids), tuple(round(math.log(shares[i] / total), 4) for i in ids)))
    return drawn


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
