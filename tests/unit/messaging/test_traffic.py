"""Whose turn it is: order, limits and fairness between nodes."""

import asyncio
from types import SimpleNamespace
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from messaging.traffic import Limits, Traffic


def make(in_flight: int = 4, per_peer: int = 2) -> Traffic:
    return Traffic(Limits(in_flight=in_flight, in_flight_per_peer=per_peer))


def attempt(pubkey: str) -> SimpleNamespace:
    return SimpleNamespace(pk=uuid4(), destination=pubkey)


def in_loop(test):
    """Timers belong to an event loop."""

    async def run(*args):
        return test(*args)

    return asyncio.run(run())


def start(traffic: Traffic, batch, payments: int) -> list:
    """Starts so many payments of a batch, one message each; the rest goes on waiting."""
    attempts = [attempt(batch.pubkey) for _ in range(payments)]
    for one in attempts:
        traffic.occupy(one)
    traffic.started(batch, batch.keys[payments:])
    return attempts


def test_messages_to_one_node_start_in_their_order():
    def run():
        traffic = make()
        for key in (1, 2, 3):
            traffic.wait("a", key)
        batch = traffic.next_batch()
        assert (batch.keys, batch.payments) == ([1, 2, 3], 2)
        start(traffic, batch, 2)
        assert traffic.next_batch() is None
        assert traffic.depth == 1

    in_loop(run)


def test_nodes_take_turns_and_one_cannot_use_up_all():
    def run():
        traffic = make()
        for key in range(10):
            traffic.wait("a", key)
        traffic.wait("b", 100)
        first, second = traffic.next_batch(), traffic.next_batch()
        assert [first.pubkey, second.pubkey] == ["a", "b"]
        start(traffic, first, first.payments)
        start(traffic, second, 1)
        assert traffic.next_batch() is None
        assert traffic.free == 1

    in_loop(run)


def test_end_of_a_payment_gives_the_next_its_turn():
    def run():
        traffic = make(per_peer=1)
        traffic.wait("a", 1)
        traffic.wait("a", 2)
        attempts = start(traffic, traffic.next_batch(), 1)
        assert traffic.next_batch() is None
        traffic.release(attempts[0])
        assert traffic.next_batch().keys == [2]

    in_loop(run)


def test_held_payment_counts_only_against_its_node():
    def run():
        traffic = make(in_flight=1, per_peer=1)
        traffic.wait("a", 1)
        held = start(traffic, traffic.next_batch(), 1)[0]
        traffic.wait("a", 2)
        traffic.wait("b", 3)
        assert traffic.next_batch() is None
        traffic.held(held)
        assert traffic.next_batch().pubkey == "b"
        assert traffic.room("a") == 0

    in_loop(run)


def test_new_messages_do_not_overtake():
    def run():
        traffic = make()
        assert traffic.room("a") == 2
        traffic.wait("a", 1)
        assert traffic.room("a") == 0
        batch = traffic.next_batch()
        assert traffic.room("a") == 0
        start(traffic, batch, 1)
        assert traffic.room("a") == 1

    in_loop(run)


def test_retries_wait_for_their_time_and_are_due_when_lnd_returns():
    def run():
        traffic = make()
        traffic.wait("a", 1, seconds=3600)
        assert traffic.next_batch() is None
        assert traffic.depth == 1
        traffic.retry_now()
        assert traffic.next_batch().keys == [1]

    in_loop(run)


def test_retry_that_is_due_sets_work():
    async def run():
        traffic = make()
        traffic.wait("a", 1, seconds=0.01)
        traffic.work.clear()
        await asyncio.wait_for(traffic.work.wait(), 600)
        return traffic.next_batch().keys

    assert asyncio.run(run()) == [1]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=60))
def test_every_message_starts_once_and_limits_hold(steps):
    def run():
        traffic, under_way, waiting, started = make(), [], [], []
        for key, (pubkey, ends) in enumerate(steps):
            traffic.wait(pubkey, key)
            waiting.append(key)
            for one in under_way[:ends]:
                traffic.release(one)
            del under_way[:ends]
            started += advance(traffic, under_way)
        while under_way:
            traffic.release(under_way.pop(0))
            started += advance(traffic, under_way)
        assert sorted(started) == waiting

    def advance(traffic, under_way) -> list[int]:
        keys = []
        while batch := traffic.next_batch():
            count = min(batch.payments, len(batch.keys))
            keys += batch.keys[:count]
            under_way += start(traffic, batch, count)
            assert len(under_way) <= 4
            assert all(sum(one.destination == name for one in under_way) <= 2 for name in "abc")
        return keys

    in_loop(run)
