"""Figures as ratios, with their spread over rounds, in aligned tables."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

SIGNS = {"≤": operator.le, "≥": operator.ge}
HEAD = ("figure", "unit", "node", "peer", "", "min", "median", "max", "target", "")


@dataclass(frozen=True)
class Target:
    sign: str
    value: float

    def met(self, value: float) -> bool:
        return SIGNS[self.sign](value, self.value)


@dataclass(frozen=True)
class Row:
    """One figure. `node` and `peer` have a value a round; `kind` tells how they are compared: "ratio" (node / peer),
    "more" (node - peer) or "value" (node alone against a limit).
    """

    name: str
    unit: str
    node: Sequence[float]
    peer: Sequence[float] = ()
    kind: str = "ratio"
    target: Target | None = None

    @property
    def compared(self) -> list[float]:
        if self.kind == "value" or not self.peer:
            return list(self.node)
        pairs = zip(self.node, self.peer, strict=True)
        return [a / b if self.kind == "ratio" else a - b for a, b in pairs if b or self.kind != "ratio"]

    @property
    def missed(self) -> bool:
        return bool(self.target and self.compared and not self.target.met(median(self.compared)))

    def cells(self) -> tuple[str, ...]:
        compared = self.compared
        spread = (
            [f"{number(x)}" for x in (min(compared), median(compared), max(compared))]
            if compared
            else ["-"] * 3
        )
        target = f"{self.target.sign} {self.target.value:g}" if self.target else ""
        verdict = ("MISSED" if self.missed else "met") if self.target else ""
        peer = number(median(self.peer)) if self.peer else ""
        kind = {"ratio": "ratio" if self.peer else "value", "more": "difference", "value": "value"}[self.kind]
        return self.name, self.unit, number(median(self.node)), peer, kind, *spread, target, verdict


@dataclass
class Section:
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        table = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
        lines = [f"== {self.title}", ""]
        for index, line in enumerate(table if self.rows else []):
            cells = [
                cell.ljust(width) if column in (0, 1, 4, 9) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
            if index == 0:
                lines.append("  ".join("-" * width for width in widths).rstrip())
        return "\n".join([*lines, *(f"   {note}" for note in self.notes), ""])


def number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 20 else f"{value:.2f}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
