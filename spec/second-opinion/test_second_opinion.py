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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sift_second_opinion import ed25519
from sift_second_opinion.__main__ import check_proof
from sift_second_opinion.authority import Authority, check_log
from sift_second_opinion.base import Refused, b64, hash_from, need, sha256, utf8
from sift_second_opinion.note import Key, parse_note, parse_vkey, verify_note
from sift_second_opinion.pack import Pack, check_object, decode_bundle, read_pack, write_zip
from sift_second_opinion.record import (
    canonical, parse_delegation_text, parse_entry, parse_operator_text, parse_record_text, parse_statement_text,
)
from sift_second_opinion.run import check_run
from sift_second_opinion.tree import check_consistency, check_inclusion, check_multi_inclusion, leaf_hash, node_hash
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
        self.assertEqual(folders, set(READERS) | {"context", "finding", "tile-path", "zip215"})

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


class Findings(unittest.TestCase):
    """Evidence for every code: what `sift-verify` rejects is refused here, and what it verifies is not."""

    UNSEEN = {"decision-differs", "input-differs"}  # policy decisions are not derived again here

    def test_findings(self) -> None:
        folder, judged = VECTORS / "finding", 0
        for line in (folder / "cases.jsonl").read_text().splitlines():
            case = json.loads(line)
            verb, *arguments = case["arguments"]
            # A run that goes on is refused here.
            if verb not in ("proof", "run") or "--open" in arguments or self.UNSEEN & set(case["findings"]):
                continue
            judged += 1
            paths = {name: folder / path for name, path in zip(arguments[::2], arguments[1::2], strict=False)}
            whom = parse_trust(paths["--trust"].read_bytes())
            with self.subTest(line):
                if verb == "run":
                    found = check_run((folder / arguments[-1]).read_bytes(), whom, verb).findings
                else:
                    given = paths["--entry"].read_bytes(), paths["--receipt"].read_bytes()
                    found = check_proof(*given, whom, verb).findings
                self.assertEqual(int(bool(found)), case["exit"], found)
        self.assertGreater(judged, 50)


class Author:
    """A key with a fixed seed that signs notes."""

    def __init__(self, name: str) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(sha256(name.encode()))
        self.key = Key(name, 1, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        signature = b64(self.key.id + self.private.sign(text.encode()))
        return f"{text}\n\u2014 {self.key.name} {signature}\n".encode()


class Forged(unittest.TestCase):
    """A pack made here, and what is wrong when somebody with all keys writes another run."""

    LOG, OPERATOR, KERNEL = Author("log.test/sift"), Author("log.test/operator"), Author("kernel.test/1")
    RUN = "019ab697-e800-7a5a-9a5a-5a5a5a5a5a5a"
    BUDGET = b"[run]\ntool_calls = 2\n"
    BUNDLE = b"sift/bundle@v1\nbudget.toml %d\n%s\np.rego 13\npackage sift\n\n" % (len(BUDGET), BUDGET)
    STORED = b"0123456789abcdef{}"

    def records(self) -> list[dict]:
        meters = [{"limit": 2, "meter": "tool_calls", "scope": "run", "window": "run"}]
        policy_input = {"digest": b64(bytes(32)), "media": "a/b", "name": "policy-input", "size": 2}
        args = {"digest": b64(sha256(self.STORED)), "media": "a/b", "name": "arguments", "size": 2}
        decided = {"effect": "allow", "input": policy_input, "reasons": [], "rules": ["r"]}
        one = {"tool_calls": 1}
        bodies = [
            ("open", {"build": "b", "engine": "e", "labels": {}, "limits": {"meters": meters}, "log": "log.test/sift",
                      "policy": b64(sha256(self.BUNDLE))}),
            ("intent", {"call": {"tool": {"args": args, "id": "c", "name": "t"}}, "decision": decided,
                        "reserved": one}),
            ("outcome", {"intent": 1, "settled": one, "status": "ok"}),
            ("close", {"census": {"intent": 1, "open": 1, "outcome": 1}, "reason": "done", "settled": one}),
        ]
        return [{"agent": "a", "kind": kind, kind: body, "run": self.RUN, "seq": seq, "time": seq}
                for seq, (kind, body) in enumerate(bodies)]

    def findings(self, records: list[dict]) -> list[str]:
        grant = {"agents": ["*"], "role": "kernel", "vkey": self.KERNEL.key.vkey}
        policy = {"bundle": b64(sha256(self.BUNDLE)), "name": "n", "size": len(self.BUNDLE)}
        operator = [{"kind": "key", "key": {"grant": grant}}, {"kind": "policy", "policy": policy}]
        operator = [{**value, "log": "log.test/sift", "seq": seq, "time": 0} for seq, value in enumerate(operator)]
        entries: list[bytes] = []
        for author, header, chain in ((self.OPERATOR, "operator", operator), (self.KERNEL, "record", records)):
            for value in chain:
                if value["seq"] > 0:
                    value["prev"] = b64(leaf_hash(entries[-1]))
                entries.append(author.sign(f"sift/{header}@v1\n{canonical(value).decode()}\n"))
        root = self.root([leaf_hash(entry) for entry in entries])
        checkpoint = self.LOG.sign(f"log.test/sift\n{len(entries)}\n{b64(root)}\n")
        bundles, objects = {sha256(self.BUNDLE): self.BUNDLE}, {sha256(self.STORED): self.STORED}
        pack = Pack(self.RUN, [], checkpoint, dict(enumerate(entries)), bundles, objects)
        whom = f"log {self.LOG.key.vkey}\n#sift:operator {self.OPERATOR.key.vkey}\nquorum none\n"
        report = check_run(write_zip(pack.members()), parse_trust(whom.encode()), "forged")
        return [finding["code"] for finding in report.findings]

    def root(self, leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return leaves[0]
        cut = 1 << (len(leaves) - 1).bit_length() - 1
        return node_hash(self.root(leaves[:cut]), self.root(leaves[cut:]))

    def changed(self, seq: int, **body: object) -> list[dict]:
        records = self.records()
        records[seq][records[seq]["kind"]].update(body)
        return records

    def test_honest(self) -> None:
        self.assertEqual(self.findings(self.records()), [])

    def test_dishonest(self) -> None:
        held = dict(self.records()[1]["intent"]["decision"], effect="hold",
                    hold={"approvals": [{"count": 1, "role": "r"}], "deadline": 9})
        refusal = {"limit": {"have": 2, "limit": 2, "meter": "tool_calls", "need": 1, "scope": "run", "window": "run"}}
        cases = {
            "no close": (self.records()[:3], ["tail-missing"]),
            "held without approval": (self.changed(1, decision=held), ["approval-missing"]),
            "refused too early": (
                self.changed(1, refusal=refusal, reserved={}), ["refusal-differs", "outcome-unpaired", "sum-differs"],
            ),
            "reserved too little": (self.changed(1, reserved={}), ["reservation-differs", "settlement-differs"]),
            "settled too little": (self.changed(2, settled={}), ["settlement-differs", "sum-differs"]),
            "never halted": (self.changed(3, reason="halted"), ["close-differs"]),
            "other census": (self.changed(3, census={"beat": 1, "open": 1, "outcome": 1}), ["census-differs"]),
            "other sum": (self.changed(3, settled={"tool_calls": 2}), ["sum-differs"]),
            "other limits": (self.changed(0, limits={"meters": []}), ["limits-differ"]),
            "other bundle": (self.changed(0, policy=b64(bytes(32))), ["policy-not-published", "bundle-differs"]),
        }
        for name, (records, expected) in cases.items():
            with self.subTest(name):
                found = self.findings(records)
                self.assertTrue(found)
                self.assertLessEqual(set(found), set(expected))


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


@unittest.skipUnless("SIFT_MUTATIONS" in os.environ, "SIFT_MUTATIONS names no folder of changed packs")
class Mutations(unittest.TestCase):
    """Packs changed in every way that `sift-verify`'s own test knows: here each is refused that is rejected there."""

    def test_both_say_the_same(self) -> None:
        folder, whom = Path(os.environ["SIFT_MUTATIONS"]), parse_trust((VECTORS / "finding" / "trust.txt").read_bytes())
        judged = unseen = 0
        for path in sorted(folder.glob("*.sift")):
            said = json.loads(path.with_suffix(".json").read_text())
            found = check_run(path.read_bytes(), whom, path.name).findings
            if set(said["findings"]) - Findings.UNSEEN or not said["findings"]:
                self.assertEqual(bool(found), bool(said["findings"]), f"{path}: {said}: {found}")
                judged += 1
            else:
                unseen += 1
        print(f"{judged} packs judged the same; {unseen} are wrong in what the policy says alone")
        self.assertGreater(judged, 1000)


if __name__ == "__main__":
    unittest.main()
