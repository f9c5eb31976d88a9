"""The calls of a run along its chain: approvals, budget, pairing, close, delegations (SPEC §11.2 steps 10 to 13)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .authority import Authority
from .base import MAX_INT, Refused, b64, hash_from, need, sha256
from .money import Amounts, PriceList, add, cost, worst_case
from .note import line_is_valid
from .record import MAX_INNER, Entry, Json, canonical, effect_of, one_signature, parse_entry, parse_statement_text
from .report import Report

WINDOWS_MS = {"hour": 3_600_000, "day": 86_400_000}


@dataclass
class Call:
    """An intent and what became of it so far."""

    record: Json
    effect: str
    outcome: Json | None = None
    answers: list[tuple[str, bytes]] = field(default_factory=list)  # key name and public key of each answer
    approved: dict[str, int] = field(default_factory=dict)  # approvals that count, by role
    released_at: int | None = None  # seq of the approval that completed it
    refused: bool = False  # or answered too late: it may not run

    @property
    def intent(self) -> Json:
        return self.record["intent"]

    @property
    def action(self) -> str:
        """The digest of the action (§3.6)."""
        value = {name: self.record[name] for name in ("agent", "run", "seq")} | {"call": self.intent["call"]}
        return b64(sha256(b"sift/action@v1\n", canonical(value)))


@dataclass
class Calls:
    """Walks the records once and judges each in its place."""

    records: list[tuple[int, Entry]]
    authority: Authority
    contents: dict[bytes, bytes]
    delegation: Json | None
    prices: PriceList | None
    report: Report
    calls: dict[int, Call] = field(default_factory=dict)
    settled: list[tuple[int, Amounts]] = field(default_factory=list)  # time of the outcome, and what it settled
    halts: list[tuple[int, str]] = field(default_factory=list)  # seq and cause
    census: dict[str, int] = field(default_factory=dict)
    opened: Json = None  # the record `open`
    above: bool = False  # whether a run above this one is at the same kernel
    below: bool = False  # whether a run below this one is, so far
    overspent_at: int | None = None  # seq of an outcome over its hold that no halt has answered yet

    def check(self) -> None:
        self.opened = self.records[0][1].value
        # Runs that share a ledger with this one have their records in other packs (§6.6).
        self.above = "parent" in self.opened["open"] and "delegation" not in self.opened["open"]
        steps = {"intent": self._intent, "approval": self._approval, "outcome": self._outcome, "close": self._close}
        for index, entry in self.records:
            seq = entry.value["seq"]
            try:
                if entry.value["kind"] == "halt":
                    self.halts.append((seq, entry.body["cause"]))
                    if entry.body["cause"] == "overspend":
                        self.overspent_at = None
                elif entry.value["kind"] in steps:
                    steps[entry.value["kind"]](index, entry)
            except Refused as refused:
                self.report.refused(refused, index=index, seq=seq)
            self.census[entry.value["kind"]] = self.census.get(entry.value["kind"], 0) + 1
        self._end()

    # Step 11: reservations and refusals.

    def _intent(self, _: int, entry: Entry) -> None:
        record, intent = entry.value, entry.body
        call = Call(record, effect_of(intent))
        before = list(self.calls.values())
        self.calls[record["seq"]] = call
        if "model" in intent["call"]:
            model = intent["call"]["model"]
            bounded = model["input"]["method"] != "utf8-bytes" or model["input"]["tokens"] >= model["request"]["size"]
            need(bounded, "reservation-differs", "the input bound is below the request's size")
        if intent["decision"]["effect"] == "deny":
            return
        worst = self._worst(intent)
        expected = self._expected_refusals(record, worst, before)
        refusal = intent.get("refusal")
        if refusal is None:
            need(not self.halts, "dispatch-after-halt", "a call is let through behind a halt")
            need(self.overspent_at is None, "overspend", "a call is let through before the halt for overspend")
            need(not expected, "budget-exceeded", f"let through, where the budget refuses: {expected[:1]}")
            need(intent["reserved"] == worst, "reservation-differs", f"reserved is not the worst case {worst}")
            sums = add(self._used(before, None, record["time"]), worst)
            need(max(sums.values()) <= MAX_INT, "budget-exceeded", "a sum is too large")
            self.below |= "agent" in intent["call"] and "delegate" not in intent["call"]["agent"]
        else:
            self._check_refusal(refusal, expected, worst, record)

    def _model(self, call: Json) -> Any:
        return self.prices and self.prices.find(call["model"]["provider"], call["model"]["model"])

    def _worst(self, intent: Json) -> Amounts:
        call = intent["call"]
        if "model" not in call:
            return worst_case(call, None)
        worst = worst_case(call, self._model(call))
        if self.prices is None:  # what it may cost is then the record's word
            stated = intent.get("refusal", {}).get("limit", {})
            money = stated.get("need", 0) if stated.get("meter") == "micro_usd" else 0
            worst = add(worst, {"micro_usd": intent["reserved"].get("micro_usd", money)})
        return worst

    def _used(self, calls: list[Call], window: str | None, now: int) -> Amounts:
        """What is held, and what was settled in the window (§6.6)."""
        used: Amounts = {}
        for call in calls:
            if call.effect != "deny" and call.outcome is None:
                used = add(used, call.intent["reserved"])
        for time, amounts in self.settled:
            newest = time // 60_000 * 60_000 + 59_999
            if window not in WINDOWS_MS or newest + WINDOWS_MS[window] > now:
                used = add(used, amounts)
        return used

    def _expected_refusals(self, record: Json, worst: Amounts, before: list[Call]) -> list[Json]:
        """What this run's own records refuse, in the order of §6.6."""
        limits, call, now = self.opened["open"]["limits"], record["intent"]["call"], record["time"]
        result: list[Json] = []
        if "model" in call and self.prices is not None and self._model(call) is None:
            if any(m["meter"] == "micro_usd" for m in limits["meters"]):
                result.append({"unpriced": {"model": call["model"]["model"]}})
        lasted = now - self.opened["time"]
        if lasted > limits.get("wall_clock_ms", MAX_INT):
            result.append({"wall_clock": {"have_ms": lasted, "limit_ms": limits["wall_clock_ms"]}})
        identical, unknown = self._identical(call, before)
        if "tool" in call and "identical_calls" in limits:
            if identical >= limits["identical_calls"]:
                result.append({"identical": {"have": identical, "limit": limits["identical_calls"]}})
            elif identical + unknown >= limits["identical_calls"]:
                self.report.unchecked.append(f"identical calls at seq {record['seq']}: arguments are withheld")
        depth = self.opened["open"].get("parent", {}).get("depth", 0)
        if "agent" in call and depth >= limits.get("depth", 2**32):
            result.append({"depth": {"have": depth, "limit": limits["depth"]}})
        for limit in limits["meters"]:
            have = self._used(before, limit["window"], now).get(limit["meter"], 0)
            wanted = worst.get(limit["meter"], 0)
            if wanted > 0 and have + wanted > limit["limit"]:
                result.append({"limit": {**limit, "have": have, "need": wanted}})
        return result

    def _identical(self, call: Json, before: list[Call]) -> tuple[int, int]:
        """How many calls were identical, and how many could have been but for withheld arguments."""
        if "tool" not in call:
            return 0, 0
        same = unknown = 0
        args = self._args(call)
        for other in before:
            tool = other.intent["call"].get("tool")
            if tool is None or other.effect == "deny" or tool["name"] != call["tool"]["name"]:
                continue
            theirs = self._args(other.intent["call"])
            if args is not None and theirs is not None:
                same += args == theirs
            elif tool["args"]["digest"] == call["tool"]["args"]["digest"]:
                same += 1
            else:
                unknown += tool["args"]["size"] == call["tool"]["args"]["size"]
        return same, unknown

    def _args(self, call: Json) -> bytes | None:
        return self.contents.get(hash_from(call["tool"]["args"]["digest"]))

    def _check_refusal(self, refusal: Json, expected: list[Json], worst: Amounts, record: Json) -> None:
        """What was refused is what the sums refuse, or what records of other packs may refuse (§6.6)."""
        ours = expected[0] if expected else {}
        if refusal == ours:
            return
        possible = self._elsewhere(refusal, ours, worst, record)
        need(possible, "refusal-differs", f"refused for {refusal}, expected {expected[:1]}")
        self.report.unchecked.append(f"the refusal at seq {record['seq']} rests on what the pack does not hold")

    def _elsewhere(self, refusal: Json, ours: Json, worst: Amounts, record: Json) -> bool:
        """Whether this run's sums are a part of the stated one, and nothing that is checked before it refuses."""
        kind, given = next(iter(refusal.items()))
        first = next(iter(ours), "")
        opened, call, before = self.opened["open"], record["intent"]["call"], list(self.calls.values())[:-1]
        limits = opened["limits"]
        if kind == "unpriced":
            same = "model" in call and call["model"]["model"] == given["model"]
            money = any(m["meter"] == "micro_usd" for m in limits["meters"])
            limited = self.above or (self.prices is None and money)
            return same and limited and (self.prices is None or self._model(call) is None)
        if kind == "wall_clock":
            return self.above and first != kind and given["have_ms"] >= record["time"] - self.opened["time"]
        if kind == "identical":
            same, unknown = self._identical(call, before)
            own = limits.get("identical_calls") == given["limit"] and "tool" in call
            return own and same <= given["have"] <= same + unknown and first != "wall_clock"
        if kind == "depth":
            depth = opened.get("parent", {}).get("depth", 0)
            later = first in ("", "limit") or (first == "depth" and given["limit"] < ours["depth"]["limit"])
            return self.above and later and given["have"] == depth and "agent" in call

        def place(limit: Json) -> tuple[str, str, str]:
            return limit["scope"], limit["window"], limit["meter"]

        # The run's own limits come first, in their order; then those of the runs above it.
        listed = {k: given[k] for k in ("limit", "meter", "scope", "window")} in limits["meters"]
        own = listed and (given["scope"] != "run" or self.below)
        own = own and (not ours or (first == "limit" and place(given) <= place(ours["limit"])))
        above = self.above and given["scope"] == "run" and not ours
        used = self._used(before, given["window"], record["time"]).get(given["meter"], 0)
        return (own or above) and given["need"] == worst.get(given["meter"], 0) and given["have"] >= used

    # Step 10: approvals.

    def _approval(self, index: int, entry: Entry) -> None:
        body, call = entry.body, self.calls.get(entry.body["intent"])
        need(call is not None and call.effect == "hold", "approval-invalid", "it names no held call")
        assert call is not None
        need(call.outcome is None, "approval-invalid", "the call has its outcome already")
        try:
            note = one_signature(body["statement"].encode("utf-8"), MAX_INNER)
            statement = parse_statement_text(note.text)
        except Refused as refused:
            raise Refused("approval-invalid", refused.detail) from refused
        hold = call.intent["decision"]["hold"]
        said = tuple(statement[name] for name in ("action", "deadline", "intent", "log", "run"))
        meant = (call.action, hold["deadline"], call.record["seq"], self.authority.origin, call.record["run"])
        need(said == meant, "approval-invalid", "the statement is about another action")
        counts = {a["role"]: a["count"] for a in hold["approvals"]}
        role, line = statement["role"], note.lines[0]
        need(role in counts, "approval-invalid", f"the role {role} is not asked for")
        grant = self.authority.find(line.name, line.key_id)
        in_force = grant is not None and grant.counts(index, {"approver": role}, call.record["agent"])
        need(in_force, "approval-invalid", f"the key {line.name} does not count as {role}")
        assert grant is not None
        need(line_is_valid(grant.key, line, note.text), "approval-invalid", "the signature does not verify")
        settled = call.refused or call.released_at is not None
        need(not settled, "approval-invalid", "the call was released or refused before")
        again = any(name == line.name or public == grant.key.public for name, public in call.answers)
        need(not again, "approval-invalid", f"{line.name} answers twice")
        call.answers.append((line.name, grant.key.public))
        refuses = statement["answer"] == "refuse"
        enough = not refuses and call.approved.get(role, 0) >= counts[role]
        need(not enough, "approval-invalid", f"enough have approved as {role}")
        if refuses or entry.value["time"] > hold["deadline"]:
            call.refused = True
            return
        call.approved[role] = call.approved.get(role, 0) + 1
        if call.approved == counts:
            call.released_at = entry.value["seq"]

    # Steps 11 and 12: outcomes.

    def _outcome(self, index: int, entry: Entry) -> None:
        body, call = entry.body, self.calls.get(entry.body["intent"])
        answers = call is not None and call.effect != "deny"
        need(answers, "outcome-unpaired", "it answers no call that was let through")
        assert call is not None
        need(call.outcome is None, "outcome-unpaired", "the call has an outcome already")
        call.outcome = body
        self.settled.append((entry.value["time"], body["settled"]))
        proposed = call.intent["call"]
        need("model" not in body or "model" in proposed, "outcome-unpaired", "`model` in the outcome of no model call")
        if call.effect == "hold" and body["status"] != "cancelled":
            need(call.released_at is not None, "approval-missing", "a held call ran without its approvals")
            late = any(seq < (call.released_at or 0) for seq, _ in self.halts)
            need(not late, "dispatch-after-halt", "a call ran that was approved behind a halt")
        if "close" in body:
            self._close_of_sub_agent(index, body, proposed)
        held = call.intent["reserved"]
        wanted = self._settlements(body, held, proposed)
        need(not wanted or body["settled"] in wanted, "settlement-differs", f"settled is not {wanted}")
        over = any(count > held.get(meter, 0) for meter, count in body["settled"].items())
        if over and not self.halts:
            self.overspent_at = entry.value["seq"]

    def _settlements(self, body: Json, held: Amounts, call: Json) -> list[Amounts]:
        """What §3.3 allows for each status. Nothing for one with `close`, which was compared with that already."""
        status, model = body["status"], body.get("model")
        if status == "cancelled":
            return [{}]
        if status != "unknown" and "close" in body:
            return []
        by_provider = model is not None and model["method"] == "provider"
        if model is None or status == "unknown" or (status == "timeout" and not by_provider):
            return [held]
        spent = cost(model["usage"], self._model(call))
        if self.prices is None and "micro_usd" in body["settled"]:
            spent = add(spent, {"micro_usd": body["settled"]["micro_usd"]})
        return [spent, held] if status == "timeout" else [spent]

    def _close_of_sub_agent(self, index: int, body: Json, call: Json) -> None:
        """The `close` entry of a run under another kernel (§3.7)."""
        delegate = call.get("agent", {}).get("delegate")
        need(delegate is not None, "delegation-invalid", "`close` in the outcome of a call that does not delegate")
        assert delegate is not None
        try:
            entry = parse_entry(body["close"].encode("utf-8"))
        except Refused as refused:
            raise Refused("delegation-invalid", refused.detail) from refused
        need(not entry.is_operator and entry.value["kind"] == "close", "delegation-invalid", "no `close` entry")
        said = (entry.value["run"], entry.value["agent"], entry.line.name)
        meant = (call["agent"]["run"], call["agent"]["agent"], delegate["kernel"])
        need(said == meant, "delegation-invalid", "the `close` is that of another run")
        total = add(add(entry.body["settled"], entry.body.get("below", {})), {"agents": 1})
        if body["status"] in ("ok", "error", "timeout"):
            need(body["settled"] == total, "settlement-differs", f"settled is not what the `close` says: {total}")
        line = entry.line
        grant = self.authority.find(line.name, line.key_id)
        need(grant is not None or not self.authority.whole, "key-not-granted", f"no grant of the key {line.name}")
        if grant is None:
            self.report.unchecked.append(f"the key {line.name} of a sub-agent's kernel: the pack has no grant of it")
            return
        need(grant.counts(index, "kernel", entry.value["agent"]), "delegation-invalid", f"{line.name} does not count")
        need(line_is_valid(grant.key, line, entry.note.text), "delegation-invalid", "the signature does not verify")

    # Steps 12 and 13: the end.

    def _total(self) -> Amounts:
        total: Amounts = {}
        for _, amounts in self.settled:
            total = add(total, amounts)
        return total

    def _close(self, _: int, entry: Entry) -> None:
        body = entry.body
        need(body["census"] == self.census, "census-differs", f"the records are {self.census}")
        need(body["settled"] == self._total(), "sum-differs", f"the outcomes settled {self._total()}")
        halted = body["reason"] in ("halted", "abandoned") if self.halts else body["reason"] != "halted"
        need(halted, "close-differs", "`halted` is the reason of a run that was halted, and only of such a one")
        if "below" in body:
            need("delegation" in self.opened["open"], "inconsistent", "`below` in a run that was not delegated")
            self.report.unchecked.append("what `below` sums up needs the packs of the runs below")
        if self.delegation is not None:
            budget, used = self.delegation["budget"], add(body["settled"], body.get("below", {}))
            over = [meter for meter, count in used.items() if count > budget.get(meter, 0)]
            halted = any(cause == "overspend" for _, cause in self.halts)
            need(not over or halted, "budget-exceeded", f"more than was delegated: {', '.join(over)}")

    def _end(self) -> None:
        find, unchecked = self.report.find, self.report.unchecked
        if self.overspent_at is not None:
            find("overspend", "more than was held is settled, and no halt came", seq=self.overspent_at)
        if self.records[-1][1].value["kind"] != "close":
            find("tail-missing", "the run has no close: its end was dropped, or it still runs")
        for seq, call in self.calls.items():
            if call.effect != "deny" and call.outcome is None:
                find("outcome-missing", "the call has no outcome", seq=seq)
        if any(call.effect == "hold" for call in self.calls.values()):
            unchecked.append("what approvers were shown is known only as a hash")
        if any(m["scope"] != "run" for m in self.opened["open"]["limits"]["meters"]) or self.above or self.below:
            unchecked.append("limits that span other runs need their records")
        self.report.verified.append(f"calls: {len(self.calls)}, with approvals, budget, outcomes and close")
