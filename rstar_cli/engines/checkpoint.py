"""A checkpoint on a device, checked before anything is asked of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rstar_cli.adapters import base_of, merge
from rstar_cli.checkpoint_files import UNFIT, check_files, not_loaded
from rstar_cli.cores import leave_one_core
from rstar_cli.errors import SetupError
from rstar_cli.tokens import StepTokenizer

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_SHARE = 0.25
"""Share of the free memory that kept keys and values may take; those of the batch may take as much again."""

Task = Literal["CausalLM", "SequenceClassification"]
"""What a model is for, as `transformers` names it."""

PUBLISHED = "Give the checkpoint and its tokenizer as they were published, the weights as safetensors."

_REMEDIES: dict[Task, str] = {
    "CausalLM": "Give a checkpoint directory with config.json and model.safetensors, or a hub id within reach.",
    "SequenceClassification": "Give a checkpoint of a process reward model: a sequence classifier with one label.",
}


def choose_device(device: str) -> str:
    """`auto` is a GPU where there is one.

    Raises:
        SetupError: a GPU is asked for and there is none, or not so many.
    """
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if seen else "cpu"
    if device != "cpu" and not seen:
        raise SetupError("no CUDA device is to be seen", remedy="Give --device cpu, or check the driver.")
    if device != "cpu" and int(device.partition(":")[2] or 0) >= seen:
        raise SetupError(f"{device}: {seen} CUDA device(s) are to be seen", remedy="Count them from cuda:0.")
    return device


def load(
    model: str | Path, device: str, dtype: str, task: Task | type = "CausalLM", *, trust_remote_code: bool = False
) -> tuple[Any, StepTokenizer]:
    """Load a model and its tokenizer, weights from safetensors alone, code from transformers and from here alone.

    Args:
        model: a checkpoint directory, one of LoRA adapters (which are merged into their base), or a hub id.
        device: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`. On a CPU, PyTorch leaves one core to the
            sandbox.
        dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32`, `bfloat16` or `4bit` (the layers' matrices in
            NF4, all else in bfloat16; a GPU and the package bitsandbytes are needed).
        task: what the model is for; or its class, a `PreTrainedModel` of our own.
        trust_remote_code: run code that the checkpoint brings, too.

    Raises:
        SetupError: model or device are not to be had, or weights are missing.
    """
    place = choose_device(device)
    check_files(model)
    if place == "cpu":
        leave_one_core()
    tokenizer = StepTokenizer.load(model, trust_remote_code=trust_remote_code)
    return _load_model(model, place, dtype, task, trust_remote_code), tokenizer


def _load_model(model: str | Path, device: str, dtype: str, task: Task | type, trust_remote_code: bool) -> Any:
    import torch
    import transformers
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    kind: Any = task if isinstance(task, type) else getattr(transformers, f"AutoModelFor{task}")
    remedy = PUBLISHED if isinstance(task, type) else _REMEDIES[task]
    more = four_bits(device) if dtype == "4bit" else {}
    base = base_of(model)
    check_files(base or model)
    if base is not None and more:
        raise SetupError(f"{model}: adapters are not put upon four bits", remedy="Train with --merge, or merge them.")
    try:
        loaded, report = kind.from_pretrained(
            str(base or model),
            config=_config(base or model, trust_remote_code),
            dtype=number_format(device, dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **more,
        )
        # transformers only warns of these, and goes on with random weights
        if lacking := sorted(report["missing_keys"]):
            raise ValueError(f"it lacks {len(lacking)} weight(s), {lacking[0]} the first")
        loaded = loaded if base is None else merge(loaded, model)
        return (loaded if more else loaded.to(device)).eval()
    except torch.OutOfMemoryError as error:
        raise SetupError(
            f"{model} does not fit into the memory of {device}",
            remedy="Take a smaller model, or --dtype bfloat16 or 4bit; for a PRM --prm-device.",
        ) from error
    except (*UNFIT, SafetensorError) as error:
        raise not_loaded("model", model, error, remedy) from error


def number_format(device: str, dtype: str) -> Any:
    """The number format that a model computes in, as PyTorch has it (arguments as of `load`, no `auto` device)."""
    import torch

    auto = torch.float32 if device == "cpu" else torch.bfloat16
    return {"auto": auto, "4bit": torch.bfloat16}.get(dtype) or getattr(torch, dtype)


def _config(model: str | Path, trust_remote_code: bool) -> Any:
    """A model's configuration; a Mistral's window over all layers becomes the limit of its context.

    Within the window its layers attend to everything before, as the engines here need it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(model), trust_remote_code=trust_remote_code)
    if config.model_type == "mistral" and config.sliding_window:
        config.max_position_embeddings = min(config.max_position_embeddings, config.sliding_window)
        config.sliding_window = None
    return config


def four_bits(device: str) -> dict[str, Any]:
    """How `from_pretrained` is told to quantise; not to eight bits, where a row's outliers change those beside it.

    Raises:
        SetupError: there is no GPU, or bitsandbytes is lacking.
    """
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if device == "cpu":
        raise SetupError("--dtype 4bit needs a GPU", remedy="Give --dtype bfloat16, or a smaller model.")
    if find_spec("bitsandbytes") is None:
        raise SetupError("--dtype 4bit needs the package bitsandbytes", remedy="Run: pip install bitsandbytes")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=number_format(device, "4bit"),
        llm_int8_skip_modules=["lm_head", "score"],  # heads stay as they are (the name is bitsandbytes')
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def check_tokens(ids: Iterable[int], vocabulary: int, name: str) -> None:
    """Refuse tokens that a model does not know.

    Raises:
        SetupError: one is `vocabulary` or higher.
    """
    if (highest := max(ids, default=0)) >= vocabulary:
        raise SetupError(
            f"token {highest} of the prefix is none of the {vocabulary} that {name} knows",
            remedy="Give a checkpoint whose tokenizer belongs to its model.",
        )


def state_shape(model: Any) -> tuple[int, int, int]:
    """(layers, kv_heads, head_dim) of the keys and values that the model keeps: what one token leaves in its cache.

    Raises:
        SetupError: its layers don't all keep the keys and values of every token.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    with torch.inference_mode():
        token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
        cache = getattr(model(input_ids=token, use_cache=True), "past_key_values", None)
    layers = list(getattr(cache, "layers", ()))
    kept = [(layer.keys, layer.values) for layer in layers if type(layer) is DynamicLayer]
    shapes = {tuple(states.shape) for pair in kept for states in pair if states is not None}
    if not kept or len(kept) < len(layers) or len(shapes) != 1:
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers})) or "none"
        raise SetupError(
            f"{type(model).__name__} does not keep keys and values of one shape for every token (layers: {kinds})",
            remedy="Take a model with full attention in every layer, as Qwen2 and Llama have.",
        )
    ((_, heads, _, width),) = shapes
    return len(layers), heads, width


def context_length(model: Any) -> int | None:
    """Most tokens of a sequence; None where the model states no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def eos_tokens(tokenizer: StepTokenizer, *told: int | list[int] | None) -> frozenset[int]:
    """Tokens that end a sequence, by the tokenizer and by what is `told` in the model's configurations."""
    found: set[int] = set()
    for ids in (*told, tokenizer.hf.eos_token_id):
        found.update(ids if isinstance(ids, list) else [ids] if ids is not None else [])
    return frozenset(found)


def tokens_with(tokenizer: StepTokenizer, character: str, vocabulary: int) -> Tensor:
    """Tokens whose text may hold a character. Shape [vocabulary], bool.

    Args:
        tokenizer: whose tokens.
        character: one character; the bytes of one that is not ASCII may be spread over tokens, and all of these count.
        vocabulary: tokens that the model knows.
    """
    import torch

    found = torch.zeros(vocabulary, dtype=torch.bool)
    plain = "!" <= character <= "~"  # vocabularies spell these as they are, and only these
    for spelled, token in tokenizer.hf.get_vocab().items():
        text = spelled if plain else tokenizer.decode([token])
        if token < vocabulary and (character in text or (not character.isascii() and "\ufffd" in text)):
            found[token] = True
    return found


def free_memory(device: str) -> int:
    """Bytes that are free on a device; 4 GiB for a CPU whose system does not tell."""
    import os

    import torch

    if device != "cpu":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 << 30
