"""What every module needs: refusals, hashes, base64 and decimals (SPEC, opening words and §1)."""

from __future__ import annotations

import base64
import hashlib
import re

MAX_INT = 2**53 - 1
HASH_BYTES = 32


class Refused(Exception):
    """Evidence that breaks a rule. `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def need(condition: bool, code: str, detail: str) -> None:
    """Refuses unless `condition` holds."""
    if not condition:
        raise Refused(code, detail)


def sha256(*parts: bytes) -> bytes:
    """H of the parts joined."""
    return hashlib.sha256(b"".join(parts)).digest()


def b64(data: bytes) -> str:
    """Base64 with padding, as it stands in text and JSON."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str, code: str = "base64") -> bytes:
    """Reads base64 in its one form: standard alphabet, padded, loose bits zero."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError as error:
        raise Refused(code, f"not base64: {text[:60]!r}") from error
    need(b64(data) == text, code, f"not the one form of its base64: {text[:60]!r}")
    return data


def hash_from(text: str, code: str = "hash") -> bytes:
    """A hash written as 44 characters of base64."""
    data = unb64(text, code)
    need(len(data) == HASH_BYTES, code, f"not 32 bytes: {text[:60]!r}")
    return data


def decimal(text: str, code: str = "decimal", limit: int = MAX_INT) -> int:
    """A decimal number without sign and leading zeros, at most `limit`."""
    need(re.fullmatch(r"0|[1-9][0-9]{0,19}", text) is not None, code, f"not a decimal: {text[:40]!r}")
    value = int(text)
    need(value <= limit, code, f"too large: {text}")
    return value


def utf8(data: bytes, code: str) -> str:
    """Strict UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(code, "not UTF-8") from error
