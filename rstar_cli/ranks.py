"""One training in several processes: which of them this is, as the launcher (`accelerate launch`, `torchrun`) tells it.

All of them do the same in step, each on its share of every micro-batch; the main one alone writes and shows.
"""

from __future__ import annotations

import os
import sys


def world_size() -> int:
    """How many processes train together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This one's number, from 0."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this one writes and shows."""
    return rank() == 0


def local_rank() -> int:
    """This one's number on its machine: its GPU's, too."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def is_sharded() -> bool:
    """Whether each holds a part of the weights only (FSDP), as far as the launcher says."""
    return world_size() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def agree(wanted: bool) -> bool:
    """What the main process wants; all must ask."""
    if world_size() == 1:
        return wanted
    from torch.distributed import broadcast_object_list

    told = [wanted]
    broadcast_object_list(told)
    return told[0]


def wait() -> None:
    """Until all have come here."""
    if world_size() > 1:
        from torch.distributed import barrier

        barrier()


def leave() -> None:
    """Take leave of the others, as a process that ends with threads of theirs alive is aborted now and then."""
    if world_size() > 1 and "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()
