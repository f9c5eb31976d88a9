"""Canonical JSON, and the texts that are signed: records, operator's, statements, delegations (SPEC §3, §4.1)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Callable

from .base import MAX_INT, Refused, hash_from, need, utf8
from .note import Note, SignatureLine, is_key_name, parse_note, parse_vkey
from .tree import leaf_hash

Json = Any  # str, int, list or dict: what the canonical JSON of §3.1 can hold
Check = Callable[[Json], None]

MAX_ENTRY = 65_535
MAX_INNER = 8192
METERS = (
    "agents cache_read_tokens cache_write_tokens input_tokens micro_usd model_calls output_tokens reasoning_tokens "
    "tokens tool_calls"
).split()
RECORD, OPERATOR = "sift/record@v1", "sift/operator@v1"
STATEMENT, DELEGATION = "sift/approval@v1", "sift/delegation@v1"


def canonical(value: Json) -> bytes:
    """The one encoding of §3.1."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8")
    except (UnicodeEncodeError, RecursionError) as error:
        raise Refused("json", "a lone surrogate, or nested too deep") from error


def read_json(text: str) -> Json:
    """JSON without a member twice, and with numbers that are exact (§6.3); others would have two readings."""

    def members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        result = dict(pairs)
        need(len(result) == len(pairs), "json", "a member twice")
        return result

    def whole(digits: str) -> int | float:
        exact = digits != "-0" and len(digits) <= 20 and -(2**63) <= int(digits) < 2**64
        return int(digits) if exact else decimals(digits)

    def decimals(digits: str) -> float:
        value = float(digits)
        same = abs(value) <= 2**53 and Decimal(repr(value)) == Decimal(digits)
        need(same, "json", f"a number that is not exact: {digits:.40}")
        return value

    def constant(name: str) -> Json:
        raise Refused("json", f"no number: {name}")

    try:
        return json.loads(
            text, object_pairs_hook=members, parse_int=whole, parse_float=decimals, parse_constant=constant
        )
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise Refused("json", "not JSON") from error


def read_document(raw: bytes) -> Json:
    """JSON that a tool, a model or an agent gave."""
    value = read_json(utf8(raw, "json"))
    need(_nested_at_most(value, 64), "json", "nested above 64")
    canonical(value)  # refuses a lone surrogate
    return value


def _nested_at_most(value: Json, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return inner is None or (levels > 0 and all(_nested_at_most(item, levels - 1) for item in inner))


def parse_canonical(text: str) -> Json:
    """Refuses what its own printing does not give back (§3.1)."""
    value = read_json(text)
    need(canonical(value) == text.encode("utf-8"), "json", "not canonical")
    return value


# Checkers of values. Each refuses what does not fit; §3.2 names them.


def text(limit: int) -> Check:
    def check(value: Json) -> None:
        need(isinstance(value, str) and len(value.encode("utf-8")) <= limit, "json", f"not text of {limit} bytes")

    return check


def integer(low: int = 0, high: int = MAX_INT) -> Check:
    def check(value: Json) -> None:
        need(type(value) is int and low <= value <= high, "json", f"not an integer of {low} to {high}: {value!r:.40}")

    return check


def pattern(expression: str, limit: int) -> Check:
    compiled = re.compile(expression)

    def check(value: Json) -> None:
        good = isinstance(value, str) and len(value) <= limit and compiled.fullmatch(value) is not None
        need(good, "json", f"not of the expected form: {value!r:.60}")

    return check


def one_of(*values: str) -> Check:
    def check(value: Json) -> None:
        need(isinstance(value, str) and value in values, "json", f"not one of {', '.join(values)}")

    return check


def obj(fields: dict[str, Check]) -> Check:
    """An object with exactly these members; a name that ends in `?` is optional."""
    needed = {name: check for name, check in fields.items() if not name.endswith("?")}
    known = {name.rstrip("?"): check for name, check in fields.items()}

    def check(value: Json) -> None:
        need(isinstance(value, dict), "json", "not an object")
        for name in needed:
            need(name in value, "json", f"no member {name}")
        for name, member in value.items():
            need(name in known, "json", f"unknown member {name!r:.40}")
            known[name](member)

    return check


def choice(fields: dict[str, Check]) -> Check:
    """An object with exactly one of these members."""
    inner = obj({f"{name}?": check for name, check in fields.items()})

    def check(value: Json) -> None:
        inner(value)
        need(len(value) == 1, "json", f"not exactly one of {', '.join(fields)}")

    return check


def listing(item: Check, low: int = 0, high: int = 64) -> Check:
    def check(value: Json) -> None:
        need(isinstance(value, list) and low <= len(value) <= high, "json", f"not a list of {low} to {high}")
        for element in value:
            item(element)

    return check


def mapping(key: Check, item: Check, high: int = 64) -> Check:
    def check(value: Json) -> None:
        need(isinstance(value, dict) and len(value) <= high, "json", f"not a map of at most {high}")
        for name, element in value.items():
            key(name)
            item(element)

    return check


def _hash(value: Json) -> None:
    need(isinstance(value, str), "json", "not a hash")
    hash_from(value, "json")


def _key_name(value: Json) -> None:
    need(isinstance(value, str) and is_key_name(value), "json", "not a key name")


def _vkey(value: Json) -> None:
    text(384)(value)
    parse_vkey(value)


def _ascending(values: list[Any], what: str) -> None:
    need(all(a < b for a, b in zip(values, values[1:])), "inconsistent", f"{what} not sorted, or one twice")


AGENT = r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*"
agent = pattern(AGENT, 128)
scope = pattern(rf"{AGENT}(/\*)?|\*", 128)
word = pattern(r"[a-z0-9._-]+", 64)
run_id = pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", 36)
number, u32, positive = integer(), integer(0, 2**32 - 1), integer(1)
depth = integer(1, 2**32 - 1)
amounts = mapping(one_of(*METERS), positive)
KINDS = ("approval", "beat", "close", "halt", "intent", "open", "outcome")
SCOPES, WINDOWS = ("agent", "kernel", "run"), ("day", "hour", "run")

commitment = obj({"digest": _hash, "media": text(64), "name": text(64), "size": number})
limits = obj({
    "depth?": u32, "identical_calls?": u32, "wall_clock_ms?": number,
    "meters": listing(obj({
        "limit": number, "meter": one_of(*METERS), "scope": one_of(*SCOPES), "window": one_of(*WINDOWS),
    })),
})
call = choice({
    "agent": obj({
        "agent": agent, "run": run_id, "task": commitment,
        "delegate?": obj({"budget": amounts, "deadline": number, "kernel": _key_name}),
    }),
    "model": obj({
        "input": obj({"method": text(64), "tokens": number}), "max_output": number,
        "model": text(128), "provider": text(64), "request": commitment,
    }),
    "tool": obj({"args": commitment, "id": text(128), "name": text(128), "proposed_by?": number}),
})
decision = obj({
    "effect": one_of("allow", "deny", "hold"), "input": commitment,
    "hold?": obj({
        "approvals": listing(obj({"count": integer(1, 16), "role": word}), 1, 8), "deadline": number,
    }),
    "reasons": listing(text(512)), "rules": listing(text(128)),
})
refusal = choice({
    "depth": obj({"have": u32, "limit": u32}),
    "identical": obj({"have": u32, "limit": u32}),
    "limit": obj({
        "have": number, "limit": number, "meter": one_of(*METERS), "need": number,
        "scope": one_of(*SCOPES), "window": one_of(*WINDOWS),
    }),
    "unpriced": obj({"model": text(128)}),
    "wall_clock": obj({"have_ms": number, "limit_ms": number}),
})
usage = obj({f"{name}?": positive for name in ("cache_read", "cache_write", "input", "output", "reasoning")})

BODIES: dict[str, Check] = {
    "open": obj({
        "build": text(256), "delegation?": text(MAX_INNER), "engine": text(64), "labels": mapping(word, text(256)),
        "limits": limits, "log": _key_name, "policy": _hash,
        "parent?": obj({"depth": depth, "run": run_id, "seq": number}),
    }),
    "intent": obj({"call": call, "decision": decision, "refusal?": refusal, "reserved": amounts}),
    "outcome": obj({
        "close?": text(MAX_INNER), "error?": text(512), "intent": number, "result?": commitment, "settled": amounts,
        "model?": obj({"id?": text(128), "method": text(64), "served": text(128), "usage": usage}),
        "status": one_of("ok", "error", "timeout", "cancelled", "unknown"),
    }),
    "approval": obj({"intent": number, "statement": text(MAX_INNER)}),
    "beat": obj({"records": number}),
    "halt": obj({
        "cause": one_of("clock", "log_behind", "log_fork", "log_refused", "operator", "overspend", "policy", "spool",
                        "wall_clock"),
        "detail": text(512),
    }),
    "close": obj({
        "below?": amounts, "census": mapping(one_of(*KINDS), positive),
        "reason": one_of("abandoned", "done", "failed", "halted"), "settled": amounts,
    }),
}
_record = obj({
    "agent": agent, "kind": one_of(*KINDS), "prev?": _hash, "run": run_id, "seq": number, "time": number,
    **{f"{kind}?": body for kind, body in BODIES.items()},
})


def _role(value: Json) -> None:
    if value != "kernel":
        obj({"approver": word})(value)


OPERATOR_BODIES: dict[str, Check] = {
    "erase": obj({"digest": _hash, "reason": text(512)}),
    "key": choice({
        "grant": obj({"agents": listing(scope, 1, 64), "role": _role, "vkey": _vkey}),
        "revoke": obj({"reason": text(512), "vkey": _vkey}),
    }),
    "policy": obj({"bundle": _hash, "name": text(128), "size": number}),
}
_operator = obj({
    "kind": one_of(*OPERATOR_BODIES), "log": _key_name, "prev?": _hash, "seq": number, "time": number,
    **{f"{kind}?": body for kind, body in OPERATOR_BODIES.items()},
})
_statement = obj({
    "action": _hash, "answer": one_of("approve", "refuse"), "deadline": number, "intent": number, "log": _key_name,
    "role": word, "run": run_id, "shown": _hash,
})
_delegation = obj({
    "agent": agent, "budget": amounts, "deadline": number, "depth": depth, "depth_limit?": u32, "kernel": _key_name,
    "log": _key_name, "parent": obj({"agent": agent, "run": run_id, "seq": number}), "run": run_id,
})


def _two_lines(whole: str, header: str, check: Check) -> Json:
    """A header line and one line of canonical JSON."""
    need(whole.endswith("\n"), "record", "no final line feed")
    lines = whole[:-1].split("\n")
    need(lines[0] == header, "record", f"not {header}")
    need(len(lines) == 2, "record", "not two lines")
    value = parse_canonical(lines[1])
    check(value)
    return value


def _check_frame(value: Json, bodies: dict[str, Check]) -> None:
    present = [kind for kind in bodies if kind in value]
    need(present == [value["kind"]], "inconsistent", "not exactly the body that `kind` names")
    need(("prev" in value) == (value["seq"] > 0), "inconsistent", "`prev` is absent at seq 0 and only there")


def _check_record(value: Json) -> None:
    _record(value)
    _check_frame(value, BODIES)
    kind, seq = value["kind"], value["seq"]
    body = value[kind]
    if kind == "open":
        need("delegation" not in body or "parent" in body, "inconsistent", "a delegation without parent")
        order = [(m["scope"], m["window"], m["meter"]) for m in body["limits"]["meters"]]
        _ascending(order, "limits")
    elif kind == "intent":
        _check_intent(body, seq)
    elif kind == "outcome":
        need(body["intent"] < seq, "inconsistent", "an outcome of an intent that is not before it")
        need(("error" in body) == (body["status"] != "ok"), "inconsistent", "`error` is there unless the status is ok")
        extra = {"close", "model", "result"} & set(body)
        need(body["status"] != "cancelled" or not extra, "inconsistent", "a cancelled call with an answer")
    elif kind == "approval":
        need(body["intent"] < seq, "inconsistent", "an approval of an intent that is not before it")
    elif kind == "beat":
        need(body["records"] == seq, "inconsistent", "`records` is not the record's seq")
    elif kind == "close":
        need(sum(body["census"].values()) == seq, "inconsistent", "the census does not sum to the record's seq")
        need(body.get("below") != {}, "inconsistent", "`below` is there and zero")


def _check_intent(body: Json, seq: int) -> None:
    made, refused = body["decision"], body.get("refusal")
    need(("hold" in made) == (made["effect"] == "hold"), "inconsistent", "`hold` is there exactly for the effect hold")
    if "hold" in made:
        _ascending([a["role"] for a in made["hold"]["approvals"]], "roles")
    _ascending([rule.encode("utf-8") for rule in made["rules"]], "rules")
    need(refused is None or made["effect"] != "deny", "inconsistent", "refused what the policy had denied")
    need(effect_of(body) != "deny" or not body["reserved"], "inconsistent", "a denied call with a reservation")
    tool = body["call"].get("tool", {})
    need(tool.get("proposed_by", -1) < seq, "inconsistent", "`proposed_by` is not before the call")
    for kind, r in (refused or {}).items():
        if kind == "limit":
            need(r["need"] > 0 and r["have"] + r["need"] > r["limit"], "inconsistent", "the refusal's limit is kept")
        elif kind in ("depth", "identical"):
            need(r["have"] >= r["limit"], "inconsistent", "the refusal's limit is not reached")
        elif kind == "wall_clock":
            need(r["have_ms"] > r["limit_ms"], "inconsistent", "the refusal's time is not over")


def effect_of(intent: Json) -> str:
    """The effect of the intent: `deny` where the budget refused it (§3.3)."""
    return "deny" if "refusal" in intent else str(intent["decision"]["effect"])


def parse_record_text(whole: str) -> Json:
    return _two_lines(whole, RECORD, _check_record)


def parse_operator_text(whole: str) -> Json:
    def check(value: Json) -> None:
        _operator(value)
        _check_frame(value, OPERATOR_BODIES)
        grant = value.get("key", {}).get("grant")
        if grant:
            _ascending([a.encode("utf-8") for a in grant["agents"]], "agents")

    return _two_lines(whole, OPERATOR, check)


def parse_statement_text(whole: str) -> Json:
    return _two_lines(whole, STATEMENT, _statement)


def parse_delegation_text(whole: str) -> Json:
    def check(value: Json) -> None:
        _delegation(value)
        need(value.get("depth_limit", 2**32) >= value["depth"], "inconsistent", "deeper than its limit")
        need(value["run"] != value["parent"]["run"], "inconsistent", "a run that delegates to itself")

    return _two_lines(whole, DELEGATION, check)


@dataclass(frozen=True)
class Entry:
    """A parsed entry (§2.4). Its signature is not checked yet."""

    raw: bytes
    note: Note
    line: SignatureLine
    value: Json
    is_operator: bool

    @property
    def leaf(self) -> bytes:
        return leaf_hash(self.raw)

    @property
    def body(self) -> Json:
        return self.value[self.value["kind"]]


def one_signature(raw: bytes, limit: int) -> Note:
    """A note with exactly one signature line, of 64 bytes (§2.4)."""
    note = parse_note(raw, limit)
    need(len(note.lines) == 1, "entry", "not exactly one signature line")
    need(len(note.lines[0].signature) == 64, "entry", "the signature is not of 64 bytes")
    return note


def parse_entry(raw: bytes) -> Entry:
    """§2.4."""
    note = one_signature(raw, MAX_ENTRY)
    is_operator = note.text.startswith(OPERATOR + "\n")
    value = parse_operator_text(note.text) if is_operator else parse_record_text(note.text)
    return Entry(raw, note, note.lines[0], value, is_operator)
