"""verify on plain files: rows are graded side by side and come out in order, each as soon as it can."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.stages import verify_rows
from tests.helpers import rstar

Row = dict[str, object]


def test_order_is_kept_whatever_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_rows, "count_cores", lambda: 4)
    last_done = threading.Event()

    def work(n: int) -> Row:
        if n == 0:
            assert last_done.wait(30), "the others do not wait for the first"
        if n == 9:
            last_done.set()
        return {"n": n}

    assert [row["n"] for row in verify_rows._side_by_side(work, iter(range(10)))] == list(range(10))


def test_a_result_comes_out_while_the_input_stays_open() -> None:
    got_first = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert got_first.wait(30)
        yield 1

    results = verify_rows._side_by_side(lambda n: {"n": n}, items())
    assert next(results) == {"n": 0}
    got_first.set()
    assert next(results) == {"n": 1}
    assert list(results) == []


@pytest.mark.parametrize("in_function", [True, False])
def test_an_error_comes_after_the_rows_before_it(in_function: bool) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        if not in_function:
            raise KeyError("in the input")
        yield 3

    def work(n: int) -> Row:
        if n == 3:
            raise KeyError("in the work")
        return {"n": n}

    results = verify_rows._side_by_side(work, items())
    assert [next(results)["n"] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_lenient_rows(tmp_path: Path) -> None:
    rows = [
        {"answer": "1/3", "prediction": "0.33"},
        {"answer": "10%", "prediction": "0.1"},
        {"answer": "7", "code": "print(8)"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    verdicts = {}
    for flags in ((), ("--lenient",)):
        done = rstar("verify", "--input", "in.jsonl", "--output", "-", *flags, cwd=tmp_path)
        verdicts[flags] = [json.loads(line)["verdict"] for line in done.stdout.splitlines()]
    assert verdicts[()] == ["incorrect"] * 3
    assert verdicts[("--lenient",)] == ["correct", "correct", "incorrect"]


def test_a_hostile_row_holds_up_no_other(tmp_path: Path) -> None:
    endless = r"\sum_{k=1}^{10^9}\frac{\sin k}{k}"
    rows = [
        {"answer": "7", "prediction": endless},
        *({"answer": rf"\sqrt{{{8 * n * n}}}", "prediction": rf"{2 * n}\sqrt{{2}}"} for n in range(1, 9)),
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = rstar("verify", "--input", "in.jsonl", "--output", "-", cwd=tmp_path)
    assert [json.loads(line)["verdict"] for line in done.stdout.splitlines()] == ["timeout", *["correct"] * 8]
