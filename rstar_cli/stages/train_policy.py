"""train-policy: supervised fine-tuning on the best verified trajectories of all rounds so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import EMBEDDED, RunDir, model_path, read_manifest
from rstar_cli.options import TrainPlace
from rstar_cli.progress import StageProgress
from rstar_cli.records import SftRow
from rstar_cli.stages.common import StageRecord, Summary, refuse_run_flags
from rstar_cli.stages.contaminated import refuse_trained
from rstar_cli.stages.train_files import read_sft

if TYPE_CHECKING:
    from rstar_cli.train.fit import TrainProgress


def train(place: TrainPlace, config: TrainPolicyConfig, run: RunDir | None) -> Summary:
    """Fine-tune from the base and write a checkpoint.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--input` and `--output` name plain files.
    """
    if run is None:
        return _on_files(place, config)
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to train", remedy="Give --round 1 or later.")
    rounds = range(1, place.round + 1)
    sources = {f"sft of round {n}": run.require(run.round(n).sft, "verify", n) for n in rounds}
    files = run.round(place.round)
    model = place.model or run.recipe.run.base
    record = StageRecord(files.manifest, "train-policy", {**config.identity(), "model": model}, sources, [files.policy])
    summary = Summary(f"train-policy round {place.round}", files=[files.policy])
    summary.next_command = run.command("train-prm", place.round)
    if record.is_complete():
        return record.told_again(summary)
    for number in rounds:
        check_fresh(run, number, run.round(number).sft)
    rows = [row for path in sources.values() for row in read_rows(path, SftRow)]
    if not rows:
        raise DataError(
            "there is no training row: no trajectory was right",
            path=files.sft,
            remedy="Search more (--rollouts), on easier problems, or with a stronger --policy.",
        )
    contaminated = refuse_trained(run, rounds, {row.problem_id for row in rows}, config)
    record.begin()
    _fit(rows, model, files.policy, config, summary, record)
    summary.figures |= {"contaminated problems": contaminated} if contaminated else {}
    record.complete(summary.figures)
    return summary


def check_fresh(run: RunDir, number: int, rows: Path) -> None:
    """Refuse training rows that were made from other trees than the round has now, or that may have been.

    Args:
        run: the run.
        number: the round.
        rows: the round's file of training rows.

    Raises:
        DataError: says how to make them anew.
    """
    files = run.round(number)
    stages = read_manifest(files.manifest)
    verified = stages.get("verify", {})
    if verified.get("status", "complete") != "complete":
        raise DataError(
            "`verify` of the round was begun anew and not finished",
            path=rows,
            remedy=f"Run: {run.command('verify', number)}",
        )
    made_from = verified.get("inputs", {}).get("trees")
    now = stages.get("generate", {}).get("outputs", {}).get("trees.jsonl")
    if made_from is not None and now is not None and made_from != now:
        raise DataError(
            "was made from other trees than the round has now",
            path=rows,
            remedy=f"Remove {files.solutions} and run: {run.command('verify', number)}",
        )


def _on_files(place: TrainPlace, config: TrainPolicyConfig) -> Summary:
    source, output = plain_files("train-policy", place)
    summary = Summary("train-policy", files=[output])
    model = place.model or EMBEDDED
    _fit(read_sft(source, model), model, output, config, summary)
    return summary


def plain_files(stage: str, place: TrainPlace) -> tuple[Path, Path]:
    """What a training outside of a run reads, and the new directory that it writes.

    Raises:
        UsageError: one of them is not given, or the directory is there already.
    """
    refuse_run_flags(stage, run=place.run)
    if place.input is None or place.output is None:
        raise UsageError("--input and --output go together", remedy="Give both, or neither and a --run.")
    if place.output.exists():
        raise UsageError(f"{place.output} exists already", remedy="Give a new --output.")
    return place.input, place.output


def show_on(progress: StageProgress, record: StageRecord | None) -> Callable[[TrainProgress], None]:
    """Shows a training's loss and speed, and notes its time where a manifest tells of it."""

    def show(at: TrainProgress) -> None:
        if record is not None:
            record.tick()
        progress.update(at.update, f"loss {at.loss:.3f}", f"{at.tokens_per_second / 1000:.1f}k tok/s")

    return show


def _fit(
    rows: list[SftRow],
    model: str,
    output: Path,
    config: TrainPolicyConfig,
    summary: Summary,
    record: StageRecord | None = None,
) -> None:
    from rstar_cli.train.policy import train_policy

    updates = max(1, -(-len(rows) // config.batch_size) * round(config.epochs))
    with StageProgress(summary.stage, updates) as progress:
        report = train_policy(
            rows, model=model_path(model), output=output, config=config, on_progress=show_on(progress, record)
        )
    summary.figures = {
        "base": model,
        "rows": report.rows,
        "dropped as too long": report.dropped_too_long,
        "tokens": report.tokens,
        "updates": report.updates,
        "first loss": round(report.first_loss, 4),
        "final loss": round(report.final_loss, 4),
        "seconds": round(report.seconds, 1),
    }
    summary.headline = f"{report.rows:,} rows, loss {report.first_loss:.3f} to {report.final_loss:.3f}"
    summary.data = dict(summary.figures)
