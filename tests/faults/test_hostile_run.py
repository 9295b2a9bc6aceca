"""Hostile programs among the rows of a full run: each gets its verdict, nothing escapes, and the run goes on."""

from __future__ import annotations

import json

import pytest

from rstar_cli.protocols import ExecutionResult
from rstar_cli.records import ExecutionStatus
from rstar_cli.sandbox import Sandbox
from tests.faults.common import rstar
from tests.hostile.common import SECRET
from tests.hostile.conftest import place  # noqa: F401 - a fixture
from tests.hostile.test_corpus import CORPUS, check


@pytest.fixture(scope="module", autouse=True)
def _isolated() -> None:
    with Sandbox(workers=1) as sandbox:
        if sandbox.isolation() != "full":
            pytest.skip(f"this machine isolates programs by {', '.join(sandbox.layers())} alone")


@pytest.mark.parametrize("every", [pytest.param(False, id="some"), pytest.param(True, marks=pytest.mark.slow)])
def test_hostile_programs_among_rows(
    place: dict[str, str],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    every: bool,
) -> None:
    if not CORPUS.exists():
        pytest.skip("needs data/hostile.jsonl of the shared data ($RSTAR_SHARED)")
    attacks = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    attacks = attacks if every else attacks[::6]
    rows = []
    for attack in attacks:
        code = attack["code"]
        for name, value in {**place, "ID": attack["id"]}.items():
            code = code.replace(f"{{{name}}}", value)
        rows += [{"id": attack["id"], "answer": "42", "code": code}, {"answer": "42", "code": "print(6 * 7)"}]
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    limits = ("--exec-workers", "1", "--exec-timeout", "0.6", "--exec-memory", "256")
    done = rstar("verify", "--input", "rows.jsonl", "--output", "out.jsonl", *limits, cwd=folder, TEST_SECRET=SECRET)
    out = [json.loads(line) for line in (folder / "out.jsonl").read_bytes().splitlines()]
    assert len(out) == len(rows)
    for attack, row, honest in zip(attacks, out[::2], out[1::2], strict=True):
        ran = row["execution"]
        check(attack, ExecutionResult(ExecutionStatus(ran["status"]), stdout=ran["stdout"], error=ran["error"]))
        assert row["verdict"] != "correct", row["id"]
        assert (honest["verdict"], honest["execution"]["stdout"]) == ("correct", "42\n"), f"after {row['id']}"
    assert SECRET not in done.stderr + (folder / "out.jsonl").read_text()
