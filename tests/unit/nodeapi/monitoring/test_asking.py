"""Questions that may take long: one under way at a time, and nobody waits long."""

import asyncio

import pytest

from nodeapi.monitoring import asking
from nodeapi.monitoring.asking import LEISURE, Asked, NoAnswer, Refreshed
from tests.support.monotonic import MonotonicClock


@pytest.fixture
def clock(monkeypatch) -> MonotonicClock:
    clock = MonotonicClock()
    monkeypatch.setattr(asking, "time", clock)
    return clock


class Question:
    """Answers 1, 2, …, or with `error`, once `answering` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def __call__(self) -> int:
        self.asked += 1
        number = self.asked
        await self.answering.wait()
        if self.error:
            raise self.error
        return number


@pytest.fixture
async def question() -> Question:
    return Question()


async def settled() -> None:
    """Until what is ready to run has run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_answer_is_kept_for_a_while(clock, question):
    asked = Asked(question, keep_seconds=2.0)
    assert await asked.answer() == 1
    clock.seconds += 1.9
    assert await asked.answer() == 1
    clock.seconds += 0.1
    assert await asked.answer() == 2
    assert question.asked == 2


async def test_many_who_ask_share_a_question(clock, question):
    asked = Asked(question, keep_seconds=2.0)
    question.answering.clear()
    askers = [asyncio.create_task(asked.answer()) for _ in range(5)]
    await settled()
    question.answering.set()
    assert await asyncio.gather(*askers) == [1] * 5


async def test_error_is_an_answer(clock, question):
    asked = Asked(question, keep_seconds=2.0)
    question.error = ValueError("of the question")
    for _ in range(2):
        with pytest.raises(ValueError, match="of the question"):
            await asked.answer()
    assert question.asked == 1
    question.error = None
    clock.seconds += 2.0
    assert await asked.answer() == 2


async def test_last_answer_is_told_while_the_next_takes_long(clock, question):
    asked = Asked(question, keep_seconds=2.0, patience_seconds=0, give_up_seconds=5.0)
    assert await asked.answer() == 1
    question.answering.clear()
    clock.seconds += 2.0
    assert await asked.answer() == 1
    clock.seconds += 4.9
    assert await asked.answer() == 1
    clock.seconds += 0.1
    for _ in range(3):
        with pytest.raises(NoAnswer):
            await asked.answer()
    assert question.asked == 2
    question.answering.set()
    await settled()
    assert await asked.answer() == 2


async def test_first_answer_is_waited_for_longer(clock, question):
    """As long as until it is given up, though the patience is none."""
    asked = Asked(question, keep_seconds=2.0, patience_seconds=0, give_up_seconds=600)
    question.answering.clear()
    asker = asyncio.create_task(asked.answer())
    await settled()
    assert not asker.done()
    question.answering.set()
    assert await asker == 1


async def test_question_that_was_never_answered(clock, question):
    asked = Asked(question, keep_seconds=2.0, give_up_seconds=0)
    question.answering.clear()
    for _ in range(2):
        with pytest.raises(NoAnswer):
            await asked.answer()
    assert question.asked == 1


async def test_who_leaves_takes_no_answer_from_others(clock, question):
    asked = Asked(question, keep_seconds=2.0)
    question.answering.clear()
    leaving, staying = (asyncio.create_task(asked.answer()) for _ in range(2))
    await settled()
    leaving.cancel()
    await settled()
    question.answering.set()
    assert await staying == 1
    assert leaving.cancelled()
    assert question.asked == 1


# what changes slowly


def refreshed(question: Question) -> Refreshed[int]:
    return Refreshed(question, keep_seconds=60, retry_seconds=10, what="a number")


async def read(slow: Refreshed[int]) -> int | None:
    """What is known once all that reading it has begun is done."""
    assert slow.last is None or slow.last
    await settled()
    return slow.last


async def test_nobody_waits_for_what_changes_slowly(clock, question):
    slow = refreshed(question)
    question.answering.clear()
    assert [slow.last, await read(slow)] == [None, None]
    question.answering.set()
    assert await read(slow) == 1
    assert question.asked == 1


async def test_what_changes_slowly_is_asked_for_again_when_it_is_old(clock, question):
    slow = refreshed(question)
    assert await read(slow) == 1
    clock.seconds += 59
    assert await read(slow) == 1
    clock.seconds += 1
    assert slow.last == 1
    assert await read(slow) == 2


async def test_last_answer_outlives_questions_that_fail(clock, question):
    slow = refreshed(question)
    assert await read(slow) == 1
    question.error = OSError("away")
    clock.seconds += 60
    assert await read(slow) == 1
    question.error = None
    clock.seconds += 9
    assert await read(slow) == 1
    clock.seconds += 1
    assert await read(slow) == 3


async def test_long_questions_are_asked_seldom(clock, question):
    slow = refreshed(question)
    question.answering.clear()
    assert await read(slow) is None
    clock.seconds += 2
    question.answering.set()
    assert await read(slow) == 1
    clock.seconds += 2 * LEISURE - 1
    assert await read(slow) == 1
    clock.seconds += 1
    assert await read(slow) == 2
