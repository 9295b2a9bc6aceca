"""A stand-in of the Hugging Face hub on loopback: as much of its API as an upload needs."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest


class Hub(BaseHTTPRequestHandler):
    """Keeps what it was sent: repositories in `server.made`, the files of the last commit in `server.files`."""

    server: Any

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.path.endswith("/repos/create"):
            self.server.made.append(json.loads(body))
            self._answer(200, {"url": f"{self.server.url}/me/{self.server.made[-1]['name']}", "name": "me/it"})
        elif "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            _, _, kind, owner, name, *_ = self.path.split("/")
            home = f"{self.server.url}/{'' if kind == 'models' else f'{kind}/'}{owner}/{name}"
            self._answer(200, {"commitUrl": f"{home}/commit/1", "commitOid": "1", "pullRequestUrl": None})
        else:
            self._answer(200, {"errors": [], "warnings": []})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, which the hub's client takes for the hub; $HF_TOKEN is right."""
    from huggingface_hub import constants

    server: Any = HTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.files, server.made = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
