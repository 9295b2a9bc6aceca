"""The examples below each command's help: they parse, and every command has some."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rstar_cli.cli import app
from rstar_cli.cli_examples import EXAMPLES
from tests.helpers import ROOT

LINES = [line for examples in EXAMPLES.values() for line, _ in examples]


def commands(group: Any) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command)
        else:
            yield name, command


def parse(words: list[str]) -> str:
    """Parse a command line down to each option and the form of its value, running nothing; the command's name."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context("rstar", words, parent=context)
        words = [*context._protected_args, *context.args]
        name, command = words[0], command.commands[words[0]]
        words = words[1:]
    command.make_context("rstar", words, parent=context)
    return name


def test_every_command_has_examples() -> None:
    whole: Any = typer.main.get_command(app)
    benches = dict(commands(whole.commands["bench"]))
    told = {name: command.epilog or "" for name, command in commands(whole) if name not in benches}
    assert set(told) == set(EXAMPLES)
    for name, examples in EXAMPLES.items():
        assert len(examples) >= (1 if name == "list" else 3)
        assert all(line in told[name] for line, _ in examples)


@pytest.mark.parametrize("line", LINES)
def test_an_example_is_a_command_that_parses(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "rstar"
    assert line in [example for example, _ in EXAMPLES[parse(words)]]


@pytest.mark.parametrize("line", ["generate --rollots 3", "generate --round one", "evaluate --compare 1"])
def test_what_does_not_parse_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"No such option|valid integer|requires 2 arguments"):
        parse(line.split())


def documented() -> Iterator[str]:
    """Every command in the shell blocks of our documents."""
    for name in ("README.md", "recipes/README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if not line.startswith("rstar "):
                    continue
                words = shlex.split(string.Template(line).safe_substitute(SEED="1", OBJECTIVE="orm"), comments=True)
                if "..." not in words:
                    yield shlex.join(words)


@pytest.mark.parametrize("line", sorted(set(documented())))
def test_a_documented_command_parses(line: str) -> None:
    parse(shlex.split(line)[1:])


def test_the_documents_hold_commands() -> None:
    assert len(set(documented())) > 20
