"""LoRA adapters as a checkpoint: their directory has an adapter_config.json that names the base model."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from rstar_cli.errors import SetupError

STEPS = "rstar_steps"
"""Key of a checkpoint's config.json, or of adapters' adapter_config.json: it was trained on the step format."""


def base_of(model: str | Path) -> str | None:
    """The base that a checkpoint's adapters belong to; None where it is a whole model or a hub id.

    Raises:
        SetupError: the adapters name no base.
    """
    file = Path(model) / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_bytes())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(
            f"{file} names no base model",
            remedy="Merge the adapters into their base and give the merged checkpoint.",
        ) from error


def merge(net: Any, adapters: str | Path) -> Any:
    """Add a checkpoint's adapters to the weights of their base.

    Args:
        net: the base, of transformers.
        adapters: the checkpoint's directory.

    Returns:
        The same model, without a trace of adapters.

    Raises:
        SetupError: they don't fit.
    """
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells of the key that is ours
            config = PeftConfig.from_pretrained(str(adapters))
            config.task_type = None  # else a model of another kind than they were trained in is refused
            config.inference_mode = True
            adapted = PeftModel.from_pretrained(net, str(adapters), config=config, use_safetensors=True)
        return adapted.merge_and_unload().requires_grad_(True)  # which adapters take from their base
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"the adapters at {adapters} do not fit {base_of(adapters)}: {reason}",
            remedy="Give the base that they were trained on, or a merged checkpoint.",
        ) from error
