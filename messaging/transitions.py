"""Which state may follow from which. Pure."""

from collections.abc import Container, Mapping
from typing import TypeVar

State = TypeVar("State")


class NoSuchWay(Exception):
    """A mistake in the code: this state does not follow from that one."""


def require_way(ways: Mapping[State, Container[State | None]], before: State | None, after: State) -> None:
    """`ways`: from which states one may come into each state; None: from nothing."""
    if before not in ways[after]:
        raise NoSuchWay(f"{before} → {after}")
