r"""The tokenizer of the embedded model: one token a word for the generator's text, bytes for everything else.

Any text survives encoding and decoding (Unicode in its composed form, NFC): words that are not in the vocabulary fall
apart into smaller pieces, in the end into the 256 bytes. Digits stand alone, with or without a leading space; the frame
of a step (`\n#`, `\na =`) costs one token each; tags and the constant parts of a prompt are single tokens.

It has to be what `AutoTokenizer` makes of a Qwen2 checkpoint. That class builds byte-level BPE with a split of its own
and takes only vocabulary, merges and added tokens from the file. So the pieces are added tokens, found leftmost and
longest, over a BPE of bytes without merges.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rstar_cli.prompts import PROMPT_HEAD, PROMPT_TAIL, TAGS

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Padding and end of sequence; a solution itself ends with its answer tag."""

SINGLE_TOKENS = (*TAGS, "\\boxed{", PROMPT_HEAD, PROMPT_TAIL)

PIECE = r"\n[a-h] =|\n#|\nprint\(|\nfrom [a-z]+ import| ?[A-Za-z]+\(?| ?[0-9]| ?//| ?\*\*|\)+|\n| ?[^\sA-Za-z0-9]"
"""What can be one token; what it does not match stands alone."""


def collect_pieces(texts: Iterable[str]) -> list[str]:
    """The vocabulary beyond single bytes: every piece of the texts, and all digits, sorted.

    Args:
        texts: what shall be cheap to encode; `SINGLE_TOKENS` in them count as seams.
    """
    seam = re.compile("|".join(map(re.escape, sorted(SINGLE_TOKENS, key=len, reverse=True))))
    piece = re.compile(PIECE)
    found = {p for text in texts for part in seam.split(text) for p in piece.findall(part)}
    found |= {f"{space}{digit}" for space in ("", " ") for digit in range(10)}
    return sorted(found)


def build_tokenizer(pieces: Iterable[str]) -> Qwen2Tokenizer:
    """A fast tokenizer with the 256 bytes, the given pieces and the single tokens.

    Args:
        pieces: as from `collect_pieces`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import Qwen2Tokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    words = [piece for piece in pieces if len(piece) > 1]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in (*words, *SINGLE_TOKENS)])
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    with TemporaryDirectory() as folder:  # the class takes such a tokenizer from a file only
        tokenizer.save(f"{folder}/tokenizer.json")
        return Qwen2Tokenizer.from_pretrained(
            folder, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, unk_token=END_OF_TEXT, model_max_length=2048
        )
