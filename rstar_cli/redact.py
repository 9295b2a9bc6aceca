"""Secrets struck out of text that is shown or kept."""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Environment variables that hold a secret, by the end of their names: HF_TOKEN, WANDB_API_KEY, RSTAR_API_KEY, ..."""
_LEAST = 6
"""Letters of a secret at least: shorter values are words such as `none`."""
_KNOWN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
"""A hub token, wherever it comes from: it may be in a file."""
_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+@")


def redacted(text: str) -> str:
    """The text with `***` for the values of secret environment variables, hub tokens, and users in URLs."""
    secrets = {value.strip() for name, value in os.environ.items() if _NAMES.search(name)}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST:
            text = text.replace(secret, "***")
    return _IN_URL.sub("***@", _KNOWN.sub("***", text))
