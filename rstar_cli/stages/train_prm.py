"""train-prm: the process preference model, from pairs of steps and of solutions of all rounds so far."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rstar_cli.config import TrainPrmConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import read_rows
from rstar_cli.layout import EMBEDDED, RunDir, model_path
from rstar_cli.metrics import told
from rstar_cli.options import TrainPlace
from rstar_cli.progress import StageProgress
from rstar_cli.records import PairRow
from rstar_cli.report.loss import draw_loss
from rstar_cli.stages.common import StageRecord, Summary
from rstar_cli.stages.contaminated import refuse_trained
from rstar_cli.stages.train_files import read_pairs
from rstar_cli.stages.train_policy import check_fresh, plain_files, show_on
from rstar_cli.train import prm


def train_prm(place: TrainPlace, config: TrainPrmConfig, run: RunDir | None) -> Summary:
    """Train a scorer from the round's policy and write a checkpoint.

    Args:
        place: what to read and write; `model` replaces the policy as the start.
        config: settings.
        run: the run; None where `--input` and `--output` name plain files.
    """
    if run is None:
        source, output = plain_files("train-prm", place)
        summary = Summary("train-prm", files=[output])
        model = place.model or EMBEDDED
        _fit(read_pairs(source, model), model, output, config, summary)
        draw_loss(output, "pair")
        return summary
    files = run.round(place.round)
    pairs, policy = prm_inputs(place, config, run)
    sources = {f"pairs of round {number}": path for number, path in pairs.items()}
    if policy is not None:
        sources["policy"] = policy
    model = place.model or run.policy_name(place.round)
    record = StageRecord(files.manifest, "train-prm", {**config.identity(), "model": model}, sources, [files.prm])
    summary = Summary(f"train-prm round {place.round}", files=[files.prm])
    summary.next_command = run.command("evaluate", place.round)
    if record.is_complete():
        record.told_again(summary)
        summary.figures = _figures(summary.data)
        return summary
    for number, path in pairs.items():
        check_fresh(run, number, path)
    rows = [row for path in pairs.values() for row in read_rows(path, PairRow)]
    if not rows:
        raise DataError(
            "there is no pair: no problem has both a right and a wrong solution",
            path=files.pairs,
            remedy="Search more (--rollouts), or other problems: some that are neither too easy nor too hard.",
        )
    contaminated = refuse_trained(run, pairs, {row.problem_id for row in rows}, config)
    record.begin()
    _fit(rows, model if policy is None else str(policy), files.prm, config, summary, record)
    summary.data["start"] = model
    summary.data |= {"contaminated problems": contaminated} if contaminated else {}
    summary.figures = _figures(summary.data)
    record.complete(summary.data)
    draw_loss(files.prm, "pair")
    return summary


def prm_inputs(place: TrainPlace, config: TrainPrmConfig, run: RunDir) -> tuple[dict[int, Path], Path | None]:
    """The files of pairs by round, and the policy to start from: None where `--model` replaces it.

    Raises:
        MissingArtifactError: names the command that makes what is not there.
        UsageError: round 0 has neither.
    """
    if place.round < 1:
        raise UsageError("round 0 has no pairs to train on", remedy="Give --round 1 or later.")
    first = place.round if config.data_rounds == "last" else 1
    pairs = {n: run.require(run.round(n).pairs, "verify", n) for n in range(first, place.round + 1)}
    policy = run.require(run.round(place.round).policy, "train-policy", place.round) if place.model is None else None
    return pairs, policy


def _fit(
    rows: list[PairRow],
    model: str,
    output: Path,
    config: TrainPrmConfig,
    summary: Summary,
    record: StageRecord | None = None,
) -> None:
    with StageProgress(summary.stage, prm.count_updates(rows, config)) as progress:
        show = show_on(progress, record)
        report = prm.train_prm(rows, model=model_path(model), output=output, config=config, on_progress=show)
    summary.data = {
        "start": model,
        "pairs": report.pairs,
        "dropped as too long": report.dropped_too_long,
        "tokens": report.tokens,
        "updates": report.updates,
        "first loss": round(report.first_loss, 4),
        "final loss": round(report.final_loss, 4),
        "held-out accuracy": report.held_out,
        "seconds": round(report.seconds, 1),
    }
    summary.figures = _figures(summary.data)
    summary.headline = f"{report.pairs:,} pairs"
    if report.held_out is not None:
        summary.headline += f", held-out accuracy {report.held_out['all']['accuracy']:.1%}"


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """The same to read: a line for each held-out accuracy."""
    shown: dict[str, Any] = {}
    for name, value in data.items():
        if name != "held-out accuracy":
            shown[name] = value
        elif value is None:
            shown[name] = "not known: no pair was held out"
        else:
            shown |= {name if kind == "all" else f" of {kind}s": told(found) for kind, found in value.items()}
    return shown
