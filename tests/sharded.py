"""The command line with its weights sharded over processes on a CPU. accelerate itself shards on GPUs alone; everything
else (FSDP2, the trainer, saving, gathering) is as it is there.

python -m torch.distributed.run --nproc_per_node 2 tests/sharded.py train-policy ...
"""

from __future__ import annotations

import os
from typing import Any

os.environ |= {  # as `accelerate launch --config_file recipes/accelerate/fsdp.yaml` sets them
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
}

from accelerate import state
from accelerate.utils import DistributedType

from rstar_cli.cli import main

made = state.AcceleratorState.__init__


def make(self: Any, *args: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    """Take the plugin that `accelerate` leaves aside on a CPU."""
    made(self, *args, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


state.AcceleratorState.__init__ = make

if __name__ == "__main__":
    main()
