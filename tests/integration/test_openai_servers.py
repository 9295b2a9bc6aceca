"""The openai engine against a server that others wrote: `transformers serve`, where its packages are installed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.engines.openai import ServerPolicy
from rstar_cli.engines.transformers import TransformersPolicy
from rstar_cli.prompts import COMPLETION_STOPS, STEP_STOPS, render_prompt
from rstar_cli.protocols import SampleRequest, Segment
from tests import models
from tests.asking import answers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    for package in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(package, reason="transformers serve needs it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--device", "cpu"]
    env = {
        **os.environ,
        "HF_HOME": str(tmp_path_factory.mktemp("cache")),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env=env)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(240):
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_transformers_serve(url: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy text is the model's own; hot samples differ, and repeat where one request runs at a time."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    policy = ServerPolicy.connect(url, str(model), concurrency=1)
    own = TransformersPolicy.load(model, device="cpu")
    prompts = [(Segment(render_prompt(f"What is {i}?")),) for i in range(8)]
    greedy = [SampleRequest(prompt, 1, 1, COMPLETION_STOPS, 60, 0.0) for prompt in prompts]
    for (got,), (expected,) in zip(answers(policy, greedy), answers(own, greedy), strict=True):
        assert [s.text for s in got.segments] == [s.text for s in expected.segments]
        assert (got.finish, sum(got.tokens)) == (expected.finish, sum(expected.tokens))
    hot = [SampleRequest(prompts[0], 4, 5, STEP_STOPS, 20, 1.0)]
    first, second = answers(policy, hot), answers(policy, hot)
    assert len({sample.segments for sample in first[0]}) > 1
    assert first == second
    policy.close()
