"""What the tests of `sift-kernel serve` do from Python: serve_client.py SOCKET PART [KERNEL PID]. Standard library only."""

import json
import os
import pathlib
import socket
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent / "examples" / "serve")]

from sift_serve import Gone, Kernel, Refused, content  # noqa: E402

SOCKET, PART = sys.argv[1:3]


def fails(kind: str, ask) -> None:
    try:
        answer = ask()
    except Refused as refused:
        assert refused.kind == kind, refused
    else:
        raise AssertionError(f"{kind} expected: {answer}")


def honest() -> None:
    kernel = Kernel.connect(SOCKET)
    run = kernel.open("airline/gpt-4o", {"ticket": "7"})
    # The very bytes come back, whatever they are.
    for args in (b'{"id": 1}', '{"ä":"\u202e\\u0000 \U0001f600"}'.encode(), b"\xff\x00 no text"):
        started = kernel.tool(run, "read", "call", args)
        assert started["is"] == "started" and content(started["bytes"]) == args, started
        done = kernel.finish(started["handle"], "ok", b'\xfe{"balance": 5}')
        assert done["status"] == "ok" and done["settled"] == {"tool_calls": 1}, done
    denied = kernel.tool(run, "erase", "call", b"{}")
    assert denied["is"] == "denied" and denied["rules"] == ["sift.default-deny"] and denied["reason"], denied
    permitted = kernel.tool(run, "read", "call", b"{}", start=False)
    assert kernel.ask("start", handle=permitted["handle"])["is"] == "started"
    assert kernel.finish(permitted["handle"], "error", why="no such user")["status"] == "error"
    permitted = kernel.tool(run, "read", "call", b"{}", start=False)
    assert kernel.ask("cancel", handle=permitted["handle"])["is"] == "cancelled"
    started = kernel.tool(run, "read", "call", b"{}")
    assert kernel.finish(started["handle"], "unknown", why="the line broke")["status"] == "unknown"
    request = json.dumps({"model": "gpt-4o", "max_tokens": 100, "messages": []})
    model = {"provider": "openai", "model": "gpt-4o", "request": request, "max_output": 100}
    fails("refused", lambda: kernel.ask("propose", run=run, model={**model, "max_output": 10}))
    status = kernel.ask("status")
    assert status["runs"] == [run] and status["calls"] == 0 and status["engine"].startswith("rego/"), status
    assert kernel.close_run(run)["settled"]["tool_calls"] == 5
    fails("no_such_run", lambda: kernel.close_run(run))
    kernel.close()


def garbage() -> None:
    """Whatever else a client sends, its own requests are answered, and each once."""
    stream = socket.socket(socket.AF_UNIX)
    stream.connect(SOCKET)
    lines = stream.makefile("rb")

    def send(line: bytes) -> dict:
        stream.sendall(line + b"\n")
        return json.loads(lines.readline())

    run = send(b'{"id":"r","op":"open","agent":"airline/gpt-4o"}')["run"].encode()
    propose = b'{"id":"p","op":"propose","run":"' + run + b'","tool":{"name":"read","id":"c","args":"{}"}}'
    first = send(propose)
    assert first["is"] == "permitted", first
    bad = [
        b"", b"{", b"null", b"[]", b"\xff\xfe\x00", b'{"op":"status"}', b'{"id":1.5,"op":"status"}', b'{"id":1}',
        b'{"id":1,"op":"nothing"}', b'{"id":1,"op":"status","more":1}', b'{"id":1,"id":2,"op":"status"}',
        b'{"id":1,"op":"status"} {"id":2,"op":"status"}', b'{"id":1,"op":"open","agent":"no agent!"}',
        b'{"id":1,"op":"propose","run":"' + run + b'"}', propose.replace(b'"{}"', b'{"base64":"%%"}'),
        propose.replace(b'"{}"', b'"\\ud800"'), propose.replace(b'"tool"', b'"fool"'), b'{"id":"' + b"x" * 129 + b'","op":"status"}',
        b"[" * 5000, b'{"id":1,"op":"open","agent":"airline/gpt-4o","labels":{"x":"' + b"y" * 300 + b'"}}',
    ]
    for line in bad:
        answer = send(line)
        assert answer["is"] == "error" and answer["kind"] == "malformed" and answer["fault"] == "client", (line, answer)
    answer = send(b"x" * 300_000)
    assert answer["kind"] == "too_long" and answer["id"] is None, answer
    # In one write: a request, a line that is none, another request, in pieces.
    text = propose + b"\nnonsense\n" + b'{"id":"s","op":"status"}\n'
    for byte in range(0, len(text), 7):
        stream.sendall(text[byte:byte + 7])
    answers = {answer["id"]: answer for answer in (json.loads(lines.readline()) for _ in range(3))}
    assert set(answers) == {"p", None, "s"}, answers
    for permitted in (first, answers["p"]):
        handle = json.dumps(permitted["handle"]).encode()
        assert send(b'{"id":1,"op":"start","handle":' + handle + b"}")["is"] == "started"
        assert send(b'{"id":2,"op":"finish","handle":' + handle + b',"status":"ok","result":""}')["is"] == "finished"
    # The last line is cut off: it is no request.
    stream.sendall(propose)
    stream.close()


def crowd() -> None:
    """256 threads, one run whose budget is 50 calls."""
    kernel = Kernel.connect(SOCKET)
    run = kernel.open("airline/gpt-4o")
    verdicts: list[str] = []
    together = threading.Barrier(256)

    def call() -> None:
        together.wait()
        verdict = kernel.tool(run, "read", "call", b"{}")
        verdicts.append(verdict["is"])
        if verdict["is"] == "started":
            kernel.finish(verdict["handle"], "ok", b"{}")

    threads = [threading.Thread(target=call) for _ in range(256)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (verdicts.count("started"), verdicts.count("denied")) == (50, 206), verdicts
    kernel.close_run(run)
    kernel.close()


def killed() -> None:
    """Leaves a permitted, a started and two held calls, one of them waited for, until somebody kills this."""
    kernel = Kernel.connect(SOCKET)
    run = kernel.open("airline/gpt-4o")
    kernel.tool(run, "read", "call", b"{}", start=False)
    kernel.tool(run, "read", "call", b"{}")
    held = kernel.tool(run, "pay", "call", b"{}")
    kernel.tool(run, "pay", "call", b"{}")
    kernel.submit("wait", handle=held["handle"])
    kernel.ask("status")
    print("ready", flush=True)
    time.sleep(600)


def stranger() -> None:
    try:
        kernel = Kernel.connect(SOCKET)
    except PermissionError:
        print("cannot connect")
        return
    try:
        print(kernel.ask("status"))
    except Gone:
        print("closed")


def prisoner() -> None:
    """Another user's process: served, and shut out of everything else."""
    home, pid = pathlib.Path(sys.argv[3]), sys.argv[4]
    kernel = Kernel.connect(SOCKET)
    run = kernel.open("airline/gpt-4o")
    started = kernel.tool(run, "read", "call", b"{}")
    kernel.finish(started["handle"], "ok", b"{}")
    kernel.close_run(run)
    assert os.getuid() != 0
    reached = []
    paths = [home, home / "kernel.key", home / "kernel.redb", home / "kernel.toml", home / "approvals"]
    process = pathlib.Path("/proc") / pid
    paths += [process / name for name in ("mem", "environ", "maps", "fd", "cwd", "root", "fd/0")]
    for path in paths:
        for attempt in (lambda: os.listdir(path), lambda: open(path, "rb").read(1), lambda: open(path, "r+b").close()):
            try:
                attempt()
            except (PermissionError, NotADirectoryError, IsADirectoryError, FileNotFoundError):
                continue
            reached.append(str(path))
    for attempt in (lambda: os.kill(int(pid), 0), lambda: os.remove(SOCKET), lambda: os.rename(home, str(home) + "2")):
        try:
            attempt()
        except PermissionError:
            continue
        reached.append(attempt)
    assert not reached, reached


{"honest": honest, "garbage": garbage, "crowd": crowd, "killed": killed, "stranger": stranger, "prisoner": prisoner}[PART]()
if PART != "stranger":
    print("ok")
