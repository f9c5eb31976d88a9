"""A run, from its evidence pack: the steps of SPEC §11.2 in their order.

Step 9 is not done: policy decisions and policy inputs are not derived again, and every report says so.
"""

from __future__ import annotations

from typing import Any

from .authority import Authority, Chain
from .base import Refused, hash_from, need, sha256
from .calls import Calls
from .money import PriceList, check_files, limits_of, narrowed, prices_of
from .note import line_is_valid
from .pack import Pack, check_object, decode_bundle, read_pack
from .record import (
    MAX_INNER, Entry, Json, canonical, one_signature, parse_delegation_text, parse_entry, read_document,
)
from .report import Report
from .tree import check_multi_inclusion, leaf_hash
from .trust import Trust

OUTPUT_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")


def check_run(raw: bytes, trust: Trust, subject: str) -> Report:
    """§11.2."""
    report = Report(subject)
    try:
        _Run(raw, trust, report).check()
    except Refused as refused:
        report.refused(refused)
    return report


class _Run:
    """One pass over one pack."""

    def __init__(self, raw: bytes, trust: Trust, report: Report) -> None:
        self.raw, self.trust, self.report = raw, trust, report
        self.records: list[tuple[int, Entry]] = []
        self.contents: dict[bytes, bytes] = {}  # digest of an object to its content
        self.delegation: Json | None = None
        self.pack: Pack
        self.authority: Authority

    def check(self) -> None:
        report, trust = self.report, self.trust
        self.pack = pack = read_pack(self.raw)  # step 1
        checkpoint = trust.believe(pack.checkpoint)  # step 2
        report.verified.append(f"checkpoint: {checkpoint.origin} signed a tree of {checkpoint.size} entries")
        leaves = [(index, leaf_hash(raw)) for index, raw in sorted(pack.entries.items())]
        check_multi_inclusion(checkpoint.size, leaves, pack.proof, checkpoint.root)  # step 3
        report.verified.append(f"inclusion: {len(leaves)} entries")
        need(trust.operator is not None, "no-operator", "the trust file names no operator")
        assert trust.operator is not None
        self.authority = Authority(checkpoint.origin, trust.operator, gaps=True)
        self._operator_and_signatures()
        self._chain()
        if report.findings:
            report.unchecked.append("payloads, approvals, budget and outcomes make sense only along a whole chain")
            return
        self._payloads()
        prices = self._bundle()
        report.unchecked.append("policy decisions and policy inputs are not derived again: no policy engine here")
        calls = Calls(self.records, self.authority, self.contents, self.delegation, prices, report)
        calls.check()

    def _operator_and_signatures(self) -> None:
        """Steps 4 and 5."""
        others: list[tuple[int, Entry]] = []
        for index, raw in sorted(self.pack.entries.items()):
            try:
                entry = parse_entry(raw)
                if entry.is_operator:
                    self.authority.apply(entry, index)
                else:
                    need(entry.value["run"] == self.pack.run, "another-run", "a record of another run")
                    others.append((index, entry))
            except Refused as refused:
                self.report.refused(refused, index=index)
        for index, entry in others:
            try:
                self.authority.check_signature(entry, index)
            except Refused as refused:
                self.report.refused(refused, index=index, seq=entry.value["seq"])
        self.records = others
        self.report.verified.append(f"signatures: {len(others)} records")
        last = others[-1][0] if others else 0
        # Nothing is left out where an operator's entry follows, or where every entry of the log is here (§9).
        dense = all(index in self.pack.entries for index in range(last))
        self.authority.whole = self.authority.complete and (self.authority.last_index > last or dense)
        if not self.authority.whole:
            self.report.unchecked.append("that no key was revoked before it signed: the operator's chain is not whole")

    def _chain(self) -> None:
        """Step 6."""
        need(bool(self.records), "chain-gap", "the pack has no record")
        chain = Chain(self.authority.origin)
        for index, entry in self.records:
            try:
                chain.admit(entry)
            except Refused as refused:
                self.report.refused(refused, index=index, seq=entry.value["seq"])
                return
        index, opened = self.records[0]
        published = self.authority.published.get(hash_from(opened.body["policy"]))
        if published is None or published >= index:
            self.report.find("policy-not-published", "no publication of the bundle before `open`", index=index)
        self.report.verified.append(f"chain: {len(self.records)} records of {opened.value['agent']}")

    def _payloads(self) -> None:
        """Step 7."""
        committed: dict[bytes, set[int]] = {}
        for _, entry in self.records:
            for commitment in _commitments(entry):
                committed.setdefault(hash_from(commitment["digest"]), set()).add(commitment["size"])
        for digest, raw in self.pack.objects.items():
            try:
                need(digest in committed, "payload-uncommitted", f"no record commits to {digest.hex()}")
                for size in committed[digest]:
                    self.contents[digest] = check_object(raw, digest, size)
            except Refused as refused:
                self.report.refused(refused)
        missing = set(committed) - set(self.pack.objects)
        erased = missing & self.authority.erased
        self.report.verified.append(f"payloads: {len(self.contents)} of {len(committed)}")
        if missing - erased:
            self.report.unchecked.append(f"{len(missing - erased)} payloads are withheld")
        if erased:
            self.report.unchecked.append(f"{len(erased)} payloads are erased")
        for _, entry in self.records:
            if entry.value["kind"] == "intent":
                try:
                    self._requests(entry)
                except Refused as refused:
                    self.report.refused(refused, seq=entry.value["seq"])

    def _content(self, commitment: Json) -> bytes | None:
        return self.contents.get(hash_from(commitment["digest"]))

    def _json(self, commitment: Json) -> Any:
        content = self._content(commitment)
        try:
            return None if content is None else read_document(content)
        except Refused:
            return None

    def _requests(self, entry: Entry) -> None:
        """What a disclosed request or response says about the call."""
        call = entry.body["call"]
        if "model" in call:
            request = self._json(call["model"]["request"])
            if isinstance(request, dict):
                same = request.get("model", call["model"]["model"]) == call["model"]["model"]
                need(same, "request-differs", "the request names another model")
                for name in OUTPUT_LIMITS:
                    given = request.get(name)
                    small = given is None or (type(given) is int and 0 <= given <= call["model"]["max_output"])
                    need(small, "request-differs", f"{name} is not an integer of at most max_output")
        elif "proposed_by" in call.get("tool", {}):
            self._proposal(entry)

    def _proposal(self, entry: Entry) -> None:
        tool, seq = entry.body["call"]["tool"], entry.value["seq"]
        values = [e.value for _, e in self.records[:seq]]
        proposer = values[tool["proposed_by"]]
        is_model = proposer["kind"] == "intent" and "model" in proposer["intent"]["call"]
        need(is_model, "proposal-differs", "`proposed_by` is no model call")
        answers = [v["outcome"] for v in values if v["kind"] == "outcome" and v["outcome"]["intent"] == proposer["seq"]]
        answered = bool(answers) and answers[0]["status"] != "cancelled"
        need(answered, "proposal-differs", "the model call has no outcome before the tool call")
        response = self._json(answers[0]["result"]) if "result" in answers[0] else None
        listed = _tool_calls(response)
        if listed is None:
            self.report.unchecked.append(f"that the model's answer proposed the call at seq {seq}")
            return
        args = self._content(tool["args"])
        for made in listed:
            function = made["function"]
            same = (made["id"], function["name"]) == (tool["id"], tool["name"])
            if same and (args is None or _same_arguments(function["arguments"], args)):
                return
        raise Refused("proposal-differs", "the model's answer did not propose this call")

    def _bundle(self) -> PriceList | None:
        """Step 8, without compiling the policy; and the limits that a delegation leaves (steps 8 and 13)."""
        index, opened = self.records[0]
        self._read_delegation(index, opened)
        policy = hash_from(opened.body["policy"])
        for digest, raw in self.pack.bundles.items():
            if sha256(raw) != digest:
                self.report.find("bundle-differs", f"{digest.hex()} is the digest of other bytes")
            elif digest != policy:
                self.report.find("bundle-differs", f"{digest.hex()} is not the run's bundle")
        own = opened.body["limits"]
        if policy not in self.pack.bundles:
            self.report.unchecked.append("the bundle is withheld: limits and prices are not compared with it")
            if self.delegation is not None and narrowed(own, self.delegation, opened.value["time"]) != own:
                self.report.find("limits-differ", "the run's limits are wider than what was delegated", seq=0)
            return None
        size = self.authority.sizes.get(policy, len(self.pack.bundles[policy]))
        if size != len(self.pack.bundles[policy]):
            self.report.find("bundle-differs", f"the bundle was published as one of {size} bytes")
        try:
            files = decode_bundle(self.pack.bundles[policy])
            check_files(files)
            limits, prices = limits_of(files), prices_of(files)
            if self.delegation is not None:
                limits = narrowed(limits, self.delegation, opened.value["time"])
            need(limits == own, "limits-differ", "the run's limits are not those of its bundle")
        except Refused as refused:
            self.report.refused(refused, seq=0)
            return None
        self.report.verified.append("bundle: its bytes and limits are the run's")
        return prices

    def _read_delegation(self, index: int, opened: Entry) -> None:
        """The delegation of `open` (§3.7)."""
        if "delegation" not in opened.body:
            return
        try:
            note = one_signature(opened.body["delegation"].encode("utf-8"), MAX_INNER)
            given = parse_delegation_text(note.text)
            parent = opened.body["parent"]
            same = (
                given["log"] == self.authority.origin and given["run"] == opened.value["run"]
                and given["agent"] == opened.value["agent"] and given["kernel"] == opened.line.name
                and given["depth"] == parent["depth"]
                and (given["parent"]["run"], given["parent"]["seq"]) == (parent["run"], parent["seq"])
            )
            need(same, "delegation-invalid", "the delegation is for another run")
            need(opened.value["time"] <= given["deadline"], "delegation-invalid", "the run was opened too late")
            self.delegation = given
            line = note.lines[0]
            grant = self.authority.find(line.name, line.key_id)
            need(grant is not None or not self.authority.whole, "key-not-granted", f"no grant of the key {line.name}")
            if grant is None:
                self.report.unchecked.append(f"the key {line.name}, which delegated: the pack has no grant of it")
                return
            counts = grant.counts(index, "kernel", given["parent"]["agent"])
            need(counts, "delegation-invalid", f"the key {line.name} does not count")
            need(line_is_valid(grant.key, line, note.text), "delegation-invalid", "the signature does not verify")
        except Refused as refused:
            self.report.find("delegation-invalid", f"{refused.code}: {refused.detail}", seq=0)


def _commitments(entry: Entry) -> list[Json]:
    """All commitments of a record (§5)."""
    kind, body = entry.value["kind"], entry.body
    if kind == "outcome":
        return [body["result"]] if "result" in body else []
    if kind != "intent":
        return []
    call = body["call"]
    payload = {"agent": "task", "model": "request", "tool": "args"}
    return [body["decision"]["input"], *(call[k][field] for k, field in payload.items() if k in call)]


def _tool_calls(response: Any) -> list[Any] | None:
    """OpenAI's `tool_calls`, of a message or of the choices of a response; nothing where one is not of that form."""
    if not isinstance(response, dict):
        return None
    messages = [response]
    if isinstance(response.get("choices"), list):
        messages += [choice.get("message") for choice in response["choices"] if isinstance(choice, dict)]
    lists = [m["tool_calls"] for m in messages if isinstance(m, dict) and isinstance(m.get("tool_calls"), list)]
    calls = [made for found in lists for made in found]
    return calls if lists and all(_is_tool_call(made) for made in calls) else None


def _is_tool_call(made: Any) -> bool:
    function = made.get("function") if isinstance(made, dict) else None
    return (
        isinstance(function, dict) and isinstance(made.get("id"), str) and isinstance(function.get("name"), str)
        and "arguments" in function
    )


def _same_arguments(given: Any, args: bytes) -> bool:
    """The same bytes, or the same JSON."""
    if isinstance(given, str) and given.encode("utf-8", "surrogatepass") == args:
        return True
    try:
        proposed = read_document(given.encode("utf-8", "surrogatepass")) if isinstance(given, str) else given
        return canonical(proposed) == canonical(read_document(args))
    except Refused:
        return False
