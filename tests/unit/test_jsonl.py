"""Rows on disk: what is written is read back, what is torn is cut off, what is wrong is named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_cli import journal as journal_module
from rstar_cli import jsonl
from rstar_cli.errors import DataError, StorageError
from rstar_cli.journal import Journal
from rstar_cli.jsonl import digest, dump, read_objects, read_rows, replacing, write_rows
from rstar_cli.records import EvalRow, EvalSample, Problem, Verdict

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=5)


def problem(name: str, text: str = "What is 1 + 1?") -> Problem:
    return Problem(id=name, problem=text, answer="2")


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


class TestReading:
    def test_accepts_byte_order_mark_crlf_and_blank_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_bytes(b'\xef\xbb\xbf\r\n{"a":1}\r\n  \n\n{"a":2}')
        assert list(read_objects(file)) == [(2, {"a": 1}), (5, {"a": 2})]

    def test_integers_keep_every_digit(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        number = -(10**40) - 1
        file.write_text(f'{{"answer": {number}}}\n')
        assert next(read_objects(file)) == (1, {"answer": number})

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            (b"{", "not valid JSON"),
            (b'{"a": NaN}', "not valid JSON"),
            (b'{"a": "\xff"}', "not valid JSON"),
            (b'{"a": "\\ud800"}', "not valid JSON"),
            (b"\x00\x00", "not valid JSON"),
            (b'{"a": "\x00"}', "not valid JSON"),
            (b"[" * 100_000, "not valid JSON"),
            (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
            (b'[{"a": 1}]', "an array, not a JSON object"),
            (b"null", "null, not a JSON object"),
            (b"3", "a plain value, not a JSON object"),
        ],
    )
    def test_refuses_a_bad_line_by_its_number(self, tmp_path: Path, line: bytes, why: str) -> None:
        file = tmp_path / "x.jsonl"
        file.write_bytes(b'{"a": 1}\n' + line + b"\n")
        with pytest.raises(DataError, match=why) as caught:
            list(read_objects(file))
        assert (caught.value.path, caught.value.line) == (file, 2)
        assert caught.value.remedy
        with pytest.raises(DataError) as caught:
            list(read_rows(file, Problem))
        assert caught.value.remedy

    @pytest.mark.parametrize(
        ("row", "field", "why"),
        [
            ({"id": "a"}, "problem", "required"),
            ({"id": "", "problem": "x"}, "id", "at least 1 character"),
            ({"id": "a", "problem": "x", "level": "high"}, "level", "valid integer"),
        ],
    )
    def test_a_wrong_row_is_named_by_line_and_field(self, tmp_path: Path, row: object, field: str, why: str) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text(f"{json.dumps({'id': 'z', 'problem': 'y'})}\n{json.dumps(row)}\n")
        with pytest.raises(DataError, match=why) as caught:
            list(read_rows(file, Problem))
        assert (caught.value.line, caught.value.field) == (2, field)

    def test_unknown_and_nested_fields_of_our_rows_are_named(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text(
            '{"problem_id": "a", "tokens": 1, "samples": [{"answer": "1", "verdict": "right", "tokens": 1}]}\n'
        )
        with pytest.raises(DataError) as caught:
            list(read_rows(file, EvalRow))
        assert caught.value.field == "samples.0.verdict"
        file.write_text('{"problem_id": "a", "tokens": 1, "samples": [], "colour": 1}\n')
        with pytest.raises(DataError) as caught:
            list(read_rows(file, EvalRow))
        assert caught.value.field == "colour"

    def test_refuses_a_line_beyond_the_cap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonl, "MAX_LINE", 64)
        file = tmp_path / "x.jsonl"
        file.write_bytes(b'{"a": 1}\n{"a": "' + b"x" * 80 + b'"}\n')
        with pytest.raises(DataError, match="longer than 64 bytes") as caught:
            list(read_objects(file))
        assert caught.value.line == 2

    def test_rows_come_one_by_one(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_bytes(b'{"a": 1}\nnot json\n')
        assert next(read_objects(file)) == (1, {"a": 1})

    def test_stdin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        feed(monkeypatch, b'{"id": "a", "problem": "x"}\n{}\n')
        rows = read_rows("-", Problem)
        assert next(rows).id == "a"
        with pytest.raises(DataError, match="<stdin>:2:id"):
            next(rows)
        assert not sys.stdin.buffer.closed

    def test_a_row_comes_while_stdin_stays_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reading, writing = os.pipe()
        with os.fdopen(reading, "r") as stdin, os.fdopen(writing, "wb", buffering=0) as sender:
            monkeypatch.setattr(sys, "stdin", stdin)
            rows = read_objects("-")
            for number in (1, 2):
                sender.write(b'{"a": %d}\n' % number)
                assert next(rows) == (number, {"a": number})

    def test_a_missing_file_and_a_folder_are_bad_data(self, tmp_path: Path) -> None:
        for path in (tmp_path / "absent.jsonl", tmp_path):
            with pytest.raises(DataError) as caught:
                list(read_objects(path))
            assert caught.value.remedy
            with pytest.raises(DataError):
                digest(path)


class TestWriting:
    @given(rows=OBJECTS)
    def test_what_is_written_is_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
    ):
        file = tmp_path_factory.mktemp("rows") / "x.jsonl"
        assert write_rows(file, rows) == len(rows)
        assert [row for _, row in read_objects(file)] == rows
        assert digest(file) == (hashlib.sha256(file.read_bytes()).hexdigest(), len(rows))

    @given(text=TEXT.filter(bool), extra=JSON)
    def test_models_are_read_back(self, tmp_path_factory: pytest.TempPathFactory, text: str, extra: object) -> None:
        file = tmp_path_factory.mktemp("rows") / "x.jsonl"
        rows = [Problem.model_validate({"id": text, "problem": text, "extra": extra}), problem("b")]
        write_rows(file, rows)
        assert list(read_rows(file, Problem)) == rows

    def test_fields_are_in_the_order_of_their_declaration(self) -> None:
        row = Problem.model_validate({"zebra": 1, "answer": "é", "problem": "p", "id": "i", "apple": 2})
        assert dump(row) == (
            '{"id":"i","problem":"p","answer":"é","source":"","level":null,"subject":null,"zebra":1,"apple":2}\n'.encode()
        )

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_that_json_lacks_are_refused(self, value: float) -> None:
        with pytest.raises(DataError) as caught:
            dump({"rows": [{"q": 0.5}, {"q": value}]})
        assert caught.value.field == "rows.1.q"
        sample = EvalSample(answer="1", verdict=Verdict.CORRECT, tokens=1, logprob=0.0, score=value)
        with pytest.raises(DataError) as caught:
            dump(EvalRow(problem_id="a", tokens=1, samples=(sample,)))
        assert caught.value.field == "samples.0.score"

    def test_half_a_surrogate_pair_is_refused(self) -> None:
        with pytest.raises(DataError, match="Unicode"):
            dump({"text": "\ud800"})

    def test_a_row_that_could_not_be_read_back_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jsonl, "MAX_LINE", 20)
        assert len(dump({"a": "x" * 11})) == 20
        with pytest.raises(DataError, match="longer"):
            dump({"a": "x" * 12})

    def test_an_old_file_stays_until_the_new_one_is_whole(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        file.write_text("old\n")

        def rows():
            yield {"a": 1}
            assert file.read_text() == "old\n"
            raise ValueError("stopped")

        with pytest.raises(ValueError, match="stopped"):
            write_rows(file, rows())
        assert file.read_text() == "old\n"
        assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]

    def test_a_link_stays_a_link_and_the_umask_holds(self, tmp_path: Path) -> None:
        real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
        link.symlink_to(real)
        old = os.umask(0o022)
        try:
            write_rows(link, [{"a": 1}])
        finally:
            os.umask(old)
        assert link.is_symlink()
        assert real.read_bytes() == b'{"a":1}\n'
        assert stat.S_IMODE(real.stat().st_mode) == 0o644

    def test_a_device_is_written_not_replaced(self) -> None:
        assert write_rows("/dev/null", [{"a": 1}]) == 1
        assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)

    def test_stdout_gets_each_row_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw)))

        def rows():
            yield {"a": 1}
            assert raw.getvalue() == b'{"a":1}\n'
            yield {"a": 2}

        assert write_rows("-", rows()) == 2
        assert raw.getvalue() == b'{"a":1}\n{"a":2}\n'

    def test_what_cannot_be_written_says_what_to_do(self, tmp_path: Path) -> None:
        for path, remedy in ((tmp_path / "absent" / "x", "folder"), (tmp_path, "")):
            with pytest.raises(StorageError, match="can't write") as caught:
                write_rows(path, [])
            assert remedy in caught.value.remedy

    def test_a_full_disk_is_a_storage_error(self) -> None:
        with pytest.raises(StorageError, match="No space") as caught:
            write_rows("/dev/full", [{"a": 1}])
        assert "free some space" in caught.value.remedy

    def test_an_error_of_the_rows_is_not_blamed_on_the_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "x.jsonl", Path("/dev/null")):
            with pytest.raises(OSError, match="theirs"), replacing(path):
                raise OSError("theirs")
        assert not list(tmp_path.iterdir())


ROWS = [{"problem_id": name, "text": f"é\N{GRINNING FACE}{name}\n"} for name in ("b", "c", "a")]


def fill(path: Path) -> bytes:
    with Journal(path) as journal:
        for row in ROWS:
            journal.append(row)
    return path.read_bytes()


class TestJournal:
    def test_finish_writes_the_given_order_and_removes_the_partial_file(self, tmp_path: Path) -> None:
        partial, final = tmp_path / "x.jsonl.partial", tmp_path / "x.jsonl"
        with Journal(partial) as journal:
            assert journal.done == set()
            for row in ROWS:
                journal.append(row)
            assert journal.done == {"a", "b", "c"}
            found = journal.finish(["a", "b", "c"], final)
        assert [row["problem_id"] for _, row in read_objects(final)] == ["a", "b", "c"]
        assert found == digest(final)
        assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]

    def test_every_truncation_keeps_exactly_the_whole_rows(self, tmp_path: Path) -> None:
        whole = fill(tmp_path / "whole")
        ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
        order = sorted(row["problem_id"] for row in ROWS)
        want = b"".join(dump(row) for row in sorted(ROWS, key=lambda row: row["problem_id"]))
        for cut in range(len(whole) + 1):
            partial, final = tmp_path / "p", tmp_path / "f"
            partial.write_bytes(whole[:cut])
            kept = sum(end <= cut for end in ends)
            with Journal(partial) as journal:
                assert journal.done == {row["problem_id"] for row in ROWS[:kept]}
                assert partial.stat().st_size == ([0, *ends])[kept]
                for row in ROWS[kept:]:
                    journal.append(row)
                journal.finish(order, final)
            assert final.read_bytes() == want

    @pytest.mark.parametrize("tail", [b"\x00" * 40, b"\x00\x00\n", b'{"problem_id": "d"', b"\xf0\x9f\n", b"{]\n"])
    def test_a_last_line_that_is_no_json_is_cut_off(self, tmp_path: Path, tail: bytes) -> None:
        partial = tmp_path / "p"
        whole = fill(partial)
        partial.write_bytes(whole + tail)
        with Journal(partial) as journal:
            assert journal.done == {"a", "b", "c"}
        assert partial.read_bytes() == whole

    @pytest.mark.parametrize("broken", [b'{"problem_id": "a"\n', b"\n", b"\xff\n", b"[]\n"])
    def test_a_corrupt_line_in_the_middle_is_named_and_kept(self, tmp_path: Path, broken: bytes) -> None:
        partial = tmp_path / "p"
        first, rest = fill(partial).split(b"\n", 1)
        partial.write_bytes(first + b"\n" + broken + rest)
        before = partial.read_bytes()
        with pytest.raises(DataError, match="p:2") as caught:
            Journal(partial)
        assert "delete line 2" in caught.value.remedy
        assert partial.read_bytes() == before

    @pytest.mark.parametrize("line", [b'{"id": "d"}\n', b'{"problem_id": 3}\n', b'{"problem_id": ""}\n'])
    def test_a_row_without_id_is_refused(self, tmp_path: Path, line: bytes) -> None:
        partial = tmp_path / "p"
        partial.write_bytes(line)
        with pytest.raises(DataError) as caught:
            Journal(partial)
        assert (caught.value.line, caught.value.field) == (1, "problem_id")

    def test_an_id_is_done_once(self, tmp_path: Path) -> None:
        partial = tmp_path / "p"
        fill(partial)
        with Journal(partial) as journal, pytest.raises(DataError, match="'a' is there already"):
            journal.append(ROWS[2])
        partial.write_bytes(partial.read_bytes() * 2)
        with pytest.raises(DataError, match="already") as caught:
            Journal(partial)
        assert caught.value.line == 4

    def test_finishing_without_a_row_keeps_what_is_done(self, tmp_path: Path) -> None:
        partial, final = tmp_path / "p", tmp_path / "f"
        whole = fill(partial)
        with Journal(partial) as journal, pytest.raises(DataError, match="'zz'"):
            journal.finish(["a", "zz"], final)
        assert partial.read_bytes() == whole
        assert not final.exists()

    def test_rows_of_other_ids_are_left_out(self, tmp_path: Path) -> None:
        fill(tmp_path / "p")
        with Journal(tmp_path / "p") as journal:
            assert journal.finish(["c"], tmp_path / "f").rows == 1
        assert (tmp_path / "f").read_bytes() == dump(ROWS[1])

    def test_models_and_another_key(self, tmp_path: Path) -> None:
        with Journal(tmp_path / "p", key="id") as journal:
            journal.append(problem("x"))
            with pytest.raises(DataError, match="has no id"):
                journal.append({"problem_id": "x"})
            journal.finish(["x"], tmp_path / "f")
        assert list(read_rows(tmp_path / "f", Problem)) == [problem("x")]

    def test_a_failed_write_leaves_whole_rows(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write

        def short(fd: int, data: bytes) -> int:
            if len(data) < 30:
                raise OSError(28, "No space left on device")
            return real(fd, data[:20])

        with Journal(tmp_path / "p") as journal:
            journal.append(ROWS[0])
            before = (tmp_path / "p").read_bytes()
            monkeypatch.setattr(os, "write", short)
            with pytest.raises(StorageError, match="No space"):
                journal.append(ROWS[1])
            monkeypatch.undo()
            assert (tmp_path / "p").read_bytes() == before
            journal.append(ROWS[2])
            assert journal.finish(["a", "b"], tmp_path / "f").rows == 2
        assert [row for _, row in read_objects(tmp_path / "f")] == [ROWS[2], ROWS[0]]

    def test_appends_are_synced_at_an_interval_and_at_close(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now, synced = [0.0], []
        monkeypatch.setattr(journal_module.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(journal_module.os, "fsync", synced.append)
        journal = Journal(tmp_path / "p")
        for seconds, expected in ((0.1, 0), (1.9, 0), (2.1, 1), (4.0, 1), (4.2, 2)):
            now[0] = seconds
            journal.append({"problem_id": str(seconds)})
            assert len(synced) == expected
        journal.close()
        journal.close()
        assert len(synced) == 3


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    left = tmp_path / f".rows.jsonl.{host}.{dead.pid}.tmp"
    held = tmp_path / f".rows.jsonl.{host}.{os.getppid()}.tmp"
    others = tmp_path / f".rows.jsonl.another-host.{dead.pid}.tmp"
    for path in (left, held, others):
        path.write_bytes(b"half a row")
    write_rows(tmp_path / "rows.jsonl", [{"id": "a"}])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["rows.jsonl", held.name, others.name])
