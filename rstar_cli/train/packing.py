"""Rows one behind the other in a single long row, each blind to the others: nothing is padded.

What TRL calls padding-free, with its names for the inputs; there it needs FlashAttention, here it is for the CPU. In
rows of the generator's solutions (85 tokens) a tenth of the padded micro-batches is padding, in rows of 680 tokens and
updates of 128 a hundredth: a GPU would win nothing. CPU time of an update, bfloat16, padded and packed: 121 and 110 ms
for 0.7 million parameters (32 rows), 1,067 and 917 ms for 30 million (16 rows).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rstar_cli.tokens import IGNORED

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from rstar_cli.train.plan_trainer import Tensors

_PACKED = "packed"


def pack_attention(net: PreTrainedModel) -> bool:
    """Have a model's attention keep packed rows apart; False, and nothing done, where it can't.

    It can where attention is the only thing that connects positions, and every layer attends to all before.
    """
    config = net.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if not net._supports_attention_backend or net._is_stateful or window or kinds != {"full_attention"}:
        return False
    _register()
    net.set_attn_implementation(_PACKED)
    return True


def _register() -> None:
    """Attention row by row, in float32: see `machine.py` for why."""
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    def attend(
        module: torch.nn.Module,
        query: Any,  # tensors, shape (1, heads, tokens, width)
        key: Any,
        value: Any,
        mask: object,  # noqa: ARG001 - there is none
        *,
        cu_seq_lens_q: torch.Tensor,
        **kwargs: Any,
    ) -> object:
        lengths = cu_seq_lens_q.diff().tolist()
        with torch.autocast("cpu", enabled=False):
            rows = zip(*(states.float().split(lengths, dim=2) for states in (query, key, value)), strict=True)
            outputs = [sdpa_attention_forward(module, *row, None, **{**kwargs, "is_causal": True})[0] for row in rows]
        return torch.cat(outputs, dim=1).to(query.dtype), None

    AttentionInterface.register(_PACKED, attend)
    AttentionMaskInterface.register(_PACKED, lambda *_, **__: None)


def pack_rows(ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensors:
    """Tensors of shape (1, tokens), and where the rows start and end (rows + 1,).

    Positions count from 0 in every row. No row's first token takes loss: it stands behind another row's last.
    """
    import torch

    lengths = torch.tensor([len(row) for row in ids], dtype=torch.int32)
    ends = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0, dtype=torch.int32)])
    return {
        "input_ids": torch.tensor([[token for row in ids for token in row]]),
        "labels": torch.tensor([[label for row in labels for label in (IGNORED, *row[1:])]]),
        "position_ids": torch.tensor([[at for row in ids for at in range(len(row))]]),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
    }
