"""How fast `train-policy` is, beside a plain PyTorch loop and TRL's default settings: same rows, same random model.

- `rstar`: `train_policy` as the command calls it;
- `plain`: a loop as one writes it by hand: rows in shuffled order, padded to the longest of the update, the model's own
  loss over all positions, AdamW; in float32, and in bfloat16 by autocast;
- `trl`: `SFTTrainer` with every setting at its default (8 rows an update, bfloat16, gradient checkpointing).

A speed is tokens of rows a second, padding not counted, from the end of the first update to that of the last, so that
loading, saving and warming up are left out. On a CPU a second is one of processor time by the threads that PyTorch has:
what else runs on the machine does not count. All are measured by turns, in one process.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rstar_cli.bench.random_model import save_random_model
from rstar_cli.config import TrainPolicyConfig
from rstar_cli.embedded.teacher import demonstrate
from rstar_cli.options import BenchTrainPlace
from rstar_cli.problems.synthetic import make_worked
from rstar_cli.progress import StageProgress
from rstar_cli.records import SftRow
from rstar_cli.tokens import IGNORED, StepTokenizer
from rstar_cli.train.checkpoint import load_model
from rstar_cli.train.fit import TrainProgress, quiet
from rstar_cli.train.machine import find_machine
from rstar_cli.train.optimizers import make_optimizer
from rstar_cli.train.policy import train_policy

RATE = 1e-4
"""Learning rate: of no matter here."""

Encoded = Sequence[tuple[list[int], list[int]]]
"""Token ids and labels of each row."""
Clock = Callable[[int], None]
"""Told of each update's tokens at its end."""


class _Speed:
    """Tokens/s of the updates after the first.

    Args:
        device: where they are computed.
    """

    def __init__(self, device: str) -> None:
        self._processor = device == "cpu"
        self._marks: list[tuple[float, int]] = []

    def __call__(self, tokens: int) -> None:
        """An update ends, that had so many tokens."""
        self._marks.append((self._now(), tokens))

    def _now(self) -> float:
        import torch

        return time.process_time() / torch.get_num_threads() if self._processor else time.perf_counter()

    @property
    def tokens_per_second(self) -> float:
        """Of all updates but the first."""
        return sum(tokens for _, tokens in self._marks[1:]) / (self._marks[-1][0] - self._marks[0][0])


def measure(place: BenchTrainPlace) -> dict[str, Any]:
    """Measure all.

    Returns:
        `parameters`, `rows`, `tokens` of the rows, `device`, `bfloat16` (whether `rstar` computes in it); medians
        `tokens_per_second` {rstar, plain float32, plain bfloat16, trl}; `ratio` {plain, trl}: rstar's speed by that of
        the faster plain loop, and of TRL, the median of the turns.
    """
    machine = find_machine(place.device, "auto")
    worked = make_worked(place.rows, 0)
    rows = [demonstrate(each, random.Random(i), right=True) for i, each in enumerate(worked)]
    with tempfile.TemporaryDirectory() as folder, quiet(), StageProgress("bench train", 4 * place.repeats) as progress:
        model = Path(folder) / "model"
        parameters = save_random_model(model, place.parameters * 1e6)
        tokenizer = StepTokenizer.load(model)
        encoded = [tokenizer.training_ids(row) for row in rows]
        ways: dict[str, Callable[[Clock], None]] = {
            "rstar": lambda clock: _ours(rows, model, place, clock),
            "plain float32": lambda clock: _plain(encoded, model, place, machine.device, bfloat16=False, clock=clock),
            "plain bfloat16": lambda clock: _plain(encoded, model, place, machine.device, bfloat16=True, clock=clock),
            "trl": lambda clock: _trl(encoded, model, machine.device, clock),
        }
        turns: list[dict[str, float]] = []
        for turn in range(place.repeats):
            turns.append({})
            for name, run in ways.items():
                progress.update(4 * turn + len(turns[-1]), name)
                speed = _Speed(machine.device)
                run(speed)
                turns[-1][name] = speed.tokens_per_second
    return {
        "parameters": parameters,
        "rows": place.rows,
        "tokens": sum(len(ids) for ids, _ in encoded),
        "device": machine.device,
        "bfloat16": machine.bfloat16,
        "tokens_per_second": {name: round(median(turn[name] for turn in turns), 1) for name in ways},
        "ratio": {
            "plain": round(median(_by_the_faster(turn) for turn in turns), 3),
            "trl": round(median(turn["rstar"] / turn["trl"] for turn in turns), 3),
        },
    }


def _by_the_faster(turn: dict[str, float]) -> float:
    return turn["rstar"] / max(turn["plain float32"], turn["plain bfloat16"])


def describe(report: dict[str, Any]) -> dict[str, str]:
    """Name to text, in the order to show."""
    speed, ratio = report["tokens_per_second"], report["ratio"]
    number_format = "bfloat16" if report["bfloat16"] else "float32"
    return {
        "model": f"{report['parameters'] / 1e6:.1f} M parameters on {report['device']}, {number_format}",
        "rows": f"{report['rows']} of {report['tokens']:,} tokens",
        "rstar train-policy": f"{speed['rstar']:,.0f} tokens/s",
        "plain PyTorch loop": (
            f"{speed['plain float32']:,.0f} tokens/s in float32, {speed['plain bfloat16']:,.0f} in bfloat16; "
            f"rstar is {ratio['plain']:.2f} times the faster"
        ),
        "TRL's default settings": f"{speed['trl']:,.0f} tokens/s; rstar is {ratio['trl']:.2f} times that",
    }


def _ours(rows: list[SftRow], model: Path, place: BenchTrainPlace, clock: Clock) -> None:
    config = TrainPolicyConfig(
        epochs=1, batch_size=place.batch_size, learning_rate=RATE, device=place.device, max_length=2048
    )
    before = 0

    def tell(at: TrainProgress) -> None:
        nonlocal before
        clock(at.tokens - before)
        before = at.tokens

    train_policy(rows, model=model, output=model.with_name("trained"), config=config, on_progress=tell)


def _plain(rows: Encoded, model: Path, place: BenchTrainPlace, device: str, *, bfloat16: bool, clock: Clock) -> None:
    import torch

    net = load_model(model, dtype=torch.float32, attention="sdpa").to(device).train()
    optimizer = make_optimizer(net, "adamw", learning_rate=RATE, weight_decay=0.0)
    shuffled = random.Random(0).sample(rows, len(rows))
    for start in range(0, len(shuffled), place.batch_size):
        part = shuffled[start : start + place.batch_size]
        longest = max(len(ids) for ids, _ in part)
        columns = {
            "input_ids": [ids + [0] * (longest - len(ids)) for ids, _ in part],
            "labels": [labels + [IGNORED] * (longest - len(labels)) for _, labels in part],
            "attention_mask": [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in part],
        }
        tensors = {name: torch.tensor(column, device=device) for name, column in columns.items()}
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bfloat16):
            loss = net(**tensors, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        clock(sum(len(ids) for ids, _ in part))


def _trl(rows: Encoded, model: Path, device: str, clock: Clock) -> None:
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Told(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock(trainer.tokens)

    class Counted(SFTTrainer):  # type: ignore[misc]
        tokens = 0

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            self.tokens = int(inputs["attention_mask"].sum())
            return super().training_step(model, inputs, num_items_in_batch)

        def _send_telemetry(self) -> None:
            """Nothing is sent."""

    disable_progress_bars()
    net = load_model(model, dtype=None, attention="sdpa")
    columns = Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [labels for _, labels in rows]})
    settings = SFTConfig(
        str(model.with_name("trl")),
        num_train_epochs=1,
        use_cpu=device == "cpu",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Counted(
        model=net,
        args=settings,
        train_dataset=columns,
        processing_class=StepTokenizer.load(model).hf,
        callbacks=[Told()],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    trainer.train()
