"""How often a key may call, and how much is told of what is refused."""

import pytest

from nodeapi.errors import ApiError
from nodeapi.rates import Rates


class Time:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def time() -> Time:
    return Time()


def refused(rates: Rates, name: str, per_minute: int) -> int:
    with pytest.raises(ApiError) as error:
        rates.count(name, per_minute)
    return error.value.retry_after


def test_so_many_in_any_minute(time):
    rates = Rates(time)
    for _ in range(3):
        rates.count("app", 3)
        time.seconds += 10
    assert refused(rates, "app", 3) == 30
    rates.count("other", 1)
    time.seconds += 29.5
    assert refused(rates, "app", 3) == 1
    time.seconds += 0.5
    rates.count("app", 3)
    # The next of the first three leaves ten seconds after the first.
    assert refused(rates, "app", 3) == 10


def test_what_is_refused_does_not_count(time):
    rates = Rates(time)
    rates.count("app", 1)
    for _ in range(100):
        refused(rates, "app", 1)
    time.seconds += 60
    rates.count("app", 1)


def test_a_limit_that_is_changed_holds_at_once(time):
    rates = Rates(time)
    for _ in range(5):
        rates.count("app", 5)
        time.seconds += 1
    rates.count("app", 6)
    # Six within the minute: all but one have to leave before there is room for two.
    assert refused(rates, "app", 2) == 59
