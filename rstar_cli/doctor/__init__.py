"""Is this machine fit? What it has, how strong its sandbox is, and whether that holds when it is attacked."""

from rstar_cli.doctor.checkup import Checkup, examine

__all__ = ["Checkup", "examine"]
