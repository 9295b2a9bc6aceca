"""The loop: round after round of the five stages, each skipped where it is done, until a reason to stop.

Round 0 is the base model: it is only evaluated. A round is `generate`, `verify`, `train-policy`, `train-prm`,
`evaluate`. The same commands in a shell leave the same artifacts (`recipes/round_loop.sh`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rstar_cli import interrupts
from rstar_cli.config import (
    EvaluateConfig,
    EvolveConfig,
    GenerateConfig,
    TrainPolicyConfig,
    TrainPrmConfig,
    VerifyConfig,
)
from rstar_cli.errors import UsageError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.metrics import paired_gain
from rstar_cli.options import EvaluatePlace, GeneratePlace, RunPlace, TrainPlace, VerifyPlace
from rstar_cli.records import EvalRow, Verdict
from rstar_cli.stages.common import Stop, Summary

Ended = Literal["rounds", "plateau", "budget"]
"""Why the loop ended: all rounds are done, accuracy stopped rising, or the budget is spent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the loop ended.

    Attributes:
        ended: the reason.
        why: the same as a sentence.
    """

    ended: Ended
    why: str


def evolve(run: RunDir, config: EvolveConfig, tell: Callable[[Summary], None]) -> Outcome:
    """Run the loop, or what is left of it.

    Args:
        run: the run, with its recipe.
        config: when to stop.
        tell: is given the summary of each stage as it ends.

    Raises:
        UsageError: a plateau is to be watched and the recipe has no validation set.
        LockedError: another process runs the loop on this run.
    """
    with run.locked("evolve"):
        return _loop(run, config, tell)


def _loop(run: RunDir, config: EvolveConfig, tell: Callable[[Summary], None]) -> Outcome:
    validation = validation_set(run) if config.plateau else ""
    for number in range(config.rounds + 1):
        for stage in ("evaluate",) if number == 0 else ROUND:
            budget = Budget(run, config)
            if budget.spent(0) and stage != "evaluate" and not is_done(run, number, stage):
                return Outcome("budget", budget.told)
            summary = run_stage(run, number, stage, budget.spent)
            tell(summary)
            interrupts.end_if_asked()
            if summary.partial:
                return Outcome("budget", budget.told)
        if config.plateau and rounds_without_gain(run, number, validation) >= config.plateau:
            return Outcome("plateau", f"no clear gain on {validation} in the last {config.plateau} rounds")
    return Outcome("rounds", f"all {config.rounds} rounds are done")


PLACES: dict[str, type[RunPlace]] = {
    "generate": GeneratePlace,
    "verify": VerifyPlace,
    "train-policy": TrainPlace,
    "train-prm": TrainPlace,
    "evaluate": EvaluatePlace,
}
"""What each stage of a round reads and writes, in order."""
ROUND = tuple(PLACES)


def run_stage(run: RunDir, number: int, stage: str, stop: Stop, given: Mapping[str, Any] | None = None) -> Summary:
    """One stage of one round.

    Args:
        run: the run.
        number: the round.
        stage: as the command.
        stop: the run's budget.
        given: what stands above the recipe's settings, and what the command's other flags say, by field name.
    """
    from rstar_cli.stages.evaluate import evaluate
    from rstar_cli.stages.generate import generate
    from rstar_cli.stages.train_policy import train
    from rstar_cli.stages.train_prm import train_prm
    from rstar_cli.stages.verify import verify

    settings, recipe, place = dict(given or {}), run.recipe, {"run": run.root, "round": number}
    for name in PLACES[stage].model_fields:
        if name in settings:
            place[name] = settings.pop(name)
    if stage == "generate":
        return generate(GeneratePlace(**place), recipe.stage(GenerateConfig, stage, number, settings), run, stop)
    if stage == "verify":
        return verify(VerifyPlace(**place), recipe.stage(VerifyConfig, stage, number, settings), run)
    if stage == "train-policy":
        return train(TrainPlace(**place), recipe.stage(TrainPolicyConfig, stage, number, settings), run)
    if stage == "train-prm":
        return train_prm(TrainPlace(**place), recipe.stage(TrainPrmConfig, stage, number, settings), run)
    return evaluate(EvaluatePlace(**place), recipe.stage(EvaluateConfig, stage, number, settings), run, stop)


def is_done(run: RunDir, number: int, stage: str) -> bool:
    """Whether the manifest tells of a stage as complete."""
    entry = read_manifest(run.round(number).manifest).get(stage, {})
    return bool(entry.get("status") == "complete")


class Budget:
    """What a run may spend, and has spent by its manifests when this is made.

    Attributes:
        told: what is spent, once it is.
    """

    def __init__(self, run: RunDir, config: EvolveConfig) -> None:
        self._config = config
        self._tokens, self._seconds = 0, 0.0
        for entries in _manifests(run):
            self._tokens += sum(entry.get("tokens", {}).get("generated", 0) for entry in entries.values())
            self._seconds += sum(entry.get("seconds", 0.0) for entry in entries.values())
        self._begun = time.monotonic()
        self.told = ""

    def spent(self, generated: int) -> bool:
        """Whether the budget is spent, after so many tokens generated since."""
        tokens, hours = self._config.budget_tokens, self._config.budget_hours
        seconds = self._seconds + time.monotonic() - self._begun
        if tokens is not None and self._tokens + generated >= tokens:
            self.told = f"the budget of {tokens:,} tokens is spent ({self._tokens + generated:,} generated)"
        elif hours is not None and seconds >= hours * 3600:
            self.told = f"the budget of {hours:g} hours is spent ({seconds / 3600:.2f} taken)"
        return bool(self.told)


def validation_set(run: RunDir) -> str:
    """The evaluation set that decisions look at: the recipe's first of `split = "validation"`.

    Raises:
        UsageError: there is none.
    """
    for name, table in run.recipe.eval_sets.items():
        if table.split == "validation":
            return name
    raise UsageError(
        "a plateau can't be seen: the recipe has no validation set",
        remedy='Add an [eval.validation] table with split = "validation" to the recipe, or give --plateau 0.',
    )


def rounds_without_gain(run: RunDir, number: int, name: str) -> int:
    """Rounds in a row, up to `number`, whose greedy accuracy on a set rose by no amount that is clear of 0 (95 %)."""
    count = 0
    for later in range(number, 0, -1):
        _, (low, _) = paired_gain(_greedy(run, later - 1, name), _greedy(run, later, name))
        if low > 0:
            break
        count += 1
    return count


def _greedy(run: RunDir, number: int, name: str) -> list[bool]:
    rows = read_rows(run.round(number).evaluations / f"{name}.greedy.jsonl", EvalRow)
    return [row.samples[0].verdict is Verdict.CORRECT for row in rows]


def seconds_by_stage(run: RunDir) -> dict[str, float]:
    """Wall-clock time of each stage over all rounds, by the manifests."""
    seconds: Counter[str] = Counter()
    for entries in _manifests(run):
        for stage, entry in entries.items():
            seconds[stage.split()[0]] += entry.get("seconds", 0.0)
    return {stage: round(seconds[stage], 1) for stage in ROUND if stage in seconds}


def _manifests(run: RunDir) -> list[dict[str, Any]]:
    return [read_manifest(folder.manifest) for folder in run.rounds()]
