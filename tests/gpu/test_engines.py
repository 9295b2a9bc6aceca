"""Engines on a GPU say what they say on a CPU: greedy solutions, log-probabilities, PRM values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rstar_cli.engines.prm import TransformersScorer
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_problems
from rstar_cli.prompts import COMPLETION_STOPS, render_prompt
from rstar_cli.protocols import SampleRequest, ScoreRequest, Segment

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = "cuda"
PROMPTS = [Segment(render_prompt(problem.problem)) for problem in make_problems(40, 9, (1, 2, 3, 4, 5), "validation")]


def test_generation(tmp_path: Path) -> None:
    asked = [SampleRequest((prompt,), 1, 0, COMPLETION_STOPS, 128, 0.0) for prompt in PROMPTS]
    found = {}
    for device in ("cpu", DEVICE):
        policy = TransformersPolicy.load(model_path("embedded"), device=device, dtype="float32")
        found[device] = [sample for (sample,) in policy.sample(asked)]
        policy.close()
    texts = [["".join(s.text for s in sample.segments) for sample in samples] for samples in found.values()]
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= len(PROMPTS) - 1, "a tie may fall either way"
    for on_cpu, on_gpu in zip(found["cpu"], found[DEVICE], strict=True):
        if on_cpu.segments == on_gpu.segments:
            assert on_gpu.logprobs == pytest.approx(on_cpu.logprobs, abs=5e-3)


def test_scores(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(model_path("embedded"), num_labels=1)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_path("embedded")).save_pretrained(tmp_path)
    steps = (Segment("\n# first\na = 3 * 4<end_of_step>"), Segment("\n# answer\nprint(a)<end_of_code>"))
    asked = [ScoreRequest((prompt,), (steps, steps[1:])) for prompt in PROMPTS]
    values = {}
    for device in ("cpu", DEVICE):
        scorer = TransformersScorer.load(tmp_path, device=device, dtype="float32")
        values[device] = [value for branches in scorer.score(asked) for branch in branches for value in branch]
        scorer.close()
    assert values[DEVICE] == pytest.approx(values["cpu"], abs=2e-3)
    assert len(set(values["cpu"])) > len(PROMPTS)
