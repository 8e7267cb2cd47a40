"""Which private channels are named, and when."""

import pytest

from lightning.hints import (
    ANSWER_SAT,
    MAX_HINTS,
    invoice_needs_hints,
    only_private_receive,
    receivable_sat,
    usable_channels,
)
from protos.lnrpc import lightning_pb2

RESERVE_SAT = 10_000


def channel(remote_sat: int, *, private: bool = False, active: bool = True) -> lightning_pb2.Channel:
    """It can receive so much after its reserve."""
    return lightning_pb2.Channel(
        active=active,
        private=private,
        remote_balance=remote_sat + RESERVE_SAT,
        remote_constraints=lightning_pb2.ChannelConstraints(chan_reserve_sat=RESERVE_SAT),
    )


def hidden(remote_sat: int, *, active: bool = True) -> lightning_pb2.Channel:
    return channel(remote_sat, private=True, active=active)


@pytest.mark.parametrize(
    ("channels", "amount_sat", "needed"),
    [
        ([channel(500), hidden(5_000)], 500, False),
        # Too little on the far side, the reserve counted.
        ([channel(499), hidden(5_000)], 500, True),
        # The peer is offline.
        ([channel(9_000, active=False), hidden(5_000)], 500, True),
        # Below its reserve a side takes nothing from other channels.
        ([channel(-5_000), channel(500), hidden(5_000)], 500, False),
        # Payers divide it.
        ([channel(300), channel(200), hidden(5_000)], 500, False),
        ([hidden(5_000)], 1, True),
        # Any amount.
        ([channel(0), hidden(5_000)], 0, True),
        ([channel(4_999), hidden(5_000)], 0, True),
        ([channel(5_000), hidden(5_000)], 0, False),
        ([channel(5_000)], 0, False),
        ([channel(9_000, active=False), hidden(1)], 0, True),
        ([hidden(0)], 0, True),
    ],
)
def test_hints_of_invoices(channels, amount_sat, needed):
    assert invoice_needs_hints(channels, amount_sat) is needed


@pytest.mark.parametrize(
    ("channels", "told"),
    [
        ([channel(ANSWER_SAT - 1), hidden(5_000)], True),
        ([channel(9_000, active=False), hidden(5_000)], True),
        ([channel(ANSWER_SAT), hidden(5_000)], False),
        # There is nothing that hints would help with.
        ([channel(0), hidden(0)], False),
        ([hidden(5_000)], False),
        ([], False),
    ],
)
def test_public_channels_that_receive_nothing_are_worth_a_warning(channels, told):
    assert only_private_receive(channels) is told


@pytest.mark.parametrize(("own", "sat"), [(True, 5_000), (False, 0)])
def test_peer_that_opened_a_channel_keeps_a_buffer_for_its_fee(own, sat):
    opened = channel(5_000)
    opened.initiator, opened.commit_fee = own, 2_810
    assert receivable_sat(opened) == sat


@pytest.mark.parametrize(
    ("channels", "named"),
    [
        ([channel(ANSWER_SAT), hidden(5_000)], []),
        ([channel(ANSWER_SAT - 1), hidden(5_000)], [1]),
        ([channel(9_000, active=False), hidden(5_000)], [1]),
        # An answer is one payment: channels do not count together.
        ([channel(ANSWER_SAT - 1), channel(ANSWER_SAT - 1), hidden(5_000)], [2]),
        ([hidden(5_000), hidden(6_000, active=False), hidden(7_000), hidden(6_500)], [2, 3]),
        ([hidden(5_000), hidden(0)], [0, 1]),
        ([channel(0)], []),
    ],
)
def test_hints_for_answers(channels, named):
    for number, one in enumerate(channels):
        one.chan_id = number
    assert [one.chan_id for one in usable_channels(channels)] == named
    assert len(named) <= MAX_HINTS
