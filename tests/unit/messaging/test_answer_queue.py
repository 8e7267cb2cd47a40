"""Whose unasked message is next, and how many are under way."""

import asyncio

from messaging.answer_queue import AnswerQueue, Waiting
from tests.support.outboxes import PUBKEY, run


def strangers(count: int) -> list[Waiting]:
    return [Waiting(number, PUBKEY, known=False) for number in range(count)]


def known_ones(count: int) -> list[Waiting]:
    return [Waiting(1_000 + number, PUBKEY, known=True) for number in range(count)]


def taken(queue: AnswerQueue) -> list[Waiting]:
    found = []
    while answer := queue.take():
        found.append(answer)
    return found


def filled(*groups: list[Waiting]) -> AnswerQueue:
    queue = AnswerQueue(4)
    for group in groups:
        for answer in group:
            queue.wait(answer)
    return queue


def test_strangers_have_half_of_it_in_their_order():
    queue = filled(strangers(5))
    assert taken(queue) == strangers(2)
    assert (queue.in_flight, queue.queued) == (2, 3)
    queue.release(known=False)
    assert taken(queue) == [strangers(3)[2]]


def test_known_peers_have_what_strangers_leave():
    queue = filled(strangers(5), known_ones(5))
    first = taken(queue)
    assert len(first) == 4
    assert first == known_ones(4)
    for _ in range(4):
        queue.release(known=True)
    assert taken(queue) == [*known_ones(5)[4:], *strangers(2)]


def test_what_an_earlier_process_left_counts():
    queue = filled(strangers(1))
    for _ in range(3):
        queue.occupy(known=False)
    assert taken(queue) == []
    queue.release(known=False)
    queue.release(known=False)
    assert taken(queue) == strangers(1)


def test_there_is_work_when_something_waits_or_ends():
    queue = filled()
    assert not queue.work.is_set()
    queue.wait(strangers(1)[0])
    assert queue.work.is_set()
    queue.work.clear()
    queue.take()
    queue.release(known=False)
    assert queue.work.is_set()


def test_second_try_waits_for_its_time():
    async def test() -> None:
        queue = filled()
        queue.wait(known_ones(1)[0], seconds=0.01)
        assert (queue.take(), queue.retrying) == (None, 1)
        await queue.work.wait()
        assert (taken(queue), queue.retrying) == (known_ones(1), 0)

    run(asyncio.wait_for(test(), 60))
