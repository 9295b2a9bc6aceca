"""Models in and out of training: load one by any name, write one complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from rstar_cli.adapters import STEPS, base_of, merge
from rstar_cli.checkpoint_files import UNFIT, check_files, not_loaded
from rstar_cli.errors import SetupError, StorageError
from rstar_cli.jsonl import storage_error
from rstar_cli.locks import held
from rstar_cli.ranks import is_main

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Format = torch.dtype | Literal["4bit"] | None


_REMEDY = "Give a checkpoint directory with config.json and safetensors, or a hub id that this machine can reach."


def load_model(model: str | Path, *, dtype: Format, attention: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a causal language model: safetensors only, and code that a checkpoint brings only where it is trusted.

    Args:
        model: checkpoint directory, one of LoRA adapters (which are merged into their base), or hub id.
        dtype: of the weights in memory; None keeps the checkpoint's own, `4bit` quantises all matrices but heads and
            embeddings.
        attention: name of the attention function.
        trust_remote_code: run the checkpoint's own code.

    Raises:
        SetupError: it can't be found, or is not such a model.
    """
    from transformers import AutoModelForCausalLM

    trust = {"trust_remote_code": trust_remote_code}
    return cast("PreTrainedModel", _load(AutoModelForCausalLM, model, dtype=dtype, attention=attention, **trust)[0])


def load_merged(adapters: Path, task: Task, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base of a training's adapters as it is stored, on the CPU, with the adapters merged into it."""
    import transformers

    kind = {"CAUSAL_LM": transformers.AutoModelForCausalLM, "SEQ_CLS": transformers.AutoModelForSequenceClassification}
    labels = {"num_labels": 1, "problem_type": "regression"} if task == "SEQ_CLS" else {}
    more = {"trust_remote_code": trust_remote_code, **labels}
    return cast("PreTrainedModel", _load(kind[task], adapters, dtype=None, attention="sdpa", **more)[0])


def load_scorer(
    model: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: Format,
    attention: str,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a language model with a head of one score, read at a row's last token; as careful as `load_model`.

    A checkpoint without such a head gets one of zeros: it starts out neutral, and the same each time.

    Args:
        model: checkpoint directory or hub id, of a causal language model or of a scorer.
        tokenizer: of the model; one and the same padding token is set in both.
        dtype: as of `load_model`. The head is float32: it always moves.
        attention: name of the attention function.
        trust_remote_code: run the checkpoint's own code.

    Raises:
        SetupError: it can't be found, or is not such a model.
    """
    from transformers import AutoModelForSequenceClassification

    net, lacking = _load(
        AutoModelForSequenceClassification,
        model,
        dtype=dtype,
        attention=attention,
        trust_remote_code=trust_remote_code,
        num_labels=1,
        problem_type="regression",  # pipelines hand out the score itself, not its sigmoid
    )
    if not hasattr(net, "score"):
        raise SetupError(f"no head of one score fits {model}", remedy="Start from a causal language model.")
    net.score.float()
    if "score.weight" in lacking:
        net.score.weight.data.zero_()
    _set_padding(net, tokenizer, model)
    return cast("PreTrainedModel", net)


def _set_padding(net: Any, tokenizer: PreTrainedTokenizerBase, model: str | Path) -> None:
    """Pad with the tokenizer's padding token, else its end token; the model finds a row's last token by it.

    A tokenizer's class may bring a padding token of its own that the model has no embedding for.
    """
    known = net.get_input_embeddings().weight.shape[0]
    for padding in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if padding is not None and padding < known:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
            net.config.get_text_config().pad_token_id = padding
            return
    raise SetupError(
        f"the tokenizer of {model} has neither a padding token nor an end token that the model knows",
        remedy="Name one of them in the checkpoint's tokenizer_config.json.",
    )


def _load(kind: Any, model: str | Path, *, dtype: Format, attention: str, **more: object) -> tuple[Any, set[str]]:
    """A model, adapters merged into it, and the weights that its checkpoint lacks."""
    from safetensors import SafetensorError

    base = base_of(model)
    check_files(model)
    check_files(base or model)
    try:
        net, info = kind.from_pretrained(
            str(base or model),
            **({"dtype": "auto" if dtype is None else dtype} if dtype != "4bit" else _four_bits()),
            attn_implementation=attention,
            use_safetensors=True,
            output_loading_info=True,
            **more,
        )
        return (net if base is None else merge(net, model)), set(info["missing_keys"])
    except (*UNFIT, SafetensorError) as error:
        raise not_loaded("causal language model", model, error, _REMEDY) from error


def _four_bits() -> dict[str, Any]:
    """How `from_pretrained` is told of QLoRA's format (arXiv 2305.14314): NF4, with scales that are quantised, too."""
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head", "score"],  # heads stay as they are (the name is bitsandbytes')
    )
    return {"quantization_config": settings, "dtype": torch.bfloat16, "device_map": {"": "cuda"}}


def stored_dtype(model: str | Path, *, trust_remote_code: bool = False) -> torch.dtype:
    """Number format that a checkpoint's weights are stored in (float32 where it does not say).

    Raises:
        SetupError: there is no readable config.
    """
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(base_of(model) or model), trust_remote_code=trust_remote_code)
    except UNFIT as error:
        raise not_loaded("model config", model, error, _REMEDY) from error
    dtype = config.get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


Task = Literal["CAUSAL_LM", "SEQ_CLS"]
"""A kind of model, as LoRA's library calls it."""
SAVED = "saved"
"""In a workspace, the folder of a training's saved states (see `resume.py`)."""
BESIDE = "beside"
"""In a workspace, the folder of files that go into the checkpoint beside the model: the training's log."""
LOCK = "lock"
"""In a workspace, the file that says who is at work in it."""


@contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """A directory beside `output`: gone after success, and after a failure that left no saved state of the training.

    Its name is fixed, so that the next training finds what a killed one left: to go on with it, or to clear it. Of
    several processes the main one makes and clears it.

    Raises:
        LockedError: another process works in it.
        StorageError: it can't be made.
    """
    path = output.parent / f".{output.name}.partial"
    if not is_main():
        yield path
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, "make", error) from error
    with held(path / LOCK, str(output)):
        try:
            yield path
        except BaseException:
            if not any((path / SAVED).glob("*")):
                shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, *, work: Path, output: Path
) -> None:
    """Write safetensors, config, tokenizer, model card and log, then move them to `output` in one rename.

    Of several processes all must call it, since each may hold a part of the weights; the main one writes.

    Args:
        model: what to save, in the number format to save it in.
        tokenizer: saved beside it.
        card: text of README.md.
        work: an existing directory on `output`'s file system.
        output: the checkpoint directory; an older one is replaced.

    Raises:
        StorageError: disk full, or no permission.
    """
    from safetensors import SafetensorError

    fresh, old = work / "checkpoint", work / "replaced"
    weights = _gathered(model)
    if not is_main():
        return
    try:
        model.save_pretrained(fresh, state_dict=weights)
        _mark_adapters(fresh)
        tokenizer.save_pretrained(fresh)
        (fresh / "README.md").write_text(card, encoding="utf-8")
        for path in (work / BESIDE).glob("*"):
            path.rename(fresh / path.name)
        for path in fresh.iterdir():
            if path.is_file():
                shutil.copymode(fresh / "README.md", path)  # safetensors makes files that only their owner can read
            sync(path)
        sync(fresh)
        if output.exists():
            output.rename(old)
        fresh.rename(output)
        sync(output.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{output}: {reason}", remedy="Free space or give another --output.") from error


def _gathered(model: PreTrainedModel) -> dict[str, torch.Tensor] | None:
    """The whole weights, on the CPU of the main process, where each process holds a part; None: the model's own."""
    from torch.distributed.tensor import DTensor

    names = {name for name, _ in model.named_parameters()}  # tied weights once
    if not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    found: dict[str, Any] = get_model_state_dict(model, options=whole)
    return {name: weight for name, weight in found.items() if name in names}


def _mark_adapters(checkpoint: Path) -> None:
    """Adapters come without the config.json of their base, so their own says what that one would."""
    file = checkpoint / "adapter_config.json"
    if file.exists():
        file.write_text(json.dumps({**json.loads(file.read_bytes()), STEPS: True}, indent=2, sort_keys=True) + "\n")


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
