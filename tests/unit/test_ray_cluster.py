"""How the actors of `--launcher ray` share the machines of a cluster: all find room, whoever is placed first."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli.stages.ray_cluster import cpus_each


def placed(machines: list[dict[str, float]], actors: int, cpus: float, gpu: float, order: random.Random) -> int:
    """How many of the actors a scheduler places that takes any machine with room."""
    left = [dict(machine) for machine in machines]
    for number in range(actors):
        room = [m for m in left if m.get("CPU", 0) >= cpus - 1e-9 and m.get("GPU", 0) >= gpu - 1e-9]
        if not room:
            return number
        chosen = order.choice(room)
        chosen["CPU"] = chosen.get("CPU", 0) - cpus
        chosen["GPU"] = chosen.get("GPU", 0) - gpu
    return actors


@given(st.randoms(use_true_random=False))
def test_all_actors_find_room(order: random.Random) -> None:
    machines = [
        {"CPU": float(order.randint(1, 64)), **({"GPU": float(order.randint(1, 8))} if order.random() < 0.6 else {})}
        for _ in range(order.randint(1, 5))
    ]
    gpus = int(sum(machine.get("GPU", 0) for machine in machines))
    gpu = 1.0 if gpus and order.random() < 0.7 else 0.0
    actors = order.randint(1, gpus) if gpu else order.randint(1, 40)
    cpus = cpus_each(machines, actors, gpu)
    assert cpus > 0
    assert cpus < 1 or cpus == int(cpus)
    assert placed(machines, actors, cpus, gpu, order) == actors


@pytest.mark.parametrize(
    ("machines", "actors", "gpu", "cpus"),
    [
        ([{"CPU": 8.0}], 1, 0.0, 8.0),
        ([{"CPU": 8.0}], 3, 0.0, 2.0),
        ([{"CPU": 2.0}], 4, 0.0, 0.5),
        ([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 3.0}], 4, 1.0, 2.0),
        ([{"CPU": 16.0, "GPU": 1.0}], 2, 0.5, 8.0),
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}], 4, 1.0, 4.0),
    ],
)
def test_cores_of_an_actor(machines: list[dict[str, float]], actors: int, gpu: float, cpus: float) -> None:
    assert cpus_each(machines, actors, gpu) == cpus
