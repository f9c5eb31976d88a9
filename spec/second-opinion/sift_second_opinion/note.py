"""Signed notes, keys and signatures (SPEC §2; c2sp.org/signed-note)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Iterable

from . import ed25519
from .base import b64, decimal, need, sha256, unb64, utf8

MAX_NOTE = 1 << 20
MAX_LINES = 64
MAX_SIGNATURE_BASE64 = 8192
ED25519 = 0x01
COSIGNATURE = 0x04
# Unicode White_Space, without those that are control characters too.
WHITE_SPACE = set("\u0020\u00a0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}


def is_key_name(name: str) -> bool:
    """1 to 255 bytes without white space, control characters and `+` (§2.2)."""
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return False
    return 1 <= size <= 255 and not any(
        c == "+" or c in WHITE_SPACE or unicodedata.category(c) == "Cc" for c in name
    )


@dataclass(frozen=True)
class Key:
    """A public key with its name (§2.2)."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        return sha256(self.name.encode("utf-8"), b"\n", bytes([self.type]), self.public)[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(bytes([self.type]) + self.public)}"


def parse_vkey(text: str, types: Iterable[int] = (ED25519, COSIGNATURE)) -> Key:
    """Reads a vkey of one of the given types."""
    parts = text.split("+", 2)
    need(len(parts) == 3, "vkey", "not name+id+key")
    name, key_id, encoded = parts
    need(is_key_name(name), "vkey", "not a key name")
    need(re.fullmatch(r"[0-9a-f]{8}", key_id) is not None, "vkey", "the id is not 8 lower-case digits")
    blob = unb64(encoded, "vkey")
    need(len(blob) == 33 and blob[0] in tuple(types), "vkey", "not a key of the expected type and length")
    key = Key(name, blob[0], blob[1:])
    need(key.id.hex() == key_id, "vkey", "the id is that of another key")
    need(ed25519.is_good_key(key.public), "vkey", "not a canonical point of large order")
    return key


@dataclass(frozen=True)
class SignatureLine:
    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True)
class Note:
    """A parsed note. Nothing is verified yet."""

    raw: bytes
    text: str
    lines: tuple[SignatureLine, ...]


def parse_note(raw: bytes, limit: int = MAX_NOTE) -> Note:
    """§2.1."""
    need(len(raw) <= limit, "note", "too large")
    whole = utf8(raw, "note")
    need(not any(c < "\x20" and c != "\n" for c in whole), "note", "a control character")
    cut = whole.rfind("\n\n")
    need(cut >= 0, "note", "no empty line")
    text, signatures = whole[: cut + 1], whole[cut + 2 :]
    need(signatures.endswith("\n"), "note", "no signature line, or the last is cut")
    lines = tuple(_parse_line(line) for line in signatures[:-1].split("\n"))
    need(len(lines) <= MAX_LINES, "note", "too many signature lines")
    ids = {(line.name, line.key_id) for line in lines}
    need(len(ids) == len(lines), "note", "two lines of one key name and id")
    return Note(raw, text, lines)


def _parse_line(line: str) -> SignatureLine:
    parts = line.split(" ")
    need(len(parts) == 3 and parts[0] == "\u2014", "note", f"not a signature line: {line[:60]!r}")
    need(is_key_name(parts[1]), "note", "not a key name in a signature line")
    need(len(parts[2]) <= MAX_SIGNATURE_BASE64, "note", "a signature is too long")
    blob = unb64(parts[2], "note")
    need(len(blob) > 4, "note", "a signature is empty")
    return SignatureLine(parts[1], blob[:4], blob[4:])


def line_is_valid(key: Key, line: SignatureLine, text: str) -> bool:
    """Whether the key signed this text; for a cosigner, by §8.2."""
    signature, message = line.signature, text
    if key.type == COSIGNATURE:
        if len(signature) != 72:
            return False
        seconds = int.from_bytes(signature[:8], "big")
        if seconds > 2**63 - 1:
            return False
        signature, message = signature[8:], f"cosignature/v1\ntime {seconds}\n{text}"
    return ed25519.verify(key.public, signature, message.encode("utf-8"))


def verify_note(note: Note, known: Iterable[Key]) -> list[Key]:
    """The known keys that signed. A known line that fails refuses the note; so does a note without any (§2.1)."""
    by_id = {(key.name, key.id): key for key in known}
    signers = []
    for line in note.lines:
        key = by_id.get((line.name, line.key_id))
        if key is None:
            continue
        need(line_is_valid(key, line, note.text), "signature-invalid", f"the signature of {key.name} does not verify")
        signers.append(key)
    need(bool(signers), "no-known-signature", "no line is by a known key")
    return signers


@dataclass(frozen=True)
class Checkpoint:
    """What a log signed: its origin, its size and its root (§8.1)."""

    note: Note
    origin: str
    size: int
    root: bytes


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """§8.1."""
    note = parse_note(raw)
    need(len(note.text.encode("utf-8")) <= 8192, "checkpoint", "too long")
    lines = note.text[:-1].split("\n")
    need(len(lines) >= 3 and all(lines), "checkpoint", "not three or more lines without an empty one")
    need(is_key_name(lines[0]) and not lines[0].startswith("sift/"), "checkpoint", "not an origin")
    size = decimal(lines[1], "checkpoint")
    root = unb64(lines[2], "checkpoint")
    need(len(root) == 32, "checkpoint", "the root is not 32 bytes")
    need(size > 0 or root == sha256(b""), "checkpoint", "size 0 without the empty root")
    return Checkpoint(note, lines[0], size, root)

