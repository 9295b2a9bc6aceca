"""Random models of any size, with the embedded tokenizer: to measure speed and memory, which hang on no weight.

One may also be the beginning of a model that is trained from scratch (recipes/gpu_small.sh):
`python -m rstar_cli.bench.random_model --millions 100 --output DIR`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rstar_cli.layout import EMBEDDED, model_path
from rstar_cli.tokens import StepTokenizer

LAYERS, HEAD = 10, 64
"""Layers of every model, and the width of an attention head."""
_SHARE = 11.5
"""Parameters of a layer by its width squared: 2.5 in attention (a quarter of the heads hold keys), 9 in the MLP."""


def save_random_model(path: Path, parameters: float, seed: int = 0) -> int:
    """Save a random Qwen2 of about so many parameters with its tokenizer; how many it has.

    Args:
        path: directory to write.
        parameters: how many to come near to: within a tenth of 10 million and more, small ones in coarse steps.
        seed: of the weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = StepTokenizer.load(model_path(EMBEDDED)).hf
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(parameters, tokenizer))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return int(model.num_parameters())


def _config(parameters: float, tokenizer: Any) -> Any:
    from transformers import Qwen2Config

    heads = max(1, round((parameters / (LAYERS * _SHARE)) ** 0.5 / HEAD))
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=heads * HEAD,
        intermediate_size=3 * heads * HEAD,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads // 4 if heads % 4 == 0 else 1,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        rstar_steps=True,
    )


def main() -> None:
    """Read the command line and save a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=100, help="of parameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    count = save_random_model(given.output, given.millions * 1e6, given.seed)
    sys.stderr.write(f"wrote a random model of {count:,} parameters to {given.output}\n")


if __name__ == "__main__":
    main()
