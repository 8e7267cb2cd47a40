from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpn.pricing import MAX_SAT, bought_seconds, check_price, parse_price, price_bounds

SATS = st.integers(1, 10**6) | st.integers(1, MAX_SAT)
SECONDS = st.integers(1, 10 * 366 * 86_400)


@given(st.integers(0, MAX_SAT * 1000), SATS)
def test_seconds_are_what_was_paid_rounded_down(price_msat, hourly_sat):
    exact = Fraction(price_msat, 1000) / hourly_sat * 3600
    assert bought_seconds(price_msat, hourly_sat) <= exact < bought_seconds(price_msat, hourly_sat) + 1


@given(SATS, st.integers(0, 10**6))
def test_whole_hours_are_bought_exactly(hourly_sat, hours):
    assert bought_seconds(hourly_sat * hours * 1000, hourly_sat) == hours * 3600


@given(SATS, SECONDS, SECONDS)
def test_bounds_are_the_outermost_prices_that_buy_a_time_within(hourly_sat, one, other):
    shortest, longest = sorted((one, other))

    def within(price_sat: int) -> bool:
        return shortest <= bought_seconds(price_sat * 1000, hourly_sat) <= longest

    try:
        prices = price_bounds(hourly_sat, min_seconds=shortest, max_seconds=longest)
    except ValueError:
        # The first price that buys enough buys too much, or is more than there are sat.
        first = -(-shortest * hourly_sat // 3600)
        assert not within(first) or first > MAX_SAT
        return
    assert within(prices.min_sat)
    assert within(prices.max_sat)
    assert not within(prices.min_sat - 1)
    assert not within(prices.max_sat + 1) or prices.max_sat == MAX_SAT
    assert check_price(str(prices.min_sat), prices) == prices.min_sat
    for outside in (prices.min_sat - 1, prices.max_sat + 1):
        with pytest.raises(ValueError, match="must be "):
            check_price(str(outside), prices)


@pytest.mark.parametrize("hourly_sat", [0, -1, MAX_SAT + 1])
def test_hourly_prices_that_nobody_can_pay(hourly_sat):
    with pytest.raises(ValueError, match="cannot be paid"):
        price_bounds(hourly_sat, min_seconds=1, max_seconds=10)


def test_the_usual_bounds():
    prices = price_bounds(100, min_seconds=3600, max_seconds=30 * 86_400)
    assert (prices.min_sat, prices.max_sat) == (100, 72_000)


@given(st.integers(1, MAX_SAT))
def test_prices_as_text(sat):
    assert parse_price(str(sat)) == sat


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "+1",
        "1.0",
        "1e3",
        " 1",
        "1\n",
        "01",
        "1_0",
        "٣",
        "9" * 5000,
        str(MAX_SAT + 1),
        5,
        None,
        b"1",
    ],
)
def test_texts_that_are_no_price(text):
    with pytest.raises(ValueError, match="whole number of sat"):
        parse_price(text)
