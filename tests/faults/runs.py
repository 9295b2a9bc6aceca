"""The run that faults are made in, as it is before and after each stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.common import lines, rstar

RECIPE = """
[run]
seed = 5
count = 150
levels = "1-2"
[evolve]
rounds = 1
plateau = 0
[eval.test]
count = 60
levels = "1-2"
sampled = 40
[generate]
engine = "scripted"
rollouts = 6
in-flight = 3
[train-policy]
epochs = 2
learning-rate = 1e-4
batch-size = 8
save-minutes = 0
[train-prm]
min-updates = 40
batch-size = 8
learning-rate = 1e-4
save-minutes = 0
[evaluate]
engine = "scripted"
samples = 8
rollouts = 4
rollout-style = "complete"
in-flight = 2
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a round.

    Attributes:
        name: as the command.
        number: the round.
        trail: where it leaves what is finished: a journal, or the folder of a training's saved states.
        enough: rows or updates from which it is called under way.
    """

    name: str
    number: int
    trail: str
    enough: int = 3

    @property
    def command(self) -> tuple[str, ...]:
        """The command line, to run beside the run's folder."""
        return (self.name, "--round", str(self.number), "--run", "r")

    def done(self, run: Path) -> int:
        """Rows, or the last saved update."""
        path = run / f"round_{self.number}" / self.trail
        if path.is_dir():
            return max((int(found.name) for found in path.iterdir()), default=0)
        return lines(path)

    def is_under_way(self, run: Path) -> Callable[[], bool]:
        """When it has done something, and has more to do."""
        return lambda: self.done(run) >= self.enough


STAGES = (
    Stage("evaluate", 0, "eval/test.samples.jsonl.partial"),
    Stage("generate", 1, "trees.jsonl.partial"),
    Stage("verify", 1, "solutions.jsonl.partial"),
    Stage("train-policy", 1, ".policy.partial/saved"),
    Stage("train-prm", 1, ".prm.partial/saved"),
)
NAMES = tuple(stage.name for stage in STAGES)


class Whole:
    """A run that nothing stopped, as it was before and after each stage; made as far as it is asked for.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / "recipe.toml").write_text(RECIPE)
        rstar("init", "--run", "r", "--recipe", "recipe.toml", cwd=root)
        shutil.copytree(root / "r", root / "0")

    def _made(self, stages: int) -> Path:
        """The run after so many stages."""
        made = self._root / str(stages)
        if not made.exists():
            self._made(stages - 1)
            rstar(*STAGES[stages - 1].command, cwd=self._root)
            shutil.copytree(self._root / "r", made)
        return made

    def before(self, name: str, folder: Path) -> Path:
        """A copy of the run before a stage, as `r` in a folder; an older one there is removed."""
        run = folder / "r"
        shutil.rmtree(run, ignore_errors=True)
        return shutil.copytree(self._made(NAMES.index(name)), run)

    def after(self, name: str) -> Path:
        """The run after a stage; not to be touched."""
        return self._made(NAMES.index(name) + 1)


def stage_of(name: str) -> Stage:
    """A stage by its name."""
    return STAGES[NAMES.index(name)]
