"""Findings for people and for programs."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nodeapi import terminal
from nodeapi.cli.doctor.findings import Finding, State, wrong

Found = list[tuple[str, list[Finding]]]

_MARKS = {State.OK: ("ok", "good"), State.NOTE: ("note", "warn"), State.WRONG: ("WRONG", "bad")}


def show_part(name: str, findings: Iterable[Finding], out: Console) -> None:
    out.print(Text(name, "head"))
    rows = Table.grid(padding=(0, 1))
    rows.add_column(width=7, no_wrap=True)
    rows.add_column(overflow="fold")
    for finding in findings:
        word, style = _MARKS[finding.state]
        text = Text(terminal.safe(finding.words))
        if finding.advice:
            text.append(
                f"\n→ {terminal.safe(finding.advice)}", "bad" if finding.state is State.WRONG else "warn"
            )
        rows.add_row(Text(f"  {word}", style), text)
    terminal.put(out, rows)


def show_sum(found: Found, out: Console) -> None:
    wrongs, notes = count(found, State.WRONG), count(found, State.NOTE)
    out.print()
    if wrongs:
        out.print(Text(f"{wrongs} {'thing is' if wrongs == 1 else 'things are'} wrong.", "bad"))
    else:
        out.print(Text("Nothing is wrong." + (f" {notes} to know." if notes else ""), "good"))


def as_json(found: Found) -> dict[str, Any]:
    return {
        "ok": not count(found, State.WRONG),
        "wrong": count(found, State.WRONG),
        "notes": count(found, State.NOTE),
        "findings": [
            {"check": name, "state": finding.state.value, "words": finding.words, "advice": finding.advice}
            for name, findings in found
            for finding in findings
        ],
    }


def count(found: Found, state: State) -> int:
    return sum(finding.state is state for _, findings in found for finding in findings)


def report_problems(problems: list[str], *, json: bool) -> int:
    """The whole report where too little of the configuration can be read; the exit code."""
    found = [("configuration", [wrong(*split(problem)) for problem in problems])]
    if json:
        terminal.print_json(as_json(found))
    else:
        out = terminal.console()
        show_part(*found[0], out)
        out.print("Nothing else was checked: all of it follows from the configuration.")
        show_sum(found, out)
    return 1


def split(problem: str) -> tuple[str, str]:
    """What is wrong, and what would be right, of one of the configuration's problems."""
    words, _, advice = problem.rpartition("; ")
    return (words, advice) if words else (problem, "correct it")
