"""Pages of rows that hold bodies."""

from uuid import UUID

import pytest

from messaging.models import Direction, Message, State
from messaging.outgoing import new_message
from messaging.pages import count_within
from messaging.services import PAGE_BYTES, message_list
from tests.support.outboxes import PUBKEY, empty_database

migrated = pytest.fixture(autouse=True)(empty_database)


@pytest.mark.parametrize(
    ("sizes_bytes", "count"),
    [([], 0), ([10], 1), ([11], 1), ([11, 0], 1), ([4, 6], 2), ([4, 6, 1], 2), ([0] * 50, 50)],
)
def test_as_many_as_fit_and_one_at_least(sizes_bytes, count):
    assert count_within(sizes_bytes, 10) == count


@pytest.mark.parametrize(
    "asked", [{}, {"service": "message"}, {"direction": Direction.OUT, "pubkey": PUBKEY}]
)
def test_a_long_history_is_listed_in_pages_that_fit_an_answer(asked):
    bodies = [
        b"short",
        bytes(1_000_000),
        bytes(1_000_000),
        bytes(1_000_000),
        b"short",
        bytes(PAGE_BYTES + 1),
        b"short",
    ]
    messages = [
        new_message(service="message", pubkey=PUBKEY, body=body, amount_sat=1, expires_seconds=60)
        for body in bodies
    ]
    for message in messages:
        message.state = State.SETTLED
        message.save()
    listed: list[str] = []
    pages = []
    while page := message_list(**asked, before=UUID(listed[-1]) if listed else None, limit=6):
        pages.append([len(message["msg"]) for message in page])
        listed += [message["id"] for message in page]
    assert listed == [str(message.message_id) for message in reversed(messages)]
    assert pages == [[5], [PAGE_BYTES + 1], [5, 1_000_000, 1_000_000, 1_000_000, 5]]
    assert Message.objects.count() == len(bodies)
