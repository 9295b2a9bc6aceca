"""Text to token ids, segment by segment, the same in training, search and scoring.

Joining two segments and tokenising the whole can give other ids than tokenising each (BPE merges over the seam). So
nothing is ever joined first: a sampled segment keeps the ids that were sampled, any other is encoded by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rstar_cli.checkpoint_files import not_loaded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rstar_cli.protocols import Segment
    from rstar_cli.records import PairRow, RowSegment, SftRow, StepLabelRow

IGNORED = -100
"""Label of a token that takes no loss (PyTorch's `ignore_index`)."""


class StepTokenizer:
    """A Hugging Face tokenizer that encodes segments.

    Attributes:
        hf: the tokenizer itself.
        fingerprint: 16 hex digits; equal fingerprints give equal ids.
    """

    def __init__(self, hf: PreTrainedTokenizerBase) -> None:
        self.hf = hf
        vocabulary = repr(sorted(hf.get_vocab().items())).encode()
        probe = repr(hf.encode(" 12 + x\n<end_of_step>", add_special_tokens=False)).encode()
        self.fingerprint = hashlib.sha256(vocabulary + probe).hexdigest()[:16]
        self._encode = lru_cache(maxsize=65536)(self._encode_uncached)

    @classmethod
    def load(cls, model: str | Path, *, trust_remote_code: bool = False) -> StepTokenizer:
        """Load from a checkpoint directory or a hub id.

        Args:
            model: where it is.
            trust_remote_code: run the code that it may bring.

        Raises:
            SetupError: it can't be found or read.
        """
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(str(model), trust_remote_code=trust_remote_code))
        except Exception as error:
            remedy = "Give a checkpoint directory with tokenizer.json, or a hub id that this machine can reach."
            raise not_loaded("tokenizer", model, error, remedy) from error

    def _encode_uncached(self, text: str) -> tuple[int, ...]:
        return tuple(self.hf.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of one segment, no special tokens added."""
        return self._encode(text)

    def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Ids of a prompt: as `encode`, after the beginning-of-sequence token where the tokenizer has one to add."""
        ids = self.encode(text)
        bos = self.hf.bos_token_id
        starts = bos is not None and self.hf.encode("x", add_special_tokens=True)[0] == bos
        return (bos, *ids) if starts and ids[:1] != (bos,) else ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, exactly: tags kept, no clean-up of spaces."""
        return str(self.hf.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def segment_ids(self, segment: Segment) -> tuple[int, ...]:
        """Ids of a segment behind the prompt: the sampled ones, else as `encode`."""
        return self.encode(segment.text) if segment.token_ids is None else segment.token_ids

    def prefix_ids(self, prefix: Iterable[Segment]) -> list[int]:
        """Ids of a prefix of segments, the prompt first."""
        ids: list[int] = []
        for i, segment in enumerate(prefix):
            if i == 0 and segment.token_ids is None:
                ids += self.encode_prompt(segment.text)
            else:
                ids += self.segment_ids(segment)
        return ids

    def training_ids(self, row: SftRow) -> tuple[list[int], list[int]]:
        """Token ids and labels of a training row, of equal length; prompt and output blocks are `IGNORED`.

        No end-of-sequence token is added: a solution ends with its answer tag.
        """
        ids = list(self.encode_prompt(row.prompt))
        labels = [IGNORED] * len(ids)
        for step in row.steps:
            new = self._step_ids(step, row.tokenizer)
            ids += new
            labels += [IGNORED] * len(new) if step.output else new
        return ids, labels

    def pair_ids(self, row: PairRow) -> tuple[list[int], list[int]]:
        """Token ids of the chosen and of the rejected side of a pair, each from the prompt to the end of its last step.

        What a program printed after that step is left off: search scores a step at its closing tag.
        """
        prompt, *steps = row.prefix
        before = list(self.encode_prompt(prompt.text))
        for step in steps:
            before += self._step_ids(step, row.tokenizer)
        return self._side(before, row.chosen_steps, row.tokenizer), self._side(
            before, row.rejected_steps, row.tokenizer
        )

    def label_ids(self, row: StepLabelRow) -> tuple[list[int], list[int]]:
        """Token ids of a labelled solution up to its last step, and the index of each step's last token.

        There search scores a step; an output block belongs to what comes before the next step.
        """
        ids = list(self.encode_prompt(row.prompt))
        ends: list[int] = []
        read = 0
        for step in row.steps:
            ids += self._step_ids(step, row.tokenizer)
            if not step.output:
                ends.append(len(ids) - 1)
                read = len(ids)
        return ids[:read], ends

    def _side(self, before: list[int], steps: Sequence[RowSegment], tokenizer: str) -> list[int]:
        last = max((i for i, step in enumerate(steps) if not step.output), default=-1)
        return before + [i for step in steps[: last + 1] for i in self._step_ids(step, tokenizer)]

    def _step_ids(self, step: RowSegment, tokenizer: str) -> list[int]:
        """Sampled ids are taken only where they were sampled with this very tokenizer."""
        sampled = step.token_ids if tokenizer == self.fingerprint else None
        return list(sampled if sampled is not None else self.encode(step.text))
