"""Evidence packs and policy bundles as bytes (SPEC §6.1 and §9)."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from .base import Refused, b64, decimal, hash_from, need, sha256, utf8
from .record import MAX_ENTRY, run_id

MAX_PACK = 1 << 30
MAX_OBJECT = 16 + (16 << 20)
MAX_BUNDLE = 8 << 20
MAX_CHECKPOINT = 1 << 20
README = """\
This is a Sift evidence pack: what one run of an AI agent did, and the proof that a
transparency log holds it.

run      {run}
entries  {entries}

checkpoint  what the log signed: its origin, its size, its root hash
manifest    the run, and one proof that all entries are in that tree
entries/    the log's entries by index: signed notes of two lines, readable as text
bundles/    the policy that decided, by digest
objects/    prompts, arguments and results that are disclosed: 16 random bytes, then content

To check all of it without a network, with a trust file that you did not get from whoever
gave you this pack:

    sift-verify run --trust TRUST {run}.sift
"""


@dataclass
class Pack:
    """What is in a pack. Nothing is verified yet."""

    run: str
    proof: list[bytes]
    checkpoint: bytes
    entries: dict[int, bytes]
    bundles: dict[bytes, bytes]
    objects: dict[bytes, bytes]

    def members(self) -> list[tuple[str, bytes]]:
        """The members in their order."""
        manifest = "".join(line + "\n" for line in ["sift/evidence@v1", self.run, *map(b64, self.proof)])
        result = [
            ("README.txt", README.format(run=self.run, entries=len(self.entries)).encode()),
            ("manifest", manifest.encode()),
            ("checkpoint", self.checkpoint),
        ]
        result += [(f"entries/{index:016}.note", self.entries[index]) for index in sorted(self.entries)]
        for folder, files in (("bundles", self.bundles), ("objects", self.objects)):
            result += [(f"{folder}/{digest.hex()}", files[digest]) for digest in sorted(files)]
        return result


def write_zip(members: list[tuple[str, bytes]]) -> bytes:
    """The exact bytes of the archive (§9)."""
    local, central, offset = [], [], 0
    for name, content in members:
        raw = name.encode()
        crc, size = zlib.crc32(content), len(content)
        common = struct.pack("<HHHHHIIIHH", 45, 0x0800, 0, 0, 0x0021, crc, size, size, len(raw), 0)
        place = struct.pack("<II", 0x81A40000, offset)
        central += [struct.pack("<IH", 0x02014B50, 0x032D), common, bytes(6), place, raw]
        local += [struct.pack("<I", 0x04034B50), common, raw, content]
        offset += 4 + len(common) + len(raw) + size
    directory = b"".join(central)
    count, tail = len(members), b""
    if count >= 65_535:
        tail = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), offset)
        tail += struct.pack("<IIQI", 0x07064B50, 0, offset + len(directory), 1)
    short = min(count, 0xFFFF)
    tail += struct.pack("<IIHHIIH", 0x06054B50, 0, short, short, len(directory), offset, 0)
    return b"".join([*local, directory, tail])


def _read_zip(raw: bytes) -> list[tuple[str, bytes]]:
    """The members by their local headers, front to back. Writing them again shows whether the rest is right."""
    members, at = [], 0
    while raw[at : at + 4] == b"PK\x03\x04":
        need(len(raw) >= at + 30, "pack-malformed", "a local header is cut")
        size, name_length = struct.unpack_from("<I", raw, at + 18)[0], struct.unpack_from("<H", raw, at + 26)[0]
        start = at + 30 + name_length
        need(start + size <= len(raw), "pack-malformed", "a member is cut")
        members.append((utf8(raw[at + 30 : start], "pack-malformed"), raw[start : start + size]))
        at = start + size
    return members


def read_pack(raw: bytes) -> Pack:
    """§9, and step 1 of §11.2."""
    need(len(raw) <= MAX_PACK, "pack-malformed", "too large")
    found = dict[str, bytes]()
    entries, bundles, objects = dict[int, bytes](), dict[bytes, bytes](), dict[bytes, bytes]()
    folders = {"bundles": (bundles, MAX_BUNDLE), "objects": (objects, MAX_OBJECT)}
    for name, content in _read_zip(raw):
        if name in ("README.txt", "manifest", "checkpoint"):
            found[name] = content
            continue
        entry = re.fullmatch(r"entries/([0-9]{16})\.note", name)
        digest = re.fullmatch(r"(bundles|objects)/([0-9a-f]{64})", name)
        if entry:
            index = decimal(entry[1].lstrip("0") or "0", "pack-malformed")
            need(len(content) <= MAX_ENTRY, "pack-malformed", f"{name} is too large")
            entries[index] = content
        elif digest:
            files, limit = folders[digest[1]]
            need(len(content) <= limit, "pack-malformed", f"{name} is too large")
            files[bytes.fromhex(digest[2])] = content
        else:
            raise Refused("pack-malformed", f"unknown member {name!r:.80}")
    for name in ("README.txt", "manifest", "checkpoint"):
        need(name in found, "pack-malformed", f"no {name}")
    need(len(found["checkpoint"]) <= MAX_CHECKPOINT, "pack-malformed", "the checkpoint is too large")
    lines = utf8(found["manifest"], "pack-malformed").split("\n")
    need(len(lines) >= 3 and lines[0] == "sift/evidence@v1" and lines.pop() == "", "pack-malformed", "not a manifest")
    try:
        run_id(lines[1])
    except Refused as refused:
        raise Refused("pack-malformed", "the manifest names no run") from refused
    proof = [hash_from(line, "pack-malformed") for line in lines[2:]]
    pack = Pack(lines[1], proof, found["checkpoint"], entries, bundles, objects)
    need(write_zip(pack.members()) == raw, "pack-malformed", "not the one encoding of its content")
    return pack


def decode_bundle(raw: bytes) -> dict[str, bytes]:
    """The files of a bundle by path (§6.1)."""
    need(len(raw) <= MAX_BUNDLE, "bundle-malformed", "too large")
    header, blank, rest = raw.partition(b"\n")
    need(header == b"sift/bundle@v1" and bool(blank), "bundle-malformed", "not the header")
    files, last = dict[str, bytes](), ""
    while rest:
        line, blank, rest = rest.partition(b"\n")
        path, _, length = utf8(line, "bundle-malformed").partition(" ")
        need(bool(blank), "bundle-malformed", "a line is cut")
        segment = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
        good = len(path) <= 200 and re.fullmatch(rf"{segment}(/{segment})*", path) is not None
        need(good, "bundle-malformed", f"not a path: {path!r:.80}")
        need(path > last, "bundle-malformed", "paths are not sorted")
        size = decimal(length, "bundle-malformed")
        need(rest[size : size + 1] == b"\n", "bundle-malformed", f"{path} does not end where it says")
        files[path], rest, last = rest[:size], rest[size + 1 :], path
    need(len(files) <= 1024, "bundle-malformed", "too many files")
    return files


def check_object(raw: bytes, digest: bytes, size: int) -> bytes:
    """The content of an object that answers a commitment (§5)."""
    need(len(raw) >= 16, "payload-differs", "shorter than its 16 random bytes")
    need(sha256(raw) == digest and len(raw) - 16 == size, "payload-differs", "not the committed digest and size")
    return raw[16:]
