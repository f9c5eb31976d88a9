"""The command line: `python3 -m sift_second_opinion proof|run`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .base import Refused, need
from .note import verify_note
from .record import MAX_ENTRY, parse_entry
from .report import Report
from .run import check_run
from .tree import leaf_hash
from .trust import Trust, check_receipt, parse_trust


def check_proof(entry: bytes, receipt: bytes, trust: Trust, subject: str) -> Report:
    """§11.1."""
    report = Report(subject)
    try:
        need(len(entry) <= MAX_ENTRY, "entry", "too large")
        place, checkpoint = check_receipt(trust, receipt, leaf_hash(entry))
        report.verified.append(f"index {place.index} of the tree of {checkpoint.size} that {checkpoint.origin} signed")
        if not entry.startswith(b"sift/"):
            report.unchecked.append("what the entry says: it is none of Sift's")
            return report
        parsed = parse_entry(entry)
        log = parsed.value.get("log") if parsed.is_operator else parsed.body.get("log", checkpoint.origin)
        need(log == checkpoint.origin, "wrong-log", f"a record for the log {log}")
        if not parsed.is_operator:
            report.unchecked.append("whether the key counts: that needs the run's pack or the whole log")
        elif trust.operator is None:
            report.unchecked.append("the operator's signature: the trust file names no operator")
        else:
            verify_note(parsed.note, [trust.operator])
            report.verified.append("the operator's signature")
    except Refused as refused:
        report.refused(refused)
    return report


def main(arguments: list[str] | None = None) -> int:
    """0 verified, 1 refused, 2 could not check."""
    about = "Checks what Sift recorded, a second time."
    parser = argparse.ArgumentParser(prog="sift_second_opinion", description=about)
    verbs = parser.add_subparsers(dest="verb", required=True)
    proof = verbs.add_parser("proof", help="an entry and its receipt")
    proof.add_argument("entry", metavar="ENTRY", type=Path)
    proof.add_argument("receipt", metavar="PROOF", type=Path)
    run = verbs.add_parser("run", help="runs, from their evidence packs")
    run.add_argument("packs", metavar="PACK", type=Path, nargs="+")
    for verb in (proof, run):
        verb.add_argument("--trust", metavar="FILE", type=Path, required=True)
        verb.add_argument("--json", action="store_true", help="one line of JSON for each subject")
    options = parser.parse_args(arguments)
    reports = []
    try:
        trust = parse_trust(options.trust.read_bytes())
        if options.verb == "proof":
            entry, receipt = options.entry.read_bytes(), options.receipt.read_bytes()
            reports.append(check_proof(entry, receipt, trust, str(options.entry)))
        else:
            reports += [check_run(path.read_bytes(), trust, str(path)) for path in options.packs]
    except (OSError, Refused) as error:
        print(f"could not check: {error}", file=sys.stderr)
        return 2
    for report in reports:
        print(json.dumps(report.as_json()) if options.json else report.as_text())
    return 1 if any(report.findings for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
