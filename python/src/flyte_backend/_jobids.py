"""Job ids as text: how they travel over REST."""

from __future__ import annotations

import base64
import binascii

from ._binding import MAX_JOB_ID
from ._errors import UserError

MAX_IN_URL = 4095
PREFIX = "base64:"


def encode_job_id(raw: bytes) -> str:
    """UTF-8 stays as it is, unless it could be taken for what becomes of anything else: a prefix and unpadded base64."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = PREFIX
    return PREFIX + base64.urlsafe_b64encode(raw).decode().rstrip("=") if text.startswith(PREFIX) else text


def decode_job_id(text: str) -> bytes:
    """The reverse. What encode_job_id never makes of an id is a UserError: a job has one name."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise UserError("job_id is not UTF-8") from None
    if text.startswith(PREFIX):
        inner = text[len(PREFIX) :]
        try:
            raw = base64.b64decode(inner + "=" * (-len(inner) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise UserError(f"job_id begins with {PREFIX!r}, and unpadded URL-safe base64 does not follow") from None
    if not 0 < len(raw) <= MAX_JOB_ID:
        raise UserError(f"job_id has {len(raw)} bytes; 1 to {MAX_JOB_ID} are due")
    if encode_job_id(raw) != text:
        raise UserError(f"job_id begins with {PREFIX!r} and is not what such an id is written as")
    return raw
