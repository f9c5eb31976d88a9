"""Runs the second opinion over the vectors, and over packs that are given.

    python3 -m unittest test_second_opinion
    SIFT_PACKS=folder SIFT_TRUST=trust.txt python3 -m unittest test_second_opinion    packs that must verify
"""

from __future__ import annotations

import json
import os
import random
import unittest
from pathlib import Path
from typing import Callable

from sift_second_opinion import ed25519
from sift_second_opinion.__main__ import check_proof
from sift_second_opinion.authority import Authority, check_log
from sift_second_opinion.base import Refused, hash_from, need, utf8
from sift_second_opinion.note import Key, parse_note, parse_vkey, verify_note
from sift_second_opinion.pack import check_object, decode_bundle, read_pack, write_zip
from sift_second_opinion.record import (
    parse_delegation_text, parse_entry, parse_operator_text, parse_record_text, parse_statement_text,
)
from sift_second_opinion.run import check_run
from sift_second_opinion.tree import check_consistency, check_inclusion, check_multi_inclusion, leaf_hash
from sift_second_opinion.trust import Trust, check_receipt, parse_trust

VECTORS = Path(__file__).resolve().parent.parent / "vectors"
CONTEXT = VECTORS / "context"


def trust() -> Trust:
    return parse_trust((CONTEXT / "trust.txt").read_bytes())


def kernel_key() -> Key:
    return parse_vkey((CONTEXT / "kernel.vkey").read_text().strip())


def operator_key() -> Key:
    operator = trust().operator
    assert operator is not None
    return operator


def text_of(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda raw: parse(utf8(raw, "text"))


def note(raw: bytes) -> None:
    verify_note(parse_note(raw), [kernel_key()])


def entry(raw: bytes) -> None:
    parsed = parse_entry(raw)
    verify_note(parsed.note, [operator_key() if parsed.is_operator else kernel_key()])


def checkpoint(raw: bytes) -> None:
    Trust(logs=trust().logs).believe(raw)


def receipt(raw: bytes) -> None:
    check_receipt(trust(), raw, leaf_hash((CONTEXT / "receipt-entry.note").read_bytes()))


def stored_object(raw: bytes) -> None:
    committed = json.loads((CONTEXT / "commitment.json").read_text())
    check_object(raw, hash_from(committed["digest"]), committed["size"])


def proof_of(raw: bytes) -> tuple[dict, list[bytes]]:
    value = json.loads(raw)
    return value, [hash_from(text) for text in value["proof"]]


def inclusion(raw: bytes) -> None:
    v, proof = proof_of(raw)
    check_inclusion(v["index"], v["size"], hash_from(v["leaf"]), proof, hash_from(v["root"]))


def consistency(raw: bytes) -> None:
    v, proof = proof_of(raw)
    old, new = hash_from(v["old_root"]), hash_from(v["new_root"])
    check_consistency(v["old_size"], v["new_size"], old, new, proof)


def multi_inclusion(raw: bytes) -> None:
    v, proof = proof_of(raw)
    leaves = [(leaf["index"], hash_from(leaf["leaf"])) for leaf in v["leaves"]]
    check_multi_inclusion(v["size"], leaves, proof, hash_from(v["root"]))


def log(raw: bytes) -> None:
    entries = []
    while raw:
        size = int.from_bytes(raw[:2], "big")
        need(len(raw) >= 2 + size, "log", "an entry is cut")
        entries.append((len(entries), parse_entry(raw[2 : 2 + size])))
        raw = raw[2 + size :]
    check_log(entries, Authority(trust().logs[0].name, operator_key(), gaps=False))


READERS: dict[str, Callable[[bytes], object]] = {
    "approval": text_of(parse_statement_text),
    "bundle": decode_bundle,
    "checkpoint": checkpoint,
    "consistency": consistency,
    "cosignature": lambda raw: trust().believe(raw),
    "delegation": text_of(parse_delegation_text),
    "entry": entry,
    "inclusion": inclusion,
    "log": log,
    "multi-inclusion": multi_inclusion,
    "note": note,
    "object": stored_object,
    "operator": text_of(parse_operator_text),
    "pack": read_pack,
    "receipt": receipt,
    "record": text_of(parse_record_text),
    "trust": parse_trust,
    "vkey": text_of(lambda line: parse_vkey(line.removesuffix("\n"))),
}


class Vectors(unittest.TestCase):
    """`ok` is accepted and `bad` refused, file by file."""

    def test_every_folder_is_known(self) -> None:
        folders = {path.name for path in VECTORS.iterdir() if path.is_dir()}
        self.assertEqual(folders, set(READERS) | {"context", "tile-path", "zip215"})

    def test_vectors(self) -> None:
        for name, read in READERS.items():
            for path in sorted((VECTORS / name).glob("*/*")):
                with self.subTest(f"{name}/{path.parent.name}/{path.name}"):
                    try:
                        read(path.read_bytes())
                        accepted = True
                    except Refused:
                        accepted = False
                    self.assertEqual(accepted, path.parent.name == "ok")

    def test_zip215_signatures(self) -> None:
        for case in json.loads((VECTORS / "zip215" / "signatures.json").read_text()):
            key, signature = bytes.fromhex(case["key"]), bytes.fromhex(case["signature"])
            for verify in (ed25519.verify, ed25519.verify_slowly):
                with self.subTest(case["name"], verify=verify.__name__):
                    good = ed25519.is_good_key(key) and verify(key, signature, case["message"].encode())
                    self.assertEqual(good, case["valid"])

    def test_zip215_keys(self) -> None:
        for case in json.loads((VECTORS / "zip215" / "bad-keys.json").read_text()):
            with self.subTest(case["name"]):
                self.assertFalse(ed25519.is_good_key(bytes.fromhex(case["key"])))

    def test_proof(self) -> None:
        entry_raw = (CONTEXT / "receipt-entry.note").read_bytes()
        good = (VECTORS / "receipt" / "ok" / "open.tlog-proof").read_bytes()
        self.assertEqual(check_proof(entry_raw, good, trust(), "entry").findings, [])
        self.assertNotEqual(check_proof(entry_raw + b"x", good, trust(), "entry").findings, [])


@unittest.skipUnless("SIFT_PACKS" in os.environ, "SIFT_PACKS names no folder of packs")
class Packs(unittest.TestCase):
    """Packs that must verify, and copies of them that must not."""

    def setUp(self) -> None:
        self.packs = sorted(Path(os.environ["SIFT_PACKS"]).glob("*.sift"))
        self.trust = parse_trust(Path(os.environ["SIFT_TRUST"]).read_bytes())
        self.assertTrue(self.packs, "no packs")

    def refused(self, raw: bytes, what: str) -> None:
        self.assertTrue(check_run(raw, self.trust, what).findings, what)

    def test_they_verify(self) -> None:
        for path in self.packs:
            with self.subTest(path.name):
                self.assertEqual(check_run(path.read_bytes(), self.trust, path.name).findings, [])

    def test_no_other_trust_file_verifies_them(self) -> None:
        for path in self.packs:
            with self.subTest(path.name):
                self.assertTrue(check_run(path.read_bytes(), trust(), path.name).findings)

    def test_changed_bytes(self) -> None:
        for path in self.packs:
            raw, chosen = path.read_bytes(), random.Random(path.name)
            for at in (chosen.randrange(len(raw)) for _ in range(60)):
                self.refused(raw[:at] + bytes([raw[at] ^ 1 << chosen.randrange(8)]) + raw[at + 1 :], f"flip {at}")
                self.refused(raw[:at], f"cut {at}")

    def test_changed_members(self) -> None:
        for path in self.packs:
            members = read_pack(path.read_bytes()).members()
            for i, (name, content) in enumerate(members):
                before, after = members[:i], members[i + 1 :]
                self.refused(write_zip([*before, members[i], *members[i:]]), f"{name} twice")
                self.refused(write_zip([*before, (name, content + b"x"), *after]), f"{name} longer")
                if after:
                    self.refused(write_zip([*before, after[0], members[i], *after[1:]]), f"{name} moved")
                if not name.startswith(("bundles/", "objects/")):  # those may be withheld
                    self.refused(write_zip([*before, *after]), f"{name} dropped")

    def test_entries_left_out(self) -> None:
        for path in self.packs:
            whole = read_pack(path.read_bytes())
            for index in whole.entries:
                pack = read_pack(path.read_bytes())
                del pack.entries[index]
                self.refused(write_zip(pack.members()), f"without entry {index}")


if __name__ == "__main__":
    unittest.main()
