"""One call that is being carried out: who makes it, from where, and what is stored for it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from messaging import clock
from messaging.notes import noter
from nodeapi.auth import Caller
from nodeapi.models import AuditEntry


@dataclass(kw_only=True)
class Call:
    """A call of an operation that sends, pays or changes. `max_cost_sat` is the bound that it brings; `further_msat` is what it may cost besides its own messages and
    payment, `outcome` how it ended if not only accepted. Its rows of the audit log are made by `note`, one for each
    message or payment, or by the log at its end.
    """

    caller: Caller
    operation: str
    address: str
    peer: str = ""
    amount_msat: int | None = None
    max_cost_sat: int | None = None
    further_msat: int = 0
    outcome: str = ""
    began_at: datetime = field(default_factory=clock.now)
    rows: dict[UUID, AuditEntry] = field(default_factory=dict)
    _works: list[asyncio.Future[Any]] = field(default_factory=list)

    def asks(self, fields: Mapping[str, Any]) -> None:
        """What of the request the log names."""
        self.peer = fields.get("pubkey", "")
        amount_sat = fields.get("amount") or fields.get("price")
        self.amount_msat = int(amount_sat) * 1000 if amount_sat else None

    def note(self, *, item_id: UUID, peer: str, amount_msat: int) -> AuditEntry:
        """As messaging.notes.Noter. A step that is repeated gets a row in the place of the first."""
        row = self.row(AuditEntry.Outcome.ACCEPTED)
        row.message_id, row.peer, row.amount_msat, row.spends = item_id, peer, amount_msat, True
        self.rows[item_id] = row
        return row

    def goes_on(self, work: asyncio.Future[Any]) -> None:
        """As messaging.notes.Noter."""
        self._works.append(work)

    @property
    def unfinished(self) -> asyncio.Future[Any] | None:
        """What goes on without the caller, and may still store something."""
        return next((work for work in self._works if not work.done()), None)

    def row(self, outcome: str, detail: str = "") -> AuditEntry:
        """A new row, not stored."""
        return AuditEntry(
            created_at=self.began_at,
            caller=self.caller.name,
            operation=self.operation,
            peer=self.peer,
            amount_msat=self.amount_msat,
            outcome=outcome,
            detail=detail,
            address=self.address,
        )


def current_call() -> Call | None:
    """The call in whose context this is asked."""
    current = noter.get()
    return current if isinstance(current, Call) else None
