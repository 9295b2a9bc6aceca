"""A vLLM engine, started the same way for the policy and for the process reward model.

vLLM pins its own PyTorch, so it has a virtual environment of its own, with rstar in it; or a server from its own
environment (`vllm_server.py`). This needs vLLM 0.26 or newer.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstar_cli.checkpoint_files import check_files
from rstar_cli.engines import checkpoint
from rstar_cli.errors import SetupError
from rstar_cli.tokens import StepTokenizer

PAIRS = "torch 2.11 pairs with vllm 0.26, 2.13 with 0.27 to 0.29, 2.14 with 0.33"
"""Versions that go together."""

POLICY_SHARE = 0.6
"""Share of a GPU's memory that a policy takes."""

SCORER_SHARE = 0.3
"""Share of a GPU's memory that a PRM takes, so that both fit side by side."""

CPU_BYTES = 4 << 30
"""Most memory that keys and values take on a CPU."""

CPU_BLOCK = 32
"""Tokens by which prefixes are kept on a CPU: its least. vLLM's default there, 128, is longer than most steps."""

QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for data
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would hold the sandbox's pipes open
}
"""Environment of vLLM; what the user has set stays."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checkpoint as vLLM takes it: LoRA adapters are loaded on top of their base.

    Attributes:
        base: directory or hub id of the model.
        tokenizer: where the tokenizer is.
        lora: directory of the adapters; None where the checkpoint is a whole model.
        rank: the least rank that vLLM has room for and that holds the adapters'; 0 without adapters.
    """

    base: str
    tokenizer: str
    lora: str | None = None
    rank: int = 0


def read_adapter(model: str | Path) -> Adapter:
    """Tell adapters from whole models: they have an adapter_config.json.

    Raises:
        SetupError: adapter_config.json names no base, or its rank is higher than vLLM can.
    """
    file = Path(model) / "adapter_config.json"
    if not file.is_file():
        return Adapter(str(model), str(model))
    try:
        told = json.loads(file.read_bytes())
        base, rank = str(told["base_model_name_or_path"]), int(told["r"])
        room = next(most for most in _RANKS if most >= rank)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise SetupError(
            f"{file} names no base, or no rank up to {_RANKS[-1]}",
            remedy="Merge the adapters into their base and give the merged checkpoint.",
        ) from error
    own = (Path(model) / "tokenizer.json").is_file()
    return Adapter(base, str(model) if own else base, str(model), room)


def engine_options(adapter: Adapter, device: str, dtype: str, share: float) -> dict[str, Any]:
    """What vLLM is told of a checkpoint and its place: arguments of `EngineArgs`, and by the same names of a server.

    Args:
        adapter: the checkpoint.
        device: `cpu` or `cuda`.
        dtype: `auto` (bfloat16 on a GPU, float32 on a CPU, as with every engine), `float32` or `bfloat16`.
        share: of a GPU's memory, weights included; half of it of a CPU's free memory, for keys and values alone.
    """
    options: dict[str, Any] = {
        "model": adapter.base,
        "tokenizer": adapter.tokenizer,
        "dtype": {"cuda": "bfloat16", "cpu": "float32"}[device] if dtype == "auto" else dtype,
        "load_format": "safetensors",  # the other ones may be pickles
        "max_model_len": -1,  # the model's, less where the memory is short
        "enable_prefix_caching": True,
    }
    if adapter.lora is not None:
        options |= {"enable_lora": True, "max_lora_rank": adapter.rank}
    if device == "cuda":
        return options | {"gpu_memory_utilization": share}
    room = min(CPU_BYTES, int(share / 2 * checkpoint.free_memory("cpu")))
    # eager: to compile takes longer than a small model runs, and a C++ compiler
    return options | {"kv_cache_memory_bytes": room, "block_size": CPU_BLOCK, "enforce_eager": True}


class Engine:
    """vLLM's own engine in a process of its own: requests may join at any time.

    Args:
        model: a checkpoint directory, one of LoRA adapters, or a hub id.
        device: `auto`, `cpu` or `cuda`; vLLM runs on what its package was built for.
        dtype: `auto`, `float32` or `bfloat16`.
        share: of the memory, see `engine_options`.
        max_rows: sequences under way at once; None: vLLM's own choice.
        options: further ones of vLLM's `EngineArgs`.

    Attributes:
        name: what to call the model: where it is.
        device: `cpu` or `cuda`.
        tokenizer: the model's.
        context: most tokens of a sequence.
        vocabulary: tokens that the model knows.

    Raises:
        SetupError: vLLM, the device or the tokenizer are not there, or it can't load the model.
    """

    def __init__(
        self, model: str | Path, device: str, dtype: str, share: float, max_rows: int | None, **options: Any
    ) -> None:
        self.name = str(model)
        self.device = _import(device)
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        check_files(model)
        adapter = read_adapter(model)
        self.tokenizer = StepTokenizer.load(adapter.tokenizer)  # before the engine, which takes its time
        if max_rows:
            options["max_num_seqs"] = max_rows
        options |= engine_options(adapter, self.device, dtype, share)
        try:
            self._engine: Any = LLMEngine.from_engine_args(
                EngineArgs(disable_log_stats=True, use_tqdm_on_load=False, **options)
            )
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            raise SetupError(
                f"vLLM can't load {model}: {error}",
                remedy="Read vLLM's own messages above; check the checkpoint, and that the memory is free.",
            ) from error
        self._lora = LoRARequest("adapter", 1, adapter.lora) if adapter.lora is not None else None
        self._numbers = itertools.count()
        self.config: Any = self._engine.model_config
        self.context = int(self.config.max_model_len)
        self.vocabulary = int(self.config.get_vocab_size())

    def add(self, ids: Sequence[int], params: Any) -> str:
        """Take a sequence in, with vLLM's `SamplingParams` or `PoolingParams`; returns the request's name.

        Raises:
            SetupError: vLLM refuses it.
        """
        name = str(next(self._numbers))
        prompt = {"type": "token", "prompt_token_ids": list(ids)}
        try:
            self._engine.add_request(name, prompt, params, lora_request=self._lora)
        except ValueError as error:
            raise SetupError(f"vLLM refuses a request: {error}") from error
        return name

    def step(self) -> Iterator[tuple[str, Any]]:
        """Wait for the engine's next step; (name, output) of the requests that it ended.

        Raises:
            SetupError: the engine died.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            outputs = self._engine.step()
        except EngineDeadError as error:
            raise SetupError(
                "vLLM's engine died",
                remedy="Read its messages above; where the memory was full, give a smaller --batch.",
            ) from error
        for output in outputs:
            if output.finished:
                yield output.request_id, output

    def close(self) -> None:
        """End the engine's processes, which frees its memory."""
        if self._engine is not None:
            self._engine.engine_core.shutdown()
        self._engine = None


def _import(device: str) -> str:
    """Import vLLM; returns what it runs on, `cpu` or `cuda`.

    Raises:
        SetupError: it can't be imported, or it runs on something else than is asked for.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.platforms import current_platform
    except (ImportError, OSError, RuntimeError) as error:  # of its compiled parts, too: built for another PyTorch
        raise SetupError(
            f"vLLM can't be imported: {error}",
            remedy="Install rstar with its extra `vllm` into a virtual environment of its own, since vLLM pins PyTorch "
            f"({PAIRS}), and run rstar there; or give --engine vllm-server --server-python VENV/bin/python.",
        ) from error
    place = str(current_platform.device_type)
    if place not in ("cpu", "cuda") or device not in ("auto", place):
        raise SetupError(
            f"this vLLM runs on {place or 'no device here'}, not on {device}",
            remedy="Give --device auto, check the driver, or install the vLLM package for that device.",
        )
    return place
