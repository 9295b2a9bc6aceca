"""The examination: the machine, what is installed, and self-tests of sandbox and grader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rstar_cli.doctor import machine
from rstar_cli.doctor.attacks import MEMORY_MB, TIMEOUT, Outcome, attack
from rstar_cli.doctor.parts import ENGINES, Package, engines, grades, packages, tokens
from rstar_cli.doctor.remedies import LAYERS, remedies, this_system
from rstar_cli.errors import SetupError
from rstar_cli.records import Isolation
from rstar_cli.sandbox import Sandbox

_HELD = {True: "held", False: "not held; this level does not promise it"}
_BROKEN = "NOT HELD, though this level promises it"


@dataclass(frozen=True, slots=True)
class Checkup:
    """What was found.

    Attributes:
        machine: what it has, by name.
        packages: those that are required.
        engines, tokens: whether each is there.
        grader: why it is not fit; empty where it is.
        level: of isolation; `none` where no program can be run.
        layers: those that hold.
        outcomes: of the self-test.
        remedies: what is missing and what to do, one sentence each.
        failure: why this machine is not fit; empty where it is.
    """

    machine: dict[str, Any]
    packages: tuple[Package, ...] = ()
    engines: dict[str, bool] = field(default_factory=dict)
    tokens: dict[str, bool] = field(default_factory=dict)
    grader: str = ""
    level: Isolation = "none"
    layers: tuple[str, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    failure: str = ""

    def figures(self) -> dict[str, str]:
        """Name to text, in the order to show."""
        found = self.machine
        lines = {
            "python": found["python"],
            "system": found["system"],
            "torch": f"{found['torch']} on {', '.join(found['devices'])}" if found["torch"] else "can't be loaded",
            "cores": str(found["cores"]),
            "memory free": _gigabytes(found["memory_free_gb"]),
            "disk free here": _gigabytes(found["disk_free_gb"]),
            "packages": self._told_packages(),
            "engines": _listed(self.engines),
            "tokens": _listed(self.tokens),
            "grader": self.grader or "its self-test passed",
            "isolation": self.level,
        }
        for layer, meaning in LAYERS.items():
            lines[f"  {layer}"] = meaning if layer in self.layers else f"missing: {meaning}"
        if self.outcomes:
            lines["self-test"] = (
                f"{sum(o.held for o in self.outcomes)} of {len(self.outcomes)} held; a program tried to"
            )
        for outcome in self.outcomes:
            lines[f"  {outcome.name}"] = _BROKEN if outcome.promised and not outcome.held else _HELD[outcome.held]
        return lines

    def _told_packages(self) -> str:
        wrong = [f"{p.name} {p.installed or 'is missing'} ({p.wanted} is needed)" for p in self.packages if not p.fits]
        return "; ".join(wrong) or f"all {len(self.packages)} fit"

    def data(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "machine": self.machine,
            "packages": {p.name: {"installed": p.installed, "wanted": p.wanted, "fits": p.fits} for p in self.packages},
            "engines": self.engines,
            "tokens": self.tokens,
            "grader": {"fit": not self.grader, "why": self.grader},
            "isolation": self.level,
            "layers": {layer: layer in self.layers for layer in LAYERS},
            "self_test": [{"name": o.name, "held": o.held, "promised": o.promised} for o in self.outcomes],
            "fit": not self.failure,
        }


def examine(without: Sequence[str] = ()) -> Checkup:
    """Look at this machine, and attack its sandbox.

    Args:
        without: isolation layers to leave out, as `Sandbox` does.
    """
    found = Checkup(machine.look(), tuple(packages()), engines(), tokens(), grades())
    advice = [f"Install {p.name}: pip install '{p.name}{p.wanted}'" for p in found.packages if not p.fits]
    advice += [f"For {name}: {ENGINES[name][1]}" for name, there in found.engines.items() if not there]
    try:
        with Sandbox(workers=1, timeout=TIMEOUT, memory_mb=MEMORY_MB, floor="none", without=without) as sandbox:
            level, layers = sandbox.isolation(), sandbox.layers()
            outcomes = attack(sandbox)
    except SetupError as error:
        advice += [error.remedy] if error.remedy else []
        return replace(found, remedies=advice, failure=f"no program can be run: {error}")
    broken = [outcome.name for outcome in outcomes if outcome.promised and not outcome.held]
    failure = f"the sandbox does not keep a program from this: {', '.join(broken)}" if broken else found.grader
    advice += remedies(layers, this_system())
    return replace(found, level=level, layers=layers, outcomes=outcomes, remedies=advice, failure=failure)


def _listed(there: dict[str, bool]) -> str:
    return ", ".join(name if found else f"no {name}" for name, found in there.items())


def _gigabytes(size: float | None) -> str:
    return f"{size} GB" if size is not None else "unknown"
