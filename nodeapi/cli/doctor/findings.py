"""What a check found, and what all checks are given."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from nodeapi.cli.client import Door
from protos.lnrpc import lightning_pb2


class State(StrEnum):
    """`note`: works, but should be known. `wrong`: something does not work, or would not."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """`words` say what is, `advice` what to do about it."""

    state: State
    words: str
    advice: str = ""


def ok(words: str) -> Finding:
    return Finding(State.OK, words)


def note(words: str, advice: str = "") -> Finding:
    return Finding(State.NOTE, words, advice)


def wrong(words: str, advice: str) -> Finding:
    return Finding(State.WRONG, words, advice)


@dataclass
class Patient:
    """The node that is looked at, and what earlier checks saw of it for later ones. `version` is this code's."""

    config: Any
    version: str
    # What is wrong with the configuration, "key: what; what would be right", which has defaults in its place.
    problems: list[str] = field(default_factory=list)
    door: Door | None = None
    no_door: str = ""
    # What lnd said of itself, and when its newest block is from by the miners' clocks.
    lnd_info: lightning_pb2.GetInfoResponse | None = None
    # Other clocks: of the newest event that was stored, of the database's server.
    newest_event_at: datetime | None = None
    database_now: datetime | None = None
    pending_migrations: list[str] = field(default_factory=list)
    running: bool = False

    def problem_with(self, *keys: str) -> str:
        """The first key of these, given by their beginnings, with which something is wrong; empty if there is none."""
        named = (problem.partition(": ")[0] for problem in self.problems)
        return next((key for key in named if key.startswith(keys)), "")
