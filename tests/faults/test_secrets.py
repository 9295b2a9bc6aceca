"""Tokens and keys of the environment: in nothing that is shown, written, or run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rstar_cli.errors import DataError
from rstar_cli.redact import redacted
from tests.faults.common import rstar, write_problems
from tests.helpers import ROOT

SECRETS = {
    "HF_TOKEN": "hf_" + "A7b" * 9,
    "WANDB_API_KEY": "wandb-" + "0f1e2d3c" * 4,
    "RSTAR_API_KEY": "sk-rstar-4711-secret",
    "OPENAI_API_KEY": "sk-open-0815-secret",
    "MY_DB_PASSWORD": "correct horse battery",
}
IN_URL = "hunter2hunter2"
SERVER = f"http://user:{IN_URL}@127.0.0.1:9/v1"
PROBLEMS = [{"id": f"p{i}", "problem": f"What is {i} plus {i}?", "answer": str(2 * i)} for i in range(3)]


def said(*args: str, cwd: Path, stub: str = "") -> tuple[int, str]:
    """Exit code and all that a command says, with the secrets in its environment; `stub` runs when it starts."""
    path = [str(ROOT)]
    if stub:
        (cwd / "stub").mkdir(exist_ok=True)
        (cwd / "stub" / "sitecustomize.py").write_text(stub)
        path.insert(0, str(cwd / "stub"))
    done = subprocess.run(
        [sys.executable, "-m", "rstar_cli", *args],
        cwd=cwd,
        env={**os.environ, **SECRETS, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def leaks(text: str) -> list[str]:
    return [secret for secret in (*SECRETS.values(), IN_URL) if secret in text]


def written(folder: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder but those that a test put there."""
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "stub" and path.suffix != ".toml":
            yield path, path.read_text("utf-8", "replace")


BROKEN = """
import os
import rstar_cli.problems.synthetic as made
def broken(*_, **__):
    key, url = os.environ["HF_TOKEN"], "http://user:hunter2hunter2@host/v1"
    try:
        raise ValueError(f"a library says: {dict(os.environ)} {url}")
    except ValueError as error:
        raise %s(f"at {url} with {key} and {os.environ['MY_DB_PASSWORD']}") from error
made.make_problems = broken
"""


@pytest.mark.parametrize("flags", [(), ("--debug",)])
@pytest.mark.parametrize("error", ["LookupError", "OSError", "ImportError", "__import__('rstar_cli').errors.DataError"])
def test_an_error_that_holds_them(tmp_path: Path, flags: tuple[str, ...], error: str) -> None:
    stub = BROKEN % error.replace("__import__('rstar_cli').errors.DataError", "_error")
    stub += "from rstar_cli.errors import DataError as _error\n"
    code, text = said("problems", "make", "--output", "p.jsonl", *flags, cwd=tmp_path, stub=stub)
    assert code in (1, 3, 5, 8)
    assert ("Traceback" in text) == bool(flags)
    assert "***" in text
    assert leaks(text) == []


@pytest.mark.parametrize("flags", [(), ("--debug",), ("--dry-run",)])
def test_a_password_in_a_servers_url(tmp_path: Path, flags: tuple[str, ...]) -> None:
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    args = ("generate", "--problems", "p.jsonl", "--output", "t.jsonl", "--engine", "openai", "--base-url", SERVER)
    code, text = said(*args, "--policy", "m", *flags, cwd=tmp_path)
    assert code == (0 if "--dry-run" in flags else 2)
    assert "127.0.0.1" in text
    assert leaks(text) == []
    (tmp_path / "recipe.toml").write_text(
        f'[generate]\nengine = "openai"\nbase-url = "{SERVER}"\nconcurrency = "{SERVER}"'
    )
    code, text = said("evolve", "--recipe", "recipe.toml", "--run", "run", *flags, cwd=tmp_path)
    assert code == 3
    assert "concurrency" in text
    assert leaks(text) == []
    assert [path for path, content in written(tmp_path) if leaks(content)] == []


def test_a_run_writes_none(tmp_path: Path) -> None:
    """Programs of the scripted engine, and one that looks for them, run with the secrets in our own environment."""
    write_problems(tmp_path / "p.jsonl", PROBLEMS)
    scripted = ("--engine", "scripted", "--exec-workers", "1", "--rollouts", "2")
    for args in (
        ("generate", "--problems", "p.jsonl", *scripted),
        ("verify",),
        ("evaluate", "--round", "0", "--benchmark", "p.jsonl", *scripted),
        ("report",),
        ("status", "--json"),
        ("generate", "--round", "1", "--dry-run"),
    ):
        code, text = said(*args, "--run", "run", cwd=tmp_path)
        assert code == 0, text
        assert leaks(text) == []
    assert (tmp_path / "run" / "report.html").exists()
    assert [path for path, content in written(tmp_path) if leaks(content)] == []


LOOKS = r"""
import os, sys
found = dict(os.environ)
try:
    processes = os.listdir("/proc")
except Exception:
    processes = []
for process in ("self", "1", str(os.getppid()), *processes):
    try:
        found[process] = open(f"/proc/{process}/environ", errors="replace").read()
    except Exception as error:
        found[process] = type(error).__name__
for name in ("~/.cache/huggingface/token", "~/.netrc", "~/.config"):
    try:
        found[name] = open(os.path.expanduser(name)).read()
    except Exception as error:
        found[name] = type(error).__name__
print(found)
"""


def test_programs_can_not_read_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text(IN_URL)
    row = {"answer": "", "code": LOOKS}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    args = ("verify", "--input", "rows.jsonl", "--output", "out.jsonl", "--isolation", "rlimits")
    done = rstar(*args, cwd=tmp_path, HOME=str(home), **SECRETS)
    assert leaks(done.stderr) == []
    out = json.loads((tmp_path / "out.jsonl").read_text())
    assert out["execution"]["status"] == "ok", out
    assert leaks(out["execution"]["stdout"]) == []
    assert all(name not in out["execution"]["stdout"] for name in SECRETS)


def test_text_without_secrets_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.endswith(("KEY", "TOKEN"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "none")
    for text in ("a none b", "mail me@example.org", "http://host:8000/v1", "x@y", "hf_short", "p.jsonl:3:id: no"):
        assert redacted(text) == text
    monkeypatch.setenv("SOME_SECRET", "a.b*c+d")
    assert redacted("say a.b*c+d now") == "say *** now"
    assert str(DataError("with a.b*c+d", path="f", line=3)) == "f:3: with ***"
    assert redacted("https://u:p@host/x and http://t@h") == "https://***@host/x and http://***@h"
