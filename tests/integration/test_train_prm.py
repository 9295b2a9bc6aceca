"""Process reward models of every objective, by the command line, on a round of the embedded model; then in a search."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from rstar_cli.extract import trajectories
from rstar_cli.jsonl import read_rows
from rstar_cli.records import StepLabelRow, Tree
from tests.helpers import rstar

RECIPE = """
[run]
seed = 72
count = 30
levels = "1-3"
[eval.test]
count = 5
[generate]
rollouts = 8
max-step-tokens = 48
max-tokens = 160
max-depth = 8
[train-prm]
min-updates = 20
learning-rate = 2e-3
optimizer = "muon"
batch-size = 16
batch-tokens = 4096
held-out = 0.3
"""
OTHERS = ("ppm", "orm", "prm-soft")
OBJECTIVES = ("prm-hard", *OTHERS)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one searched and verified round."""
    root = tmp_path_factory.mktemp("prm")
    (root / "recipe.toml").write_text(RECIPE)
    rstar("init", "--run", "r", "--recipe", "recipe.toml", cwd=root)
    rstar("generate", "--round", "1", "--run", "r", cwd=root)
    rstar("verify", "--round", "1", "--run", "r", cwd=root)
    return root / "r"


@pytest.fixture(scope="module")
def trained(searched: Path) -> dict[str, Path]:
    """The same run, trained by each objective."""
    runs: dict[str, Path] = {}
    for objective in OBJECTIVES:
        run = Path(shutil.copytree(searched, searched.with_name(objective)))
        flags = ("--run", run.name, "--round", "1", "--model", "embedded", "--objective", objective)
        told = json.loads(rstar("train-prm", *flags, "--json", cwd=run.parent).stdout)
        (run / "told.json").write_text(json.dumps(told))
        runs[objective] = run
    return runs


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_tells_how_it_judges_problems_it_never_saw(trained: dict[str, Path], objective: str) -> None:
    run = trained[objective]
    told = json.loads((run / "told.json").read_text())
    counts = json.loads((run / "round_1/manifest.json").read_text())["stages"]["train-prm"]["counts"]
    assert counts["updates"] == 20
    assert counts["final loss"] < 0.9 * counts["first loss"]
    for name in ("leaf_auc", "mid_auc", "within_auc", "best_of_n@8", "weighted@16", "majority@8"):
        low, high = counts["held-out ranking"][name]["ci95"]
        assert 0 <= low <= counts["held-out ranking"][name]["accuracy"] <= high <= 1
    for name in ("leaf_ece", "mid_ece"):
        assert 0 < counts["held-out ranking"][name] < 1
    assert counts["held-out accuracy"]["all"]["accuracy"] > 0.4
    assert "held-out AUC of solutions within a problem" in told["figures"]
    assert "held-out AUC of solutions within a problem" in (run / "round_1/prm/README.md").read_text()


@pytest.mark.parametrize("objective", ["prm-hard", *(pytest.param(o, marks=pytest.mark.slow) for o in OTHERS)])
def test_a_search_scores_steps_as_plain_transformers_does(trained: dict[str, Path], objective: str) -> None:
    """Ids, places and scale: what the trees of a guided search hold is what the checkpoint says of labelled rows."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from rstar_cli.tokens import StepTokenizer

    run = trained[objective]
    prm = run / "round_1/prm"
    guided = Path(shutil.copytree(run, run.with_name(f"guided-{objective}")))
    for left in ("manifest.json", "trees.jsonl", "solutions.jsonl", "sft.jsonl", "pairs.jsonl", "step_labels.jsonl"):
        (guided / "round_1" / left).unlink()
    flags = ("--run", guided.name, "--round", "1")
    options = ("--limit", "5", "--method", "mcts", "--rollouts", "4", "--prm", str(prm))
    rstar("generate", *flags, *options, cwd=guided.parent)
    rstar("verify", *flags, cwd=guided.parent)
    net = AutoModelForSequenceClassification.from_pretrained(prm).eval()
    scale = json.loads((prm / "config.json").read_text())["rstar_value_scale"]
    tokenizer = StepTokenizer.load(prm)
    scored = {
        (tree.problem_id, tuple(node.text for node in found.nodes)): [node.prm_score for node in found.nodes]
        for tree in read_rows(guided / "round_1/trees.jsonl", Tree)
        for found in trajectories(tree)
    }
    rows = list(read_rows(guided / "round_1/step_labels.jsonl", StepLabelRow))
    assert len(rows) >= 5
    for row in rows:
        ids, ends = tokenizer.label_ids(row)
        with torch.no_grad():
            plain = [float(net(input_ids=torch.tensor([ids[: end + 1]])).logits[0, 0]) for end in ends]
        values = scored[row.problem_id, row.completions]
        assert values == pytest.approx([math.tanh(score / scale) for score in plain], abs=2e-3)
