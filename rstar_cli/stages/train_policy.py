"""train-policy: supervised fine-tuning on the best verified trajectories of all rounds so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rstar_cli.adapters import base_of
from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.extract import merge_rounds
from rstar_cli.jsonl import Aside, read_rows
from rstar_cli.layout import EMBEDDED, RunDir, model_path, read_manifest
from rstar_cli.options import TrainPlace
from rstar_cli.progress import StageProgress
from rstar_cli.quarantine import beside, counted, notes, open_aside, refuse_without
from rstar_cli.ranks import is_main
from rstar_cli.records import Choice, SftRow
from rstar_cli.report.loss import draw_absent_loss, draw_loss
from rstar_cli.stages.common import StageRecord, Summary, refuse_run_flags
from rstar_cli.stages.contaminated import refuse_trained
from rstar_cli.stages.push import pushed
from rstar_cli.stages.train_files import read_sft
from rstar_cli.train.ready import check_packages

if TYPE_CHECKING:
    from rstar_cli.train.fit import TrainProgress
    from rstar_cli.train.policy import TrainReport


def train(place: TrainPlace, config: TrainPolicyConfig, run: RunDir | None) -> Summary:
    """Fine-tune from the base, or from the previous policy, and write a checkpoint.

    Args:
        place: what to read and write.
        config: settings.
        run: the run; None where `--input` and `--output` name plain files.
    """
    if run is None:
        return _on_files(place, config)
    refuse_without(place.skip_bad_lines, None, "--input")
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to train", remedy="Give --round 1 or later.")
    with run.locked("train-policy", place.round):
        return _of_round(place, config, run)


def _of_round(place: TrainPlace, config: TrainPolicyConfig, run: RunDir) -> Summary:
    rows_of, previous = policy_inputs(place, config, run)
    sources = {f"sft of round {n}": path for n, path in rows_of.items()}
    if previous is not None:
        sources["previous policy"] = previous
    files = run.round(place.round)
    model = place.model or (run.recipe.run.base if previous is None else run.policy_name(place.round - 1))
    record = StageRecord(files.manifest, "train-policy", {**config.identity(), "model": model}, sources, [files.policy])
    summary = Summary(f"train-policy round {place.round}", files=[files.policy])
    summary.next_command = run.command("train-prm", place.round)
    if record.is_complete():
        draw_absent_loss(files.policy, "token")
        return pushed(record.told_again(summary), files.policy, place)
    rows, left_out = read_sft_rows(run, rows_of)
    if not rows:
        raise DataError(
            "there is no training row: no trajectory was right",
            path=files.sft,
            remedy="Search more (--rollouts), on easier problems, or with a stronger --policy.",
        )
    contaminated = refuse_trained(run, rows_of, {row.problem_id for row in rows}, config)
    record.begin()
    _fit(rows, model if previous is None else str(previous), files.policy, config, summary, record)
    if not is_main():
        return summary
    summary.figures["start"] = summary.data["start"] = model
    summary.figures |= {f"left out, {choice}": count for choice, count in sorted(left_out.items())}
    summary.figures |= {"contaminated problems": contaminated} if contaminated else {}
    record.complete(summary.figures)
    draw_loss(files.policy, "token")
    return pushed(summary, files.policy, place)


def read_sft_rows(run: RunDir, rows_of: Mapping[int, Path]) -> tuple[list[SftRow], Counter[Choice]]:
    """The rows of several rounds, merged (see `merge_rounds`), and how many were left out for which reason.

    Args:
        run: the run.
        rows_of: files by round.

    Raises:
        DataError: rows were made from other trees than their round has now.
    """
    for number, path in rows_of.items():
        check_fresh(run, number, path)
    return merge_rounds([list(read_rows(path, SftRow)) for path in rows_of.values()], _top(run, rows_of))


def _top(run: RunDir, rounds: Iterable[int]) -> int:
    """Rows a problem that `verify` keeps of one round, the most of these rounds; 0 where nothing tells of it."""
    stages = (read_manifest(run.round(number).manifest).get("verify", {}) for number in rounds)
    return max((entry.get("config", {}).get("top", 0) for entry in stages), default=0)


def policy_inputs(place: TrainPlace, config: TrainPolicyConfig, run: RunDir) -> tuple[dict[int, Path], Path | None]:
    """The files of rows by round, and the previous round's policy where the training starts from it; None: the base.

    Raises:
        MissingArtifactError: names the command that makes what is not there.
    """
    first = place.round if config.data_rounds == "last" else 1
    rows = {n: run.require(run.round(n).sft, "verify", n) for n in range(first, place.round + 1)}
    last = place.round - 1
    if config.start == "base" or place.model is not None or last == 0:
        return rows, None
    return rows, run.require(run.round(last).policy, "train-policy", last)


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
    if config.start == "previous":
        raise UsageError("--start previous is a run's, and this is work outside one", remedy="Name it with --model.")
    summary = Summary("train-policy", files=[output])
    model = place.model or EMBEDDED
    check_packages(config)
    with set_aside(place, output, summary) as aside:
        rows = read_sft(source, model, aside)
    _fit(rows, model, output, config, summary)
    if not is_main():
        return summary
    draw_loss(output, "token")
    return pushed(summary, output, place)


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


@contextmanager
def set_aside(place: TrainPlace, output: Path, summary: Summary) -> Iterator[Aside]:
    """Takes the bad lines of a training's input where that is asked for; the summary tells of them."""
    with ExitStack() as stack:
        aside = open_aside(stack, place.skip_bad_lines and is_main(), beside(output))
        yield aside
    summary.notes, summary.partial = notes(aside), bool(counted(aside))


def check_adapters(model: str, config: TrainPolicyConfig) -> None:
    """Refuse adapters upon adapters: vLLM and transformers load one layer of them.

    Raises:
        UsageError: the start has adapters, and the result is to have its own.
    """
    if config.lora_rank and not config.merge and base_of(model) is not None:
        raise UsageError(
            f"{model} is adapters itself, and --no-merge would put others upon them",
            remedy="Train with --merge, or start from a whole model.",
        )


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
    from rstar_cli.train.policy import count_updates, train_policy
    from rstar_cli.train.ready import on_smaller_batch

    check_adapters(model_path(model), config)
    file = record.progress if record is not None else None
    with StageProgress(summary.stage, count_updates(rows, config), file=file) as progress:
        show = show_on(progress, record)
        report, smaller = on_smaller_batch(
            lambda asked: train_policy(rows, model=model_path(model), output=output, config=asked, on_progress=show),
            config,
        )
    summary.figures = {
        "start": model,
        "rows": report.rows,
        "dropped as too long": report.dropped_too_long,
        "tokens": report.tokens,
        "updates": report.updates,
        "first loss": round(report.first_loss, 4),
        "final loss": round(report.final_loss, 4),
        **_held_out_figures(report),
        **smaller,
        "seconds": round(report.seconds, 1),
    }
    summary.headline = f"{report.rows:,} rows, loss {report.first_loss:.3f} to {report.final_loss:.3f}"
    if report.held_out_loss is not None:
        summary.headline += f", held out {report.held_out_loss:.3f}"
    summary.data = dict(summary.figures)


def _held_out_figures(report: TrainReport) -> dict[str, Any]:
    if report.held_out_loss is None:
        return {}
    return {
        "rows held out": report.held_out_rows,
        "held-out loss": round(report.held_out_loss, 4),
        "weights of update": report.kept,
    }
