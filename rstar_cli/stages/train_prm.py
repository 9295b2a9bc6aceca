"""train-prm: a process reward model from the pairs, or the labelled solutions, of all rounds so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rstar_cli.config import TrainPrmConfig
from rstar_cli.errors import DataError, UsageError
from rstar_cli.jsonl import Aside, read_rows
from rstar_cli.layout import EMBEDDED, RunDir, model_path
from rstar_cli.metrics import told
from rstar_cli.options import TrainPlace
from rstar_cli.progress import StageProgress
from rstar_cli.quarantine import refuse_without
from rstar_cli.ranks import is_main
from rstar_cli.records import PairRow, StepLabelRow
from rstar_cli.report.loss import draw_absent_loss, draw_loss
from rstar_cli.stages.common import StageRecord, Summary
from rstar_cli.stages.contaminated import refuse_trained
from rstar_cli.stages.push import pushed
from rstar_cli.stages.train_files import read_pairs, read_step_labels
from rstar_cli.stages.train_policy import check_fresh, plain_files, set_aside, show_on
from rstar_cli.train import prm, prm_report
from rstar_cli.train.fit import is_held_out
from rstar_cli.train.prm_data import LEARNT, PrmRow, is_learnt
from rstar_cli.train.ready import check_packages, on_smaller_batch


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
        check_packages(config)
        with set_aside(place, output, summary) as aside:
            rows = read_plain(source, model, config, aside)
        _fit(rows, model, output, config, summary)
        if not is_main():
            return summary
        draw_loss(output, prm.loss_unit(config))
        return pushed(summary, output, place)
    refuse_without(place.skip_bad_lines, None, "--input")
    with run.locked("train-prm", place.round):
        return _of_round(place, config, run)


def _of_round(place: TrainPlace, config: TrainPrmConfig, run: RunDir) -> Summary:
    files = run.round(place.round)
    sources, policy = prm_inputs(place, config, run)
    model = place.model or run.policy_name(place.round)
    inputs = {f"{_NAMES[path.name]} of round {number}": path for number, paths in sources.items() for path in paths}
    inputs |= {"policy": policy} if policy is not None else {}
    record = StageRecord(files.manifest, "train-prm", {**config.identity(), "model": model}, inputs, [files.prm])
    summary = Summary(f"train-prm round {place.round}", files=[files.prm])
    summary.next_command = run.command("evaluate", place.round)
    if record.is_complete():
        record.told_again(summary)
        summary.figures = _figures(summary.data)
        draw_absent_loss(files.prm, prm.loss_unit(config))
        return pushed(summary, files.prm, place)
    for number, paths in sources.items():
        for path in paths:
            check_fresh(run, number, path)
    rows = read_prm_rows(sources, config)
    if not any(is_learnt(row, config) for row in rows):
        pairs = config.objective == "ppm"
        raise DataError(
            "there is no pair: no problem has both a right and a wrong solution" if pairs else "there is no solution",
            path=files.pairs if pairs else files.step_labels,
            remedy="Search more (--rollouts), or other problems: some that are neither too easy nor too hard.",
        )
    contaminated = refuse_trained(run, sources, {row.problem_id for row in rows}, config)
    record.begin()
    _fit(rows, model if policy is None else str(policy), files.prm, config, summary, record)
    if not is_main():
        return summary
    summary.data["start"] = model
    summary.data |= {"contaminated problems": contaminated} if contaminated else {}
    summary.figures = _figures(summary.data)
    record.complete(summary.data)
    draw_loss(files.prm, prm.loss_unit(config))
    return pushed(summary, files.prm, place)


_KINDS: dict[str, type[PrmRow]] = {"pairs.jsonl": PairRow, "step_labels.jsonl": StepLabelRow}
_NAMES = {"pairs.jsonl": "pairs", "step_labels.jsonl": "step labels"}
"""What holds a round's rows, and what manifests call it."""


def prm_inputs(place: TrainPlace, config: TrainPrmConfig, run: RunDir) -> tuple[dict[int, list[Path]], Path | None]:
    """The files of rows by round, and the policy to start from: None where `--model` replaces it.

    The objective learns from the pairs or from the step labels; the others, where they are there, are measured on.

    Raises:
        MissingArtifactError: names the command that makes what is not there.
        UsageError: round 0 has neither.
    """
    if place.round < 1:
        raise UsageError("round 0 has nothing to train on", remedy="Give --round 1 or later.")
    sources: dict[int, list[Path]] = {}
    for number in range(place.round if config.data_rounds == "last" else 1, place.round + 1):
        learnt, judged = run.round(number).pairs, run.round(number).step_labels
        if config.objective != "ppm":
            learnt, judged = judged, learnt
        sources[number] = [run.require(learnt, "verify", number), *([judged] if judged.exists() else [])]
    policy = run.require(run.round(place.round).policy, "train-policy", place.round) if place.model is None else None
    return sources, policy


def read_prm_rows(sources: Mapping[int, Sequence[Path]], config: TrainPrmConfig) -> list[PrmRow]:
    """The rows that a training takes: of the kind that the objective learns from all, of the other those kept apart.

    Args:
        sources: files by round.
        config: settings.
    """
    rows = (row for paths in sources.values() for path in paths for row in read_rows(path, _KINDS[path.name]))
    return [row for row in rows if is_learnt(row, config) or is_held_out(row.problem_id, config)]


def read_plain(source: Path, model: str, config: TrainPrmConfig, aside: Aside) -> Sequence[PrmRow]:
    """The rows of a plain file, of the kind that the objective learns from; errors as of `read_pairs`."""
    return read_pairs(source, model, aside) if config.objective == "ppm" else read_step_labels(source, model, aside)


def _fit(
    rows: Sequence[PrmRow],
    model: str,
    output: Path,
    config: TrainPrmConfig,
    summary: Summary,
    record: StageRecord | None = None,
) -> None:
    file = record.progress if record is not None else None
    with StageProgress(summary.stage, prm.count_updates(rows, config), file=file) as progress:
        show = show_on(progress, record)
        report, smaller = on_smaller_batch(
            lambda asked: prm.train_prm(rows, model=model_path(model), output=output, config=asked, on_progress=show),
            config,
        )
    learnt = LEARNT[config.objective]
    summary.data = {
        "start": model,
        f"{learnt}s": report.rows,
        "dropped as too long": report.dropped_too_long,
        "tokens": report.tokens,
        "updates": report.updates,
        "first loss": round(report.first_loss, 4),
        "final loss": round(report.final_loss, 4),
        "held-out accuracy": report.held_out,
        "held-out ranking": report.ranking,
        **smaller,
        "seconds": round(report.seconds, 1),
    }
    summary.figures = _figures(summary.data)
    summary.headline = f"{report.rows:,} {learnt}s"
    if report.held_out is not None:
        summary.headline += f", held-out accuracy {report.held_out['all']['accuracy']:.1%}"


def _figures(data: dict[str, Any]) -> dict[str, Any]:
    """The same to read: a line for each held-out figure."""
    shown: dict[str, Any] = {}
    for name, value in data.items():
        if name == "held-out ranking":
            shown |= {f"held-out {title}": figure for title, figure in prm_report.shown(value)}
        elif name != "held-out accuracy":
            shown[name] = value
        elif value is None:
            shown[name] = "not known: no pair was held out"
        else:
            shown |= {name if kind == "all" else f" of {kind}s": told(found) for kind, found in value.items()}
    return shown
