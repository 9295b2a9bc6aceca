"""Runs untrusted Python. See `executor.Sandbox`."""

from rstar_cli.sandbox.executor import Sandbox

__all__ = ["Sandbox"]
