"""What counts as the same answer where data sets disagree."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    r"""Four questions on which careful examiners differ.

    Attributes:
        percent_is_hundredth: whether `10\%` equals `0.1` as well. It equals `10` if units may be missing.
        roundings: whether a decimal of two digits or more equals the number that it is the rounding of: `0.33` a third,
            `3.14` pi, `2.72` is `2.718`. Integers are never roundings.
        ordered_lists: whether a bare list (`1, 3`) has an order. Tuples always have one, sets never.
        missing_units: whether a unit, percent sign or currency that one side leaves out is overlooked.
    """

    percent_is_hundredth: bool = False
    roundings: bool = False
    ordered_lists: bool = False
    missing_units: bool = True


STRICT = Policy()
"""The default: a false accept is a poisoned reward."""
LENIENT = Policy(percent_is_hundredth=True, roundings=True)
"""For noisy gold sets, whose golds are rounded or mix percent and fractions."""
