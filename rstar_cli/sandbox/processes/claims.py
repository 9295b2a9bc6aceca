"""What a program may say of its own steps. Whatever else it sends is `protocol`."""

from __future__ import annotations

import json
from typing import NoReturn

from .packets import CLAIMABLE, ERROR_BYTES

Claim = tuple[str, str, str]
"""Status, stdout, error."""

PROTOCOL: Claim = ("protocol", "", "")


def read_claim(payload: bytes, output_bytes: int) -> Claim:
    """Judge a claim: a JSON object of exactly `status`, `stdout` and `error`, valid Unicode within the byte limits.

    Args:
        payload: as it came.
        output_bytes: most bytes of standard output.

    Returns:
        (status, stdout, error); `PROTOCOL` for anything but a proper claim.
    """
    try:
        claim = json.loads(payload.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return PROTOCOL
    if type(claim) is not dict or claim.keys() != {"status", "stdout", "error"}:
        return PROTOCOL
    status, stdout, error = claim["status"], claim["stdout"], claim["error"]
    if not (type(status) is type(stdout) is type(error) is str) or status not in CLAIMABLE:
        return PROTOCOL
    try:
        fits = len(stdout.encode()) <= output_bytes and len(error.encode()) <= ERROR_BYTES
    except UnicodeEncodeError:  # lone surrogates
        return PROTOCOL
    return (status, stdout, error) if fits else PROTOCOL


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
