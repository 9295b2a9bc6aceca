"""How fast the engine decodes on a GPU, beside what its memory could give; and how long it waits in a search.

As a script it prints the figures, python -m tests.gpu.test_speed --device cpu --millions 10 --batches 1,32
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rstar_cli.bench.random_model import save_random_model
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.prompts import render_prompt
from rstar_cli.protocols import SampleRequest, Segment
from tests.helpers import rstar

NEW_TOKENS = 128
PROMPT = Segment(render_prompt(make_problems(1, 5, (5,), "validation")[0].problem))


class Speed(NamedTuple):
    """What was measured: sequences at once, tokens a second, and the share of the limit that memory bandwidth sets."""

    batch: int
    tokens_per_second: float
    share_of_limit: float

    def __str__(self) -> str:
        return f"batch {self.batch:4}: {self.tokens_per_second:10,.0f} tokens/s, {self.share_of_limit:.0%} of the limit"


def bandwidth(device: str) -> float:
    """Bytes a second of the device's memory: a large copy reads and writes each byte once."""
    size = 2**30 if device == "cuda" else 2**27
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        begun = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size / best


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def decode(model: Path, device: str, batch: int, bytes_a_second: float, new_tokens: int = NEW_TOKENS) -> Speed:
    """Decode a batch of samples of one prompt and time it.

    Each step reads all weights once, and of every sequence the keys and values so far: no engine is faster than that.
    """
    policy = TransformersPolicy.load(model, device=device, max_rows=batch)
    weights = sum(p.numel() * p.element_size() for p in policy._model.parameters())
    config = policy._model.config
    width = next(policy._model.parameters()).element_size()
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * (policy.count_tokens(PROMPT) + new_tokens / 2)
    try:
        request = SampleRequest((PROMPT,), batch, 1, (), new_tokens, 1.0)
        policy.sample([SampleRequest((PROMPT,), batch, 0, (), 8, 1.0)])  # warm-up
        before = policy.usage.generated
        synchronize(device)
        begun = time.perf_counter()
        policy.sample([request])
        synchronize(device)
        rate = (policy.usage.generated - before) / (time.perf_counter() - begun)
    finally:
        policy.close()
    limit = batch * bytes_a_second / (weights + batch * cache)
    return Speed(batch, rate, rate / limit)


@pytest.fixture(scope="module")
def speed_of_memory() -> float:
    found = bandwidth("cuda")
    print(f"\n{torch.cuda.get_device_name()}: {found / 1e9:,.0f} GB/s by a copy")
    return found


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("millions", [100, 1000])
def test_decoding_gains_by_batches(tmp_path: Path, speed_of_memory: float, millions: int) -> None:
    save_random_model(tmp_path, millions * 1e6)
    found = [decode(tmp_path, "cuda", batch, speed_of_memory) for batch in (1, 32, 256, 1024)]
    print(f"\n{millions} M parameters, {NEW_TOKENS} new tokens", *found, sep="\n")
    rates = [speed.tokens_per_second for speed in found]
    assert rates == sorted(rates)
    assert all(0 < speed.share_of_limit <= 1 for speed in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_engine_is_busy_in_a_search(tmp_path: Path) -> None:
    """The embedded model is so small that the search itself weighs; a larger one would wait less."""
    rstar("problems", "make", "--count", "512", "--output", "p.jsonl", cwd=tmp_path)
    search = ("generate", "--problems", "p.jsonl", "--output", "trees.jsonl", "--device", "cuda", "--json")
    data = json.loads(rstar(*search, cwd=tmp_path).stdout)["data"]
    print(f"\nengine idle in generate: {data['engine idle']:.1%}")
    assert data["engine idle"] < 0.9


def main() -> None:
    """Print the figures of a device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--batches", default="1,32,256,1024")
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    given: Any = parser.parse_args()
    found = bandwidth(given.device)
    print(f"{found / 1e9:,.0f} GB/s by a copy")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{save_random_model(Path(folder), given.millions * 1e6):,} parameters")
        for batch in map(int, given.batches.split(",")):
            print(decode(Path(folder), given.device, batch, found, given.new_tokens))


if __name__ == "__main__":
    main()
