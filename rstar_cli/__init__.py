"""rstar: a small language model teaches itself mathematics (rStar-Math, arXiv 2501.04519)."""

__version__ = "0.1.0"
