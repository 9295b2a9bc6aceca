"""The command line with its weights sharded over processes on a CPU.

accelerate itself shards on GPUs alone. Everything else (its config, FSDP2, the trainer, saving, gathering) is as there:

accelerate launch --config_file recipes/accelerate/fsdp.yaml tests/sharded.py train-policy --device cpu ...
"""

from __future__ import annotations

from typing import Any

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
