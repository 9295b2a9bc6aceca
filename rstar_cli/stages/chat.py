"""Conversations as text: a model's chat template, and which part of what it renders is the assistant's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rstar_cli.checkpoint_files import check_files
from rstar_cli.layout import model_path
from rstar_cli.records import RowSegment
from rstar_cli.tokens import StepTokenizer

Messages = Sequence[dict[str, Any]]
"""Each with `role` and `content`."""


class ChatError(ValueError):
    """A conversation can't be rendered; says why."""


class Chat:
    """The chat template of a model, loaded when it is first needed.

    Args:
        model: checkpoint directory, hub id or `embedded`.
    """

    def __init__(self, model: str) -> None:
        self._model = model

    @cached_property
    def _tokenizer(self) -> Any:
        check_files(model_path(self._model))  # all of it, before a row is read
        return StepTokenizer.load(model_path(self._model)).hf

    @property
    def end(self) -> str:
        """The end token's text; empty where the tokenizer has none."""
        return self._tokenizer.eos_token or ""

    def turns(self, messages: Messages, first: int) -> tuple[str, list[RowSegment]]:
        """A conversation as a prompt and segments; the assistant's turns are learnt, all else is `output`.

        A template may write earlier turns in another way than the last one (Qwen3 drops their thoughts). Then only the
        last turn is learnt, after the text that the model reads before it.

        Args:
            messages: the conversation; what follows the assistant's last turn is left off.
            first: message from which on turns are learnt.

        Raises:
            ChatError: no turn to learn, no template, or one that refuses the conversation.
        """
        spoken = [i for i, message in enumerate(messages) if i >= first and message["role"] == "assistant"]
        if not spoken:
            raise ChatError("the assistant says nothing")
        replies = [self.reply(messages[:i], messages[i : i + 1]) for i in spoken]
        prompt, steps, done = replies[0][0], [], replies[0][0]
        for before, said in replies:
            if not before.startswith(done):
                before, said = replies[-1]
                return before, [RowSegment(text=said)]
            if between := before[len(done) :]:
                steps.append(RowSegment(text=between, output=True))
            steps.append(RowSegment(text=said))
            done = before + said
        return prompt, steps

    def reply(self, before: Messages, said: Messages) -> tuple[str, str]:
        """(what the model reads, what it shall write): the reply up to its end token, where the template writes one.

        Raises:
            ChatError: no template, or one that refuses the conversation or does not go on from its own prompt.
        """
        prompt = self._render(before, ask=True) if before else ""
        whole = self._render([*before, *said], ask=False)
        if not whole.startswith(prompt):
            raise ChatError("the chat template writes a reply that does not go on from its own prompt")
        said_text = whole[len(prompt) :]
        head, end, _ = said_text.rpartition(self.end) if self.end else ("", "", "")
        return prompt, head + end or said_text

    def _render(self, messages: Messages, *, ask: bool) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            raise ChatError(f"the tokenizer of {self._model} has no chat template")
        try:
            return str(self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=ask))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise ChatError(f"the chat template refuses it: {error}") from error
