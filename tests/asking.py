"""One call that has a policy answer requests; needs no package of the tests, for other environments too."""

from __future__ import annotations

from collections.abc import Sequence

from rstar_cli.protocols import Policy, Sample, SampleRequest


def answers(policy: Policy, asked: Sequence[SampleRequest]) -> list[list[Sample]]:
    """A policy's samples for requests, in their order."""
    for ticket, each in enumerate(asked):
        policy.submit(ticket, each)
    found: dict[int, list[Sample]] = {}
    while got := policy.poll():
        found.update(got)
    return [found[ticket] for ticket in range(len(asked))]
