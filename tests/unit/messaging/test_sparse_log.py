"""What a flood leaves in the log."""

import asyncio
import logging
from collections import Counter

from messaging.sparse_log import SparseLog

logger = logging.getLogger("a.flood")


async def written(caplog, number: int) -> list[tuple[str, str, int]]:
    """The log's lines, once there are as many."""
    while len(caplog.records) < number:
        await asyncio.sleep(0.01)
    return [(record.service, record.reason, record.count) for record in caplog.records]


def test_one_line_of_each_kind_at_once_and_the_rest_together(caplog):
    async def flood() -> None:
        log = SparseLog(logger, logging.WARNING, "record dropped", ("service", "reason"), pause_seconds=0.5)
        for _ in range(1_000):
            log.note(Counter({("message", "signature"): 1}))
        log.note(Counter({("vpn", "foreign"): 7}))
        first = [("message", "signature", 1), ("vpn", "foreign", 7)]
        assert await written(caplog, 2) == first
        together = [("message", "signature", 999)]
        assert await written(caplog, 3) == first + together
        # Nothing is told of a pause in which nothing came, and what comes after it is told at once.
        await asyncio.sleep(1.2)
        log.note(Counter({("message", "shape"): 2}))
        assert await written(caplog, 4) == [*first, *together, ("message", "shape", 2)]

    with caplog.at_level(logging.WARNING, logger=logger.name):
        asyncio.run(flood())
    assert {record.getMessage() for record in caplog.records} == {"record dropped"}
