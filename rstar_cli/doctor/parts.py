"""What is installed beside this package: its requirements, the engines, tokens; and whether the grader grades."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from rstar_cli.errors import RstarError

PACKAGE = "rstar-cli"
ENGINES = {
    "transformers": ("transformers", ""),
    "vllm": ("vllm", "pip install 'rstar-cli[vllm]' in an environment of its own, and --engine vllm-server"),
    "openai": ("httpx2", ""),
    "ray": ("ray", "pip install 'rstar-cli[ray]', for --launcher ray"),
}
"""Engines and launchers: the package that each needs, and how to get it."""
TOKENS = {
    "HF_TOKEN": "private models and --push-to-hub",
    "WANDB_API_KEY": "--report-to wandb",
    "RSTAR_API_KEY": "--engine openai",
}
"""Secrets by their variable, and what for. Whether they are set is told, never what they are."""
CASES = (
    (r"\frac{1}{2}", "0.5", "correct"),
    (r"x^2 + 2x + 1", "(x + 1)^2", "correct"),
    ("(1, 2)", "[1, 2]", "incorrect"),
    ("2", "9**9**9**9", "incorrect"),
    ("3", None, "no_answer"),
)
"""(gold, prediction, verdict) of the grader's self-test; one would take for ever if it were evaluated."""


@dataclass(frozen=True, slots=True)
class Package:
    """A requirement.

    Attributes:
        name: of the package.
        installed: its version; None: it is absent.
        wanted: what versions fit.
        fits: whether the installed one does.
    """

    name: str
    installed: str | None
    wanted: str
    fits: bool


def packages() -> Iterator[Package]:
    """The packages that this one requires, by its own metadata."""
    for line in metadata.requires(PACKAGE) or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield Package(wanted.name, None, str(wanted.specifier), False)
        else:
            fits = wanted.specifier.contains(installed, prereleases=True)
            yield Package(wanted.name, installed, str(wanted.specifier), fits)


def engines() -> dict[str, bool]:
    """Whether what each engine needs is installed."""
    return {name: importlib.util.find_spec(package) is not None for name, (package, _) in ENGINES.items()}


def tokens() -> dict[str, bool]:
    """Whether each secret is there; that of the hub may be in its own file, too."""
    from huggingface_hub import get_token

    return {name: bool(os.environ.get(name)) or (name == "HF_TOKEN" and get_token() is not None) for name in TOKENS}


def grades() -> str:
    """Why the grader is not fit, as one sentence; empty where it is."""
    from rstar_cli.grader import grade

    for gold, prediction, verdict in CASES:
        try:
            found = grade(gold, prediction).verdict.value
        except RstarError as error:
            return f"the grader does not start: {error}"
        if found != verdict:
            return f"the grader says {found} of {prediction!r} against {gold!r}, not {verdict}"
    return ""
