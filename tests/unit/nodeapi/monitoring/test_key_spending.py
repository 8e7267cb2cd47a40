"""What was spent with each key, for the metrics."""

import threading
from types import SimpleNamespace

from nodeapi.monitoring.key_spending import KeySpending
from tests.support.doors import caller
from tests.support.waiting import until_in_loop


async def test_keys_are_looked_up_behind_who_reads_and_kept():
    asked = []

    def spent_msat(name: str) -> int:
        asked.append((name, threading.current_thread()))
        return {"shop": 5_000, "app": 0}[name]

    spending = KeySpending(SimpleNamespace(callers=[caller("shop"), caller("app")]), spent_msat)
    assert spending.msat_by_key == {}
    await until_in_loop(lambda: spending.msat_by_key)
    assert spending.msat_by_key == {"shop": 5_000, "app": 0}
    assert [name for name, _ in asked] == ["shop", "app"]
    assert threading.main_thread() not in {thread for _, thread in asked}
