"""What a check found, and what it could not look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .base import Refused


@dataclass
class Report:
    """Refused when there is a finding."""

    subject: str
    verified: list[str] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def find(self, code: str, detail: str, **where: int) -> None:
        self.findings.append({"code": code, **where, "detail": detail})

    def refused(self, refused: Refused, **where: int) -> None:
        self.find(refused.code, refused.detail, **where)

    def as_json(self) -> dict[str, Any]:
        verdict = "refused" if self.findings else "verified"
        return {"subject": self.subject, "verdict": verdict, "verified": self.verified, "findings": self.findings,
                "unchecked": self.unchecked}

    def as_text(self) -> str:
        lines = [f"{'REFUSED ' if self.findings else 'VERIFIED'}  {self.subject}"]
        lines += [f"  ok         {line}" for line in self.verified]
        for finding in self.findings:
            where = "".join(f" {name} {finding[name]}" for name in ("index", "seq") if name in finding)
            lines.append(f"  finding    {finding['code']}{where}: {finding['detail']}")
        lines += [f"  unchecked  {line}" for line in self.unchecked]
        return "\n".join(lines)
