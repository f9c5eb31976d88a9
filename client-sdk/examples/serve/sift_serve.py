"""A client of `sift-kernel serve`, in plain Python: standard library only.

    kernel = Kernel.connect("/run/sift/agents.sock")      # or Kernel.spawn(["sift-kernel", "serve", "--stdio", ...])
    run = kernel.open("airline/gpt-4o", {"ticket": "7"})
    verdict = kernel.tool(run, "read", "call_1", b'{"id":1}')
    if verdict["is"] == "started":
        result = my_tool(content(verdict["bytes"]))       # the very bytes that were decided on
        kernel.finish(verdict["handle"], "ok", result)
    kernel.close_run(run)

Any number of threads may use one client at once. `sift-kernel serve --help` has the whole protocol.
"""

from __future__ import annotations

import base64
import itertools
import json
import socket
import subprocess
import threading
from concurrent.futures import Future
from typing import Any, BinaryIO, Sequence

Answer = dict[str, Any]


class Refused(Exception):
    """The kernel did not do what was asked. `kind` and `fault` are as the protocol lists them."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer['kind']} (at fault: {answer['fault']}): {answer['detail']}")
        self.kind: str = answer["kind"]
        self.fault: str = answer["fault"]


class Gone(Exception):
    """The kernel's process has ended, or closed the connection. Whatever had no answer may count as cancelled or unknown."""


def wire(content: bytes) -> str | dict[str, str]:
    """Bytes as the protocol writes them."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode("ascii")}


def content(value: str | dict[str, str]) -> bytes:
    """Bytes as the protocol wrote them."""
    return value.encode("utf-8") if isinstance(value, str) else base64.b64decode(value["base64"], validate=True)


class Kernel:
    """A connection to the kernel. What it has open ends with it."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO, child: subprocess.Popen[bytes] | None = None) -> None:
        self._reader, self._writer, self._child = reader, writer, child
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[Answer]] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._gone = False
        threading.Thread(target=self._read, daemon=True).start()

    @classmethod
    def connect(cls, path: str) -> Kernel:
        """Connects to a kernel's socket."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.connect(path)
        self = cls(stream.makefile("rb"), stream.makefile("wb"))
        self._socket = stream
        return self

    @classmethod
    def spawn(cls, command: Sequence[str]) -> Kernel:
        """Starts a kernel on standard input and output."""
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin and child.stdout
        return cls(child.stdout, child.stdin, child)

    def submit(self, op: str, **members: Any) -> Future[Answer]:
        """Sends a request; its answer is the future's result. Members that are None are left out."""
        request = {name: member for name, member in members.items() if member is not None}
        answer: Future[Answer] = Future()
        with self._lock:
            if self._gone:
                raise Gone("the connection to the kernel has ended")
            number = next(self._ids)
            self._waiting[number] = answer
        line = json.dumps({"id": number, "op": op, **request}, ensure_ascii=False)
        try:
            # Not under the lock that the reader needs: a kernel whose answers nobody reads does not read either.
            with self._writing:
                self._writer.write(line.encode("utf-8") + b"\n")
                self._writer.flush()
        except OSError as error:
            with self._lock:
                self._waiting.pop(number, None)
            raise Gone(str(error)) from error
        return answer

    def ask(self, op: str, **members: Any) -> Answer:
        """Sends a request and waits for its answer. Raises Refused for an `error`."""
        answer = self.submit(op, **members).result()
        if answer["is"] == "error":
            raise Refused(answer)
        return answer

    def open(self, agent: str, labels: dict[str, str] | None = None, parent: str | None = None) -> str:
        """Opens a run and returns its identifier."""
        return str(self.ask("open", agent=agent, labels=labels, parent=parent)["run"])

    def tool(self, run: str, name: str, call: str, args: bytes, start: bool = True) -> Answer:
        """Proposes a tool call. With `start` it counts as started as soon as it is permitted."""
        tool = {"name": name, "id": call, "args": wire(args)}
        return self.ask("propose", run=run, tool=tool, start=start)

    def wait(self, handle: str, start: bool = True) -> Answer:
        """Waits for the approver's answer to a held call."""
        return self.ask("wait", handle=handle, start=start)

    def finish(self, handle: str, status: str, result: bytes | None = None, why: str | None = None,
               media: str | None = None, model: dict[str, Any] | None = None) -> Answer:
        """Says how a started call ended."""
        returned = None if result is None else wire(result)
        return self.ask("finish", handle=handle, status=status, result=returned, why=why, media=media, model=model)

    def close_run(self, run: str, reason: str = "done") -> Answer:
        """Closes a run."""
        return self.ask("close", run=run, reason=reason)

    def close(self) -> None:
        """Disconnects. A kernel that was spawned is waited for."""
        if self._child:
            self._writer.close()
            self._child.wait()
        else:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()

    def _read(self) -> None:
        try:
            for line in self._reader:
                answer = json.loads(line)
                with self._lock:
                    waiting = self._waiting.pop(answer["id"], None) if answer["id"] is not None else None
                if waiting:
                    waiting.set_result(answer)
        except (OSError, ValueError):
            pass
        with self._lock:
            self._gone = True
            left, self._waiting = list(self._waiting.values()), {}
        for waiting in left:
            waiting.set_exception(Gone("the kernel ended without an answer"))
