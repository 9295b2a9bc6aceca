"""Whether policy and PRM fit into memory, told from the headers of their files: no weight is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rstar_cli.adapters import base_of
from rstar_cli.config import SearchConfig
from rstar_cli.engines import checkpoint
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from rstar_cli.stages.common import prm_device

NF4_BYTES = 0.5 + 4 / 64
"""Bytes of a weight in four bits: itself, and its part of a float32 scale that 64 weights share."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of a checkpoint.

    Attributes:
        matrices: in matrices of its layers, which can be quantised.
        others: embeddings, heads, norms, biases.
    """

    matrices: int
    others: int

    def size(self, device: str, dtype: str) -> float:
        """Bytes on a device (`cpu`, `cuda`, `cuda:N`) in a number format as of `checkpoint.load`."""
        each: int = checkpoint.number_format(device, dtype).itemsize
        return self.matrices * (NF4_BYTES if dtype == "4bit" else each) + self.others * each


@dataclass(slots=True)
class _Use:
    """What is to lie in a device's memory, in bytes.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`.
        free: that is free now; None where the device is not to be seen.
        models: weights by role.
        cache: keys and values that the engines may keep.
    """

    device: str
    free: int | None
    models: dict[str, float] = field(default_factory=dict)
    cache: float = 0.0

    def add(self, role: str, size: float, share: float) -> None:
        """Load a model; its engine then promises itself a share of what is left."""
        self.models[role] = size
        self.cache += share * max(0.0, (self.free or 0) - sum(self.models.values()))

    @property
    def fits(self) -> bool:
        """Whether models and full caches fit side by side, as far as is known."""
        return self.free is None or sum(self.models.values()) + self.cache <= self.free

    def told(self) -> str:
        """All of it in a sentence."""
        models = " + ".join(f"{role} {told_size(size)}" for role, size in self.models.items())
        if self.free is None:
            return f"{models}; no such device is to be seen here"
        verdict = "fits" if self.fits else "fits, but full caches would not"
        verdict = verdict if sum(self.models.values()) <= self.free else "does not fit"
        return f"{models} + cache {told_size(self.cache)} of {told_size(self.free)} that are free: {verdict}"


def memory_figures(config: SearchConfig, policy: str, prm: str | None) -> dict[str, str]:
    """A sentence for each device: what models and caches take of its memory, whether that fits, else what would.

    Args:
        config: settings of the search.
        policy: directory or hub id, or `embedded`.
        prm: directory or hub id; None: none is used.

    Raises:
        SetupError: a file of weights can't be read, or four bits are asked for where they can't be had.
    """
    named = {"policy": policy, **({"PRM": prm} if prm is not None else {})}
    found = {role: count_weights(model) for role, model in named.items()}
    models = {role: weights for role, weights in found.items() if weights is not None}
    if lacking := [named[role] for role in named if role not in models]:
        return {"memory": f"not known: the weights of {' and '.join(lacking)} are not on this disk"}
    uses = _uses(config, models)
    if config.dtype == "4bit":
        for use in uses:
            checkpoint.four_bits(use.device)
    figures = {f"memory on {use.device}": use.told() for use in uses}
    if not all(use.fits for use in uses):
        would = [words for words, other in _others(config, uses) if all(use.fits for use in _uses(other, models))]
        figures[list(figures)[-1]] += f"; {' or '.join(would)} would" if would else ""
    return figures


def _uses(config: SearchConfig, models: Mapping[str, Weights]) -> list[_Use]:
    """What each device is to hold, its models loaded one after the other, as the engines do it."""
    places = {"policy": config.device, "PRM": prm_device(config)}
    shares = {"policy": 2 * checkpoint.MEMORY_SHARE, "PRM": checkpoint.MEMORY_SHARE}  # kept states, and as many in work
    uses: dict[str, _Use] = {}
    for role, weights in models.items():
        device = checkpoint.choose_device("auto") if places[role] == "auto" else places[role].removesuffix(":0")
        use = uses.setdefault(device, _Use(device, _free(device)))
        use.add(role, weights.size(device, config.dtype), shares[role])
    return list(uses.values())


def _others(config: SearchConfig, uses: Sequence[_Use]) -> Iterator[tuple[str, SearchConfig]]:
    """Settings that take less memory on a device, and the flags that set them."""
    if len(uses) == 1 and uses[0].device != "cpu" and "PRM" in uses[0].models and config.dtype != "4bit":
        yield "--prm-device cpu", config.model_copy(update={"prm_device": "cpu"})
    on_gpu = all(use.device != "cpu" for use in uses)
    if config.dtype == "float32" or (config.dtype == "auto" and not on_gpu):
        yield "--dtype bfloat16", config.model_copy(update={"dtype": "bfloat16"})
    if on_gpu and config.dtype != "4bit":
        yield "--dtype 4bit", config.model_copy(update={"dtype": "4bit"})


def _free(device: str) -> int | None:
    """Bytes that are free on a device; None where it is not to be seen."""
    try:
        return checkpoint.free_memory(checkpoint.choose_device(device))
    except SetupError:
        return None


def told_size(size: float) -> str:
    """Bytes to read."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def count_weights(model: str) -> Weights | None:
    """Count the parameters of a checkpoint; None where its weights are not on this disk.

    Raises:
        SetupError: a file can't be read.
    """
    from safetensors import SafetensorError, safe_open

    folder = _folder(model)
    index = folder / "model.safetensors.index.json" if folder else None
    matrices = others = 0
    try:
        shards = {"model.safetensors"}
        if index is not None and index.exists():
            shards = set(json.loads(index.read_bytes())["weight_map"].values())
        if folder is None or not all((folder / shard).exists() for shard in shards):
            return None
        for shard in sorted(shards):
            with safe_open(folder / shard, "numpy") as file:
                for name in file.keys():  # noqa: SIM118
                    shape = file.get_slice(name).get_shape()
                    if len(shape) == 2 and ".layers." in name:
                        matrices += math.prod(shape)
                    else:
                        others += math.prod(shape)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise SetupError(
            f"the weights of {model} can't be read: {error}", remedy="Fetch the checkpoint anew."
        ) from error
    return Weights(matrices, others)


def _folder(model: str) -> Path | None:
    """Where a model's files, or those of its adapters' base, are on this disk: its directory, or the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    model = base_of(model_path(model)) or model
    path = Path(model_path(model))
    if path.is_dir():
        return path
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None
