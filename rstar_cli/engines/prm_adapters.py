r"""Public process reward models: what each reads, and how it says what a step is worth.

`read_scorer` picks by config.json: Qwen2.5-Math-PRM (architecture `Qwen2ForProcessRewardModel`), Math-Shepherd (by its
name), else a checkpoint of ours (`prm.py`). No code of a checkpoint is ever run.

Both were trained on solutions in words; ours are comments and Python, which nobody has told them how to read. What
was chosen: a step is shown as it stands, comment and code, without our tags; of a prompt the problem alone is shown, no
worked example; what a program printed becomes a last line `Output: ...` of the step that printed it. A step is scored
before its program's output is known, and once more where the output is asked about. How well such values rank steps of
code has not been measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rstar_cli.checkpoint_files import check_files, not_loaded
from rstar_cli.engines import checkpoint
from rstar_cli.engines.prm import Head, TransformersScorer, memory_beside
from rstar_cli.errors import SetupError
from rstar_cli.prompts import OUTPUT, OUTPUT_END, PROMPT_HEAD, PROMPT_TAIL, TAGS
from rstar_cli.protocols import EngineInfo, ScoreRequest, Segment, StepScorer
from rstar_cli.tokens import StepTokenizer

if TYPE_CHECKING:
    from torch import Tensor

QWEN_ARCHITECTURE = "Qwen2ForProcessRewardModel"
QWEN_SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
SHEPHERD_NAME = "math-shepherd"


class PrmAdapter(Protocol):
    """What one kind of public PRM reads."""

    @property
    def mark(self) -> str:
        """What stands after each step; a value is read at its last token. It never merges with what is beside it."""

    @property
    def between(self) -> str:
        """What stands between a step and its mark."""

    def opening(self, problem: str) -> str:
        """The text before the first step."""

    def step(self, number: int, text: str) -> str:
        """A step, counted from 1, as it stands after the opening or after the mark before it."""


@dataclass(frozen=True, slots=True)
class QwenPrm:
    """Qwen2.5-Math-PRM, as its model card has it: a chat whose answer is steps, `<extra_0>` after each.

    Attributes:
        tokenizer: its tokenizer, with its chat template.
    """

    tokenizer: StepTokenizer
    mark: str = "<extra_0>"
    between: str = ""

    def opening(self, problem: str) -> str:
        """System prompt and problem in the chat template, up to where the answer begins."""
        turns = [{"role": "system", "content": QWEN_SYSTEM}, {"role": "user", "content": problem}]
        return str(self.tokenizer.hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def step(self, number: int, text: str) -> str:  # noqa: ARG002
        """The step itself."""
        return text


@dataclass(frozen=True, slots=True)
class ShepherdPrm:
    """Math-Shepherd, as its model card has it: `PROBLEM Step 1: ... ки`, then `Step 2: ... ки` on a line of its own."""

    mark: str = "ки"
    between: str = " "

    def opening(self, problem: str) -> str:
        """The problem."""
        return problem

    def step(self, number: int, text: str) -> str:
        """The step with its number."""
        return f"{' ' if number == 1 else chr(10)}Step {number}: {text}"


@dataclass(slots=True)
class _Line:
    """A solution in the model's own segments: opening, then step and mark in turn, the last mark still to come.

    Attributes:
        segments: so far.
        steps: how many steps.
        open: whether the last step's mark is still to come, since output may follow.
    """

    segments: list[Segment]
    steps: int = 0
    open: bool = False


class PublicPrm:
    """A public PRM as a `StepScorer`: requests are written anew for it, and a `TransformersScorer` does the rest.

    So keys and values are kept along the tree here, too, and a value never depends on the batch. Texts alone are read:
    token ids in segments are another tokenizer's.

    Args:
        adapter: what it reads.
        tokenizer: its tokenizer.
        scorer: its layers and its head.
        name: what to call it.

    Raises:
        SetupError: the tokenizer does not know the mark as one token.
    """

    def __init__(self, adapter: PrmAdapter, tokenizer: StepTokenizer, scorer: TransformersScorer, *, name: str) -> None:
        self._adapter = adapter
        self._tokenizer = tokenizer
        self._scorer = scorer
        # a tokenizer may put a space before a text: what counts is the mark as it stands after a step
        self._mark_ids = tokenizer.encode(adapter.mark)
        last = self._mark_ids[-1:]
        probe = tokenizer.encode(f"{adapter.mark}{adapter.step(2, 'x')}{adapter.between}{adapter.mark}")
        whole = (*self._mark_ids, *self._after_mark(adapter.step(2, "x")), *last)
        if tokenizer.decode(last).strip() != adapter.mark or probe != whole:
            raise SetupError(
                f"the tokenizer of {name} does not know {adapter.mark!r} as one token",
                remedy=checkpoint.PUBLISHED,
            )
        self._mark = Segment(adapter.between + adapter.mark, last)

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return self._scorer.info

    @property
    def scored(self) -> int:
        """Tokens run through the model so far, padding not counted."""
        return self._scorer.scored

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """Per request, per branch: 2p - 1 after each segment, in [-1, 1], to 4 decimals; p: that the step is good.

        Raises:
            SetupError: as of `TransformersScorer.score`.
        """
        written = [self._written(request) for request in requests]
        values = self._scorer.score([request for request, _ in written])
        return [
            [tuple(found[row][segment] for row, segment in branch) for branch in places]
            for found, (_, places) in zip(values, written, strict=True)
        ]

    def forget(self, prompt: Segment) -> None:
        """Free the states of every prefix with this prompt."""
        self._scorer.forget(self._opened(prompt).segments[0])

    def close(self) -> None:
        """Free the model and everything kept."""
        self._scorer.close()

    def _opened(self, prompt: Segment) -> _Line:
        """The line of a prompt with no step: its problem, or all of it where it is none of `render_prompt`."""
        problem = prompt.text.rpartition(PROMPT_HEAD)[2].partition(PROMPT_TAIL)[0]
        return _Line([Segment(self._adapter.opening(self._plain(problem)))])

    def _extend(self, line: _Line, segment: Segment) -> list[Segment]:
        """Put a step or an output block after a line; returns what was put there, no mark behind it yet."""
        text = segment.text.strip()
        if line.open and text.startswith(OUTPUT) and text.endswith(OUTPUT_END):
            more = [self._after(f"\nOutput: {self._plain(text)}")]
        else:
            line.steps += 1
            step = self._after(self._adapter.step(line.steps, self._plain(text)))
            more = [self._mark, step] if line.open else [step]
        line.segments += more
        line.open = True
        return more

    def _written(self, request: ScoreRequest) -> tuple[ScoreRequest, list[list[tuple[int, int]]]]:
        """A request in the model's segments, and where the values are: per branch, per segment, (branch, segment).

        A branch becomes several where it holds output: the step before it is closed in one and goes on in the next.
        """
        line = self._opened(request.prefix[0])
        for segment in request.prefix[1:]:
            self._extend(line, segment)
        branches: list[tuple[Segment, ...]] = []
        places: list[list[tuple[int, int]]] = []
        for branch in request.branches:
            at = _Line([], line.steps, line.open)
            places.append([])
            for segment in branch:
                more = self._extend(at, segment)
                if places[-1] and more[0] is not self._mark:
                    branches.append((*at.segments[: -len(more)], self._mark))
                places[-1].append((len(branches), len(at.segments)))  # of the mark that will stand there
            branches.append((*at.segments, self._mark))
        return ScoreRequest(tuple(line.segments), tuple(branches)), places

    def _plain(self, text: str) -> str:
        """A text without our tags and without the model's mark where that is a tag."""
        tags = (*TAGS, self._adapter.mark) if self._adapter.mark.startswith("<") else TAGS
        for tag in tags:
            text = text.replace(tag, "")
        return text.strip()

    def _after(self, text: str) -> Segment:
        return Segment(text, self._after_mark(text))

    def _after_mark(self, text: str) -> tuple[int, ...]:
        """Ids of a text as it stands after a mark, where no tokenizer puts a space before it."""
        return self._tokenizer.encode(self._adapter.mark + text)[len(self._mark_ids) :]


def read_scorer(model: str | Path, *, device: str = "auto", dtype: str = "auto") -> StepScorer:
    """Load a PRM of any kind that is known here: a checkpoint directory or a hub id.

    Args:
        model: where it is.
        device: as of `checkpoint.load`.
        dtype: as of `checkpoint.load`.

    Raises:
        SetupError: model or device are not to be had, or the model is not fit.
    """
    from transformers import PretrainedConfig

    check_files(model)
    try:
        config, _ = PretrainedConfig.get_config_dict(str(model))
    except (OSError, ValueError) as error:
        raise not_loaded("PRM", model, error, "Give a checkpoint directory, or a hub id.") from error
    if QWEN_ARCHITECTURE in (config.get("architectures") or ()):
        return _read_qwen(model, device, dtype)
    if SHEPHERD_NAME in f"{Path(model).name} {config.get('_name_or_path')}".lower():
        return _read_shepherd(model, device, dtype)
    return TransformersScorer.load(model, device=device, dtype=dtype)


def _read_qwen(model: str | Path, device: str, dtype: str) -> PublicPrm:
    loaded, tokenizer = checkpoint.load(model, device, dtype, _qwen_class())
    if tokenizer.hf.chat_template is None:
        raise SetupError(f"the tokenizer of {model} has no chat template", remedy=checkpoint.PUBLISHED)

    def score(hidden: Tensor) -> Tensor:
        logits: Tensor = loaded.score(hidden).double()  # of a wrong step, of a good one
        return logits[:, 1] - logits[:, 0]

    return _public(QwenPrm(tokenizer), loaded, tokenizer, score, str(model))


def _read_shepherd(model: str | Path, device: str, dtype: str) -> PublicPrm:
    loaded, tokenizer = checkpoint.load(model, device, dtype)
    candidates = tokenizer.encode("+ -")  # as its model card takes them: each at the beginning of a word
    if len(candidates) != 2:
        raise SetupError(
            f"the tokenizer of {model} does not know '+' and '-' as one token each", remedy=checkpoint.PUBLISHED
        )
    weights = loaded.get_output_embeddings().weight[list(candidates)].detach()

    def score(hidden: Tensor) -> Tensor:
        logits: Tensor = (hidden @ weights.T).double()
        return logits[:, 0] - logits[:, 1]

    return _public(ShepherdPrm(), loaded, tokenizer, score, str(model))


def _public(
    adapter: PrmAdapter, model: Any, tokenizer: StepTokenizer, score: Callable[[Tensor], Tensor], name: str
) -> PublicPrm:
    """A PRM whose value is 2p - 1, p by softmax; `score`: the difference of the two logits."""
    memory = memory_beside(model.device)
    scorer = TransformersScorer(model, tokenizer, name=name, memory=memory, head=Head(score, scale=2.0))
    return PublicPrm(adapter, tokenizer, scorer, name=name)


@cache
def _qwen_class() -> type:
    """Qwen2.5-Math-PRM, its weights named as in its files; made on first use, since its base needs transformers."""
    from torch import nn
    from transformers import Qwen2Model, Qwen2PreTrainedModel

    class QwenProcessRewardModel(Qwen2PreTrainedModel):  # type: ignore[misc]
        """Qwen2's layers below a head of two classes: a wrong step, a good one."""

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            width = config.hidden_size
            self.model = Qwen2Model(config)
            self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
            self.post_init()

        def forward(self, **inputs: Any) -> Any:
            """What the layers give; the head is for those who ask."""
            return self.model(**inputs)

    return QwenProcessRewardModel
