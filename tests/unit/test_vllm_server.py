"""A server process of our own: it comes up, says why it does not, and leaves nothing behind. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rstar_cli.engines.prm import BEYOND_CONTEXT, TransformersScorer
from rstar_cli.engines.vllm_server import VllmServer, _free_port, _probe
from rstar_cli.engines.vllm_server_prm import VllmServerScorer, is_servable
from rstar_cli.errors import SetupError
from rstar_cli.layout import model_path
from rstar_cli.prompts import STEP_END, render_prompt
from rstar_cli.protocols import ScoreRequest, Segment
from tests.helpers import ROOT
from tests.unit.test_vllm_engine import save_checkpoints, vllm_python  # noqa: F401

SERVER = """
import http.server, subprocess, sys
code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", code])
open(sys.argv[2], "w").write(str(child.pid))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
"""Serves /health, with a child that does not mind SIGTERM, whose number it writes down."""


def command(port: int, note: Path) -> list[str]:
    return [sys.executable, "-c", SERVER, str(port), str(note)]


def gone(pid: int) -> bool:
    """Whether a process has ended (perhaps not waited for), within some seconds."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


def test_it_comes_up_and_goes_with_its_children(tmp_path: Path) -> None:
    port = _free_port()
    server = VllmServer(command(port, tmp_path / "child"), port, "policy", 30)
    child = int((tmp_path / "child").read_text())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as reply:
        assert reply.status == 200
    assert server.log.exists()
    assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    server.close()
    assert gone(child)
    assert not server.log.exists()


def test_it_goes_when_we_are_killed(tmp_path: Path) -> None:
    port, note = _free_port(), tmp_path / "child"
    ours = (
        "import sys, time; from pathlib import Path; from rstar_cli.engines.vllm_server import VllmServer;"
        f"server = VllmServer({command(port, note)!r}, {port}, 'policy', 30); print('up', flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", ours], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "up\n"
    child = int(note.read_text())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert gone(child)


def test_one_that_dies_shows_the_end_of_its_log() -> None:
    with pytest.raises(SetupError, match="died at its start") as raised:
        VllmServer([sys.executable, "-c", "raise SystemExit('no such model')"], _free_port(), "policy", 30)
    assert "no such model" in str(raised.value)


def test_one_that_does_not_come_up_is_ended() -> None:
    begun = time.monotonic()
    with pytest.raises(SetupError, match="was not ready after 1 s"):
        VllmServer([sys.executable, "-c", "import time; time.sleep(600)"], _free_port(), "policy", 1)
    assert time.monotonic() - begun < 20


def test_a_python_without_vllm_is_refused() -> None:
    for python, why in (("", "needs a Python"), ("/no/such/python", "can't be run"), (sys.executable, "has no vLLM")):
        with pytest.raises(SetupError, match=why) as raised:
            _probe(python, "auto")
        assert "pip install vllm" in raised.value.remedy


@pytest.mark.slow
def test_a_real_server_scores_as_the_transformers_engine(vllm_python: str, tmp_path: Path) -> None:  # noqa: F811
    save_checkpoints(tmp_path)
    place = str(tmp_path / "prm")
    ours, scorer = TransformersScorer.load(place, device="cpu"), VllmServerScorer.load(place, vllm_python)
    try:
        assert scorer.info.tokenizer == ours.info.tokenizer
        prompts = [Segment(render_prompt(f"Ana has {n} boxes with {n + 3} apples in each.")) for n in range(40)]
        steps = [Segment(f"\n# add {n}\nx = {n}{' + 1' * (n % 7)}\n{STEP_END}") for n in range(43)]
        requests = [
            ScoreRequest((prompt, *steps[: n % 4]), ((steps[n],), (steps[n + 1], steps[n + 2])))
            for n, prompt in enumerate(prompts)
        ]
        found, own = scorer.score(requests), ours.score(requests)
        assert scorer.score(requests) == found, "from the cache"
        values = [v for branches in found for branch in branches for v in branch]
        assert len(values) == 120
        assert max(values) - min(values) > 0.01
        assert values == pytest.approx([v for bs in own for branch in bs for v in branch], abs=1e-2)
        length = len(scorer._tokenizer.prefix_ids(prompts[:1]))
        fits = Segment("", (5,) * (scorer._context - length))
        ((end, beyond),) = scorer.score([ScoreRequest(prompts[:1], ((fits, Segment("", (5,))),))])[0]
        assert end > BEYOND_CONTEXT == beyond
    finally:
        scorer.close()


def test_a_server_gets_classifiers_with_one_label_alone(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no PRM at"):
        is_servable(str(tmp_path))
    assert not is_servable(model_path("embedded"))
    with pytest.raises(SetupError, match="no process reward model: Qwen2ForCausalLM"):
        VllmServerScorer.load(model_path("embedded"), sys.executable)
    config = json.loads((Path(model_path("embedded")) / "config.json").read_text())
    classifier = {**config, "architectures": ["Qwen2ForSequenceClassification"], "num_labels": 1}
    (tmp_path / "config.json").write_text(json.dumps({**classifier, "rstar_value_scale": -1}))
    assert is_servable(str(tmp_path))
    with pytest.raises(SetupError, match="must be a positive number"):
        VllmServerScorer.load(str(tmp_path), sys.executable)


@pytest.mark.slow
def test_a_real_server(vllm_python: str) -> None:  # noqa: F811
    server = VllmServer.start(vllm_python, model_path("embedded"), device="cpu")
    try:
        body = {"model": server.model, "prompt": "# add\n", "max_tokens": 5, "temperature": 0, "logprobs": 3}
        request = urllib.request.Request(
            server.url + "/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
        assert answer["usage"]["completion_tokens"] == 5
        assert len(answer["choices"][0]["logprobs"]["top_logprobs"][0]) >= 3
    finally:
        server.close()
