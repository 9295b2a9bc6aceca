"""What a training needs of its machine: packages, looked for first, and memory, where less of it at once may do."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

from rstar_cli.config import TrainConfig
from rstar_cli.errors import MemoryFullError
from rstar_cli.packages import require
from rstar_cli.ranks import world_size
from rstar_cli.train.plan_trainer import check_reporter

logger = logging.getLogger(__name__)
ConfigT = TypeVar("ConfigT", bound=TrainConfig)
ReportT = TypeVar("ReportT")


def check_packages(config: TrainConfig) -> None:
    """Look for what a training needs, before anything is loaded.

    Raises:
        SetupError: a package is not there.
    """
    check_reporter(config.report_to)
    require("training", "torch", "transformers", "datasets", "trl", *(["peft"] if config.lora_rank else []))


def on_smaller_batch(train: Callable[[ConfigT], ReportT], config: ConfigT) -> tuple[ReportT, dict[str, int]]:
    """Train; where the memory is full begin again, once, with micro-batches of half the tokens.

    Args:
        train: the training, by its settings; it goes on from its last saved state.
        config: the settings.

    Returns:
        What it gave, and what a manifest tells of a smaller batch: `batch tokens`; empty where there was none.

    Raises:
        MemoryFullError: it was full again.
    """
    try:
        return train(config), {}
    except MemoryFullError as error:
        if world_size() > 1:  # the others are in the middle of an update
            raise
        smaller = config.model_copy(update={"batch_tokens": max(1, config.batch_tokens // 2)})
        logger.warning("%s: going on with --batch-tokens %d", error, smaller.batch_tokens)
    _free_memory()  # outside of the handler, which holds on to the tensors of the frames that failed
    return train(smaller), {"batch tokens": smaller.batch_tokens}


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
