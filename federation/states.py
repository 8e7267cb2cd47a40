"""The states that this node and another one can be in towards each other, and the ways between them. Pure.

    requested ─┬─→ member ──→ left | expired
    received ──┘      ↑ asking again, by either side, keeps it and sets its end anew
        └───→ refused | left (taken back) | expired

Whatever has ended may begin again.
"""

from django.db.models import TextChoices


class State(TextChoices):
    REQUESTED = "requested", "asked by us"
    RECEIVED = "received", "waits for you"
    MEMBER = "member", "member"
    REFUSED = "refused", "refused"
    LEFT = "left", "left"
    EXPIRED = "expired", "expired"


ENDED = (State.REFUSED, State.LEFT, State.EXPIRED)

# From which states one may come into each state; None: from nothing, this is the first that there is with that node.
WAYS: dict[State, tuple[State | None, ...]] = {
    # From member: its time is over while we are waiting for the answer to our asking again.
    State.REQUESTED: (None, State.REQUESTED, State.RECEIVED, State.MEMBER, *ENDED),
    State.RECEIVED: (None, State.RECEIVED, *ENDED),
    State.MEMBER: (None, State.REQUESTED, State.RECEIVED, State.MEMBER, *ENDED),
    State.REFUSED: (None, State.REQUESTED, State.RECEIVED, *ENDED),
    # From requested: we have taken it back; or the other node accepted and left, and its accept is still on its way. From
    # received: the other node has taken it back.
    State.LEFT: (State.MEMBER, State.REQUESTED, State.RECEIVED),
    State.EXPIRED: (State.MEMBER, State.REQUESTED, State.RECEIVED),
}
