"""Policy fine-tuning on tiny random models: what is learnt, what is written, what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rstar_cli.config import TrainPolicyConfig
from rstar_cli.errors import DataError, SetupError, StorageError
from rstar_cli.prompts import render_prompt
from rstar_cli.records import RowSegment, SftRow
from rstar_cli.tokens import IGNORED, StepTokenizer
from rstar_cli.train import trainer
from rstar_cli.train.fit import is_held_out
from rstar_cli.train.policy import TrainProgress, TrainReport, train_policy
from tests.models import save

pytestmark = pytest.mark.usefixtures("one_thread")


def row(i: int, *, tokenizer: str = "", token_ids: tuple[int, ...] | None = None, extra: str = "") -> SftRow:
    total = 3 * i
    steps = (
        RowSegment(text=f"\n# thrice{extra}\na = 3 * {i}<end_of_step>", token_ids=token_ids),
        RowSegment(text="\n# answer\nprint(a)<end_of_code>"),
        RowSegment(text=f"\n<output>{total}<end_of_output>\n", output=True),
        RowSegment(text=f"<answer>\\boxed{{{total}}}<end_of_answer>"),
    )
    return SftRow(
        problem_id=f"p{i}",
        prompt=render_prompt(f"What is three times {i}?"),
        completion="".join(step.text for step in steps),
        steps=steps,
        tokenizer=tokenizer,
    )


ROWS = [row(i, extra=" the number" * (i % 3)) for i in range(1, 13)]
FAST: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "batch_tokens": 512, "device": "cpu"}


def fit(base: Path, output: Path, rows: list[SftRow] = ROWS, on_progress: Any = None, **changes: Any) -> TrainReport:
    config = TrainPolicyConfig(**{**FAST, **changes})
    return train_policy(rows, model=base, output=output, config=config, on_progress=on_progress)


def weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {k: v for file in sorted(checkpoint.glob("*.safetensors")) for k, v in load_file(file).items()}


def read_log(checkpoint: Path) -> list[dict[str, Any]]:
    """The log by update, without its clock times."""
    rows = [json.loads(line) for line in (checkpoint / "train_log.jsonl").read_text().splitlines()]
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows


def load(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, trust_remote_code=False).eval()


def loss_by_hand(base: Path, rows: list[SftRow]) -> tuple[float, int]:
    """Mean loss a token, one row at a time without padding, from the text's spans: no labels of ours."""
    import torch

    model, tokenizer = load(base), StepTokenizer.load(base)
    total, count = 0.0, 0
    for one in rows:
        ids = list(tokenizer.encode_prompt(one.prompt))
        learnt: list[int] = []
        for step in one.steps:
            new = tokenizer.encode(step.text)
            if not step.output:
                learnt += range(len(ids), len(ids) + len(new))
            ids += new
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= sum(float(logp[at - 1, ids[at]]) for at in learnt)
        count += len(learnt)
    return total / count, count


def test_the_first_loss_is_that_of_the_policys_own_tokens_alone(base: Path, tmp_path: Path) -> None:
    report = fit(base, tmp_path / "out", batch_size=len(ROWS), batch_tokens=300, dtype="float32")
    expected, count = loss_by_hand(base, ROWS)
    assert report.first_loss == pytest.approx(expected, abs=1e-4)
    assert report.loss_tokens == count
    assert report.updates == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_trls_own_head_gives_the_same_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    ours = fit(base, tmp_path / "ours", dtype=dtype)
    monkeypatch.setattr(trainer, "LOGITS", 0)
    theirs = fit(base, tmp_path / "theirs", dtype=dtype)
    slack = 1e-4 if dtype == "float32" else 2e-2
    assert ours.first_loss == pytest.approx(theirs.first_loss, abs=slack)
    assert ours.final_loss == pytest.approx(theirs.final_loss, abs=slack)


def test_micro_batches_sum_to_the_whole_update(base: Path, tmp_path: Path) -> None:
    whole = fit(base, tmp_path / "whole", batch_size=12, batch_tokens=100_000, epochs=3, dtype="float32")
    parts = fit(base, tmp_path / "parts", batch_size=12, batch_tokens=1, epochs=3, dtype="float32")
    assert parts.updates == whole.updates == 3
    assert parts.final_loss == pytest.approx(whole.final_loss, abs=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_learns_a_solution_by_heart_and_adds_no_end_token(base: Path, tmp_path: Path, optimizer: str) -> None:
    import torch

    report = fit(base, tmp_path / "out", ROWS[:2], epochs=60, learning_rate=1e-2, optimizer=optimizer, warmup=0.1)
    assert report.first_loss > 3
    assert report.final_loss < 0.1
    model, tokenizer = load(tmp_path / "out"), StepTokenizer.load(tmp_path / "out")
    for one in ROWS[:2]:
        ids, labels = tokenizer.training_ids(one)
        with torch.no_grad():
            greedy = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        learnt = [at for at, label in enumerate(labels) if label != IGNORED]
        assert [greedy[at - 1] for at in learnt] == [labels[at] for at in learnt]
        assert tokenizer.decode(ids).endswith("<end_of_answer>")


def test_output_spans_are_not_learnt(base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "out", ROWS[:2], epochs=40, learning_rate=1e-2)
    other = [
        one.model_copy(update={"steps": tuple(s.model_copy(update={"output": not s.output}) for s in one.steps)})
        for one in ROWS[:2]
    ]
    spans, _ = loss_by_hand(tmp_path / "out", other)
    own, _ = loss_by_hand(tmp_path / "out", ROWS[:2])
    assert own < 0.2 < 2 < spans


def test_equal_seeds_give_equal_weights_and_files(base: Path, tmp_path: Path) -> None:
    import torch

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(random.randrange(1 << 30))
        fit(base, tmp_path / name, seed=seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert {"trainer_state.json", "train_log.jsonl"} <= set(files)
    files.remove("train_log.jsonl")
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert read_log(tmp_path / "a") == read_log(tmp_path / "b")
    a, c = weights(tmp_path / "a"), weights(tmp_path / "c")
    assert any(not torch.equal(a[key], c[key]) for key in a)


def test_rows_beyond_the_limit_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    lengths = [len(tokenizer.training_ids(one)[0]) for one in ROWS]
    limit = sorted(lengths)[7]
    report = fit(base, tmp_path / "out", max_length=limit, dtype="float32")
    kept = [one for one, length in zip(ROWS, lengths, strict=True) if length <= limit]
    assert (report.rows, report.dropped_too_long) == (len(kept), len(ROWS) - len(kept))
    assert report.tokens == sum(length for length in lengths if length <= limit)
    assert report.loss_tokens == loss_by_hand(base, kept)[1]


def test_lora_saves_a_merged_plain_checkpoint(base: Path, tmp_path: Path) -> None:
    import torch

    report = fit(base, tmp_path / "out", epochs=12, lora_rank=4, learning_rate=2e-2, optimizer="muon")
    assert report.final_loss < report.first_loss / 2
    before, after = weights(base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    assert {key for key in before if not torch.equal(before[key], after[key])} == {
        key for key in before if key.endswith("proj.weight")
    }
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert loss_by_hand(tmp_path / "out", ROWS)[0] == pytest.approx(report.final_loss, rel=0.3)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_the_shape_of_a_7b_model_takes_the_same_path(tmp_path: Path, lora_rank: int) -> None:
    """Untied head, more embedding rows than tokens, stored in bfloat16: the result is stored so too."""
    import torch

    source = save(tmp_path / "7b", kind="qwen2.5-math-7b")
    load(source).to(torch.bfloat16).save_pretrained(source)
    report = fit(source, tmp_path / "out", epochs=10, lora_rank=lora_rank, learning_rate=1e-2)
    assert report.final_loss < report.first_loss
    before, after = weights(source), weights(tmp_path / "out")
    assert {key: value.shape for key, value in before.items()} == {key: value.shape for key, value in after.items()}
    assert {value.dtype for value in after.values()} == {torch.bfloat16}


def test_sampled_ids_count_only_where_they_belong_to_the_tokenizer(base: Path, tmp_path: Path) -> None:
    tokenizer = StepTokenizer.load(base)
    text = row(5).steps[0].text
    spelled = tuple(i for letter in text.removesuffix("<end_of_step>") for i in tokenizer.encode(letter))
    spelled += tokenizer.encode("<end_of_step>")
    assert tokenizer.decode(spelled) == text
    assert len(spelled) > len(tokenizer.encode(text))
    mine = fit(base, tmp_path / "mine", [row(5, token_ids=spelled, tokenizer=tokenizer.fingerprint)])
    other = fit(base, tmp_path / "other", [row(5, token_ids=spelled, tokenizer="another")])
    plain = fit(base, tmp_path / "plain", [row(5)])
    assert mine.tokens - plain.tokens == len(spelled) - len(tokenizer.encode(text))
    assert (other.tokens, other.first_loss) == (plain.tokens, plain.first_loss)


def test_progress_is_told_and_nothing_is_printed(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[TrainProgress] = []
    report = fit(base, tmp_path / "out", epochs=2, on_progress=seen.append)
    assert [(at.update, at.updates) for at in seen] == [(i + 1, 6) for i in range(6)]
    assert seen[0].loss == report.first_loss
    assert all(at.tokens_per_second > 0 for at in seen)
    assert capfd.readouterr() == ("", "")


def test_trl_reports_nothing_to_its_makers(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.trainer import base_trainer

    sent: list[str] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(base_trainer, "send_telemetry", lambda *args, **kwargs: sent.append(kwargs["topic"]))
    fit(base, tmp_path / "out")
    assert not sent


def test_no_scratch_is_left_and_an_older_checkpoint_is_replaced(base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "out")
    (tmp_path / "out" / "stale").write_text("old")
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "left by a kill").write_text("half")
    fit(base, tmp_path / "out", seed=3)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "stale").exists()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rstar_steps"] is True
    assert config["use_cache"] is True


def test_an_interrupt_leaves_no_half_checkpoint(base: Path, tmp_path: Path) -> None:
    def stop(at: TrainProgress) -> None:
        raise KeyboardInterrupt

    fit(base, tmp_path / "out")
    before = weights(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fit(base, tmp_path / "out", seed=5, on_progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert all((before[key] == value).all() for key, value in weights(tmp_path / "out").items())


def test_rows_that_cannot_be_learnt_are_refused_with_a_remedy(base: Path, tmp_path: Path) -> None:
    silent = row(1).model_copy(update={"steps": (RowSegment(text="\n<output>3<end_of_output>\n", output=True),)})
    foreign = row(1, token_ids=(10**6,), tokenizer=StepTokenizer.load(base).fingerprint)
    for rows, changes, words in (
        ([], {}, "no row"),
        (ROWS, {"max_length": 8}, "all 12 rows are longer than 8"),
        ([silent], {}, "no row has a token to learn"),
        ([foreign], {}, "token id 1000000"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            fit(base, tmp_path / "out", rows, **changes)
        assert caught.value.remedy
    assert not any(tmp_path.iterdir())


def test_a_loss_that_is_not_a_number_stops_training(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the loss is (nan|inf) at update") as caught:
        fit(base, tmp_path / "out", epochs=20, learning_rate=1e30, dtype="float32")
    assert "--learning-rate" in caught.value.remedy
    assert not any(tmp_path.iterdir())


def test_a_checkpoint_that_cannot_be_used_is_a_setup_error(base: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(SetupError, match="nowhere"):
        fit(tmp_path / "nowhere", tmp_path / "out")

    torn = Path(shutil.copytree(base, tmp_path / "torn"))
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:100])
    with pytest.raises(SetupError, match="torn"):
        fit(torn, tmp_path / "out")

    own_code = Path(shutil.copytree(base, tmp_path / "own_code"))
    config = json.loads((own_code / "config.json").read_text())
    config.update(model_type="mine", auto_map={"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Mine"})
    (own_code / "config.json").write_text(json.dumps(config))
    (own_code / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: ...\n")
    with pytest.raises(SetupError, match="own_code"):
        fit(own_code, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_a_storage_error(base: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match="file"):
        fit(base, tmp_path / "file" / "out")


def test_a_pickled_checkpoint_is_not_read(base: Path, tmp_path: Path) -> None:
    import shutil

    import torch

    pickled = Path(shutil.copytree(base, tmp_path / "pickled"))
    torch.save(weights(base), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(SetupError, match="pickled"):
        fit(pickled, tmp_path / "out")


def other_solution(one: SftRow) -> SftRow:
    """Of a kind that the other rows of `ROWS` make less likely once they are known by heart."""
    steps = (RowSegment(text="\n# the answer is three times the boxes\nprint(12, 'apples in each')<end_of_code>"),)
    return one.model_copy(update={"steps": steps})


OVERFIT: dict[str, Any] = {
    "held_out": 0.3,
    "epochs": 10,
    "learning_rate": 3e-2,
    "dtype": "float32",
    "rows": [other_solution(o) if is_held_out(o.problem_id, TrainPolicyConfig(held_out=0.3)) else o for o in ROWS],
}
"""A training whose held-out loss falls, then rises."""


def test_the_weights_of_the_least_held_out_loss_are_kept(base: Path, tmp_path: Path) -> None:
    report = fit(base, tmp_path / "out", **OVERFIT)
    apart = [one for one in OVERFIT["rows"] if is_held_out(one.problem_id, TrainPolicyConfig(held_out=0.3))]
    log = read_log(tmp_path / "out")
    losses = {entry["update"]: entry["held_out_loss"] for entry in log}
    assert 0 < len(apart) == report.held_out_rows < len(ROWS)
    assert report.rows == len(ROWS) - len(apart)
    assert len(losses) == report.updates == 20
    assert 1 < report.kept == min(losses, key=lambda update: losses[update]) < 15
    assert report.held_out_loss == losses[report.kept]
    assert loss_by_hand(tmp_path / "out", apart)[0] == pytest.approx(report.held_out_loss, abs=1e-4)


def test_patience_ends_a_training_that_gets_no_better(base: Path, tmp_path: Path) -> None:
    whole, report = fit(base, tmp_path / "all", **OVERFIT), fit(base, tmp_path / "out", patience=3, **OVERFIT)
    assert report.kept + 3 == report.updates < whole.updates
    assert report.kept == whole.kept
    assert report.tokens < whole.tokens
    a, b = weights(tmp_path / "all"), weights(tmp_path / "out")
    assert all((a[key] == b[key]).all() for key in a)


def test_held_out_problems_take_no_part(base: Path, tmp_path: Path) -> None:
    """Other rows of theirs leave the weights as they are."""
    config = TrainPolicyConfig(held_out=0.3)
    other = [
        row(i + 50).model_copy(update={"problem_id": one.problem_id}) if is_held_out(one.problem_id, config) else one
        for i, one in enumerate(ROWS)
    ]
    one, two = (
        fit(base, tmp_path / name, rows, held_out=0.3, learning_rate=1e-4) for name, rows in (("a", ROWS), ("b", other))
    )
    assert one.kept == two.kept == one.updates
    assert one.held_out_loss != two.held_out_loss
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all((a[key] == b[key]).all() for key in a)
    with pytest.raises(DataError, match="held out"):
        fit(base, tmp_path / "c", [other[0]], held_out=0.999)


def test_the_log_tells_every_update(base: Path, tmp_path: Path) -> None:
    report = fit(base, tmp_path / "out", epochs=2, warmup=0.5)
    log = read_log(tmp_path / "out")
    assert [entry["update"] for entry in log] == list(range(1, 7))
    assert log[0]["loss"] == report.first_loss
    assert log[-1]["tokens"] == report.tokens
    rates = [entry["learning_rate"] for entry in log]
    assert max(rates) == rates[2] == 1e-3
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert state["global_step"] == 6
    assert state["epoch"] == 2
    assert [entry["step"] for entry in state["log_history"]] == list(range(1, 7))
