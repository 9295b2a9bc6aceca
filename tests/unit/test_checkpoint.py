"""What is loaded, what is refused and with which remedy; other architectures decode as they do by themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rstar_cli.engines import checkpoint
from rstar_cli.engines.checkpoint import tokens_with
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.errors import SetupError
from rstar_cli.protocols import SampleRequest, Segment
from rstar_cli.tokens import StepTokenizer
from tests import models

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3": {**SIZE, **HEADS, "head_dim": 16},  # not hidden_size / heads
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},  # learned positions, older names
    "gpt_neox": {**SIZE, "num_attention_heads": 4},
    "olmo2": {**SIZE, **HEADS},
}


def save(path: Path, kind: str, **fields: Any) -> Path:
    """A random model of some architecture, with the tests' tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    hf = models.tokenizer(single_tags=True)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=len(hf) + 1, eos_token_id=0, bos_token_id=None, pad_token_id=0, initializer_range=0.4, **fields
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    hf.save_pretrained(path)
    return path


def load(path: Path) -> TransformersPolicy:
    return TransformersPolicy.load(path, device="cpu")


@pytest.mark.parametrize("kind", list(OTHERS))
def test_other_architectures_decode_as_they_do_by_themselves(tmp_path: Path, kind: str) -> None:
    policy = load(save(tmp_path, kind, **OTHERS[kind]))
    texts = ["Ana has 12 boxes.", "How many apples are there in each? " * 2, "7"]
    answers = policy.sample([SampleRequest((Segment(text),), 1, 0, ("never>",), 12, 0.0) for text in texts])
    for text, ((sample,),) in zip(texts, zip(answers, strict=True), strict=True):
        start = torch.tensor([policy._tokenizer.encode_prompt(text)])
        own = policy._model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=12, do_sample=False)
        expected = own[0, start.shape[1] :].tolist()
        got = list(sample.segments[0].token_ids or ())
        assert got == expected[: len(got)]
        assert len(got) == 12 or expected[len(got)] == 0


def test_prompts_up_to_the_last_learned_position(tmp_path: Path) -> None:
    """gpt2 has an embedding of each position: padding must not ask for one beyond."""
    policy = load(save(tmp_path, "gpt2", **OTHERS["gpt2"]))
    a = policy._tokenizer.encode("a")
    asked = [
        SampleRequest((Segment("", a * length),), 1, 0, ("never>",), 12, 0.0) for length in (1, 20, 100, 126, 127, 128)
    ]
    lengths = [len(sample.segments[0].token_ids or ()) for (sample,) in policy.sample(asked)]
    assert lengths[-2:] == [1, 0]
    for asking, (together,) in zip(asked, policy.sample(asked), strict=True):
        ((alone,),) = load(tmp_path).sample([asking])
        assert alone == together


def edited_config(path: Path, **fields: Any) -> Path:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return path


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    """transformers itself would go on with random ones."""
    from safetensors.torch import load_file, save_file

    path = models.save(tmp_path)
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(SetupError, match=r"lacks 1 weight.*model.layers.1.mlp.up_proj.weight"):
        load(path)


@pytest.mark.parametrize("harm", ["cut", "pickle", "sizes", "config", "unknown"])
def test_a_harmed_checkpoint_is_refused_with_a_remedy(tmp_path: Path, harm: str) -> None:
    path = models.save(tmp_path)
    weights = path / "model.safetensors"
    if harm == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif harm == "pickle":
        torch.save({}, path / "pytorch_model.bin")
        weights.unlink()
    elif harm == "sizes":
        edited_config(path, intermediate_size=65)
    elif harm == "config":
        (path / "config.json").write_text("{")
    else:
        edited_config(path, model_type="no_such_model")
    with pytest.raises(SetupError) as caught:
        load(path)
    assert caught.value.remedy


def test_code_that_comes_with_a_checkpoint_never_runs(tmp_path: Path) -> None:
    path = edited_config(
        models.save(tmp_path / "model"),
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    )
    trace = tmp_path / "it ran"
    (path / "mine.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    with pytest.raises(SetupError):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("kind", "fields", "layers"),
    [
        (
            "qwen2",
            {**SIZE, **HEADS, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            "Sliding",
        ),
        ("mamba", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2}, "layers"),
    ],
)
def test_layers_that_forget_are_refused(tmp_path: Path, kind: str, fields: dict[str, Any], layers: str) -> None:
    with pytest.raises(SetupError, match=layers):
        load(save(tmp_path, kind, **fields))


def test_a_window_over_all_layers_is_the_limit_of_the_context(tmp_path: Path) -> None:
    policy = load(save(tmp_path, "mistral", **{**SIZE, **HEADS, "sliding_window": 80}))
    assert policy._context == 80
    (samples,) = policy.sample([SampleRequest((Segment("a = 1"),), 1, 0, ("<end_of_step>",), 200, 1.0)])
    assert sum(samples[0].tokens) + policy.count_tokens(Segment("a = 1")) <= 80


def test_a_device_is_there_or_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert checkpoint.choose_device("cpu") == "cpu"
    assert checkpoint.choose_device("auto") == ("cuda" if seen else "cpu")
    with pytest.raises(SetupError, match="CUDA device"):
        checkpoint.choose_device(f"cuda:{seen}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [checkpoint.choose_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(SetupError, match=r"cuda:2: 2 CUDA device"):
        checkpoint.choose_device("cuda:2")


def test_four_bits_need_a_gpu_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="4bit needs a GPU"):
        TransformersPolicy.load(models.save(tmp_path), device="cpu", dtype="4bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SetupError, match="needs the package bitsandbytes"):
        checkpoint.four_bits("cuda:0")


def test_a_tokenizer_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, Qwen2Config

    models.save(tmp_path)
    AutoModelForCausalLM.from_config(Qwen2Config(vocab_size=100, **SIZE, **HEADS)).save_pretrained(tmp_path)
    policy = load(tmp_path)
    with pytest.raises(SetupError, match="token 405 of the prefix is none of the 100"):
        policy.submit(0, SampleRequest((Segment("a <answer>"),), 1, 0, ("<end_of_step>",), 5, 1.0))


@pytest.mark.parametrize("character", [">", "\n", "é"])
def test_tokens_with_a_character_miss_none(character: str) -> None:
    tokenizer = StepTokenizer(models.tokenizer(single_tags=False))
    found = tokens_with(tokenizer, character, 400)
    text = f"a -> b{character}\n{character}{character} c"
    ids = tokenizer.encode(text)
    done = ""
    for i, token in enumerate(ids):
        before, done = done, tokenizer.decode(ids[: i + 1])
        if done.count(character) > before.count(character):
            assert found[token], f"token {token} ends a {character!r}"
    assert done == text
    assert not found[tokenizer.encode("a")[0]]
