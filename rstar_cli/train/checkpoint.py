"""Models in and out of training: load one by any name, write one complete or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rstar_cli.errors import LockedError, SetupError, StorageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(model: str | Path, *, dtype: torch.dtype | None, attention: str) -> PreTrainedModel:
    """Load a causal language model: safetensors only, and never the code that a checkpoint may bring.

    Args:
        model: checkpoint directory or hub id.
        dtype: of the weights in memory; None keeps the checkpoint's own.
        attention: name of the attention function.

    Raises:
        SetupError: it can't be found, or is not such a model.
    """
    from transformers import AutoModelForCausalLM

    loaded: PreTrainedModel = _load(AutoModelForCausalLM, model, dtype=dtype, attention=attention)
    return loaded


def load_scorer(
    model: str | Path, tokenizer: PreTrainedTokenizerBase, *, dtype: torch.dtype | None, attention: str
) -> PreTrainedModel:
    """Load a language model with a head of one score, read at a row's last token; as careful as `load_model`.

    A checkpoint without such a head gets one of zeros: it starts out neutral, and the same each time.

    Args:
        model: checkpoint directory or hub id, of a causal language model or of a scorer.
        tokenizer: of the model; one and the same padding token is set in both.
        dtype: of the weights in memory; None keeps the checkpoint's own. The head is float32: it always moves.
        attention: name of the attention function.

    Raises:
        SetupError: it can't be found, or is not such a model.
    """
    from transformers import AutoModelForSequenceClassification

    net, info = _load(
        AutoModelForSequenceClassification,
        model,
        dtype=dtype,
        attention=attention,
        num_labels=1,
        problem_type="regression",  # pipelines hand out the score itself, not its sigmoid
        output_loading_info=True,
    )
    if not hasattr(net, "score"):
        raise SetupError(f"no head of one score fits {model}", remedy="Start from a causal language model.")
    net.score.float()
    if "score.weight" in info["missing_keys"]:
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


def _load(kind: Any, model: str | Path, *, dtype: torch.dtype | None, attention: str, **more: object) -> Any:
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(
            str(model),
            dtype="auto" if dtype is None else dtype,
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=False,
            **more,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"no causal language model at {model}: {reason}",
            remedy="Give a checkpoint directory with config.json and safetensors, or a hub id that this machine can "
            "reach. Checkpoints that need their own code are not run.",
        ) from error


def stored_dtype(model: str | Path) -> torch.dtype:
    """Number format that a checkpoint's weights are stored in (float32 where it does not say).

    Raises:
        SetupError: there is no readable config.
    """
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(model), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"no model config at {model}: {reason}",
            remedy="Give a checkpoint directory with config.json and safetensors, or a hub id that this machine can "
            "reach. Checkpoints that need their own code are not run.",
        ) from error
    dtype = config.get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


SAVED = "saved"
"""In a workspace, the folder of a training's saved states (see `resume.py`)."""
BESIDE = "beside"
"""In a workspace, the folder of files that go into the checkpoint beside the model: the training's log."""


@contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """A directory beside `output`: gone after success, and after a failure that left no saved state of the training.

    Its name is fixed, so that the next training finds what a killed one left: to go on with it, or to clear it.

    Raises:
        LockedError: another process works in it.
        StorageError: it can't be made.
    """
    path = output.parent / f".{output.name}.partial"
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}", remedy="Give an --output that can be written.") from error
    try:
        _lock(held, path)
        try:
            yield path
        except BaseException:
            if not any((path / SAVED).glob("*")):
                shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(held)


def _lock(folder: int, path: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(f"another process is at work in {path}", remedy="Let it end, or stop it.") from None


def save_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, card: str, *, work: Path, output: Path
) -> None:
    """Write safetensors, config, tokenizer, model card and log, then move them to `output` in one rename.

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
    try:
        model.save_pretrained(fresh)
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


def sync(path: Path) -> None:
    """Have a file, or the names in a directory, on the disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
