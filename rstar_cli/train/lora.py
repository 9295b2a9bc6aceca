"""LoRA on a model for a training, and off it again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.config import TrainConfig
from rstar_cli.train.checkpoint import Task, load_merged

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_adapters(net: PreTrainedModel, config: TrainConfig, task: Task) -> PreTrainedModel:
    """LoRA (arXiv 2106.09685) on every linear layer but the head; a classifier's head is trained whole."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.dtype == "4bit":
        net = prepare_model_for_kbit_training(net, use_gradient_checkpointing=False)  # the Trainer sees to that
    rank = config.lora_rank
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type=task)
    return get_peft_model(net, adapters)


def without_adapters(net: Any, config: TrainConfig, task: Task, work: Path) -> Any:
    """The model with its adapters, if it has any, merged: into the weights as they are stored, not into four bits."""
    if not config.lora_rank:
        return net
    if config.dtype != "4bit":
        return net.merge_and_unload()
    net.save_pretrained(work / "adapters")
    merged = load_merged(work / "adapters", task, trust_remote_code=config.trust_remote_code)
    merged.config.get_text_config().pad_token_id = net.config.get_text_config().pad_token_id
    return merged.to(net.device)
