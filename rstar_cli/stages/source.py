"""A row as it stands in somebody's file, and what is wrong with it by file, line and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rstar_cli.errors import DataError
from rstar_cli.stages.chat import ChatError


@dataclass(frozen=True, slots=True)
class Source:
    """A row as it stands in a file.

    Attributes:
        path: the file.
        line: the line in it, from 1 (parquet: the row).
        fields: the columns.
        weight: of the row in the loss; what others share 1 among (pairs alone).
    """

    path: Path
    line: int
    fields: Mapping[str, Any]
    weight: float = 1.0

    def error(self, field: str, why: str, remedy: str) -> DataError:
        """What is wrong with a field of this row."""
        return DataError(why, path=self.path, line=self.line, field=field, remedy=remedy)

    def text(self, name: str, *, empty: bool = False) -> str:
        """A column's text.

        Raises:
            DataError: it is no text, or an empty one.
        """
        value = self.fields[name]
        if not isinstance(value, str):
            raise self.error(name, f"expected text, not {kind_of(value)}", "correct the field")
        if not value and not empty:
            raise self.error(name, "is empty", "fill the field, or remove the row")
        return value

    def listed(self, name: str) -> list[Any]:
        """A column's list.

        Raises:
            DataError: it is no list, or an empty one.
        """
        value = self.fields[name]
        if not isinstance(value, list):
            raise self.error(name, f"expected a list, not {kind_of(value)}", "correct the field")
        if not value:
            raise self.error(name, "is empty", "fill the field, or remove the row")
        return value

    def messages(self, name: str) -> list[dict[str, Any]]:
        """A column's messages, each with `role` and `content`.

        Raises:
            DataError: something else.
        """
        found = self.listed(name)
        for i, message in enumerate(found):
            if not isinstance(message, dict):
                raise self.error(f"{name}.{i}", f"expected a message, not {kind_of(message)}", _MESSAGE)
            for key in ("role", "content"):
                if not isinstance(message.get(key), str):
                    why = f"expected text, not {kind_of(message[key])}" if key in message else "is missing"
                    raise self.error(f"{name}.{i}.{key}", why, _MESSAGE)
        return found

    def is_chat(self, name: str) -> bool:
        """Whether a column holds messages, and not text."""
        return isinstance(self.fields.get(name), list)

    @contextmanager
    def blamed(self, field: str) -> Iterator[None]:
        """Turn a conversation that can't be rendered into an error of this row.

        Raises:
            DataError: says why.
        """
        try:
            yield
        except ChatError as why:
            remedy = "give rows of text instead of messages, or a --model whose chat template fits them"
            raise self.error(field, str(why), remedy) from why

    def problem(self, prompt: str) -> str:
        """The row's `problem_id`; else one that rows with the same prompt share."""
        given = self.fields.get("problem_id")
        if isinstance(given, str | int) and not isinstance(given, bool) and str(given):
            return str(given)
        return blake2b(prompt.encode(), digest_size=8).hexdigest()


_MESSAGE = 'a message is {"role": "user", "content": "..."}'


def kind_of(value: object) -> str:
    """What a value is, for messages."""
    if value is None or value == "":
        return "nothing"
    return {"str": "text", "int": "a number", "float": "a number", "bool": "true or false", "list": "a list"}.get(
        type(value).__name__, "an object"
    )
