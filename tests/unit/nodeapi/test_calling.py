"""What is noted of a call that is being carried out."""

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from messaging.notes import noter
from nodeapi.calling import Call, current_call
from tests.support.doors import ADDRESS, PUBKEY, SEND_MESSAGE, caller

BEGAN_AT = datetime(2026, 7, 8, 9, 10, 11, tzinfo=UTC)


def call(**fields) -> Call:
    return Call(caller=caller("app"), operation=SEND_MESSAGE, address=ADDRESS, began_at=BEGAN_AT, **fields)


@pytest.mark.parametrize(
    ("fields", "peer", "amount_msat"),
    [
        ({}, "", None),
        ({"pubkey": PUBKEY, "amount": 3, "msg": b"x"}, PUBKEY, 3_000),
        ({"amount": 0}, "", None),
        # A VPN lease has a price.
        ({"pubkey": PUBKEY, "price": 250}, PUBKEY, 250_000),
        ({"amount": 2, "price": 5}, "", 2_000),
    ],
)
def test_what_the_request_says(fields, peer, amount_msat):
    asked = call()
    asked.asks(fields)
    assert (asked.peer, asked.amount_msat) == (peer, amount_msat)


def test_row_of_the_call_itself():
    row = call(peer=PUBKEY, amount_msat=5_000).row("done", "well")
    assert (row.caller, row.operation, row.peer, row.amount_msat) == ("app", SEND_MESSAGE, PUBKEY, 5_000)
    assert (row.outcome, row.detail, row.address, row.created_at) == ("done", "well", ADDRESS, BEGAN_AT)
    assert (row.pk, row.message_id, row.spends, row.committed) == (None, None, False, False)


def test_row_of_each_message():
    asked, ids = call(peer="of the request", amount_msat=9), [uuid4(), uuid4()]
    for message_id in ids:
        asked.note(item_id=message_id, peer=PUBKEY, amount_msat=2_000)
    assert list(asked.rows) == ids
    for message_id, row in asked.rows.items():
        assert (row.message_id, row.peer, row.amount_msat) == (message_id, PUBKEY, 2_000)
        assert (row.outcome, row.spends) == ("accepted", True)


def test_step_that_is_repeated_has_one_row():
    asked, message_id = call(), uuid4()
    asked.note(item_id=message_id, peer=PUBKEY, amount_msat=1_000)
    again = asked.note(item_id=message_id, peer=PUBKEY, amount_msat=1_500)
    assert asked.rows == {message_id: again}
    assert again.amount_msat == 1_500


def test_current_call():
    assert current_call() is None
    asked = call()
    setting = noter.set(asked)
    try:
        assert current_call() is asked
    finally:
        noter.reset(setting)
    assert current_call() is None
