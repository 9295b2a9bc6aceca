"""A trained checkpoint is a plain one: transformers alone loads it, and reads out of it what our engines read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig, TrainPrmConfig
from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.engines.prm import TransformersScorer
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.protocols import SampleRequest, ScoreRequest, Segment
from rstar_cli.records import PairRow, RowSegment
from rstar_cli.train.policy import train_policy
from rstar_cli.train.prm import train_prm

PLAIN = """
import json, sys
sys.modules["rstar_cli"] = None  # any import of it fails
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

kind, path = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(path)
auto = AutoModelForCausalLM if kind == "policy" else AutoModelForSequenceClassification
model, info = auto.from_pretrained(path, output_loading_info=True)
assert not any(info.values()), info
model.eval()
found = []
for segments in json.load(sys.stdin):
    ids = [i for text in segments for i in tokenizer.encode(text, add_special_tokens=False)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits
    found.append(logits[0, -1].log_softmax(-1).tolist() if kind == "policy" else logits[0, 0].item())
scale = getattr(model.config, "rstar_value_scale", None)
print(json.dumps({"found": found, "scale": scale, "padding": tokenizer.pad_token_id == model.config.pad_token_id}))
"""
ROWS = [demonstrate(worked, random.Random(1), right=True) for worked in make_worked(24, 5, (1, 2))]
FAST: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "device": "cpu"}


def plainly(kind: str, path: Path, prefixes: list[list[str]]) -> dict[str, Any]:
    """What transformers alone reads: log-probabilities of the next token, or the score."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, kind, str(path)],
        input=json.dumps(prefixes),
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_policy(tmp_path: Path, lora_rank: int) -> None:
    config = TrainPolicyConfig(epochs=1, lora_rank=lora_rank, **FAST)
    train_policy(ROWS, model=model_path("embedded"), output=tmp_path / "policy", config=config)
    prefixes = [[row.prompt, row.steps[0].text[:cut]] for row in ROWS[:4] for cut in (3, 8, -14)]
    plain = plainly("policy", tmp_path / "policy", prefixes)
    engine = TransformersPolicy.load(tmp_path / "policy", device="cpu", dtype="float32")
    asked = [
        SampleRequest(tuple(map(Segment, texts)), 1, 0, ("<end_of_step>",), 1, 1.0, alternatives=20)
        for texts in prefixes
    ]
    compared = 0
    for (sample,), expected in zip(engine.sample(asked), plain["found"], strict=True):
        first = sample.drawn[0]
        compared += len(first.ids)
        assert first.logprobs == pytest.approx([expected[i] for i in first.ids], abs=2e-4)
        assert first.ids[0] == max(range(len(expected)), key=expected.__getitem__)
    assert compared > 2 * len(prefixes), "next tokens are not certain in the middle of a step"


def test_a_prm(tmp_path: Path) -> None:
    config = TrainPrmConfig(min_updates=5, held_out=0, squash="after", **FAST)
    pairs = [
        PairRow(
            problem_id=row.problem_id,
            kind="step",
            prompt=row.prompt,
            chosen=row.steps[0].text,
            rejected="\n# no\na = 0<end_of_step>",
            q_gap=2.0,
            weight=1.0,
            prefix=(RowSegment(text=row.prompt),),
            chosen_steps=row.steps[:1],
            rejected_steps=(RowSegment(text="\n# no\na = 0<end_of_step>"),),
        )
        for row in ROWS
    ]
    train_prm(pairs, model=model_path("embedded"), output=tmp_path / "prm", config=config)
    prefixes = [[row.prompt, *(step.text for step in row.steps[:count])] for row in ROWS[:4] for count in (1, 2)]
    plain = plainly("prm", tmp_path / "prm", prefixes)
    assert plain["scale"] == 5.0
    assert plain["padding"]
    engine = TransformersScorer.load(tmp_path / "prm", device="cpu", dtype="float32")
    asked = [ScoreRequest((Segment(first),), (tuple(map(Segment, rest)),)) for first, *rest in prefixes]
    import torch

    values = [branches[0][-1] for branches in engine.score(asked)]
    assert values == pytest.approx((torch.tensor(plain["found"]) / 5.0).tanh().tolist(), abs=2e-4)
    assert len({round(value, 2) for value in values}) > 1
