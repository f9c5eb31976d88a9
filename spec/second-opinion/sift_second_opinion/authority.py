"""Who may sign what, and what may follow what: the operator's chain and the runs' (SPEC §3.5, §4.2, §4.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .base import b64, hash_from, need
from .note import ED25519, Key, line_is_valid, parse_vkey
from .record import Entry, Json


@dataclass
class Grant:
    """A key with what it was granted for, and when."""

    key: Key
    role: Json
    agents: list[str]
    granted: int
    revoked: int | None = None

    def counts(self, index: int, role: Json, agent: str) -> bool:
        """§4.3."""
        in_force = self.granted < index and (self.revoked is None or index < self.revoked)
        return in_force and self.role == role and any(_covers(scope, agent) for scope in self.agents)


def _covers(scope: str, agent: str) -> bool:
    return scope in ("*", agent) or (scope.endswith("/*") and agent.startswith(scope[:-1]))


@dataclass
class Authority:
    """The key ring and the published bundles that the operator's entries make, in order of index."""

    origin: str
    operator: Key
    gaps: bool  # a pack need not hold all of the operator's chain; a log does
    grants: list[Grant] = field(default_factory=list)
    published: dict[bytes, int] = field(default_factory=dict)  # digest to index
    sizes: dict[bytes, int] = field(default_factory=dict)  # digest to the bundle's stated size
    revoked: list[Key] = field(default_factory=list)
    erased: set[bytes] = field(default_factory=set)
    last: Entry | None = None
    last_index: int = -1
    complete: bool = True  # no seq is missing so far
    whole: bool = False  # and none is missing up to the run's last record

    def apply(self, entry: Entry, index: int) -> None:
        """Checks and applies an operator's entry (§4.2)."""
        value = entry.value
        signed_by = (entry.line.name, entry.line.key_id) == (self.operator.name, self.operator.id)
        need(signed_by, "not-the-operator", "an operator's entry by another key")
        valid = line_is_valid(self.operator, entry.line, entry.note.text)
        need(valid, "signature-invalid", "not the operator's signature")
        need(value["log"] == self.origin, "wrong-log", f"an operator's entry for {value['log']}")
        next_seq = self.last.value["seq"] + 1 if self.last else 0
        if self.gaps and value["seq"] > next_seq:
            self.complete = False
        else:
            need(value["seq"] == next_seq, "operator-chain", f"seq {value['seq']} where {next_seq} is next")
            need(value.get("prev") == (b64(self.last.leaf) if self.last else None), "operator-chain", "`prev` differs")
        need(self.last is None or self.last.value["time"] <= value["time"], "operator-chain", "time goes backwards")
        if value["kind"] == "key":
            self._apply_key(entry.body, index)
        elif value["kind"] == "policy":
            digest = hash_from(entry.body["bundle"])
            need(digest not in self.published, "operator-chain", "a bundle is published twice")
            self.published[digest] = index
            self.sizes[digest] = entry.body["size"]
        else:
            self.erased.add(hash_from(entry.body["digest"]))
        self.last, self.last_index = entry, index

    def _apply_key(self, body: Json, index: int) -> None:
        if "grant" in body:
            grant = body["grant"]
            key = parse_vkey(grant["vkey"], [ED25519])
            need(key.name not in (self.origin, self.operator.name), "grant-refused", "a reserved name is granted")
            need(key.public != self.operator.public, "grant-refused", "the operator's key is granted")
            for old in [*(grant.key for grant in self.grants), *self.revoked]:
                again = key.public == old.public or (key.name, key.id) == (old.name, old.id)
                need(not again, "grant-refused", f"{key.name} is granted twice, or behind its revocation")
            self.grants.append(Grant(key, grant["role"], grant["agents"], index))
        else:
            key = parse_vkey(body["revoke"]["vkey"])
            found = next((grant for grant in self.grants if grant.key == key), None)
            # Where entries are missing, the grant may be one of them.
            need(found is not None or not self.complete, "grant-refused", "a key is revoked that was not granted")
            need(key not in self.revoked, "grant-refused", "a key is revoked twice")
            self.revoked.append(key)
            if found is not None:
                found.revoked = index

    def find(self, name: str, key_id: bytes) -> Grant | None:
        return next((g for g in self.grants if (g.key.name, g.key.id) == (name, key_id)), None)

    def check_signature(self, entry: Entry, index: int) -> None:
        """The entry's key counts for its agent at this index, and signed it (step 5 of §11.2)."""
        line = entry.line
        grant = self.find(line.name, line.key_id)
        need(grant is not None, "key-not-granted", f"no grant of the key {line.name}")
        assert grant is not None
        counts = grant.counts(index, "kernel", entry.value["agent"])
        need(counts, "key-not-granted", f"{line.name} does not count for {entry.value['agent']} at index {index}")
        need(line_is_valid(grant.key, line, entry.note.text), "signature-invalid", f"not the signature of {line.name}")


@dataclass
class Chain:
    """The records of one run so far (§3.5)."""

    origin: str
    opened: Entry | None = None
    last: Entry | None = None

    def admit(self, entry: Entry) -> None:
        value = entry.value
        if self.opened is None or self.last is None:
            need(value["seq"] == 0, "chain-gap", f"seq {value['seq']} where 0 is next")
            need(value["kind"] == "open", "chain-gap", "the run does not start with `open`")
            need(entry.body["log"] == self.origin, "wrong-log", f"the run is for {entry.body['log']}")
            self.opened = self.last = entry
            return
        last = self.last.value
        need(last["kind"] != "close", "after-close", "a record behind the close")
        need(value["seq"] == last["seq"] + 1, "chain-gap", f"seq {value['seq']} where {last['seq'] + 1} is next")
        need(value["prev"] == b64(self.last.leaf), "prev-differs", "`prev` is not the leaf hash of the record before")
        need(value["time"] >= last["time"], "time-backwards", "the time goes backwards")
        need(value["kind"] != "open", "chain-fork", "the run is opened twice")
        need(value["agent"] == last["agent"], "agent-differs", "another agent")
        need(entry.line.name == self.opened.line.name, "signer-differs", "signed under another key name")
        self.last = entry


def check_log(entries: list[tuple[int, Entry]], authority: Authority) -> dict[str, Chain]:
    """Step 3 of §11.3, for tests over whole logs."""
    chains: dict[str, Chain] = {}
    for index, entry in entries:
        if entry.is_operator:
            authority.apply(entry, index)
            continue
        authority.check_signature(entry, index)
        run = entry.value["run"]
        chains.setdefault(run, Chain(authority.origin)).admit(entry)
        if entry.value["kind"] == "open":
            published = authority.published.get(hash_from(entry.body["policy"]))
            need(published is not None, "policy-not-published", "the run's bundle is not published before it")
    return chains
