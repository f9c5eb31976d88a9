"""The tables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Iterable

from .boundary import Outcome

APPROVER_WORDS = {"": "", "nobody": "nobody approves", "attentive": "attentive approver", "tired": "approves everything"}


@dataclass
class Cell:
    """All tasks of a suite behind one boundary."""

    suite: str
    engine: str
    approver: str
    outcomes: list[Outcome]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} % ({part}/{whole})" if whole else "-"


def row(outcomes: Iterable[Outcome]) -> list[str]:
    every = list(outcomes)
    attacks = [one for one in every if one.pair[1]]
    benign = [one for one in every if not one.pair[1]]

    def mean(values: list[int]) -> str:
        return f"{sum(values) / len(values):.2f}" if values else "-"

    return [
        share(sum(one.attacked for one in attacks), len(attacks)),
        share(sum(one.utility for one in attacks), len(attacks)),
        share(sum(one.utility for one in benign), len(benign)),
        mean([one.asked_user for one in benign]),
        mean([one.asked_user + one.asked_attacker for one in attacks]),
        f"{sum(one.asked_user > 0 for one in benign)}/{len(benign)}",
    ]


HEAD = ["", "attack succeeds", "utility under attack", "benign utility", "asked per benign task", "asked per attacked task", "benign tasks with a question"]


def print_table(title: str, rows: list[list[str]]) -> None:
    lines = [[title, *HEAD[1:]], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    for number, line in enumerate(lines):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")


def print_tables(cells: list[Cell]) -> None:
    """All suites together, then each."""
    suites = list(dict.fromkeys(cell.suite for cell in cells))
    kinds = list(dict.fromkeys((cell.engine, cell.approver) for cell in cells))

    def rows(chosen: list[Cell]) -> list[list[str]]:
        made = []
        for engine, approver in kinds:
            outcomes = [one for cell in chosen if (cell.engine, cell.approver) == (engine, approver) for one in cell.outcomes]
            name = "no boundary" if engine == "none" else f"{engine.capitalize()}, {APPROVER_WORDS[approver]}"
            made.append([name, *row(outcomes)])
        return made

    print_table("all suites", rows(cells))
    for suite in suites:
        print()
        print_table(suite, rows([cell for cell in cells if cell.suite == suite]))
