"""What a training will take, told before it begins: memory from the model's shape, time from the machine's speed.

A model that is not on this disk is known by its config (a few kilobytes from the hub), or guessed from a name such as
`Qwen2.5-Math-7B` where the hub is out of reach: no weight is loaded.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rstar_cli.adapters import base_of
from rstar_cli.config import TrainConfig, TrainPolicyConfig
from rstar_cli.engines import checkpoint
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from rstar_cli.records import PairRow, SftRow, StepLabelRow
from rstar_cli.stages.memory import NF4_BYTES, told_size
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.fit import LARGE, quiet
from rstar_cli.train.machine import find_machine
from rstar_cli.train.trainer import LOGITS

if TYPE_CHECKING:
    from rstar_cli.train.machine import Machine

SHARDS = 8
"""GPUs of one machine, at most."""
_MEASURED = 2e11
"""Floating-point operations of one measured pass at most, as far as a row's length allows: seconds on a CPU."""
LETTERS = 3
"""A token's, about: in mathematics and code they are shorter than in prose."""
_VOCABULARY = 150_000
"""Of a model that is known by its name alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A model's sizes.

    Attributes:
        config: its config, of transformers.
        guessed: the config is a guess from the model's name.
        parameters: all of it.
        layer: parameters of one layer.
        linear: (inputs, outputs) of every matrix in the layers.
    """

    config: Any
    guessed: bool
    parameters: int
    layer: int
    linear: tuple[tuple[int, int], ...]

    @property
    def layers(self) -> int:
        """How many there are."""
        return int(self.config.num_hidden_layers)

    @property
    def bytes_each(self) -> int:
        """Of a parameter in a checkpoint; two where the config does not tell, as is usual of large ones."""
        dtype = getattr(self.config, "dtype", None)
        return int(dtype.itemsize) if dtype is not None else 2

    @property
    def head(self) -> int:
        """Parameters of the output head, which may be the embedding's, too."""
        return int(self.config.hidden_size * self.config.vocab_size)

    @property
    def inner(self) -> int:
        """Parameters of the matrices in the layers."""
        return sum(inputs * outputs for inputs, outputs in self.linear)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters on every matrix in the layers."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.linear)


@functools.cache
def shape_of(model: str) -> Shape | None:
    """The sizes of a model; None where nothing tells them.

    Args:
        model: `embedded`, a checkpoint directory (of adapters: their base's sizes), or a hub id.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    guessed = False
    try:
        path = model_path(model)
        config = AutoConfig.from_pretrained(base_of(path) or path, trust_remote_code=False).get_text_config()
    except (OSError, ValueError, KeyError):
        config, guessed = _guess(model), True
    if config is None or not all(hasattr(config, name) for name in ("hidden_size", "num_hidden_layers", "vocab_size")):
        return None
    try:
        with torch.device("meta"):
            net = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError:  # no language model
        return None
    inside = {name: p for name, p in net.named_parameters() if re.search(r"\.\d+\.", name)}
    first = sum(p.numel() for name, p in inside.items() if re.search(r"^\D*\.0\.", name))
    linear = [
        (m.in_features, m.out_features) for n, m in net.named_modules() if isinstance(m, torch.nn.Linear) and "." in n
    ]
    return Shape(config, guessed, sum(p.numel() for p in net.parameters()), first, tuple(linear))


def _guess(model: str) -> Any:
    """A config of about as many parameters as the name tells: width and depth as models of the size have them."""
    from transformers import Qwen2Config

    told = re.search(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)B(?![a-z])", model, re.IGNORECASE)
    if told is None:
        return None
    parameters = 1e9 * float(told[1])
    heads = max(1, round((parameters * 128 / 12) ** (1 / 3) / 128))  # 12 width² a layer, one for each 128 of it
    width, tied = 128 * heads, parameters < 3e9
    embeddings = _VOCABULARY * width * (1 if tied else 2)
    return Qwen2Config(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=max(1, round((parameters - embeddings) / (12 * width**2))),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=tied,
    )


def training_memory(shape: Shape, config: TrainConfig, machine: Machine, *, scores: bool) -> dict[str, float]:
    """Bytes on the device by what they hold.

    Full fine-tuning keeps everything in float32; Muon has one moment where AdamW has two. Autocast keeps a copy of the
    weights in its own format. Activations are those of a micro-batch of `batch_tokens`: all layers', or, where they are
    computed again, one layer's and every layer's input.

    Args:
        shape: the model's sizes.
        config: settings of the training.
        machine: where and how it computes.
        scores: a PRM is trained: it has no logits.
    """
    trained = shape.adapters(config.lora_rank) if config.lora_rank else shape.parameters
    moved = trained if config.lora_rank else shape.inner  # by Muon
    moments = 8 * trained - (4 * moved if config.optimizer == "muon" else 0)
    copies = 2 * trained if machine.bfloat16 else 0
    weights = 4 * trained + copies + (_frozen(shape, config, machine) if config.lora_rank else 0)
    each, entry = _activations(shape, machine.bfloat16), 4 * shape.config.hidden_size
    kept = each + entry * shape.layers if checkpoints(shape, machine) else each * shape.layers
    logits = 0 if scores else min(LOGITS, config.batch_tokens * shape.config.vocab_size) * 10  # and their gradients
    return {
        "weights": weights,
        "gradients": 4 * trained,
        "optimizer": moments,
        "activations": config.batch_tokens * kept + logits,
    }


def _frozen(shape: Shape, config: TrainConfig, machine: Machine) -> float:
    """Bytes of the weights below adapters: as they are stored, which is taken for the format that they compute in."""
    if config.dtype == "4bit":
        return NF4_BYTES * shape.inner + 2 * (shape.parameters - shape.inner)
    return (2 if machine.bfloat16 else 4) * shape.parameters


def _activations(shape: Shape, bfloat16: bool) -> float:
    """Bytes that the backward pass needs of a layer for each token.

    Counted of Qwen2 in PyTorch, residual in float32: about 35 times the width and 8 times the MLP's in bfloat16 (34 and
    8 in Korthikanti et al., arXiv 2205.05198), 42 and 16 in float32. Attention keeps none of its weights.
    """
    width = shape.config.hidden_size
    inner = getattr(shape.config, "intermediate_size", None) or 4 * width
    return float(35 * width + 8 * inner if bfloat16 else 42 * width + 16 * inner)


def checkpoints(shape: Shape, machine: Machine) -> bool:
    """Whether activations are computed again in the backward pass, as `train/fit.py` decides it."""
    return machine.device == "cuda" and shape.parameters >= LARGE


def tell_memory(shape: Shape, config: TrainConfig, machine: Machine, *, scores: bool) -> str:
    """Memory as a sentence: the parts, whether it fits, else what would."""
    free = checkpoint.free_memory(machine.device)

    def need(**other: int | str) -> float:
        asked = config.model_copy(update=other)
        return sum(training_memory(shape, asked, machine, scores=scores).values())

    parts = training_memory(shape, config, machine, scores=scores)
    listed = " + ".join(f"{name} {told_size(size)}" for name, size in parts.items())
    told = f"{listed} = {told_size(need())} of {told_size(free)} that are free"
    if need() <= free:
        return f"{told}: fits"
    would = [] if config.lora_rank or need(lora_rank=16) > free else ["--lora-rank 16"]
    if not would and need(lora_rank=config.lora_rank or 16, dtype="4bit") <= free and machine.device == "cuda":
        would.append(f"--lora-rank {config.lora_rank or 16} --dtype 4bit")
    least = min(config.batch_tokens, config.max_length)
    would += [f"--batch-tokens {least}"] if need(batch_tokens=least) <= free else []
    states = need() - parts["activations"]
    shards = [n for n in range(2, SHARDS + 1) if states / n + parts["activations"] <= free]
    would += [f"{shards[0]} such GPUs (recipes/accelerate/fsdp.yaml)"] if machine.device == "cuda" and shards else []
    return f"{told}: does not fit" + (f"; {' or '.join(would)} would" if would else "")


def measure_speed(shape: Shape, machine: Machine, length: int, batch_tokens: int) -> float | None:
    """Floating-point operations a second of one layer's forward and backward pass; None where it does not fit.

    Args:
        shape: the model's sizes.
        machine: where and how to compute.
        length: tokens of a row.
        batch_tokens: tokens of a micro-batch, at most.
    """
    fits = 12 * shape.layer <= checkpoint.free_memory(machine.device)
    return _measured(shape, machine, length, batch_tokens) if fits else None


@functools.cache
def _measured(shape: Shape, machine: Machine, length: int, batch_tokens: int) -> float:
    import torch
    from transformers import AutoModel

    small = {"num_hidden_layers": 1, "layer_types": None, "vocab_size": 8}
    tokens = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = type(shape.config).from_dict({**shape.config.to_dict(), **small, **tokens})
    with quiet(), torch.device(machine.device):
        net = AutoModel.from_config(config, attn_implementation=machine.attention, dtype=torch.float32).train()
    rows = max(1, int(min(batch_tokens, _MEASURED / (6 * shape.layer)) / length))
    ids = torch.zeros((rows, length), dtype=torch.long, device=machine.device)

    def step() -> float:
        begun = time.perf_counter()
        with torch.autocast(machine.device, dtype=torch.bfloat16, enabled=machine.bfloat16):
            out = net(input_ids=ids, use_cache=False).last_hidden_state
        out.float().square().mean().backward()
        net.zero_grad()
        out.detach()[0, 0, 0].item()  # the GPU has done it
        return time.perf_counter() - begun

    step()
    return 6 * shape.layer * rows * length / min(step() for _ in range(3))


def operations(shape: Shape, config: TrainConfig, machine: Machine, *, scores: bool) -> float:
    """Floating-point operations of a training for each token: 6 a parameter; frozen weights have no gradient."""
    worked = shape.layer * shape.layers + (0 if scores else shape.head)
    return worked * ((4 if config.lora_rank else 6) + 2 * checkpoints(shape, machine))


def count_tokens(rows: Sequence[SftRow | PairRow | StepLabelRow], model: str) -> list[int]:
    """Tokens of each row, of a pair those of both sides; guessed from the letters where there is no tokenizer."""
    try:
        tokenizer = StepTokenizer.load(model_path(model))
    except SetupError:
        tokenizer = None

    def texts(row: SftRow | PairRow | StepLabelRow) -> list[str]:
        if isinstance(row, PairRow):
            return [row.prompt, row.chosen, row.prompt, row.rejected]
        return [row.prompt, *(step.text for step in row.steps)]

    def count(row: SftRow | PairRow | StepLabelRow) -> int:
        if tokenizer is None:
            return sum(map(len, texts(row))) // LETTERS
        if isinstance(row, SftRow):
            return len(tokenizer.training_ids(row)[0])
        if isinstance(row, PairRow):
            return sum(map(len, tokenizer.pair_ids(row)))
        return sum(len(tokenizer.encode(text)) for text in texts(row))

    return [count(row) for row in rows]


def cost_figures(
    model: str, config: TrainConfig, tokens: float, length: float, last: Mapping[str, Any] | None
) -> dict[str, str]:
    """Memory and time of a training, as sentences.

    Args:
        model: what it starts from.
        config: settings of `train-policy` or `train-prm`.
        tokens: of all passes.
        length: tokens of a row.
        last: counts of this stage in an earlier round, `tokens` and `seconds`; None: the machine's speed is measured.
    """
    shape = shape_of(model)
    if shape is None:
        return {"memory": f"not known: neither a config of {model} nor a size in its name"}
    try:
        machine = find_machine(config.device, config.dtype)
    except SetupError as error:
        return {"memory": f"not known: {error}"}
    scores = not isinstance(config, TrainPolicyConfig)
    memory = tell_memory(shape, config, machine, scores=scores)
    if shape.guessed:
        memory += f" (guessed from the name: {shape.parameters / 1e9:.1f} B parameters)"
    figures = {f"memory on {machine.device}": memory}
    if last and last.get("tokens") and last.get("seconds"):
        rate, how = last["tokens"] / last["seconds"], "as an earlier round had"
    else:
        row = round(min(config.max_length, max(8, length)))
        speed = measure_speed(shape, machine, row, config.batch_tokens)
        if speed is None:
            return {**figures, "time": f"not known: not even one layer fits on {machine.device}"}
        rate = speed / operations(shape, config, machine, scores=scores)
        how = f"from one layer's {told_speed(speed)}, measured on {machine.device}"
    needed = f"about {told_time(tokens / rate)}: {tokens:,.0f} tokens at {rate:,.1f} tokens/s, {how}"
    return {**figures, "time": needed}


def told_speed(speed: float) -> str:
    """Floating-point operations a second, to read."""
    return f"{speed / 1e12:.0f} TFLOP/s" if speed >= 1e13 else f"{speed / 1e9:.0f} GFLOP/s"


def told_time(seconds: float) -> str:
    """A time to read."""
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} seconds"
