"""python -m sift_agentdojo: AgentDojo's tables for Sift. No model, no key, no network."""

from __future__ import annotations

import argparse
import json
import logging
import pathlib
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "client-sdk" / "examples" / "serve"))
warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from agentdojo.task_suite.load_suites import get_suites  # noqa: E402

from .boundary import Outcome, attentive, nobody, play, tired  # noqa: E402
from .script import Scripts  # noqa: E402
from .stage import Log, Programs, Served  # noqa: E402
from .table import Cell, print_tables  # noqa: E402

VERSION = "v1.2.2"
SUITES = ("banking", "slack", "travel", "workspace")
ENGINES = ("rego", "cedar")
APPROVERS = {"nobody": nobody, "attentive": attentive, "tired": tired}


def main() -> int:
    parser = argparse.ArgumentParser(prog="sift_agentdojo", description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target" / "debug", help="folder of Sift's programs")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this suite; may be given several times")
    parser.add_argument("--limit", type=int, help="at most so many attacks of each suite, and their user tasks")
    parser.add_argument("--jobs", type=int, default=16, help="tasks at the same time")
    parser.add_argument("--verify", type=int, default=50, metavar="N", help="packs of each kernel to verify; 0 for all")
    parser.add_argument("--folder", type=pathlib.Path, help="where log, kernels and packs are kept; else they are removed")
    parser.add_argument("--json", type=pathlib.Path, help="write every task's outcome to this file")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True)
        return measure(args, args.folder)
    with tempfile.TemporaryDirectory(prefix="sift-agentdojo-") as folder:
        return measure(args, pathlib.Path(folder))


def measure(args: argparse.Namespace, folder: pathlib.Path) -> int:
    log = Log(Programs(args.bin, folder))
    cells: list[Cell] = []
    compared = differences = verified = looked_at = 0
    try:
        for name, suite in get_suites(VERSION).items():
            if args.suite and name not in args.suite:
                continue
            started = time.monotonic()
            scripts = Scripts(suite)
            attacks = scripts.attacks[: args.limit]
            users = {pair.user.ID for pair in attacks}
            pairs = [pair for pair in scripts.benign if not args.limit or pair.user.ID in users] + attacks
            appended = sum(scripts.is_appended(pair) for pair in attacks)
            environments = {pair.name: scripts.environment(pair) for pair in pairs}

            def all_of(served: Served | None, approver: str) -> list[Outcome]:
                with ThreadPoolExecutor(args.jobs) as pool:
                    return list(pool.map(lambda pair: play(scripts, pair, environments[pair.name], served, APPROVERS[approver]), pairs))

            cells.append(Cell(name, "none", "", all_of(None, "nobody")))
            by_engine = {}
            for engine in ENGINES:
                served = Served(log, f"{name}-{engine}", f"agentdojo/{name}", HERE / "policies" / name / engine)
                try:
                    made = [Cell(name, engine, approver, all_of(served, approver)) for approver in APPROVERS]
                finally:
                    served.stop()
                cells += made
                by_engine[engine] = made
                good, chosen = served.verify([one.run for cell in made for one in cell.outcomes], args.verify)
                verified, looked_at = verified + good, looked_at + chosen
            for rego, cedar in zip(by_engine["rego"], by_engine["cedar"]):
                for one, other in zip(rego.outcomes, cedar.outcomes):
                    compared += len(one.verdicts)
                    if one.verdicts != other.verdicts:
                        differences += 1
                        print(f"{name} {rego.approver} {one.pair}: Rego said {one.verdicts}, Cedar {other.verdicts}", file=sys.stderr)
            seconds = time.monotonic() - started
            print(f"{name}: {len(pairs)} tasks in {seconds:.0f} s; of {scripts.all_pairs} pairs {len(scripts.attacks)} are scripted, "
                  f"{appended} have the attack at the end", file=sys.stderr)
    finally:
        log.stop()
    print_tables(cells)
    print(f"\nRego and Cedar: {compared} verdicts compared, effect and rules; {differences} tasks in which they differ.")
    print(f"Evidence: {verified} of {looked_at} packs verified by sift-verify.")
    if args.json:
        args.json.write_text(json.dumps([cell.as_json() for cell in cells], indent=1))
    return 0 if differences == 0 and verified == looked_at else 1


if __name__ == "__main__":
    sys.exit(main())
