"""The parts of a search, joined."""

from __future__ import annotations

from collections.abc import Sequence

from rstar_cli.engines.scripted import ScriptedPolicy, ScriptedScorer
from rstar_cli.grader import Grader
from rstar_cli.protocols import EngineInfo, ScoreRequest, Segment
from rstar_cli.stages.tools import Tools
from tests.helpers import LineExecutor


class Foreign(ScriptedScorer):
    """A PRM of another tokenizer, that notes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[ScoreRequest] = []

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("scripted", "foreign", "words", "none")

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[tuple[float, ...]]]:
        self.shown += requests
        return super().score(requests)


def test_a_prm_with_another_tokenizer_is_shown_texts_alone() -> None:
    prompt, step = Segment("problem"), Segment("\nx = 1\n<end_of_step>", (1, 2, 3))
    asked = ScoreRequest((prompt, step), ((step,), (step, step)))
    foreign = Foreign()
    with Grader() as grader:
        own = Tools(ScriptedPolicy({}), LineExecutor(), grader, ScriptedScorer())
        other = Tools(ScriptedPolicy({}), LineExecutor(), grader, foreign)
    assert own.scorer is not None
    assert other.scorer is not None
    assert other.scorer.score([asked]) == own.scorer.score([asked])
    (shown,) = foreign.shown
    assert all(s.token_ids is None for part in (shown.prefix, *shown.branches) for s in part)
    assert [s.text for s in shown.branches[1]] == [step.text, step.text]
