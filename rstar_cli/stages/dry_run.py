"""--dry-run: check every input, show the settings, a rendered prompt and what it will cost; write nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_cli.checkpoint_files import check_files
from rstar_cli.config import (
    STAGES,
    EvaluateConfig,
    EvolveConfig,
    GenerateConfig,
    SearchConfig,
    Settings,
    TrainConfig,
    TrainPolicyConfig,
    TrainPrmConfig,
    VerifyConfig,
)
from rstar_cli.errors import SetupError, UsageError
from rstar_cli.jsonl import STRICT, Aside, read_objects, read_rows
from rstar_cli.layout import EMBEDDED, RunDir, model_path, read_manifest
from rstar_cli.options import EvaluatePlace, GeneratePlace, TrainPlace, VerifyPlace
from rstar_cli.prompts import render_prompt
from rstar_cli.quarantine import Quarantine, counted
from rstar_cli.records import Problem, SftRow
from rstar_cli.redact import redacted
from rstar_cli.stages.claims import try_claim
from rstar_cli.stages.common import Summary, few_shot_of, outside_prm
from rstar_cli.stages.evaluate import prm_for as prm_of_evaluate
from rstar_cli.stages.foreign_trees import check_place, read_trees
from rstar_cli.stages.generate import policy_for, prm_for
from rstar_cli.stages.memory import memory_figures
from rstar_cli.stages.problem_sets import draw_problems, eval_problems, read_source
from rstar_cli.stages.run_cost import generate_figures, round_figures, search_bound
from rstar_cli.stages.train_cost import cost_figures, count_tokens
from rstar_cli.stages.train_files import read_sft
from rstar_cli.stages.train_policy import plain_files, policy_inputs
from rstar_cli.stages.train_prm import prm_inputs, read_plain, read_prm_rows
from rstar_cli.train import policy
from rstar_cli.train.fit import is_held_out
from rstar_cli.train.prm import count_updates
from rstar_cli.train.prm_data import LEARNT, PrmRow, chosen, is_learnt

ROW_TOKENS = 512
"""Of a training row, where there is none yet to look at."""


def dry_run_generate(place: GeneratePlace, config: GenerateConfig, run: RunDir | None) -> Summary:
    """What `generate` would do."""
    if place.round < 1:
        raise UsageError("round 0 is the base model: there is nothing to generate", remedy="Give --round 1 or later.")
    if place.trees is not None:
        check_place(place, run)
        trees = sum(1 for _ in read_trees(place.trees, _aside(place)))
        return Summary("generate: dry run, nothing was written", figures={"trees": trees})
    if run is None:
        model = "embedded" if config.policy == "auto" else config.policy
        prm = outside_prm(config.prm)
        prm_name = prm or "none"
    else:
        (model, _), (prm, prm_name) = policy_for(config, run, place.round), prm_for(config, run, place.round)
    if place.problems or run is None:
        problems = read_source(place.problems or "", place.limit, _aside(place))
    else:
        problems = draw_problems(run, place.round)[: place.limit]
    summary = _begin("generate", config)
    summary.figures |= {"policy": model, "prm": prm_name, "problems": len(problems)}
    summary.figures |= generate_figures(config, run, place.round, len(problems))
    return _models(summary, config, model, prm, problems)


def _aside(place: GeneratePlace | VerifyPlace | TrainPlace | EvaluatePlace) -> Aside:
    """Only counts bad lines where they are to be set aside."""
    return Quarantine(None) if place.skip_bad_lines else STRICT


def dry_run_verify(place: VerifyPlace, config: VerifyConfig, run: RunDir | None) -> Summary:
    """What `verify` would do."""
    summary = _begin("verify", config)
    if run is None:
        origin = place.input or "-"
        aside = _aside(place)
        summary.figures["rows"] = sum(
            try_claim(row, origin, line, aside) is not None for line, row in read_objects(origin, aside)
        )
        summary.figures |= counted(aside)
    else:
        summary.figures["trees"] = str(run.require(run.round(place.round).trees, "generate", place.round))
    return summary


def dry_run_train(place: TrainPlace, config: TrainPolicyConfig, run: RunDir | None) -> Summary:
    """What `train-policy` would do."""
    summary = _begin("train-policy", config)
    model = place.model or (run.recipe.run.base if run is not None else EMBEDDED)
    check_files(model_path(model))
    if run is None:
        rows = read_sft(plain_files("train-policy", place)[0], model, _aside(place))
    else:
        rows_of, previous = policy_inputs(place, config, run)
        model = place.model or str(previous or run.recipe.run.base)
        rows = [row for path in rows_of.values() for row in read_rows(path, SftRow)]
    held_out = sum(is_held_out(row.problem_id, config) for row in rows)
    summary.figures |= {"model": model, "rows": len(rows) - held_out, "rows held out": held_out}
    summary.figures["updates"] = policy.count_updates(rows, config)
    summary.figures |= _train_cost("train-policy", place, config, run, model, rows, config.epochs)
    return summary


def dry_run_train_prm(place: TrainPlace, config: TrainPrmConfig, run: RunDir | None) -> Summary:
    """What `train-prm` would do."""
    summary = _begin("train-prm", config)
    if run is None:
        model = place.model or EMBEDDED
        check_files(model_path(model))
        rows = read_plain(plain_files("train-prm", place)[0], model, config, _aside(place))
    else:
        sources, policy = prm_inputs(place, config, run)
        model = place.model or str(policy)
        check_files(model_path(model))
        rows = [row for row in read_prm_rows(sources, config) if is_learnt(row, config)]
    rows = chosen(rows, config)
    held_out, learnt = sum(is_held_out(row.problem_id, config) for row in rows), LEARNT[config.objective]
    summary.figures |= {"model": model, f"{learnt}s": len(rows) - held_out, f"{learnt}s held out": held_out}
    updates = summary.figures["updates"] = count_updates(rows, config)
    passes = updates * config.batch_size / max(1, len(rows) - held_out)
    summary.figures |= _train_cost("train-prm", place, config, run, model, rows, passes)
    return summary


def _train_cost(
    stage: str,
    place: TrainPlace,
    config: TrainConfig,
    run: RunDir | None,
    model: str,
    rows: Sequence[SftRow | PrmRow],
    passes: float,
) -> dict[str, str]:
    """Memory and time of a training on these rows: by the speed of an earlier round's, else of this machine."""
    lengths = count_tokens(rows, model)
    length = sum(lengths) / max(1, len(lengths))
    return cost_figures(model, config, passes * sum(lengths), length, _last_counts(run, stage, place.round))


def _last_counts(run: RunDir | None, stage: str, number: int) -> dict[str, Any] | None:
    """What the manifest counts of a stage in the last round that has it, up to a number."""
    for earlier in range(number, 0, -1) if run is not None else ():
        assert run is not None  # noqa: S101
        entry = read_manifest(run.round(earlier).manifest).get(stage, {})
        if entry.get("status") == "complete":
            counts: dict[str, Any] = entry["counts"]
            return counts
    return None


def dry_run_evaluate(place: EvaluatePlace, config: EvaluateConfig, run: RunDir | None) -> Summary:
    """What `evaluate` would do."""
    summary = _begin("evaluate", config)
    if run is not None and place.round > 0 and place.policy is None:
        run.require(Path(run.policy_of(place.round)), "train-policy", place.round)
    model = place.policy or (run.policy_of(place.round) if run is not None else "embedded")
    if place.benchmark is not None or run is None:
        problems = read_source(place.benchmark or "", place.limit, _aside(place))
        summary.figures["problems"] = len(problems)
    else:
        sets = {name: eval_problems(run, name, keep=False)[: place.limit] for name in run.recipe.eval_sets}
        problems = [p for found in sets.values() for p in found]
        summary.figures["problems"] = ", ".join(f"{name}: {len(found)}" for name, found in sets.items())
    if run is None:
        prm = outside_prm(config.prm)
        prm_name = prm or "none"
    else:
        prm, prm_name = prm_of_evaluate(config, run, place.round)
    each = config.max_tokens + config.max_step_tokens
    summary.figures |= {"policy": model, "prm": prm_name, "greedy tokens": f"at most {len(problems) * each:,}"}
    if config.samples:
        summary.figures["tokens of samples"] = f"at most {config.samples * each:,} a problem that is sampled"
    if config.rollouts:
        summary.figures["tokens of search"] = f"at most {search_bound(config):,} a problem that is searched"
    return _models(summary, config, model, prm, problems)


def dry_run_evolve(config: EvolveConfig, run: RunDir) -> Summary:
    """What `evolve` would do: settings of round 1, what later rounds change, problems, a prompt, and the tokens."""
    recipe = run.recipe
    summary = Summary("evolve: dry run, nothing was written")
    shown = summary.figures
    shown["run"] = f"{run.root}, base {recipe.run.base}, seed {recipe.run.seed}"
    shown["problems a round"] = f"{recipe.run.count} from {recipe.run.source}"
    for name, table in recipe.eval_sets.items():
        shown[f"evaluation set {name}"] = _plain(table)
    shown["evolve"] = _plain(config)
    for stage, model in STAGES.items():
        first = recipe.stage(model, stage, 1, {})
        shown[stage] = _plain(first)
        for number in range(2, config.rounds + 1):
            changed = {k: v for k, v in recipe.stage(model, stage, number, {}) if v != getattr(first, k)}
            if changed:
                shown[f"{stage}, round {number}"] = ", ".join(f"{_flag(k)} {v}" for k, v in changed.items())
    try:
        problems = draw_problems(run, 1)
        problems += [p for name in recipe.eval_sets for p in eval_problems(run, name, keep=False)]
        generate = recipe.stage(GenerateConfig, "generate", 1, {})
        shown["first prompt"] = render_prompt(problems[0].problem, few_shot_of(generate, recipe.run.base))
    except SetupError as error:
        summary.notes.append(f"Not checked: {error}. {error.remedy}")
    trainings: tuple[tuple[str, type[TrainConfig]], ...] = (
        ("train-policy", TrainPolicyConfig),
        ("train-prm", TrainPrmConfig),
    )
    for name, kind in trainings:
        settings = recipe.stage(kind, name, 1, {})
        cost = cost_figures(recipe.run.base, settings, 1e6, ROW_TOKENS, _last_counts(run, name, config.rounds))
        shown |= {f"{name}, {what}": told for what, told in cost.items()}
    for number in range(1, config.rounds + 1):
        searched = recipe.stage(GenerateConfig, "generate", number, {})
        told = generate_figures(searched, run, number, recipe.run.count)
        shown |= {f"{what}, round {number}": figure for what, figure in told.items()}
    shown |= round_figures(run, config.rounds)
    return summary


def _plain(settings: Settings) -> str:
    return ", ".join(f"{_flag(name)} {value}" for name, value in settings if value is not None)


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _begin(stage: str, config: Settings) -> Summary:
    settings: dict[str, Any] = config.model_dump(mode="json")
    return Summary(
        f"{stage}: dry run, nothing was written",
        figures={_flag(name): redacted(str(value)) for name, value in settings.items()},
    )


def _models(summary: Summary, config: SearchConfig, model: str, prm: str | None, problems: list[Problem]) -> Summary:
    """What hangs on the models: whether they fit, and the first prompt."""
    if config.engine == "transformers":
        check_files(model_path(model))
        summary.figures |= memory_figures(config, model, prm)
    summary.figures["first prompt"] = render_prompt(problems[0].problem, few_shot_of(config, model))
    return summary
