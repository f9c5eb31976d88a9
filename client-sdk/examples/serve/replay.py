"""Recorded conversations as agents of `sift-kernel serve`, and how fast that is: replay.py SOCKET RECORDINGS [PROCESSES].

Each conversation is an agent with a run of its own: each assistant turn a model call with the messages so far, each tool
call proposed as recorded, its recorded result reported if it was permitted. As `sift-kernel replay`, which does the same
without a socket; held calls are given up. What is sent is made beforehand, so that the kernel is measured and not Python.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sift_serve import Answer, Kernel

AGENT, MODEL, MAX_OUTPUT = "airline/gpt-4o", "gpt-4o", 4096

# One call: what is proposed, and what is reported if it may run.
Call = tuple[dict[str, Any], dict[str, Any]]


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def calls(messages: list[dict[str, Any]]) -> list[Call]:
    """The calls of a conversation."""
    made: list[Call] = []
    for position, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        request = compact({"max_completion_tokens": MAX_OUTPUT, "messages": messages[:position], "model": MODEL})
        answer = compact(message)
        usage = {"input": -(-len(request.encode()) // 4), "output": -(-len(answer.encode()) // 4)}
        served = {"served": MODEL, "method": "utf8-bytes/4", "usage": usage}
        model = {"provider": "openai", "model": MODEL, "request": request, "max_output": MAX_OUTPUT}
        made.append(({"model": model}, {"status": "ok", "result": answer, "media": "application/json", "model": served}))
        # The next result of that identifier: models use one more than once.
        results: dict[str, str] = {}
        for later in messages[position:]:
            if later["role"] == "tool":
                results.setdefault(later["tool_call_id"], later["content"])
        for call in message.get("tool_calls") or []:
            function = call["function"]
            tool = {"name": function["name"], "id": call["id"], "args": function["arguments"]}
            result = results.get(call["id"]) or ""
            # The recorded tools say so when they fail.
            status = {"status": "error", "why": result} if result.startswith("Error") else {"status": "ok"}
            made.append(({"tool": tool}, {"result": result, "media": "application/json", **status}))
    return made


def converse(kernel: Kernel, conversation: list[Call]) -> list[str]:
    """One agent, from its first call to its last."""
    run = kernel.open(AGENT)
    verdicts: list[str] = []
    for proposal, report in conversation:
        verdict: Answer = kernel.ask("propose", run=run, start=True, **proposal)
        verdicts.append(verdict["is"])
        if verdict["is"] == "started":
            kernel.ask("finish", handle=verdict["handle"], **report)
        elif verdict["is"] == "held":
            kernel.ask("cancel", handle=verdict["handle"])
    kernel.close_run(run)
    return verdicts


def work(socket: str, conversations: list[list[Call]], start: Any) -> list[str]:
    kernel = Kernel.connect(socket)
    start.wait()
    with ThreadPoolExecutor(8) as pool:
        verdicts = [verdict for made in pool.map(lambda one: converse(kernel, one), conversations) for verdict in made]
    kernel.close()
    return verdicts


def worker(socket: str, conversations: list[list[Call]], start: Any, results: Any) -> None:
    results.put(work(socket, conversations, start))


def main() -> None:
    socket, path = sys.argv[1:3]
    processes = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    with open(path, encoding="utf-8") as file:
        recorded = json.load(file)
    conversations = [calls(one["traj"] if isinstance(one, dict) else one) for one in recorded]
    start, results = multiprocessing.Barrier(processes + 1), multiprocessing.Queue()
    for number in range(processes):
        part = conversations[number::processes]
        multiprocessing.Process(target=worker, args=(socket, part, start, results), daemon=True).start()
    start.wait()
    begun = time.monotonic()
    verdicts = [verdict for _ in range(processes) for verdict in results.get()]
    seconds = time.monotonic() - begun
    print(json.dumps({
        "conversations": len(conversations), "calls": len(verdicts), "seconds": round(seconds, 3),
        "calls_per_second": round(len(verdicts) / seconds), "allowed": verdicts.count("started"),
        "denied": verdicts.count("denied"), "held": verdicts.count("held"),
    }))


if __name__ == "__main__":
    main()
