"""Ids and preimages that follow from an Idempotency-Key, so that lnd itself refuses to pay for the same request twice.

A database that has come back from a backup does not know what was sent after it was made. A caller who repeats such a
request, with its Idempotency-Key, gets the same message id again, and the same payment hash, which lnd does not pay again.
All attempts of such a message have one preimage: lnd pays a hash again only if its payment has failed.

It holds for messages that carry more than the least amount. Those of the least amount may share payments with others, by
which their payment hash depends on what else was sent at that moment.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import count
from uuid import UUID

from messaging.idempotency import LIFETIME, Claim
from messaging.models import Direction, Message, Part, named
from messaging.packing import MIN_AMOUNT_MSAT

# lnd's clock and this node's differ by less.
CLOCK_SLACK = timedelta(minutes=1)
_LABEL = b"impervious: preimages of Idempotency-Keys"
_ID, _WHOLE, _PART = b"message id", b"whole message", b"part"


class Preimages:
    """Derives from the node's secret key, which nobody else knows: whoever knows a preimage can take the payment."""

    def __init__(self, secret_key: str):
        self._key = hmac.digest(secret_key.encode(), _LABEL, hashlib.sha256)

    def message_id(self, claim: Claim, pubkey: str, use: int = 0) -> UUID:
        """Of the message to this node that the claim asks for; `use`: how often the claim had expired before."""
        derived = self._derive(
            _ID, claim.caller.encode(), claim.key.encode(), claim.request_hash, pubkey.encode(), _number(use)
        )
        return UUID(bytes=derived[:16], version=4)

    def of(self, carried: Message | Part) -> bytes:
        """The preimage of a message, or of a part of one, that has a secret number. A part's depends on how its message is
        divided: in another division it has other content.
        """
        number = _number(carried.secret_number or 0)
        if isinstance(carried, Message):
            return self._derive(_WHOLE, carried.message_id.bytes, carried.pubkey.encode(), number)
        message, division = carried.message, carried.message.division
        return self._derive(
            _PART,
            message.message_id.bytes,
            message.pubkey.encode(),
            number,
            _number(carried.index),
            _number(message.parts),
            _number(division.part_bytes),
            bytes(division.sha256),
        )

    def _derive(self, *fields: bytes) -> bytes:
        told = b"".join(len(field).to_bytes(4) + field for field in fields)
        return hmac.digest(self._key, told, hashlib.sha256)


def may_guard(message: Message) -> bool:
    return message.amount_msat > MIN_AMOUNT_MSAT


def guard(messages: Iterable[Message], claim: Claim, preimages: Preimages) -> None:
    """Gives new messages of this claim that carry more than the least amount their ids, and preimages that follow from
    these. Reads the database: an expired key that is given again stands for a new request.
    """
    given: set[UUID] = set()
    for message in messages:
        if may_guard(message):
            ids = (preimages.message_id(claim, message.pubkey, use) for use in count())
            message.message_id = next(one for one in ids if one not in given and not _is_known(one))
            message.secret_number, message.alone = 0, True
            given.add(message.message_id)


def not_paid_before(carried: Sequence[Message | Part]) -> float:
    """The moment (Unix seconds) before which a payment of the same preimage was not for this but for an earlier request:
    the key had expired, and the message that it stood for then is not known here any more.
    """
    if not carried or carried[0].secret_number is None:
        return 0.0
    first = carried[0]
    message = first.message if isinstance(first, Part) else first
    return (message.created_at - LIFETIME - CLOCK_SLACK).timestamp()


def _is_known(message_id: UUID) -> bool:
    return named(Direction.OUT, [message_id]).exists()


def _number(value: int) -> bytes:
    return value.to_bytes(8)
