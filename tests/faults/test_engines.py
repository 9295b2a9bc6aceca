"""Engines that die in the middle, and one that refuses a problem: the rest is done, nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.faults.common import Running, lines, rstar, write_problems

PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} plus {i * i}?", "answer": str(i + i * i)} for i in range(12)]
STEPS = ("\n# add\nx = {0} + {0} * {0}\n<end_of_step>", "\n# answer\nprint(x)\n<end_of_code>")


class Model(BaseHTTPRequestHandler):
    """Solves the problems of this file over OpenAI's interface, but for those that it refuses."""

    refused: tuple[int, ...] = ()
    status = 400
    answered = 0

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"object": "list", "data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions":
            self.reply(404, {"detail": "Not Found"})
            return
        prompt = body["prompt"]
        number = next((i for i in range(12) if f"What is {i} plus {i * i}?" in prompt), 0)
        if number in self.refused:
            self.reply(self.status, {"error": {"message": "content policy"}})
            return
        type(self).answered += 1
        written = prompt.rpartition(f"What is {number}")[2]
        text = "".join(STEPS[written.count("<end_of_step>") :]).format(number)
        if "<output>" in written:
            text = f"\n<answer>\\boxed{{{number + number * number}}}<end_of_answer>"
        text = text[: min((text.index(stop) for stop in body.get("stop", ()) if stop in text), default=len(text))]
        choice = {"text": text, "finish_reason": "stop", "logprobs": None}
        self.reply(200, {"choices": [{**choice, "index": i} for i in range(body.get("n", 1))]})

    def reply(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def serving(port: int = 0, **behaviour: object) -> Iterator[tuple[int, type[Model]]]:
    """The model on a port of this machine."""
    model = type("Behaving", (Model,), behaviour)
    server = ThreadingHTTPServer(("127.0.0.1", port), model)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], model
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def command(stage: str, port: int) -> tuple[str, ...]:
    problems = "--problems" if stage == "generate" else "--benchmark"
    own = ("--method", "uct", "--rollouts", "2", "--candidates", "2", "--output", "t.jsonl", "--policy", "tiny")
    if stage == "evaluate":
        own = ("--policy", "tiny", "--output", "e")
    url = f"http://127.0.0.1:{port}/v1"
    return (stage, "--engine", "openai", "--base-url", url, "--in-flight", "2", problems, "p.jsonl", *own)


def ids(path: Path) -> list[str]:
    return [json.loads(line)["problem_id"] for line in path.read_text().splitlines()]


LAUNCHERS = pytest.mark.parametrize("launcher", ["local", "ray"])


@LAUNCHERS
def test_a_problem_that_is_refused_is_told_and_the_others_are_searched(tmp_path: Path, launcher: str) -> None:
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    with serving(refused=(3, 7)) as (port, _):
        done = rstar(*command("generate", port), "--launcher", launcher, "--json", cwd=tmp_path, code=7)
    told = json.loads(done.stdout)
    assert sorted(told["data"]["failed"]) == ["p3", "p7"]
    assert "content policy" in told["data"]["failed"]["p3"]
    assert any(note.startswith("2 problems were given up, the rest is done: p") for note in told["notes"])
    assert ids(tmp_path / "t.jsonl") == [p["id"] for p in PROBLEMS if p["id"] not in ("p3", "p7")]
    entry = json.loads((tmp_path / "t.jsonl.manifest.json").read_bytes())["stages"]["generate"]
    assert (entry["status"], sorted(entry["counts"]["failed"])) == ("complete", ["p3", "p7"])


@LAUNCHERS
def test_a_refused_problem_is_neither_right_nor_wrong(tmp_path: Path, launcher: str) -> None:
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    with serving(refused=(3,)) as (port, _):
        done = rstar(*command("evaluate", port), "--launcher", launcher, "--json", cwd=tmp_path, code=7)
    told = json.loads(done.stdout)
    assert told["data"]["p"]["greedy"]["verdicts"] == {"correct": 11, "error": 1}
    assert any("p3: " in note and "content policy" in note for note in told["notes"])
    rows = [json.loads(line) for line in (tmp_path / "e/p.greedy.jsonl").read_text().splitlines()]
    assert [row["samples"][0]["verdict"] for row in rows] == ["correct"] * 3 + ["error"] + ["correct"] * 8


@pytest.mark.parametrize(("status", "says"), [(400, "answered 400: content policy"), (401, "RSTAR_API_KEY")])
def test_an_engine_that_refuses_all_is_no_matter_of_the_problems(tmp_path: Path, status: int, says: str) -> None:
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    with serving(refused=tuple(range(12)), status=status) as (port, _):
        failed = rstar(*command("generate", port), cwd=tmp_path, code=5)
    assert says in failed.stderr
    assert not (tmp_path / "t.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generate", "evaluate"])
def test_an_engine_that_dies_in_the_middle(tmp_path: Path, stage: str) -> None:
    """It is asked for most of a minute, in which it might come back."""
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    journal, output = tmp_path / "t.jsonl.partial", tmp_path / "t.jsonl"
    if stage == "evaluate":
        journal, output = tmp_path / "e/p.greedy.jsonl.partial", tmp_path / "e/p.greedy.jsonl"
    with serving() as (port, _):
        running = Running(*command(stage, port), cwd=tmp_path)
        running.until(lambda: lines(journal) >= 3)
    died = running.end(180)
    if died.code == 0:
        pytest.skip("it was done before the engine died")
    assert died.code == 5
    assert f"no answer from http://127.0.0.1:{port}/v1/completions" in died.stderr
    assert "Check --base-url, and that the server runs" in died.stderr
    kept = lines(journal)
    assert kept >= 3
    with serving(port) as (_, model):
        rstar(*command(stage, port), cwd=tmp_path)
    assert ids(output) == [p["id"] for p in PROBLEMS]
    assert model.answered <= (12 - kept) * 8, "what was finished was not asked for again"
