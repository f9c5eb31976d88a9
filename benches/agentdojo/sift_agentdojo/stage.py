"""The real programs: a log, and a kernel that serves for each policy."""

from __future__ import annotations

import json
import os
import pathlib
import random
import socket
import subprocess
import time
import urllib.request
from typing import Sequence

from sift_serve import Kernel

ORIGIN = "agentdojo.example/log"
ROLE = "user"

# How long a program may take to start, in seconds.
START_SECONDS_MAX = 60.0


class Programs:
    """Sift's programs, and the folder they work in."""

    def __init__(self, binaries: pathlib.Path, folder: pathlib.Path) -> None:
        self.binaries, self.folder = binaries.resolve(), folder.resolve()

    def run(self, name: str, *arguments: str | os.PathLike[str]) -> str:
        """Runs a program to its end and gives what it printed. It must succeed."""
        done = subprocess.run([self.binaries / name, *arguments], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{name} {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, name: str, *arguments: str | os.PathLike[str]) -> subprocess.Popen[str]:
        """Starts a program that goes on."""
        errors = open(self.folder / f"{name}.{random.randrange(1 << 32):08x}.err", "w", encoding="utf-8")
        return subprocess.Popen([self.binaries / name, *arguments], cwd=self.folder, stdout=subprocess.PIPE, stderr=errors, text=True)


class Log:
    """A log server of its own, and its operator."""

    def __init__(self, programs: Programs) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            listen = f"127.0.0.1:{free.getsockname()[1]}"
        self.programs, self.url = programs, f"http://{listen}"
        programs.run("sift-server", "init", "--dir", "log", "--origin", ORIGIN, "--listen", listen)
        self.process = programs.start("sift-server", "serve", "--dir", "log")
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=5).close()
                return
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit(f"the log did not start: look into {programs.folder}") from None
                time.sleep(0.05)

    def operate(self, verb: str, *arguments: str | os.PathLike[str]) -> None:
        """Lets the operator enrol a key or publish a policy."""
        target = ["--url", self.url, "--key", "log/operator.key", "--trust", "log/trust.policy"]
        self.programs.run("sift-server", "operator", verb, *target, *arguments)

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait()


class Served:
    """A kernel that serves one policy on a socket, with an approver's key beside it."""

    def __init__(self, log: Log, name: str, agent: str, bundle: pathlib.Path) -> None:
        self.programs, self.dir, self.agent = log.programs, name, agent
        keygen = json.loads(self.programs.run("sift-kernel", "--json", "keygen", "--name", f"agentdojo.example/{name}/user", "--out", f"{name}.key"))
        made = json.loads(self.programs.run(
            "sift-kernel", "--json", "init", "--dir", name, "--name", f"agentdojo.example/{name}", "--log", log.url,
            "--trust", "log/trust.policy", "--approver", f"{ROLE}={keygen['vkey']}"))
        log.operate("grant", "--vkey", made["vkey"], "--role", "kernel", "--agents", agent)
        log.operate("grant", "--vkey", keygen["vkey"], "--role", f"approver:{ROLE}", "--agents", agent)
        log.operate("publish", "--bundle", bundle)
        # Below a short name: the path of a socket has at most 107 bytes.
        self.socket = f"{name}.sock"
        self.process = self.programs.start(
            "sift-kernel", "--json", "serve", "--dir", name, "--bundle", bundle, "--socket", self.socket, "--agents", agent)
        assert self.process.stdout
        if not self.process.stdout.readline():
            raise SystemExit(f"the kernel {name} did not start: look into {self.programs.folder}")
        here = os.getcwd()
        os.chdir(self.programs.folder)
        try:
            self.kernel = Kernel.connect(self.socket)
        finally:
            os.chdir(here)

    def answer(self, request: str, approve: bool) -> None:
        """Lets the approver look at a held call and sign an answer, as a person would with the same program."""
        path = f"{self.dir}/approvals/{request}.request"
        shown = json.loads(self.programs.run("sift-kernel", "--json", "approve", path, "--show-only"))["shown"]
        refuse = [] if approve else ["--refuse"]
        self.programs.run("sift-kernel", "approve", path, "--key", f"{self.dir}.key", "--shown", shown, *refuse)

    def stop(self) -> None:
        """Ends it; everything it recorded is in the log then."""
        self.kernel.close()
        self.process.terminate()
        if self.process.wait() != 0:
            raise SystemExit(f"the kernel {self.dir} ended with {self.process.returncode}: look into {self.programs.folder}")

    def verify(self, runs: Sequence[str], sample: int) -> tuple[int, int]:
        """Collects packs of a sample of runs (0: all) and lets sift-verify judge them. Returns verified and looked at."""
        chosen = list(runs) if sample == 0 else random.Random(1).sample(list(runs), min(sample, len(runs)))
        packs = f"{self.dir}.packs"
        (self.programs.folder / packs).mkdir()
        if sample == 0:
            self.programs.run("sift-kernel", "evidence", "--all", "--dir", self.dir, "--out", packs)
        else:
            for run in chosen:
                self.programs.run("sift-kernel", "evidence", run, "--dir", self.dir, "--out", packs)
        verified = 0
        paths = [f"{packs}/{run}.sift" for run in chosen]
        for start in range(0, len(paths), 100):
            report = self.programs.run("sift-verify", "run", "--trust", "log/trust.policy", *paths[start:start + 100])
            verified += sum(line.startswith("VERIFIED") for line in report.splitlines())
        return verified, len(chosen)
