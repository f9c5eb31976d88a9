"""Limits, prices, worst cases and costs (SPEC §6.2, §6.5, §3.4)."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from .base import MAX_INT, Refused, need
from .record import METERS, Json, read_document

Amounts = dict[str, int]
INPUT_CLASSES = ("cache_read", "cache_write", "input")
FILES = ("README.md", "budget.toml", "data.json", "facts.toml", "prices.toml", "schema.cedarschema")
PRICES = (*INPUT_CLASSES, "output", "reasoning")


def add(a: Amounts, b: Amounts) -> Amounts:
    return {m: a.get(m, 0) + b.get(m, 0) for m in METERS if a.get(m, 0) + b.get(m, 0) > 0}


def _table(files: dict[str, bytes], path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(files.get(path, b"").decode("utf-8"))
    except ValueError as error:
        raise Refused("bundle-unusable", f"{path} does not parse") from error


def _tables(value: Any, what: str) -> dict[str, Any]:
    need(isinstance(value, dict), "bundle-unusable", f"{what} is not a table")
    return dict(value)


def _whole(value: Any, what: str) -> int:
    need(type(value) is int and 0 <= value <= MAX_INT, "bundle-unusable", f"{what} is not an integer")
    return int(value)


def check_files(files: dict[str, bytes]) -> None:
    """The files that a bundle may have, and one policy language (§6.2). Nothing is compiled."""
    languages = set()
    for path in files:
        if path.endswith((".rego", ".cedar")):
            languages.add(path.rpartition(".")[2])
            continue
        known = path in FILES or (path.startswith("tests/") and path.endswith(".json"))
        need(known, "bundle-unusable", f"a bundle has no file {path}")
    need(len(languages) == 1, "bundle-unusable", "not exactly one policy language")
    cedar = "schema.cedarschema" not in files or languages == {"cedar"}
    need(cedar, "bundle-unusable", "a schema without Cedar")
    need(set(_table(files, "facts.toml")) <= {"fact", "mark", "seen"}, "bundle-unusable", "unknown key in facts.toml")
    data = read_document(files.get("data.json", b"{}"))
    need(isinstance(data, dict), "bundle-unusable", "data.json is not an object")


def limits_of(files: dict[str, bytes]) -> Json:
    """What `open.limits` must be by `budget.toml` (§6.2)."""
    table = _table(files, "budget.toml")
    result: dict[str, Any] = {}
    meters: list[dict[str, Any]] = []
    names = {"depth": "depth", "identical_calls": "identical_calls", "wall_clock_seconds": "wall_clock_ms"}
    for scope, value in table.items():
        body = _tables(value, scope)
        if scope == "model":
            need(set(body) <= {"default_max_output"}, "bundle-unusable", "unknown key in `model`")
            _whole(body.get("default_max_output", 0), "default_max_output")
            continue
        need(scope in ("agent", "kernel", "run"), "bundle-unusable", f"unknown table {scope!r}")
        for name, value in body.items():
            if name in ("hour", "day"):
                meters += [_limit(scope, name, meter, limit) for meter, limit in _tables(value, name).items()]
            elif scope == "run" and name in names:
                result[names[name]] = _whole(value, name) * (1000 if name == "wall_clock_seconds" else 1)
            else:
                meters.append(_limit(scope, "run", name, value))
    result["meters"] = sorted(meters, key=lambda m: (m["scope"], m["window"], m["meter"]))
    return result


def _limit(scope: str, window: str, meter: str, limit: Any) -> dict[str, Any]:
    need(meter in METERS, "bundle-unusable", f"unknown meter {meter!r}")
    return {"limit": _whole(limit, meter), "meter": meter, "scope": scope, "window": window}


def narrowed(limits: Json, delegation: Json, opened_ms: int) -> Json:
    """The limits of a run that was delegated (§3.7)."""
    result = dict(limits)
    if "depth_limit" in delegation:
        result["depth"] = min(limits.get("depth", delegation["depth_limit"]), delegation["depth_limit"])
    left = delegation["deadline"] - opened_ms
    result["wall_clock_ms"] = min(limits.get("wall_clock_ms", left), left)
    per_run = {m["meter"]: m["limit"] for m in limits["meters"] if (m["scope"], m["window"]) == ("run", "run")}
    others = [m for m in limits["meters"] if (m["scope"], m["window"]) != ("run", "run")]
    for meter in METERS:
        given = delegation["budget"].get(meter, 0)
        others.append(_limit("run", "run", meter, min(per_run.get(meter, given), given)))
    result["meters"] = sorted(others, key=lambda m: (m["scope"], m["window"], m["meter"]))
    return result


@dataclass(frozen=True)
class Tier:
    """Prices in micro-dollars per million tokens, for prompts above a size; -1 for the model's own prices."""

    above: int
    prices: dict[str, int]


@dataclass(frozen=True)
class Model:
    name: str
    provider: str | None
    tiers: list[Tier]


@dataclass(frozen=True)
class PriceList:
    models: list[Model]

    def find(self, provider: str, model: str) -> Model | None:
        """By provider and requested model, else by model alone (§6.5)."""
        for wanted in (provider, None):
            for entry in self.models:
                if (entry.name, entry.provider) == (model, wanted):
                    return entry
        return None


def prices_of(files: dict[str, bytes]) -> PriceList:
    """`prices.toml` (§6.2)."""
    table = _table(files, "prices.toml")
    need(set(table) <= {"model"}, "bundle-unusable", "unknown key in prices.toml")
    models = []
    listed = table.get("model", [])
    need(isinstance(listed, list), "bundle-unusable", "`model` is not a list of tables")
    for value in listed:
        body = _tables(value, "model")
        own = {k: v for k, v in body.items() if k not in ("name", "provider", "tier")}
        tiers = [_tier(-1, own)]
        for item in body.get("tier", []):
            tier = _tables(item, "tier")
            given = {k: v for k, v in tier.items() if k != "above_prompt_tokens"}
            tiers.append(_tier(_whole(tier.get("above_prompt_tokens"), "above_prompt_tokens"), given))
        named = isinstance(body.get("name"), str) and isinstance(body.get("provider", ""), str)
        need(named, "bundle-unusable", "a model without name, or not one of a provider")
        need(len({tier.above for tier in tiers}) == len(tiers), "bundle-unusable", "two tiers above one length")
        models.append(Model(body["name"], body.get("provider"), sorted(tiers, key=lambda t: t.above)))
    need(len({(m.name, m.provider) for m in models}) == len(models), "bundle-unusable", "a model is listed twice")
    return PriceList(models)


def _tier(above: int, given: dict[str, Any]) -> Tier:
    """A missing input class costs the dearest given one; missing reasoning costs what output does (§6.5)."""
    need(set(given) <= set(PRICES), "bundle-unusable", "unknown price")
    need({"input", "output"} <= set(given), "bundle-unusable", "no price of input or output")
    prices = {name: _whole(price, name) for name, price in given.items()}
    dearest = max(prices[name] for name in INPUT_CLASSES if name in prices)
    for name in INPUT_CLASSES:
        prices.setdefault(name, dearest)
    prices.setdefault("reasoning", prices["output"])
    return Tier(above, prices)


def _micro_usd(token_prices: int) -> int:
    """One rounding up to whole micro-dollars per call."""
    return min(-(-token_prices // 1_000_000), MAX_INT)


def worst_case(call: Json, model: Model | None) -> Amounts:
    """What a call may use at most (§6.5)."""
    if "tool" in call:
        return {"tool_calls": 1}
    if "agent" in call:
        return add({"agents": 1}, call["agent"].get("delegate", {}).get("budget", {}))
    bound, output = call["model"]["input"]["tokens"], call["model"]["max_output"]
    result = {
        "cache_read_tokens": bound, "cache_write_tokens": bound, "input_tokens": bound, "model_calls": 1,
        "output_tokens": output, "reasoning_tokens": output, "tokens": bound + output,
    }
    if model is not None:
        reached = [tier.prices for tier in model.tiers if tier.above < bound]
        result["micro_usd"] = max(
            _micro_usd(bound * max(p[c] for c in INPUT_CLASSES) + output * max(p["output"], p["reasoning"]))
            for p in reached
        )
    return add(result, {})


def cost(usage: Json, model: Model | None) -> Amounts:
    """What a model call's usage costs (§6.5)."""
    prompt = sum(usage.get(name, 0) for name in INPUT_CLASSES)
    result = {f"{name}_tokens": usage.get(name, 0) for name in PRICES}
    result |= {"model_calls": 1, "tokens": sum(usage.values())}
    if model is not None:
        tier = [t for t in model.tiers if t.above < prompt][-1]
        result["micro_usd"] = _micro_usd(sum(count * tier.prices[name] for name, count in usage.items()))
    return add(result, {})
