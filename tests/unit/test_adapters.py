"""LoRA adapters that are not merged: written once, read by everything that reads a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.adapters import base_of
from rstar_cli.config import TrainPolicyConfig, TrainPrmConfig
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.engines.vllm_start import read_adapter
from rstar_cli.errors import SetupError, UsageError
from rstar_cli.options import TrainPlace
from rstar_cli.protocols import SampleRequest, Segment
from rstar_cli.stages.common import knows_steps
from rstar_cli.stages.dry_run import dry_run_train
from rstar_cli.stages.memory import count_weights
from rstar_cli.stages.train_policy import train
from rstar_cli.tokens import StepTokenizer
from rstar_cli.train.checkpoint import load_merged, load_model, load_scorer
from rstar_cli.train.machine import find_machine
from rstar_cli.train.prm import train_prm
from tests.unit.test_train_policy import FAST, ROWS, fit
from tests.unit.test_train_prm import PAIRS

LORA: dict[str, Any] = {**FAST, "lora_rank": 4, "epochs": 6, "learning_rate": 2e-2, "dtype": "float32"}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same training, its adapters merged and alone."""
    folder = tmp_path_factory.mktemp("trained")
    for merge in (True, False):
        fit(base, folder / str(merge), **LORA, merge=merge)
    return folder / "True", folder / "False"


def logits(net: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = net.eval()(torch.arange(20)[None]).logits
    return found


def test_adapters_alone_are_small_and_stand_for_the_same_model(base: Path, trained: tuple[Path, Path]) -> None:
    from transformers import AutoModelForCausalLM

    merged, alone = trained
    assert base_of(merged) is None
    assert base_of(alone) == str(base)
    files = {path.name for path in alone.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= files
    assert "model.safetensors" not in files
    assert knows_steps(str(alone))
    whole = logits(AutoModelForCausalLM.from_pretrained(merged))
    assert not torch.allclose(whole, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-2)
    for net in (
        AutoModelForCausalLM.from_pretrained(alone),  # by transformers itself
        load_model(alone, dtype=torch.float32, attention="sdpa"),
        load_merged(alone, "CAUSAL_LM"),
    ):
        torch.testing.assert_close(logits(net), whole, atol=1e-4, rtol=1e-4)


def test_the_engines_take_them(base: Path, trained: tuple[Path, Path]) -> None:
    merged, alone = trained
    request = SampleRequest((Segment(ROWS[0].prompt),), 4, 0, ("<end_of_step>",), 24, 1.0)
    texts = [
        [sample.segments for sample in samples]
        for samples in (TransformersPolicy.load(path, device="cpu").sample([request])[0] for path in (merged, alone))
    ]
    assert texts[0] == texts[1]
    told = read_adapter(alone)
    assert (told.base, told.lora, told.tokenizer) == (str(base), str(alone), str(alone))


def test_a_prm_and_the_next_policy_start_from_them(trained: tuple[Path, Path], tmp_path: Path) -> None:
    merged, alone = trained
    tokenizer = StepTokenizer.load(alone).hf
    scorer = load_scorer(alone, tokenizer, dtype=torch.float32, attention="sdpa")
    same = load_scorer(merged, tokenizer, dtype=torch.float32, attention="sdpa")
    for (name, ours), (_, theirs) in zip(scorer.named_parameters(), same.named_parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    settings = {**FAST, "min_updates": 2, "epochs": 0.1, "dtype": "float32"}
    reports = [
        train_prm(PAIRS, model=path, output=tmp_path / f"prm {name}", config=TrainPrmConfig(**settings))
        for name, path in (("merged", merged), ("alone", alone))
    ]
    assert reports[0].final_loss == pytest.approx(reports[1].final_loss, abs=1e-4)
    again = [fit(path, tmp_path / path.name, **FAST) for path in trained]
    assert again[0].final_loss == pytest.approx(again[1].final_loss, abs=1e-3)
    assert "model.safetensors" in {path.name for path in (tmp_path / alone.name).iterdir()}


def test_a_dry_run_tells_of_their_base(trained: tuple[Path, Path], tmp_path: Path) -> None:
    merged, alone = trained
    (tmp_path / "rows.jsonl").write_text("\n".join(row.model_dump_json() for row in ROWS))
    config = TrainPolicyConfig(**{**FAST, "held_out": 0.3, "epochs": 3})
    told = [
        dry_run_train(TrainPlace(input=tmp_path / "rows.jsonl", output=tmp_path / "o", model=str(path)), config, None)
        for path in trained
    ]
    needed = [str(summary.figures["memory on cpu"]).split(" of ")[0] for summary in told]  # what is free changes
    assert needed[0] == needed[1]
    report = fit(merged, tmp_path / "out", held_out=0.3, epochs=3)
    assert (told[0].figures["rows"], told[0].figures["rows held out"]) == (report.rows, report.held_out_rows)
    assert told[0].figures["updates"] == report.updates
    assert count_weights(str(alone)) == count_weights(str(merged))


def test_a_prms_adapters_hold_its_head(base: Path, tmp_path: Path) -> None:
    """What four bits need: adapters written, and merged into the base as it is stored."""
    from peft import LoraConfig, get_peft_model

    tokenizer = StepTokenizer.load(base).hf
    net = load_scorer(base, tokenizer, dtype=torch.float32, attention="sdpa")
    config = LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS", init_lora_weights=False)
    adapted: Any = get_peft_model(net, config)
    torch.nn.init.normal_(adapted.base_model.model.score.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path)
    ids = torch.arange(1, 20)[None]
    with torch.inference_mode():
        expected = adapted.eval()(ids).logits
        loaded: Any = load_merged(tmp_path, "SEQ_CLS").eval()
        loaded.config.pad_token_id = net.config.pad_token_id
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-4, rtol=1e-4)


def test_adapters_upon_adapters_are_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    place = TrainPlace(input=tmp_path / "rows.jsonl", output=tmp_path / "out", model=str(trained[1]))
    (tmp_path / "rows.jsonl").write_text("\n".join(row.model_dump_json() for row in ROWS))
    with pytest.raises(UsageError, match="adapters itself"):
        train(place, TrainPolicyConfig(**{**LORA, "merge": False}), None)


@pytest.mark.parametrize("harm", ["base", "none", "weights", "shape"])
def test_adapters_that_do_not_fit_are_refused(trained: tuple[Path, Path], tmp_path: Path, harm: str) -> None:
    import shutil

    alone = Path(shutil.copytree(trained[1], tmp_path / "copy"))
    config = json.loads((alone / "adapter_config.json").read_text())
    if harm == "base":
        config["base_model_name_or_path"] = str(tmp_path / "nowhere")
    elif harm == "none":
        del config["base_model_name_or_path"]
    elif harm == "weights":
        (alone / "adapter_model.safetensors").write_bytes(b"{}")
    else:
        config["r"] = 5
    (alone / "adapter_config.json").write_text(json.dumps(config))
    for load in (
        lambda: load_model(alone, dtype=torch.float32, attention="sdpa"),
        lambda: TransformersPolicy.load(alone, device="cpu"),
    ):
        with pytest.raises(SetupError) as caught:
            load()
        assert caught.value.remedy


def test_four_bits_need_a_gpu_a_package_and_adapters(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.util import find_spec

    with pytest.raises(SetupError, match="4bit needs a GPU"):
        fit(base, tmp_path / "out", dtype="4bit", lora_rank=4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if find_spec("bitsandbytes") is None:
        with pytest.raises(SetupError, match="needs the package bitsandbytes") as caught:
            find_machine("auto", "4bit")
        assert caught.value.remedy == "Run: pip install bitsandbytes"
    monkeypatch.setattr("rstar_cli.train.machine.find_spec", lambda _: True)
    assert find_machine("auto", "4bit").bfloat16
    with pytest.raises(UsageError, match="LoRA adapters alone"):
        fit(base, tmp_path / "out", dtype="4bit", device="auto")
    assert not any(tmp_path.iterdir())
