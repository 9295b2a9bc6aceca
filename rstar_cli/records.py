"""The rows of every artifact, and the words they use. Files and formats: DESIGN section 4.

Rows of ours are frozen and refuse unknown keys; rows that come from others (`Problem`) keep their extra fields.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Verdict(StrEnum):
    """Outcome of grading. `timeout` and `error` are never counted as incorrect silently."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    NO_ANSWER = "no_answer"
    TIMEOUT = "timeout"
    ERROR = "error"


Isolation = Literal["none", "rlimits", "landlock+seccomp", "full"]
"""From weak to strong. `full`: a program sees no file, process or network of the host, and makes only the system calls
that computing needs. `landlock+seccomp`: the same calls; it reads no file but Python's and the system's libraries.
`rlimits`: bounded memory, time, files and processes; it can read what the user can, and reach the network."""


class ExecutionStatus(StrEnum):
    """Outcome of running code."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    DENIED = "denied"
    EXIT = "exit"
    KILLED = "killed"
    OUTPUT_LIMIT = "output_limit"
    PROTOCOL = "protocol"
    LOST = "lost"


class StopReason(StrEnum):
    """Why a node of a tree is as it is."""

    STEP = "step"
    """A step that ran; the solution goes on below it."""
    CODE = "code"
    """The step that closed the program; only an answer comes below it."""
    ANSWER = "answer"
    """The answer: a finished trajectory."""
    FAILED = "failed"
    """Its code did not run to the end (see `execution`)."""
    MALFORMED = "malformed"
    """Not a step: no closing tag within the token limit, or tags out of order."""
    DUPLICATE = "duplicate"
    """The same text as an earlier sibling."""
    DEPTH = "depth"
    """It ran, but stands at the depth limit without an answer."""


class Choice(StrEnum):
    """Why a trajectory trains the policy, or does not."""

    KEPT = "kept"
    """It is a training row."""
    NOT_RIGHT = "not_right"
    """Its answer is not known to be right (see its verdict)."""
    DUPLICATE = "duplicate"
    """The program of a better one, but for comments, layout and the names of variables."""
    SURPLUS = "surplus"
    """Right, but as many better ones of the problem were kept as may be."""
    UNLIKELY = "unlikely"
    """Right, but the policy holds its program for much less likely than another right one: perhaps by luck."""


class Row(BaseModel):
    """Base of our own rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Problem(BaseModel):
    """A row of `problems.jsonl`. Extra fields of the source are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str = Field(min_length=1)
    problem: str = Field(min_length=1)
    answer: str = ""
    source: str = ""
    level: int | None = None
    subject: str | None = None


class Execution(Row):
    """What became of code, without the clock (equal runs are equal files)."""

    status: ExecutionStatus
    stdout: str = ""
    error: str = ""


class TreeNode(Row):
    """A node of a search tree. Node 0 is the root: the problem, with no step.

    Attributes:
        visits: backups through this node (N); 0 for failed, malformed and duplicate candidates.
        q: mean reward W/N in [-1, 1]; 0 where visits is 0.
        prior: the policy's log-probability of the step, nats.
        prm_score: the PRM's value in [-1, 1].
        execution: of this step's own code.
    """

    id: int
    parent: int | None = None
    depth: int = 0
    text: str = ""
    token_ids: tuple[int, ...] | None = None
    visits: int = 0
    q: float = 0.0
    prior: float | None = None
    prm_score: float | None = None
    stop: StopReason = StopReason.STEP
    answer: str | None = None
    verdict: Verdict | None = None
    execution: Execution | None = None


class Rollout(Row):
    """One backup: the node where the rollout ended, the reward in [-1, 1], and the tree's generated tokens by then."""

    leaf: int
    reward: float
    tokens: int = 0


class Tree(Row):
    """A row of `trees.jsonl`: the whole search of one problem.

    Attributes:
        tokenizer: fingerprint of the tokenizer that the `token_ids` belong to.
        tokens_generated: tokens sampled for this tree.
        tokens_prefilled: tokens of prefixes that the tree needed, each counted once.
    """

    problem_id: str
    prompt: str
    seed: int
    tokenizer: str
    tokens_generated: int
    tokens_prefilled: int
    rollouts: tuple[Rollout, ...]
    nodes: tuple[TreeNode, ...]

    @model_validator(mode="after")
    def _is_tree(self) -> Self:
        for number, node in enumerate(self.nodes):
            if node.id != number:
                raise ValueError(f"node {number} has the id {node.id}: nodes stand in the order of their ids")
            if (node.parent is None) != (number == 0) or not -1 < (node.parent or 0) < max(number, 1):
                raise ValueError(f"node {number} has the parent {node.parent}: a parent stands before its children")
        for rollout in self.rollouts:
            if not 0 <= rollout.leaf < len(self.nodes):
                raise ValueError(f"a rollout ends at node {rollout.leaf}, of {len(self.nodes)}")
        return self


class SolutionRow(Row):
    """A row of `solutions.jsonl`: one finished trajectory, run again from scratch; `choice`: whether it trains."""

    problem_id: str
    node_ids: tuple[int, ...]
    steps: tuple[str, ...]
    predicted_answer: str | None
    verdict: Verdict
    decided_by: str
    execution: Execution
    mean_q: float
    min_q: float
    min_prm: float | None = None
    choice: Choice = Choice.NOT_RIGHT


class VerifiedRow(Row):
    """A row of verify's journal: a problem's finished trajectories, before any is chosen to train on."""

    problem_id: str
    solutions: tuple[SolutionRow, ...]


class RowSegment(Row):
    """A stretch of text that is tokenised by itself: a prompt, a step, or what the interpreter printed (`output`)."""

    text: str
    token_ids: tuple[int, ...] | None = None
    output: bool = False


class SftRow(Row):
    """A row of `sft.jsonl`: `prompt` and `completion` are TRL's; `steps` is the completion, segment by segment."""

    problem_id: str
    prompt: str
    completion: str
    steps: tuple[RowSegment, ...]
    tokenizer: str = ""


class PairRow(Row):
    """A row of `pairs.jsonl`: two continuations of one prompt, the first with the higher Q.

    `prompt`, `chosen` and `rejected` are TRL's; the fields of segments hold the same texts, segment by segment.

    Attributes:
        kind: `step`: two steps below one node; `solution`: two whole solutions, the first one's answer right.
        q_gap: Q of the chosen (last) step less that of the rejected one, in [-2, 2].
        weight: 1 shared among the pairs of a node, or among the pairs of a problem's solutions.
        prefix: the problem's prompt, then the steps before the pair.
        tokenizer: fingerprint of the tokenizer that the `token_ids` belong to.
    """

    problem_id: str
    kind: Literal["step", "solution"]
    prompt: str
    chosen: str
    rejected: str
    q_gap: float
    weight: float = Field(gt=0)
    prefix: tuple[RowSegment, ...] = Field(min_length=1)
    chosen_steps: tuple[RowSegment, ...] = Field(min_length=1)
    rejected_steps: tuple[RowSegment, ...] = Field(min_length=1)
    tokenizer: str = ""


class StepLabelRow(Row):
    """A row of `step_labels.jsonl`: a trajectory with a label and a value for each step.

    `prompt`, `completions` and `labels` are TRL's; `steps` holds the same texts, segment by segment.

    Attributes:
        completions: the steps, the answer last; at least one.
        labels: whether a right answer was reached from each step; the last one: whether the solution is right.
        values: Q of each step, in [-1, 1].
        logprob: the policy's log-probability of the solution, nats, where it is known.
        steps: `completions` as they were sampled, and between them what the program printed (`output`).
        tokenizer: fingerprint of the tokenizer that the `token_ids` belong to.
    """

    problem_id: str
    prompt: str
    completions: tuple[str, ...] = Field(min_length=1)
    labels: tuple[bool, ...]
    values: tuple[Annotated[float, Field(ge=-1, le=1)], ...]
    logprob: float | None = None
    steps: tuple[RowSegment, ...]
    tokenizer: str = ""

    @model_validator(mode="after")
    def _same_steps(self) -> Self:
        texts = tuple(step.text for step in self.steps if not step.output)
        if texts != self.completions:
            raise ValueError("`steps` without output blocks must be `completions`")
        if not len(self.completions) == len(self.labels) == len(self.values):
            raise ValueError(
                f"one label and one value a step: there are {len(self.completions)} completions, "
                f"{len(self.labels)} labels, {len(self.values)} values"
            )
        return self


class EvalSample(Row):
    """One solution of one problem.

    Attributes:
        group: numbers equal answers of the problem; None where there is no answer.
        tokens: that were sampled for this solution.
        logprob: the policy's log-probability of its steps at temperature 1, nats.
        score: the PRM's, in [-1, 1].
        text: what the policy wrote, with what its program printed.
    """

    answer: str | None
    group: int | None = None
    verdict: Verdict
    tokens: int
    logprob: float
    score: float | None = None
    text: str = ""


class EvalRow(Row):
    """A row of `eval/NAME.METHOD.jsonl`: the solutions of one problem, in order; `tokens`: all that were generated."""

    problem_id: str
    level: int | None = None
    subject: str | None = None
    tokens: int
    samples: tuple[EvalSample, ...]
