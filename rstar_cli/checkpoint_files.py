"""A checkpoint's files looked over before anything is loaded: what is missing, damaged, or not safe to open.

Weights are read from safetensors alone. A pickle (`.bin`, `.pt`) can run any code when it is opened, so none ever is,
with no flag to ask for it. Code that a checkpoint brings runs only with `--trust-remote-code`, which manifests tell of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rstar_cli.errors import SetupError

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_HEADER_MOST = 100_000_000
"""Bytes of a safetensors header at most, by the format."""

UNFIT = (OSError, ValueError, LookupError, ImportError, RuntimeError, TypeError, AttributeError, ArithmeticError)
"""What transformers raises for a checkpoint that makes no model."""
CONVERT = (
    "Convert it where opening a pickle is safe: load it with transformers, then save_pretrained() to a new folder."
)
FETCH = "Fetch or train the checkpoint anew."
TRUST = (
    "Give a checkpoint of a kind that transformers knows. If you trust its author with this machine, give "
    "--trust-remote-code: its code runs outside of the sandbox."
)


def check_files(model: str | Path) -> None:
    """Refuse a checkpoint directory that can't be loaded; a hub id passes, as does what is no directory.

    Raises:
        SetupError: names the file.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    adapters = folder / "adapter_config.json"
    if adapters.is_file():
        _read(adapters)
        _check_weights(folder, "adapter_model.safetensors")
        return
    if not (folder / "config.json").is_file():
        raise SetupError(
            f"{folder} holds no config.json: it is not a checkpoint", remedy="Give a checkpoint directory."
        )
    _read(folder / "config.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _read(folder / name)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise SetupError(
            f"{folder} holds no tokenizer ({_TOKENIZERS[0]})",
            remedy="Put the files of the model's tokenizer beside its weights.",
        )
    _check_weights(folder, "model.safetensors")


def _check_weights(folder: Path, name: str) -> None:
    index = folder / f"{name}.index.json"
    names = {name}
    if index.is_file() and not (folder / name).is_file():
        shards = _read(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise SetupError(f"{index} has no weight_map", remedy=FETCH)
        names = set(shards.values())
    for shard in sorted(names):
        path = folder / shard
        if path.is_file():
            check_whole(path)
        elif pickled := sorted(found.name for kind in _PICKLES for found in folder.glob(kind)):
            raise SetupError(
                f"{folder} has its weights as pickles alone ({pickled[0]}), which can run code when they are opened",
                remedy=CONVERT,
            )
        else:
            raise SetupError(f"{path} is missing: the weights are not there", remedy=FETCH)


def check_whole(path: Path) -> None:
    """Refuse a safetensors file that was cut off or damaged, by its header and its size alone.

    Raises:
        SetupError: says what is wrong.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length <= min(_HEADER_MOST, size) else None
    except OSError as error:
        raise SetupError(f"{path}: can't read it: {error.strerror or error}", remedy="Check its permissions.") from None
    except ValueError:
        header = None
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (AttributeError, KeyError, TypeError, IndexError):
        raise SetupError(f"{path} is no whole safetensors file: its header can't be read", remedy=FETCH) from None
    if size != expected:
        what = "cut off" if size < expected else "damaged"
        raise SetupError(f"{path} is {what}: it has {size:,} bytes of {expected:,}", remedy=FETCH)


def _read(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path}: can't read it: {error.strerror or error}", remedy="Check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{path} is damaged: {error}", remedy=FETCH) from None
    if not isinstance(told, dict):
        raise SetupError(f"{path} is damaged: it holds no JSON object", remedy=FETCH)
    return told


def not_loaded(what: str, model: str | Path, error: Exception, remedy: str) -> SetupError:
    """The error of a model or tokenizer that transformers does not load: in a line, with what helps.

    Args:
        what: `model` or `tokenizer`.
        model: a checkpoint directory or a hub id.
        error: what transformers said.
        remedy: where nothing better is known.
    """
    said = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in said:
        return SetupError(f"{model} brings code of its own, which is not run", remedy=TRUST)
    if "pickle" in said or "pytorch_model.bin" in said:
        return SetupError(f"{model} has its weights as pickles alone, which can run code", remedy=CONVERT)
    if not Path(model).exists() and ("connect to" in said or "offline" in said.lower()):
        why = f"no {what} at {model}: it is neither a folder here nor in the hub's cache, and the hub is out of reach"
        return SetupError(why, remedy="Check the network and HF_HUB_OFFLINE, or give a checkpoint directory.")
    return SetupError(f"no {what} at {model}: {said[:400]}", remedy=remedy)
