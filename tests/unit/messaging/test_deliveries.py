"""What the log says of messages that came to an end."""

import logging
from collections.abc import Callable, Iterator

import pytest

from messaging import clock, deliveries
from messaging.models import Event, Message, Origin, State
from messaging.outgoing import new_message
from tests.support.tables import emptied

PUBKEY, OTHER = "02" + "11" * 32, "02" + "22" * 32


@pytest.fixture(autouse=True)
def tables(migrated: None) -> Iterator[None]:
    yield from emptied([Message, Event])


def stored(pubkey: str = PUBKEY, **fields) -> Message:
    """A message in flight."""
    message = new_message(service="message", pubkey=pubkey, body=b"x", origin=Origin.CALLER, amount_sat=3)
    message.state, message.attempts = State.IN_FLIGHT, 1
    for name, value in fields.items():
        setattr(message, name, value)
    message.save()
    return message


@pytest.fixture
def lines(caplog) -> Callable[[], list[dict]]:
    caplog.set_level(logging.DEBUG, "messaging.deliveries")
    return lambda: [vars(record) for record in caplog.records if record.name == "messaging.deliveries"]


def move(messages: list[Message], state: State) -> None:
    deliveries.move(messages, state, clock.now(), published=lambda events: None)


@pytest.mark.parametrize(
    ("state", "level"), [(State.SETTLED, "INFO"), (State.FAILED, "INFO"), (State.RETRYING, "DEBUG")]
)
def test_only_the_end_of_a_message_is_told_at_info(lines, state, level):
    move([stored()], state)
    assert [line["levelname"] for line in lines()] == [level]


def test_one_line_for_messages_to_one_node_with_what_they_were(lines):
    first, second = stored(fee_msat=7), stored(fee_msat=2, attempts=4)
    other = stored(OTHER)
    move([first, second, other], State.SETTLED)
    assert [
        (line["peer"], line["amount_msat"], line["fee_msat"], line["attempts"], line["messages"])
        for line in lines()
    ] == [
        (PUBKEY, 6_000, 9, 4, [str(first.message_id), str(second.message_id)]),
        (OTHER, 3_000, 0, 1, [str(other.message_id)]),
    ]
    assert all(line["service"] == "message" and line["seconds"] >= 0 for line in lines())


def test_messages_that_ended_before_are_told_no_more(lines):
    message = stored()
    move([message], State.SETTLED)
    move([message], State.FAILED)
    assert [line["state"] for line in lines()] == ["settled"]
