"""What searches and rounds will cost, told before they begin: tokens, time and disk, as the run's last round had them.

Before a round has run there are bounds only, and one layer's measured speed.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

from rstar_cli.config import GenerateConfig, SearchConfig, TrainPolicyConfig, parse_escalation
from rstar_cli.errors import SetupError
from rstar_cli.layout import RunDir, read_manifest
from rstar_cli.stages.memory import told_size
from rstar_cli.stages.train_cost import Shape, measure_speed, shape_of, told_speed, told_time
from rstar_cli.train.machine import find_machine

USUAL = 0.1
"""Of the bound on a search's tokens; what is drawn ends long before its limits."""
STATE = 12
"""Bytes a parameter of a saved state of a training: weights and AdamW's two moments in float32."""
STATES = 2
"""Of them there are while the next one is written."""
LENGTH = 512
"""Tokens of a row, to measure a layer with."""


def search_bound(config: SearchConfig) -> int:
    """Tokens that the search of one problem may generate."""
    rollouts = config.rollouts
    if isinstance(config, GenerateConfig):
        rollouts = max((rollouts, *parse_escalation(config.escalate)))
    answer = config.max_step_tokens
    if config.method in ("beam", "dvts"):
        return config.max_depth * rollouts * (config.max_step_tokens + answer)
    if config.method in ("swor", "mcts", "best-of-n"):
        return rollouts * (config.max_tokens + answer)
    expanded = config.candidates * config.max_step_tokens
    expanded *= config.max_depth if config.rollout_style == "expand" else 1
    return rollouts * (expanded + config.max_tokens + answer)


def generate_figures(config: GenerateConfig, run: RunDir | None, number: int, problems: int) -> dict[str, str]:
    """Tokens and time of a round's searches, as sentences.

    Args:
        config: settings.
        run: the run; None: work outside one.
        number: the round.
        problems: how many are to be searched.
    """
    for earlier in range(number, 0, -1) if run is not None else ():
        assert run is not None  # noqa: S101
        entry = read_manifest(run.round(earlier).manifest).get("generate", {})
        generated = entry.get("tokens", {}).get("generated")
        if entry.get("status") == "complete" and generated:
            each, rate = generated / entry["counts"]["problems"], generated / max(entry["seconds"], 1e-9)
            tokens = each * problems
            return {
                "tokens to generate": f"about {tokens:,.0f} ({each:,.0f} a problem in round {earlier})",
                "time to generate": f"about {told_time(tokens / rate)} at {rate:,.0f} tokens/s, as round {earlier} had",
            }
    bound = problems * search_bound(config)
    told = f"at most {bound:,} (no round has run yet to estimate from; usually a tenth of it or less)"
    return {"tokens to generate": told}


def round_figures(run: RunDir, rounds: int) -> dict[str, str]:
    """Time and disk of a run's rounds, as sentences.

    Args:
        run: the run, which may not have begun.
        rounds: how many it is to have.
    """
    free = shutil.disk_usage(_existing(run.root)).free
    last = next((n for n in range(rounds, 0, -1) if _is_complete(run, n)), 0)
    if not last:
        return _before_the_first(run, rounds, free)
    left = rounds - last
    seconds: Counter[str] = Counter()
    for name, entry in read_manifest(run.round(last).manifest).items():
        seconds[name.split()[0]] += entry["seconds"]  # an evaluation has an entry for each set and method
    size = sum(path.stat().st_size for path in run.round(last).root.rglob("*") if path.is_file())
    listed = ", ".join(f"{stage} {told_time(took)}" for stage, took in seconds.items())
    total = sum(seconds.values())
    to_come = f"for the {left} to come"
    time = [f"about {told_time(total)}, as round {last} took ({listed})"]
    room = [f"about {told_size(size)}, as round {last} takes"]
    if left:
        time.append(f"{told_time(left * total)} {to_come}")
        room.append(f"{told_size(left * size)} {to_come}, of {told_size(free)} that are free")
    return {"time of a round": "; ".join(time), "disk of a round": "; ".join(room)}


def _before_the_first(run: RunDir, rounds: int, free: int) -> dict[str, str]:
    base = run.recipe.run.base
    shape = shape_of(base)
    if shape is None:
        return {"disk": f"not known: neither a config of {base} nor a size in its name; {told_size(free)} are free"}
    weights = shape.parameters * shape.bytes_each
    kept, training = 2 * rounds * weights, STATES * STATE * shape.parameters
    figures = {
        "disk": f"{told_size(kept)} for policies and PRMs of {rounds} rounds, {told_size(weights)} each, and "
        f"{told_size(training)} while one is trained, of {told_size(free)} that are free; the trees come on top"
    }
    speed = _decoding(shape, run)
    if speed is not None:
        figures["time to generate, round 1"] = speed
    return figures


def _decoding(shape: Shape, run: RunDir) -> str | None:
    """Hours of round 1's searches at the speed that a layer's arithmetic allows; None where it can't be measured."""
    generate = run.recipe.stage(GenerateConfig, "generate", 1, {})
    if generate.engine != "transformers":
        return None
    training = run.recipe.stage(TrainPolicyConfig, "train-policy", 1, {})
    try:
        machine = find_machine(training.device, "auto")
    except SetupError:
        return None
    speed = measure_speed(shape, machine, LENGTH, training.batch_tokens)
    if speed is None:
        return None
    rate = speed / (2 * (shape.layer * shape.layers + shape.head))
    tokens = USUAL * search_bound(generate) * run.recipe.run.count
    return (
        f"at least {told_time(tokens / rate)} for a tenth of its bound, {tokens:,.0f} tokens, at {rate:,.0f} tokens/s "
        f"or less: one layer's {told_speed(speed)}, measured on {machine.device}"
    )


def _is_complete(run: RunDir, number: int) -> bool:
    entries = read_manifest(run.round(number).manifest)
    evaluated = any(name.startswith("evaluate ") for name in entries)
    return evaluated and "generate" in entries and all(entry["status"] == "complete" for entry in entries.values())


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())
