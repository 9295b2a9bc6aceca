"""Make an embedded base model from scratch: `python -m rstar_cli.embedded.build --model embedded --output DIR`.

`embedded`: the teacher (`teacher.py`) demonstrates freshly drawn problems of the training split, each shown once or a
few times: first short ones, so that the model learns to read, copy numbers and write the step format; then all levels.
`embedded-easy`: right solutions of short problems alone (`easy.py`), in the first model's tokens. A few CPU minutes.
With `--rows FILE` instead of `--output` their demonstrations are written, for a model of another size that
`rstar train-policy --input FILE` trains (recipes/gpu_small.sh).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_cli.embedded.easy import lessons
from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.embedded.tokenizer import build_tokenizer, collect_pieces
from rstar_cli.jsonl import write_rows
from rstar_cli.layout import model_path
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.tokens import IGNORED, StepTokenizer

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM

    from rstar_cli.records import SftRow

Example = tuple[list[int], list[int]]
"""Token ids and labels of one demonstration, of equal length."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the base training.

    Attributes:
        count: demonstrations.
        levels: weight of each level.
        epochs: how often each is shown.
        learning_rate: peak, with a short warm-up and a linear decay to 0.
        skip: chance that the teacher forgets a step.
    """

    count: int
    levels: Mapping[int, float]
    epochs: int
    learning_rate: float
    skip: float


@dataclass(frozen=True, slots=True)
class Course:
    """Rows that a model is trained on, `epochs` times, and the peak learning rate."""

    rows: list[SftRow]
    epochs: int
    learning_rate: float


STAGES = (
    Stage(5000, {1: 0.32, 2: 0.30, 3: 0.22, 4: 0.11, 5: 0.05}, epochs=5, learning_rate=4e-3, skip=0.03),
    Stage(3000, {1: 0.32, 2: 0.30, 3: 0.22, 4: 0.11, 5: 0.05}, epochs=2, learning_rate=4e-3, skip=0.03),
    Stage(5500, {1: 0.6, 2: 1, 3: 1.1, 4: 1.2, 5: 1.3, 6: 0.3}, epochs=2, learning_rate=4e-3, skip=0.0),
)
EASY_COUNT, EASY_EPOCHS = 7000, 3
BATCH_TOKENS = 5000
WARM_UP_STEPS = 30


def demonstrations(stage: Stage, seed: int) -> list[SftRow]:
    """The teacher's demonstrations of one stage, no problem with a rare composition among them."""
    rng = random.Random(seed)
    worked = make_worked(stage.count, seed, levels=stage.levels, split="train", rare_share=0.0)
    return [demonstrate(problem, rng, skip=stage.skip) for problem in worked]


def misled(seed: int, stages: Sequence[Stage] = STAGES) -> list[Course]:
    """What `embedded` is trained on."""
    return [
        Course(demonstrations(stage, 1000 * (seed + 1) + number), stage.epochs, stage.learning_rate)
        for number, stage in enumerate(stages)
    ]


def easy(seed: int, count: int = EASY_COUNT) -> list[Course]:
    """What `embedded-easy` is trained on."""
    return [Course(lessons(count, 1000 * (seed + 1)), EASY_EPOCHS, 4e-3)]


def new_model(vocabulary: int, end_of_text: int) -> Qwen2ForCausalLM:
    """An untrained model of about 0.68 M parameters.

    Args:
        vocabulary: number of token ids.
        end_of_text: id for padding and end of sequence.
    """
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_of_text,
        pad_token_id=end_of_text,
        use_cache=True,
        rstar_steps=True,  # trained on the step format: no worked examples before a problem
    )
    model: Qwen2ForCausalLM = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # fastest in bf16
    return model


def batches(examples: Sequence[Example], tokens: int, rng: random.Random) -> list[list[int]]:
    """One epoch: shuffled batches of about equally long examples, at most `tokens` tokens each, padding included."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    plan: list[list[int]] = []
    for start in range(0, len(order), 2048):
        batch: list[int] = []
        for i in sorted(order[start : start + 2048], key=lambda i: len(examples[i][0])):
            if batch and (len(batch) + 1) * len(examples[i][0]) > tokens:
                plan.append(batch)
                batch = []
            batch.append(i)
        plan.append(batch)
    rng.shuffle(plan)
    return plan


def _optimizers(model: Qwen2ForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "layers" in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _loss(model: Qwen2ForCausalLM, batch: Sequence[Example]) -> torch.Tensor:
    """Mean cross-entropy, nats a token, over the tokens that have labels."""
    import torch

    width = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in batch])
    labels = torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in batch])[:, 1:]
    told = labels != IGNORED
    with torch.autocast("cpu", dtype=torch.bfloat16):  # left before the optimizer's step: it caches the weights' casts
        hidden = model.model(ids[:, :-1]).last_hidden_state  # padded on the right: causal attention needs no mask
        logits = model.lm_head(hidden[told])
    return torch.nn.functional.cross_entropy(logits.float(), labels[told])


def train(model: Qwen2ForCausalLM, examples: Sequence[Example], epochs: int, learning_rate: float, seed: int) -> float:
    """Train in place and return the mean loss of the last tenth of the steps, nats a token.

    Args:
        model: on the CPU, float32.
        examples: token ids and labels.
        epochs: passes over the examples.
        learning_rate: peak.
        seed: of the order of the batches.
    """
    import torch

    rng = random.Random(seed)
    plan = [batch for _ in range(epochs) for batch in batches(examples, BATCH_TOKENS, rng)]
    optimizers = _optimizers(model, learning_rate)
    losses: list[float] = []
    model.train()
    for done, batch in enumerate(plan):
        factor = min(1.0, (done + 1) / WARM_UP_STEPS) * (1 - done / len(plan))
        loss = _loss(model, [examples[i] for i in batch])
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail)


def build(seed: int, output: Path, courses: Sequence[Course], tokenizer: Path | None = None) -> None:
    """Train a base model and save it with its tokenizer.

    Args:
        seed: of weights and order.
        output: the checkpoint directory, made if absent.
        courses: what it is trained on, one after the other.
        tokenizer: checkpoint whose tokenizer it shares; None: one of its own, made for the rows.
    """
    import torch

    torch.manual_seed(seed)
    if tokenizer is None:
        rows = [row for course in courses for row in course.rows]
        steps = StepTokenizer(build_tokenizer(collect_pieces(x for row in rows for x in (row.prompt, row.completion))))
    else:
        steps = StepTokenizer.load(tokenizer)
    model = new_model(len(steps.hf), steps.hf.eos_token_id)
    sys.stderr.write(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(steps.hf)} tokens\n")
    for number, course in enumerate(courses):
        start = time.process_time()
        examples = [steps.training_ids(row) for row in course.rows]
        loss = train(model, examples, course.epochs, course.learning_rate, seed + number)
        seconds = time.process_time() - start
        told = f"course {number + 1}: {len(course.rows)} x {course.epochs}, loss {loss:.3f}, {seconds:.0f} CPU s"
        sys.stderr.write(f"{told}\n")
    model.save_pretrained(output)
    steps.hf.save_pretrained(output)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=("embedded", "embedded-easy"), default="embedded")
    parser.add_argument("--seed", type=int, default=0)
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--output", type=Path, help="the checkpoint directory")
    made.add_argument("--rows", type=Path, help="a file for the demonstrations, instead of a model")
    given = parser.parse_args()
    if given.rows is not None:
        courses = misled(given.seed) if given.model == "embedded" else easy(given.seed)
        count = write_rows(given.rows, (row for course in courses for row in course.rows))
        sys.stderr.write(f"wrote {count:,} demonstrations to {given.rows}\n")
        return

    import torch

    torch.set_num_threads(1)  # for such small matrices one thread is as fast, and sums keep their order
    if given.model == "embedded":
        build(given.seed, given.output, misled(given.seed))
    else:
        build(given.seed, given.output, easy(given.seed), Path(model_path("embedded")))


if __name__ == "__main__":
    main()
