"""Every path of a run, once; and its manifests. The layout is drawn in DESIGN section 4."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from rstar_cli.errors import ConfigMismatchError, DataError, MissingArtifactError, StorageError
from rstar_cli.jsonl import replacing, storage_error
from rstar_cli.locks import held
from rstar_cli.ranks import is_main
from rstar_cli.recipe import Recipe, load_recipe
from rstar_cli.shards import Shard

EMBEDDED = "embedded"
"""Name of the packaged tiny model."""
PACKAGED = {EMBEDDED: "model", "embedded-easy": "easy"}
"""Every packaged model, and its folder: the first is wrong by concept, the other was shown short problems only."""
ROUND_FOLDER = "round_"
"""What the folders of rounds are called, before their number."""
PROGRESS = "progress.json"
"""The file of a run that tells what it is doing."""


def model_path(name: str) -> str:
    """A model's directory or hub id: those in `PACKAGED` come with the package, anything else is taken as it is."""
    return str(resources.files("rstar_cli").joinpath("embedded", PACKAGED[name])) if name in PACKAGED else name


@dataclass(frozen=True, slots=True)
class RoundDir:
    """The files of one round."""

    root: Path
    number: int

    @property
    def manifest(self) -> Path:
        """What each stage did."""
        return self.root / "manifest.json"

    @property
    def problems(self) -> Path:
        """The round's exact problem set."""
        return self.root / "problems.jsonl"

    @property
    def trees(self) -> Path:
        """Search trees."""
        return self.root / "trees.jsonl"

    @property
    def solutions(self) -> Path:
        """Finished trajectories, run again and graded."""
        return self.root / "solutions.jsonl"

    @property
    def sft(self) -> Path:
        """Training rows of the policy."""
        return self.root / "sft.jsonl"

    @property
    def pairs(self) -> Path:
        """Step preferences."""
        return self.root / "pairs.jsonl"

    @property
    def step_labels(self) -> Path:
        """Step labels."""
        return self.root / "step_labels.jsonl"

    @property
    def policy(self) -> Path:
        """The policy trained in this round."""
        return self.root / "policy"

    @property
    def prm(self) -> Path:
        """The process reward model trained in this round."""
        return self.root / "prm"

    @property
    def evaluations(self) -> Path:
        """Evaluations: NAME.METHOD.jsonl, NAME.json."""
        return self.root / "eval"


class RunDir:
    """A run: a directory with a recipe, made where there is none.

    Attributes:
        root: the directory.
        recipe: its recipe.
    """

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root = root
        self.recipe = recipe

    @classmethod
    def create(cls, root: Path, recipe_file: Path | None = None) -> RunDir:
        """Make a run from a recipe file; None is the default recipe.

        Raises:
            ConfigMismatchError: the run exists with another recipe.
        """
        recipe = load_recipe(recipe_file)
        target = root / "recipe.toml"
        if target.exists():
            if load_recipe(target).text != recipe.text:
                raise ConfigMismatchError(
                    f"{target} differs from {recipe.origin}",
                    remedy="Take another --run, or edit the run's recipe.toml.",
                )
        else:
            write_bytes(target, recipe.text.encode())
        return cls(root, recipe)

    @classmethod
    def open(cls, root: Path, *, create: bool = True) -> RunDir:
        """Open a run; one that does not exist is made from the default recipe.

        Args:
            root: the directory.
            create: False leaves the disk as it is: a run that does not exist is only thought of.

        Raises:
            DataError: the place is taken by something that is not a run.
        """
        if (root / "recipe.toml").exists():
            return cls(root, load_recipe(root / "recipe.toml"))
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError("is not a run (no recipe.toml)", path=root, remedy="Give another --run.")
        return cls.create(root) if create else cls(root, load_recipe(None))

    @classmethod
    def find(cls, root: Path) -> RunDir:
        """Open a run to look at.

        Raises:
            MissingArtifactError: there is none.
        """
        if not root.exists():
            raise MissingArtifactError(
                f"there is no run at {root}", remedy=f"Give another --run, or make it: rstar init --run {root}"
            )
        return cls.open(root, create=False)

    def round(self, number: int) -> RoundDir:
        """The files of a round."""
        return RoundDir(self.root / f"{ROUND_FOLDER}{number}", number)

    def rounds(self) -> list[RoundDir]:
        """The rounds that have a folder, in order."""
        numbers = (path.name.removeprefix(ROUND_FOLDER) for path in self.root.glob(f"{ROUND_FOLDER}*"))
        return [self.round(number) for number in sorted(int(text) for text in numbers if text.isdecimal())]

    @property
    def report(self) -> Path:
        """What was measured, round by round."""
        return self.root / "report.json"

    @property
    def progress(self) -> Path:
        """What it is doing; there while a stage is at work."""
        return self.root / PROGRESS

    @property
    def figures(self) -> Path:
        """The folder of drawings."""
        return self.root / "figures"

    @property
    def pool(self) -> Path:
        """Imported problems that rounds draw from."""
        return self.root / "pool.jsonl"

    def eval_set(self, name: str) -> Path:
        """The problems of an evaluation set."""
        return self.root / "eval" / f"{name}.jsonl"

    def policy_of(self, number: int) -> str:
        """The policy that a round ended with: round 0's is the base."""
        return self.recipe.run.base if number == 0 else str(self.round(number).policy)

    def policy_name(self, number: int) -> str:
        """The same for manifests: it does not change when the run is moved."""
        return self.recipe.run.base if number == 0 else f"round {number}"

    def prm_of(self, number: int) -> Path:
        """The PRM that a round ended with.

        Raises:
            MissingArtifactError: names the command that makes it.
        """
        return self.require(self.round(number).prm, "train-prm", number)

    def command(self, stage: str, number: int) -> str:
        """The command that runs a stage of a round of this run, for messages."""
        return f"rstar {stage} --round {number} --run {self.root}"

    @contextmanager
    def locked(self, stage: str, number: int | None = None, shard: Shard | None = None) -> Iterator[None]:
        """Be the only one at a stage of a round (of several processes that train together the main one asks).

        Args:
            stage: its name.
            number: the round; None: it is not of one.
            shard: the part of it; None: all.

        Raises:
            LockedError: another process is at it; names that process and its host.
        """
        if not is_main():
            yield
            return
        of_round = f"{ROUND_FOLDER}{number}." if number is not None else ""
        file = self.root / f".{of_round}{stage}.lock"
        part = "" if shard is None else f", shard {shard},"
        what = f"{stage} of {'' if number is None else f'round {number}{part} of '}{self.root}"
        with held(shard.path(file) if shard else file, what):
            yield

    def require(self, path: Path, stage: str, number: int) -> Path:
        """The path, if it is there.

        Raises:
            MissingArtifactError: names the command that makes it.
        """
        if not path.exists():
            raise MissingArtifactError(
                f"{path} is missing: `{stage}` of round {number} makes it", remedy=f"Run: {self.command(stage, number)}"
            )
        return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file, whole or not at all; its folder is made.

    Raises:
        StorageError: it can't be written.
    """
    make_folder(path.parent)
    with replacing(path) as write:
        write(data)


def make_folder(path: Path) -> None:
    """Make a folder and those above it.

    Raises:
        StorageError: it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, "make", error) from error


class _Entry(BaseModel):
    """What is read of a stage's entry in a manifest; all else is kept as it is."""

    status: str = ""
    config: dict[str, Any] = {}
    inputs: dict[str, dict[str, Any]] = {}
    outputs: dict[str, dict[str, Any]] = {}
    counts: dict[str, Any] = {}
    tokens: dict[str, int] = {}
    versions: dict[str, str] = {}
    engine: dict[str, Any] = {}
    seconds: float = 0.0


class _Manifest(BaseModel):
    stages: dict[str, _Entry]


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest's stages by name; empty where there is none.

    Raises:
        DataError: it is damaged; names the field.
        StorageError: it can't be read.
    """
    try:
        told = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        _Manifest.model_validate_json(told)
        stages: dict[str, Any] = orjson.loads(told)["stages"]
    except (ValidationError, orjson.JSONDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
        field = ".".join(map(str, first["loc"])) or None
        remedy = "Restore the file, or remove it: its stages are then done again."
        raise DataError(f"not a manifest: {first['msg']}", path=path, field=field, remedy=remedy) from None
    return stages


def write_manifest(path: Path, stage: str, entry: Mapping[str, Any]) -> None:
    """Replace one stage's entry, whole or not at all; what other processes write of other stages is kept."""
    make_folder(path.parent)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # the folder is the lock: it leaves no file behind
        stages = read_manifest(path)
        stages[stage] = dict(entry)
        write_bytes(path, orjson.dumps({"stages": stages}, option=orjson.OPT_INDENT_2) + b"\n")
    finally:
        os.close(folder)


def check_unchanged(entry: Mapping[str, Any], config: Mapping[str, Any], place: str, remedy: str) -> None:
    """Refuse to go on under another config than a stage was begun with.

    Raises:
        ConfigMismatchError: names every key that differs.
    """
    begun = entry.get("config", {})
    differing = [
        f"{key}: {begun.get(key)!r} -> {config.get(key)!r}"
        for key in sorted({*begun, *config})
        if begun.get(key) != config.get(key)
    ]
    if differing:
        raise ConfigMismatchError(f"{place} was begun with another config ({'; '.join(differing)})", remedy=remedy)


def default_run() -> Path:
    """`$RSTAR_RUN`, else `runs/default`."""
    return Path(os.environ.get("RSTAR_RUN") or "runs/default")
