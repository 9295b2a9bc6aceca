"""A vLLM server of our own: started for a model from its own virtual environment, and ended with us.

vLLM's pins and those of the trainers so never meet, and the loop changes models by itself. The server listens on
127.0.0.1 alone, without a key.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from rstar_cli.checkpoint_files import check_files
from rstar_cli.engines import watchdog
from rstar_cli.engines.openai import ServerPolicy
from rstar_cli.engines.vllm_start import (
    PAIRS,
    POLICY_SHARE,
    QUIET,
    SCORER_SHARE,
    engine_options,
    read_adapter,
)
from rstar_cli.errors import SetupError
from rstar_cli.protocols import EngineInfo, Policy, TokenUsage

START_SECONDS = 900.0
"""Time to load a model and to compile."""

CONCURRENCY = 512
"""Requests that are sent at once where --batch is not given."""

_TAIL = 1500
"""Characters of the log in an error."""

_SAMPLES = {
    "max_logprobs": 20,
    "generation_config": "vllm",  # what a checkpoint says of sampling would change what we ask for
    "enable_prompt_tokens_details": True,  # tells what came from the cache
}
"""Options for a policy."""

_SCORES = {"runner": "pooling"}
"""Options for a PRM."""

_PROBE = "import vllm.platforms as p; print('on:' + str(p.current_platform.device_type))"


class VllmServer:
    """A server process with one model.

    Args:
        command: what to run; it must serve HTTP on `port`, and answer GET /health with 200 once it is ready.
        port: a free local port.
        model: name that requests give.
        start_seconds: time to come up.

    Attributes:
        url: base URL, `http://127.0.0.1:PORT/v1`.
        log: what it writes; removed when it is closed, kept where it failed.

    Raises:
        SetupError: it died or did not come up in time; tells the log's end.
    """

    def __init__(self, command: list[str], port: int, model: str, start_seconds: float = START_SECONDS) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self.model = model
        number, name = tempfile.mkstemp(prefix="rstar-vllm-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(number, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,
            )
        try:
            self._wait(start_seconds)
        except BaseException:
            self._end()
            raise

    @classmethod
    def start(
        cls, python: str, model: str, *, device: str = "auto", dtype: str = "auto", scores: bool = False
    ) -> VllmServer:
        """Start a server for a policy or a PRM.

        Args:
            python: of the virtual environment with vLLM.
            model: checkpoint directory, one of LoRA adapters, or hub id.
            device: `auto`, `cpu` or `cuda`.
            dtype: `auto` (bfloat16 on a GPU, float32 on a CPU), `float32` or `bfloat16`.
            scores: the model is a sequence classifier, served at `/classify`.

        Raises:
            SetupError: that Python has no vLLM for the device, or the server does not come up.
        """
        check_files(model)
        place = _probe(python, device)
        adapter = read_adapter(model)
        port = _free_port()
        name = "prm" if scores else "policy"
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "served_model_name": name,
            **(_SCORES if scores else _SAMPLES),
            **engine_options(adapter, place, dtype, SCORER_SHARE if scores else POLICY_SHARE),
        }
        if adapter.lora is not None:
            name = "adapter"
            options["lora_modules"] = f"{name}={adapter.lora}"
        flags: list[str] = []
        for key, value in options.items():
            flags += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
        return cls([python, "-m", "vllm.entrypoints.openai.api_server", *flags], port, name)

    def close(self) -> None:
        """End the server and all its processes, and remove its log."""
        self._end()
        self.log.unlink(missing_ok=True)

    def _wait(self, seconds: float) -> None:
        """Wait until it is healthy.

        Raises:
            SetupError: it died, or the time is up.
        """
        deadline = time.monotonic() + seconds
        while not self._healthy():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                raise SetupError(
                    f"the vLLM server {'died at its start' if ended else f'was not ready after {seconds:.0f} s'}; the "
                    f"end of its log {self.log}:\n{self._tail()}",
                    remedy="Check the checkpoint, that memory is free, and that versions pair: " + PAIRS + ".",
                )
            time.sleep(0.2)

    def _healthy(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is here: no proxy
        try:
            with opener.open(self.url.removesuffix("/v1") + "/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:  # refused, late, or an HTTP error: not yet
            return False

    def _tail(self) -> str:
        return self.log.read_text("utf-8", "replace")[-_TAIL:].strip()

    def _end(self) -> None:
        """Have the watchdog end its group; kill the group where that takes too long."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(watchdog.GRACE_SECONDS + 10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):  # none is left
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class VllmServerPolicy:
    """A policy on a server of our own: the `openai` engine speaks to it.

    Args:
        server: the running server.
        policy: the engine that is connected to it.
        name: of the model.
    """

    def __init__(self, server: VllmServer, policy: Policy, name: str) -> None:
        self._server = server
        self._policy = policy
        self._name = name
        self.submit = policy.submit
        self.poll = policy.poll
        self.count_tokens = policy.count_tokens
        self.forget = policy.forget

    @classmethod
    def load(cls, model: str, python: str, *, device: str, dtype: str, max_rows: int | None) -> VllmServerPolicy:
        """Start a server and connect to it.

        Raises:
            SetupError: the server does not come up (see `VllmServer.start`), or can't be spoken to.
        """
        server = VllmServer.start(python, model, device=device, dtype=dtype)
        try:
            policy = ServerPolicy.connect(server.url, server.model, concurrency=max_rows or CONCURRENCY)
            return cls(server, policy, model)
        except BaseException:
            server.close()
            raise

    @property
    def info(self) -> EngineInfo:
        """What the engine is."""
        return replace(self._policy.info, name="vllm-server", model=self._name)

    @property
    def usage(self) -> TokenUsage:
        """Tokens computed so far."""
        return self._policy.usage

    def close(self) -> None:
        """Hang up and end the server."""
        try:
            self._policy.close()
        finally:
            self._server.close()


def _probe(python: str, device: str) -> str:
    """What a Python's vLLM runs on, `cpu` or `cuda`.

    Raises:
        SetupError: there is none, or it runs on something else than is asked for.
    """
    remedy = f"Make a virtual environment, `pip install vllm` there, and give its python ({PAIRS})."
    if not python:
        raise SetupError("the vllm-server engine needs a Python with vLLM", remedy=f"Give --server-python. {remedy}")
    try:
        done = subprocess.run([python, "-c", _PROBE], env=_environment(), capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{python} can't be run: {error}", remedy=remedy) from error
    place = done.stdout.rpartition("on:")[2].strip()
    if done.returncode or place not in ("cpu", "cuda"):
        said = done.stderr.strip()[-_TAIL:] or f"it runs on {place!r}"
        raise SetupError(f"{python} has no vLLM that can be used: {said}", remedy=remedy)
    if device not in ("auto", place):
        raise SetupError(f"the vLLM of {python} runs on {place}, not on {device}", remedy="Give --device auto.")
    return place


def _environment() -> dict[str, str]:
    """Ours, without what points at our own packages."""
    own = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_API_KEY"}  # with the last it would want a key of us
    told = {name: value for name, value in QUIET.items() if name != "VLLM_LOGGING_LEVEL"}  # it has a log of its own
    return {**told, **{name: value for name, value in os.environ.items() if name not in own}}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
