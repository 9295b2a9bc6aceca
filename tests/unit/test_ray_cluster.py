"""How the actors of `--launcher ray` share the machines of a cluster: all find room, whoever is placed first."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.stages.ray_cluster import Share, shares


def nodes(machines: list[dict[str, float]]) -> list[dict[str, Any]]:
    return [{"NodeID": f"n{number}", "Resources": machine} for number, machine in enumerate(machines)]


def placed(machines: list[dict[str, float]], asked: list[Share], order: random.Random) -> int:
    """How many actors a scheduler places that takes any machine with room; a part of a GPU is of one GPU."""
    cpus = [machine.get("CPU", 0.0) for machine in machines]
    gpus = [[1.0] * int(machine.get("GPU", 0)) for machine in machines]
    for number, share in enumerate(asked):
        room = [
            (at, gpu)
            for at in range(len(machines))
            for gpu in (range(len(gpus[at])) if share.gpus else [-1])
            if cpus[at] >= share.cpus - 1e-9
            and (gpu < 0 or gpus[at][gpu] >= share.gpus - 1e-9)
            and share.machine in (None, f"n{at}")
        ]
        if not room:
            return number
        at, gpu = order.choice(room)
        cpus[at] -= share.cpus
        if gpu >= 0:
            gpus[at][gpu] -= share.gpus
    return len(asked)


@given(st.randoms(use_true_random=False), st.booleans())
def test_all_actors_find_room(order: random.Random, gpus: bool) -> None:
    machines = [
        {"CPU": float(order.randint(1, 64)), **({"GPU": float(order.randint(1, 8))} if order.random() < 0.6 else {})}
        for _ in range(order.randint(1, 5))
    ]
    machines += [{"CPU": 0.0}] if order.random() < 0.3 else []  # a head that does no work
    had = int(sum(machine.get("GPU", 0) for machine in machines))
    actors = order.choice([0, order.randint(1, 40)])
    found = shares(nodes(machines), actors, gpus=gpus)
    expected = actors or (had or 1 if gpus else sum(machine["CPU"] > 0 for machine in machines))
    assert len(found) == expected
    for share in found:
        assert share.cpus > 0
        assert share.cpus < 1 or share.cpus == int(share.cpus)
        assert (share.gpus > 0) == (gpus and had > 0)
    assert placed(machines, found, order) == expected


@pytest.mark.parametrize(
    ("machines", "actors", "gpus", "expected"),
    [
        ([{"CPU": 8.0}], 0, False, [Share(8, machine="n0")]),
        ([{"CPU": 64.0}, {"CPU": 4.0}], 0, False, [Share(64, machine="n0"), Share(4, machine="n1")]),
        ([{"CPU": 8.0}], 3, False, [Share(2)] * 3),
        ([{"CPU": 2.0}], 4, True, [Share(0.5)] * 4),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 3.0}], 0, True, [Share(2, 1)] * 4),
        ([{"CPU": 16.0, "GPU": 1.0}], 2, True, [Share(8, 0.5)] * 2),
        ([{"CPU": 16.0, "GPU": 2.0}], 3, True, [Share(5, 0.5)] * 3),
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}], 4, True, [Share(4, 1)] * 4),
    ],
)
def test_shares(machines: list[dict[str, float]], actors: int, gpus: bool, expected: list[Share]) -> None:
    assert shares(nodes(machines), actors, gpus=gpus) == expected
