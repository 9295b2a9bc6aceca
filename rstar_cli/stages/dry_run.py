"""--dry-run: check every input, show the settings, a rendered prompt and what it will cost; write nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rstar_cli.config import EngineConfig, EvaluateConfig, GenerateConfig, Settings, TrainPolicyConfig, VerifyConfig
from rstar_cli.errors import SetupError
from rstar_cli.jsonl import read_objects, read_rows
from rstar_cli.layout import RunDir, model_path, read_manifest
from rstar_cli.options import EvaluatePlace, GeneratePlace, TrainPlace, VerifyPlace
from rstar_cli.prompts import render_prompt
from rstar_cli.records import Problem, SftRow
from rstar_cli.stages.common import Summary, few_shot_of
from rstar_cli.stages.problem_sets import draw_problems, eval_problems, read_source


def dry_run_generate(place: GeneratePlace, config: GenerateConfig, run: RunDir | None) -> Summary:
    """What `generate` would do."""
    model = place.policy or (run.policy_of(place.round - 1) if run is not None and place.round > 0 else "embedded")
    if run is not None and place.policy is None and place.round > 1:
        run.require(Path(model), "train-policy", place.round - 1)
    if place.problems or run is None:
        problems = read_source(place.problems or "", place.limit)
    else:
        problems = draw_problems(run, place.round)[: place.limit]
    summary = _begin("generate", config)
    summary.figures |= {"policy": model, "problems": len(problems)}
    summary.figures["tokens to generate"] = _generate_cost(config, run, place.round, len(problems))
    return _prompt(summary, config, model, problems)


def _generate_cost(config: GenerateConfig, run: RunDir | None, number: int, problems: int) -> str:
    """From the last round's measured tokens a problem; else a bound."""
    for earlier in range(number, 0, -1) if run is not None else ():
        assert run is not None  # noqa: S101
        entry = read_manifest(run.round(earlier).manifest).get("generate", {})
        searched = entry.get("counts", {}).get("searched now")
        if searched:
            each = entry["tokens"]["generated"] / searched
            return f"about {each * problems:,.0f} ({each:,.0f} a problem in round {earlier})"
    rollout = config.candidates * config.max_step_tokens
    rollout *= config.max_depth if config.rollout_style == "expand" else 1
    bound = problems * config.rollouts * (rollout + config.max_tokens)
    return f"at most {bound:,} (no round has run yet to estimate from; usually a tenth of it or less)"


def dry_run_verify(place: VerifyPlace, config: VerifyConfig, run: RunDir | None) -> Summary:
    """What `verify` would do."""
    summary = _begin("verify", config)
    if run is None:
        rows = sum(1 for _ in read_objects(place.input or "-"))
        summary.figures["rows"] = rows
    else:
        summary.figures["trees"] = str(run.require(run.round(place.round).trees, "generate", place.round))
    return summary


def dry_run_train(place: TrainPlace, config: TrainPolicyConfig, run: RunDir | None) -> Summary:
    """What `train-policy` would do."""
    summary = _begin("train-policy", config)
    if run is None:
        files = [place.input] if place.input is not None else []
    else:
        files = [run.require(run.round(n).sft, "verify", n) for n in range(1, place.round + 1)]
    rows = [row for file in files for row in read_rows(file, SftRow)]
    model = place.model or (run.recipe.run.base if run is not None else "embedded")
    _check_model(model)
    summary.figures |= {"model": model, "rows": len(rows)}
    summary.figures["updates"] = -(-len(rows) // config.batch_size) * round(config.epochs)
    return summary


def dry_run_evaluate(place: EvaluatePlace, config: EvaluateConfig, run: RunDir | None) -> Summary:
    """What `evaluate` would do."""
    summary = _begin("evaluate", config)
    if run is not None and place.round > 0 and place.policy is None:
        run.require(Path(run.policy_of(place.round)), "train-policy", place.round)
    model = place.policy or (run.policy_of(place.round) if run is not None else "embedded")
    if place.benchmark is not None or run is None:
        problems = read_source(place.benchmark or "", place.limit)
        summary.figures["problems"] = len(problems)
    else:
        sets = {name: eval_problems(run, name, keep=False)[: place.limit] for name in run.recipe.eval_sets}
        problems = [p for found in sets.values() for p in found]
        summary.figures["problems"] = ", ".join(f"{name}: {len(found)}" for name, found in sets.items())
    summary.figures |= {"policy": model, "tokens to generate": f"at most {len(problems) * config.max_tokens:,}"}
    return _prompt(summary, config, model, problems)


def _begin(stage: str, config: Settings) -> Summary:
    settings: dict[str, Any] = config.model_dump(mode="json")
    return Summary(
        f"{stage}: dry run, nothing was written",
        figures={name.replace("_", "-"): str(value) for name, value in settings.items()},
    )


def _prompt(summary: Summary, config: EngineConfig, model: str, problems: list[Problem]) -> Summary:
    if config.engine != "scripted":
        _check_model(model)
    summary.figures["first prompt"] = render_prompt(problems[0].problem, few_shot_of(config, model))
    return summary


def _check_model(model: str) -> None:
    path = Path(model_path(model))
    if path.is_dir() and not (path / "config.json").exists():
        raise SetupError(f"{path} holds no config.json: it is not a checkpoint", remedy="Give a checkpoint directory.")
