"""Trust files, believed checkpoints and receipts (SPEC §8.3 and §7.2; c2sp.org/tlog-policy, c2sp.org/tlog-proof)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .base import Refused, decimal, hash_from, need, unb64, utf8
from .note import COSIGNATURE, ED25519, Checkpoint, Key, parse_checkpoint, parse_vkey, verify_note
from .tree import check_inclusion

MAX_TRUST = 1 << 20
MAX_RECEIPT = 1 << 20


@dataclass
class Trust:
    """Whom to believe."""

    logs: list[Key] = field(default_factory=list)
    operator: Key | None = None
    witnesses: dict[str, Key] = field(default_factory=dict)
    groups: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    quorum: str = "none"

    def believe(self, raw: bytes) -> Checkpoint:
        """A checkpoint that satisfies §8.3, or a refusal."""
        checkpoint = parse_checkpoint(raw)
        try:
            signers = verify_note(checkpoint.note, [*self.logs, *self.witnesses.values()])
        except Refused as refused:
            if refused.code != "no-known-signature":
                raise
            raise Refused("unknown-log", "no listed log signed the checkpoint") from refused
        need(
            any(key in self.logs and key.name == checkpoint.origin for key in signers),
            "unknown-log", f"no listed key of {checkpoint.origin} signed the checkpoint",
        )
        need(self._satisfied(self.quorum, set(signers)), "not-witnessed", "too few witnesses cosigned")
        return checkpoint

    def _satisfied(self, name: str, signers: set[Key]) -> bool:
        if name == "none":
            return True
        if name in self.witnesses:
            return self.witnesses[name] in signers
        threshold, members = self.groups[name]
        return sum(self._satisfied(member, signers) for member in members) >= threshold


def parse_trust(raw: bytes) -> Trust:
    """§8.3."""
    need(len(raw) <= MAX_TRUST, "trust", "too large")
    need(not any(b < 9 or 0x0B <= b < 0x20 or b == 0x7F for b in raw), "trust", "a control character")
    trust, publics, quorums = Trust(), set[bytes](), 0

    def key(text: str, key_type: int) -> Key:
        parsed = parse_vkey(text, [key_type])
        need(parsed.public not in publics, "trust", "a public key stands in two lines")
        publics.add(parsed.public)
        return parsed

    def new_name(name: str) -> str:
        need(name != "none" and name not in trust.witnesses and name not in trust.groups, "trust", f"name {name!r}")
        return name

    for line in utf8(raw, "trust").split("\n"):
        words = [word for word in line.replace("\t", " ").split(" ") if word]
        if not words or (words[0].startswith("#") and not words[0].startswith("#sift:")):
            continue
        verb, args = words[0], words[1:]
        if verb == "log" and len(args) in (1, 2):
            trust.logs.append(key(args[0], ED25519))
        elif verb == "witness" and len(args) in (2, 3):
            trust.witnesses[new_name(args[0])] = key(args[1], COSIGNATURE)
        elif verb == "group" and len(args) >= 3:
            name, members = new_name(args[0]), args[2:]
            need(all(m in trust.witnesses or m in trust.groups for m in members), "trust", "an unknown member")
            need(len(set(members)) == len(members), "trust", "a member twice")
            threshold = {"all": len(members), "any": 1}.get(args[1]) or decimal(args[1], "trust")
            need(1 <= threshold <= len(members), "trust", "not a threshold of this group")
            trust.groups[name] = (threshold, members)
        elif verb == "quorum" and len(args) == 1:
            need(args[0] == "none" or args[0] in trust.witnesses or args[0] in trust.groups, "trust", "unknown quorum")
            trust.quorum, quorums = args[0], quorums + 1
        elif verb == "#sift:operator" and len(args) == 1:
            need(trust.operator is None, "trust", "two operators")
            trust.operator = key(args[0], ED25519)
        else:
            raise Refused("trust", f"not a line of a trust file: {line[:60]!r}")
    need(quorums == 1, "trust", "not exactly one quorum")
    need(len(trust.logs) <= 256, "trust", "too many logs")
    need(len(trust.witnesses) + len(trust.groups) <= 256, "trust", "too many witnesses and groups")
    return trust


@dataclass(frozen=True)
class Receipt:
    index: int
    proof: list[bytes]
    checkpoint: bytes


def parse_receipt(raw: bytes) -> Receipt:
    """§7.2."""
    need(len(raw) <= MAX_RECEIPT, "receipt", "too large")
    head, blank, checkpoint = raw.partition(b"\n\n")
    need(bool(blank), "receipt", "no empty line before the checkpoint")
    lines = utf8(head, "receipt").split("\n")
    need(lines.pop(0) == "c2sp.org/tlog-proof@v1", "receipt", "not the header")
    if lines and lines[0].startswith("extra "):
        unb64(lines.pop(0)[len("extra ") :], "receipt")
    need(bool(lines) and lines[0].startswith("index "), "receipt", "no index")
    index = decimal(lines.pop(0)[len("index ") :], "receipt")
    need(len(lines) <= 64, "receipt", "more than 64 hashes")
    return Receipt(index, [hash_from(line, "receipt") for line in lines], checkpoint)


def check_receipt(trust: Trust, raw: bytes, leaf: bytes) -> tuple[Receipt, Checkpoint]:
    """Steps 1 to 3 of §11.1."""
    receipt = parse_receipt(raw)
    checkpoint = trust.believe(receipt.checkpoint)
    check_inclusion(receipt.index, checkpoint.size, leaf, receipt.proof, checkpoint.root)
    return receipt, checkpoint
