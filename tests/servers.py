"""A small real server that speaks OpenAI's interface, around our own engine: `python -m tests.servers MODEL LOG ...`.

It answers `/v1/models`, `/v1/completions`, `/v1/chat/completions` and `/tokenize` for one checkpoint, cuts stop strings
off as most servers do, notes every request in LOG, and fails as it was told to by `POST /fail`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLAIN = {"model", "prompt", "messages", "max_tokens", "temperature", "top_p", "seed", "stop"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    policy: Any
    options: argparse.Namespace
    lock = Lock()
    failures: list[Any] = []  # noqa: RUF012 - the server's one list

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.note({})
        if self.permitted():
            self.reply(200, {"object": "list", "data": [{"id": name} for name in self.options.names.split(",")]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/fail":
            self.failures[:] = body
            self.reply(200, {})
            return
        self.note(body)
        if not self.permitted() or self.fails():
            return
        chat = self.path == "/v1/chat/completions"
        if self.path == "/tokenize" and not self.options.bare:
            self.reply(200, {"tokens": self.policy._tokenizer.encode(body["prompt"])})
        elif chat or (self.path == "/v1/completions" and not self.options.chat_only):
            self.complete(body, chat)
        else:
            self.reply(404, {"detail": "Not Found"})

    def note(self, body: dict[str, Any]) -> None:
        row = {"path": self.path, "key": "Authorization" in self.headers, "body": body}
        with self.lock, Path(self.options.log).open("a") as file:
            file.write(json.dumps(row) + "\n")

    def permitted(self) -> bool:
        key = self.options.key
        sent = self.headers.get("Authorization", "")
        if key and sent != f"Bearer {key}":
            self.reply(401, {"error": {"message": f"wrong key: {sent}"}})
            return False
        return True

    def fails(self) -> bool:
        with self.lock:
            failure = self.failures.pop(0) if self.failures else None
        if failure == "drop":
            self.close_connection = True
            self.connection.close()
        elif failure is not None:
            self.reply(failure, {"error": {"message": f"told to fail with {failure}"}}, {"Retry-After": "0"})
        return failure is not None

    def reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def complete(self, body: dict[str, Any], chat: bool) -> None:
        from rstar_cli.protocols import SampleRequest, Segment

        if body["model"] not in self.options.names.split(","):
            self.reply(404, {"message": "no such model"})
            return
        unknown = set(body) - PLAIN
        if self.options.bare and unknown:
            self.reply(422, {"detail": f"Unexpected fields in the request: {sorted(unknown)}"})
            return
        prompt = "".join(message["content"] for message in body["messages"]) if chat else body["prompt"]
        if len(self.policy._tokenizer.encode(prompt)) + body["max_tokens"] > self.options.context:
            self.reply(400, {"error": {"message": f"This model's maximum context length is {self.options.context}"}})
            return
        stop = tuple(body.get("stop", ())) or ("\x00",)
        asked = SampleRequest(
            (Segment(prompt),), body.get("n", 1), body["seed"], stop, body["max_tokens"], body["temperature"]
        )
        with self.lock:
            (samples,) = self.policy.sample([asked])
        choices = [self.choice(body, chat, prompt, sample, stop) for sample in samples]
        tokens = sum(sum(sample.tokens) for sample in samples)
        usage = {"prompt_tokens": len(self.policy._tokenizer.encode(prompt)), "completion_tokens": tokens}
        self.reply(200, {"choices": list(reversed(choices)), "usage": usage})  # an order that `index` mends

    def choice(self, body: dict[str, Any], chat: bool, prompt: str, sample: Any, stop: tuple[str, ...]) -> Any:
        text = "".join(segment.text for segment in sample.segments)
        cut = min((place for each in stop if (place := text.find(each)) >= 0), default=len(text))
        finish = "length" if sample.finish == "length" else "stop"
        told: dict[str, Any] | None = None
        if body.get("logprobs"):
            told = self.told(prompt, sample, body["top_logprobs"] if chat else body["logprobs"], chat)
        self.number = getattr(self, "number", -1) + 1
        shown = {"message": {"role": "assistant", "content": text[:cut]}} if chat else {"text": text[:cut]}
        return {"index": self.number, **shown, "finish_reason": finish, "logprobs": told}

    def told(self, prompt: str, sample: Any, most: int, chat: bool) -> dict[str, Any]:
        """Log-probabilities by a forward pass of its own: nothing of the engine is in them."""
        import torch

        tokenizer, model = self.policy._tokenizer, self.policy._model
        new = [token for segment in sample.segments for token in segment.token_ids]
        if sample.finish == "eos":
            new.append(tokenizer.hf.eos_token_id)
        start = list(tokenizer.encode_prompt(prompt))
        with torch.no_grad(), self.lock:
            logits = model(torch.tensor([start + new])).logits[0, len(start) - 1 : -1].float()
        rows = logits.log_softmax(-1)
        texts = [tokenizer.decode([token]) for token in new]
        values = [float(row[token]) for row, token in zip(rows, new, strict=True)]
        tops = [
            {tokenizer.decode([i]): float(row[i]) for i in row.topk(most).indices.tolist()} | {text: value}
            for row, text, value in zip(rows, texts, values, strict=True)
        ]
        if not chat:
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops}
        content = [
            {"token": t, "logprob": v, "top_logprobs": [{"token": o, "logprob": p} for o, p in top.items()]}
            for t, v, top in zip(texts, values, tops, strict=True)
        ]
        return {"content": content}


@contextmanager
def serve(model: Path, folder: Path, *options: str) -> Iterator[tuple[str, Path]]:
    """A server in a process of its own; gives its base URL and the log of its requests."""
    log, port_file = folder / f"requests-{os.urandom(4).hex()}.jsonl", folder / f"port-{os.urandom(4).hex()}"
    log.touch()
    command = [sys.executable, "-m", "tests.servers", str(model), str(log), str(port_file), *options]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while not port_file.exists():
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port_file.read_text()}/v1", log
    finally:
        process.kill()
        process.wait()


def requests(log: Path) -> list[dict[str, Any]]:
    """What a server was asked, in order."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def fail(url: str, *failures: int | str) -> None:
    """Have the server's next POSTs fail: by a status, or `drop` for a connection that is closed."""
    data = json.dumps(failures).encode()
    target = urllib.request.Request(url.removesuffix("/v1") + "/fail", data)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(target, timeout=30) as reply:
        reply.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("log")
    parser.add_argument("port_file", type=Path)
    parser.add_argument("--key", default="")
    parser.add_argument("--names", default="tiny")
    parser.add_argument("--context", type=int, default=10**6)
    parser.add_argument("--chat-only", action="store_true")
    parser.add_argument("--bare", action="store_true", help="refuse n, logprobs and every extra")
    options = parser.parse_args()
    from rstar_cli.engines.transformers import TransformersPolicy

    Handler.policy = TransformersPolicy.load(options.model, device="cpu")
    Handler.options = options
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    waiting = options.port_file.with_suffix(".new")
    waiting.write_text(str(server.server_address[1]))
    waiting.rename(options.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
