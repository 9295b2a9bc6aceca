"""Packages that a stage needs, looked for before it loads anything."""

from __future__ import annotations

from importlib import import_module

from rstar_cli.errors import SetupError


def require(what: str, *names: str) -> None:
    """Import packages, which are needed anyway, before the time that models take to load is spent.

    Args:
        what: needs them, for the message.
        names: the packages.

    Raises:
        SetupError: one is not installed, or does not fit the others.
    """
    for name in names:
        try:
            import_module(name)
        except ImportError as error:
            raise SetupError(
                f"{what} needs the package {name}, which can't be imported: {error}",
                remedy=f"Run: pip install {name}",
            ) from error
