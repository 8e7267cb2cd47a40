"""New messages to be sent."""

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol
from uuid import UUID, uuid4

from messaging import answers, clock, events, peers
from messaging.answers import AnswerTerms
from messaging.database import insert_new
from messaging.models import Direction, Message, Origin, State

DEFAULT_EXPIRES_SECONDS = 86_400


def new_message(
    *,
    service: str,
    pubkey: str,
    body: bytes,
    amount_sat: int = 1,
    reply_to: UUID | None = None,
    expires_seconds: int = DEFAULT_EXPIRES_SECONDS,
    message_id: UUID | None = None,
    origin: Origin = Origin.ANSWER,
) -> Message:
    """Make a message, not stored yet, of `service` to `pubkey` (hex), which carries `amount_sat` and is given up after
    `expires_seconds`.

    Its `origin` is `CALLER` for what an operator or this node itself wants; the outbox sets it for calls. What is sent
    because of another node is an answer: it carries 1 sat whatever is said here, and is sent only as far as that node has
    paid for it (messaging/answers.py).
    """
    now = clock.now()
    return Message(
        message_id=message_id or uuid4(),
        direction=Direction.OUT,
        pubkey=pubkey,
        service=service,
        reply_to=reply_to,
        body=body,
        amount_msat=amount_sat * 1000,
        state=State.QUEUED,
        origin=origin,
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(seconds=expires_seconds),
    )


class Storing(Protocol):
    """What `store_all` needs to know; a WorkerContext does."""

    @property
    def cost_msat(self) -> Callable[[int, int], int]:
        """What a message of so many bytes and this amount may cost."""

    @property
    def answer_terms(self) -> AnswerTerms: ...

    @property
    def published(self) -> events.Published: ...


def store_all(messages: list[Message], context: Storing) -> list[Message]:
    """Store new messages as queued, with what they may cost. Part of the caller's transaction.

    Returns:
        Those that are to be sent after the commit: what nobody at this node asked for only if others have paid for it.
    """
    asked_for = [message for message in messages if message.origin == Origin.CALLER]
    for message in asked_for:
        message.cost_msat = context.cost_msat(len(message.body), message.amount_msat)
    insert_new(Message, asked_for)
    admitted = answers.admit(
        [message for message in messages if message.origin != Origin.CALLER], context.answer_terms
    )
    events.append(admitted.events, published=context.published)
    stored = asked_for + admitted.messages
    # An answer that this node gives of itself makes nobody a peer that it has written to.
    peers.touch(message.pubkey for message in stored)
    return stored
