"""Tiny random checkpoints in the very format of public process reward models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import models

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHEPHERD_TEXT = [
    "Step 1: the sum of x and y is + - 12. ки Step 2: we add - and + so that it is 5. ки Step 3: The answer is 7 ки",
    *models.TEXTS,
]


def save_qwen(path: Path, *, pieces: Sequence[str] = ("<extra_0>", "<|im_start|>", "<|im_end|>")) -> Path:
    """As Qwen/Qwen2.5-Math-PRM-7B: two shards, the head's weights `score.0` and `score.2`, code of its own named."""
    import torch
    from safetensors.torch import save_file
    from transformers import Qwen2Config, Qwen2Model

    path.mkdir(parents=True)
    hf = models.tokenizer(single_tags=False, pieces=pieces)
    hf.chat_template = CHAT
    hf.save_pretrained(path)
    fields = {
        "attention_dropout": 0.0,
        "bos_token_id": hf.eos_token_id,
        "eos_token_id": hf.eos_token_id,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.4,
        "intermediate_size": 64,
        "max_position_embeddings": 4096,
        "max_window_layers": 28,
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "pad_token_id": hf.pad_token_id,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": len(hf) + 13,
    }
    torch.manual_seed(0)
    layers = {f"model.{name}": weight for name, weight in Qwen2Model(Qwen2Config(**fields)).state_dict().items()}
    head = {"score.0": torch.nn.Linear(32, 32), "score.2": torch.nn.Linear(32, 2)}
    scores = {f"{name}.{part}": w for name, linear in head.items() for part, w in linear.state_dict().items()}
    scores["score.2.weight"] *= 4  # so that values differ
    shards = {"model-00001-of-00002.safetensors": layers, "model-00002-of-00002.safetensors": scores}
    for name, weights in shards.items():
        save_file(weights, path / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": {w: name for name, ws in shards.items() for w in ws}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    named = {
        "architectures": ["Qwen2ForProcessRewardModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    }
    (path / "config.json").write_text(json.dumps({**named, **fields}))
    return path


def save_shepherd(path: Path, *, kind: str = "mistral", window: int | None = 4096, texts: Any = SHEPHERD_TEXT) -> Path:
    """As peiyi9979/math-shepherd-mistral-7b-prm: a causal model, its tokenizer one of pieces of words."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    hf = word_pieces(texts)
    more = {"sliding_window": window} if kind == "mistral" else {}
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(hf),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.4,
        tie_word_embeddings=False,
        **more,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # so that what came before a tag counts more than the tag, and values differ
        model.get_input_embeddings().weight *= 0.02
        model.get_output_embeddings().weight *= 0.3
    model.save_pretrained(path)
    hf.save_pretrained(path)
    return path


def word_pieces(texts: Sequence[str]) -> Any:
    """A tokenizer as Mistral's: a space before the text, spaces within pieces, bytes for what is unknown."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.train_from_iterator([" ".join(text.split()) for text in texts] * 3, trainers.BpeTrainer(vocab_size=500))
    learnt = json.loads(raw.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = [*first, *(piece for piece in learnt["vocab"] if piece not in first)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in learnt["merges"]]
    raw = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(parts)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
