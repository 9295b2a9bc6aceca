"""The commands as functions, for notebooks and scripts.

::

    from rstar_cli.api import Run

    run = Run("runs/mine")                     # the embedded model's recipe, or Run("runs/mine", "my.toml")
    run.evaluate(0)
    run.generate(1, rollouts=8, limit=50)      # settings by their flags' names
    for stage in ("verify", "train_policy", "train_prm", "evaluate"):
        getattr(run, stage)(1)
    run.report()["rounds"][1]["eval"]["test"]["greedy"]["accuracy"]

Each does what the command of its name does, skips what is done, and raises what the command would tell
(`rstar_cli.errors`). Rows come back as the records that the files hold (`rstar_cli.records`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rstar_cli.config import EvolveConfig
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import RunDir
from rstar_cli.options import ExportPlace, MergePlace
from rstar_cli.records import PairRow, SftRow, SolutionRow, StepLabelRow, Tree
from rstar_cli.report.collect import collect
from rstar_cli.rounds import Outcome, run_stage
from rstar_cli.rounds import evolve as loop
from rstar_cli.stages.common import Summary
from rstar_cli.stages.export import export
from rstar_cli.stages.merge import merge


class Run:
    """A run: a folder with a recipe, made where there is none.

    Args:
        path: the folder.
        recipe: a recipe file, or a packaged one's name such as `easy-to-hard`; None: that of the run, or the embedded
            model's.

    Raises:
        RstarError: see `RunDir.create` and `RunDir.open`.
    """

    def __init__(self, path: Path | str, recipe: Path | str | None = None) -> None:
        root = Path(path)
        self.dir = RunDir.create(root, Path(recipe)) if recipe is not None else RunDir.open(root)

    def generate(self, round: int = 1, **settings: Any) -> Summary:
        """Search every problem of a round; see `rstar generate --help` for the settings."""
        return self._stage("generate", round, settings)

    def verify(self, round: int = 1, **settings: Any) -> Summary:
        """Run and grade every finished trajectory of a round again, and write its training rows."""
        return self._stage("verify", round, settings)

    def train_policy(self, round: int = 1, **settings: Any) -> Summary:
        """Fine-tune the policy on the best solutions of the rounds so far."""
        return self._stage("train-policy", round, settings)

    def train_prm(self, round: int = 1, **settings: Any) -> Summary:
        """Train the process reward model of a round."""
        return self._stage("train-prm", round, settings)

    def evaluate(self, round: int = 0, **settings: Any) -> Summary:
        """Measure a round's models on the recipe's held-out problems."""
        return self._stage("evaluate", round, settings)

    def evolve(self, tell: Callable[[Summary], None] = lambda _: None, **settings: Any) -> Outcome:
        """Run the loop, or what is left of it.

        Args:
            tell: is given the summary of each stage as it ends.
            settings: those of `rstar evolve`, such as `rounds`.
        """
        return loop(self.dir, self.dir.recipe.stage(EvolveConfig, "evolve", 0, settings), tell)

    def export(self, format: str, output: Path | str, **settings: Any) -> Summary:
        """Write training rows in one of TRL's formats; see `rstar export --help`."""
        return export(ExportPlace(run=self.dir.root, format=format, output=output, **settings), self.dir)

    def merge(self, round: int = 1) -> Summary:
        """Join the shards of a round (`generate(1, shard="1/4")`)."""
        return merge(MergePlace(run=self.dir.root, round=round), self.dir)

    def report(self) -> dict[str, Any]:
        """What was measured, round by round: what `report.json` holds."""
        return collect(self.dir)

    def trees(self, round: int = 1) -> Iterator[Tree]:
        """The searches of a round."""
        return read_rows(self.dir.round(round).trees, Tree)

    def solutions(self, round: int = 1) -> Iterator[SolutionRow]:
        """The finished trajectories of a round, graded."""
        return read_rows(self.dir.round(round).solutions, SolutionRow)

    def sft(self, round: int = 1) -> Iterator[SftRow]:
        """The training rows of a round's policy."""
        return read_rows(self.dir.round(round).sft, SftRow)

    def pairs(self, round: int = 1) -> Iterator[PairRow]:
        """The preference pairs of a round."""
        return read_rows(self.dir.round(round).pairs, PairRow)

    def step_labels(self, round: int = 1) -> Iterator[StepLabelRow]:
        """The labelled solutions of a round."""
        return read_rows(self.dir.round(round).step_labels, StepLabelRow)

    def _stage(self, stage: str, number: int, settings: dict[str, Any]) -> Summary:
        return run_stage(self.dir, number, stage, lambda _: False, settings)
