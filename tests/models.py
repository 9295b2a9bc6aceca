"""Tiny random checkpoints for tests, saved to disk and loaded the way a 7B one is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_cli.prompts import TAGS, render_prompt

TEXTS = [
    render_prompt("Ana has 12 boxes with 7 apples in each. How many apples are there?", 2),
    "\n# count\na = 12 * 7<end_of_step>\n# answer\nprint(a)<end_of_code>",
]


def tokenizer(*, single_tags: bool, pieces: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer; with `single_tags` each step tag is one token, else it takes several.

    `pieces` are tokens, too.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"]
    )
    raw.train_from_iterator(TEXTS, trainer)
    if single_tags:
        raw.add_tokens(list(TAGS))
    raw.add_tokens(list(pieces))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")


def save(
    path: Path, *, kind: str = "qwen2", single_tags: bool = True, seed: int = 0, pieces: Sequence[str] = ()
) -> Path:
    """Save a random model of a few thousand parameters with its tokenizer.

    `qwen2.5-math-7b` has that model's config.json, field by field, with small sizes.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    hf = tokenizer(single_tags=single_tags, pieces=pieces)
    size = {
        "vocab_size": len(hf),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": hf.eos_token_id,
        "pad_token_id": hf.pad_token_id,
        "initializer_range": 0.4,  # far from uniform, so that a wrong state shows
    }
    if kind == "llama":
        config: Any = LlamaConfig(**size, max_position_embeddings=512)
    elif kind == "qwen2.5-math-7b":
        config = Qwen2Config(
            **{**size, "num_attention_heads": 8, "vocab_size": len(hf) + 13},  # rows beyond the tokenizer, as there
            max_position_embeddings=4096,
            max_window_layers=28,
            rms_norm_eps=1e-06,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            sliding_window=None,
            use_sliding_window=False,
            tie_word_embeddings=False,
            attention_dropout=0.0,
            bos_token_id=hf.eos_token_id,
            hidden_act="silu",
        )
    else:
        config = Qwen2Config(**size, max_position_embeddings=512, tie_word_embeddings=True)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    hf.save_pretrained(path)
    return path
