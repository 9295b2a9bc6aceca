"""What a search asks of the world, joined: engine, PRM, sandbox and grader."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rstar_cli.config import GenerateConfig, SearchConfig, parse_escalation
from rstar_cli.errors import RstarError, UsageError
from rstar_cli.protocols import AnswerGrader, Policy, ScoreRequest, Segment, StepExecutor, StepScorer
from rstar_cli.search.beam import beam_search
from rstar_cli.search.driver import Driver, Flow, GradeMany
from rstar_cli.search.grow import Growth
from rstar_cli.search.mcts import Plan, Search, search
from rstar_cli.search.tree import Tree

KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Tools:
    """The parts, open.

    Attributes:
        policy: proposes steps.
        sandbox: runs them.
        grader: compares answers.
        scorer: the PRM; None where none is used.
        flow: how the time of all searches went.
        failed: why, by id, of problems that were given up, since the policy refuses what they ask; None: that is an
            error, and ends all.
    """

    policy: Policy
    sandbox: StepExecutor
    grader: AnswerGrader
    scorer: StepScorer | None = None
    flow: Flow = field(default_factory=Flow)
    failed: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Have a PRM with another tokenizer than the policy's tokenise steps itself."""
        if self.scorer is not None and self.scorer.info.tokenizer != self.policy.info.tokenizer:
            object.__setattr__(self, "scorer", Retokenized(self.scorer))

    def driver(self, grade: GradeMany[KeyT], more: Callable[[], bool] = lambda: True) -> Driver[KeyT]:
        """A driver of searches with these parts. Their keys are ids of problems, or begin with one."""
        failed = self.failed
        if failed is None:
            return Driver(self.policy, self.sandbox, grade, self.scorer, more, self.flow)

        def give_up(key: KeyT, error: RstarError) -> None:
            failed[str(key[0] if isinstance(key, tuple) else key)] = str(error)

        return Driver(self.policy, self.sandbox, grade, self.scorer, more, self.flow, give_up)

    def forget(self, tree: Tree) -> None:
        """Free a search that is over and was read: what models and sandbox keep of it, and the tree itself."""
        self.policy.forget(tree.prompt)
        self.sandbox.forget(tree.prompt.text)
        if self.scorer is not None:
            self.scorer.forget(tree.prompt)
        tree.free()


class Retokenized:
    """A PRM that is shown texts alone: the ids that a policy sampled mean nothing to another tokenizer."""

    def __init__(self, scorer: StepScorer) -> None:
        self._scorer = scorer
        self.info = scorer.info
        self.forget = scorer.forget
        self.close = scorer.close

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        """As the PRM itself."""
        return self._scorer.score(
            [ScoreRequest(_texts(r.prefix), tuple(_texts(branch) for branch in r.branches)) for r in requests]
        )


def _texts(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    return tuple(Segment(segment.text) for segment in segments)


ALTERNATIVES = 16
"""Tokens that a place in the trie may be left by; less likely ones are hardly ever drawn."""


def growth(config: SearchConfig, tools: Tools, *, temperature: float) -> Growth:
    """How steps are drawn, as a stage's settings have it."""
    return Growth(
        config.max_step_tokens,
        config.max_tokens,
        config.max_depth,
        temperature,
        scored=tools.scorer is not None,
        alternatives=min(ALTERNATIVES, tools.policy.info.alternatives),
    )


def plan_of(config: SearchConfig, tools: Tools) -> Plan:
    """How a search goes, as a stage's settings have it.

    Raises:
        UsageError: it samples without replacement, and the engine does not tell of alternatives.
    """
    told = tools.policy.info.alternatives
    if config.method in ("swor", "mcts") and told < 2:
        raise UsageError(
            f"--method {config.method} samples without replacement, and {tools.policy.info.model} tells of "
            f"{told or 'no'} likely token(s) beside a sampled one",
            remedy="Give --method uct, or a server that gives top log-probabilities.",
        )
    more = config if isinstance(config, GenerateConfig) else None
    return Plan(
        method=config.method,
        rollouts=config.rollouts,
        growth=growth(config, tools, temperature=config.temperature),
        candidates=config.candidates,
        exploration=config.exploration,
        rollout_style=config.rollout_style,
        rules=config.rules,
        wave=config.wave,
        enough=more.enough if more is not None else 0,
        escalate=parse_escalation(more.escalate) if more is not None else (),
        aggregate=config.aggregate,
    )


def begin(prompt: str, seed: int, plan: Plan) -> tuple[Tree, Search]:
    """A tree with its problem alone, and the search that grows it."""
    tree = Tree(Segment(prompt), seed)
    return tree, (beam_search if plan.method in ("beam", "dvts") else search)(tree, plan)
