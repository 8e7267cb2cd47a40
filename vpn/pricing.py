"""What a price buys. Whole sat, as decimal text between nodes; all arithmetic is of integers. Pure."""

import re
from dataclasses import dataclass

MAX_SAT = 21_000_000 * 100_000_000
HOUR_SECONDS = 3600

_PRICE = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)


@dataclass(frozen=True)
class Prices:
    """The smallest and the largest price that is accepted, in sat."""

    min_sat: int
    max_sat: int


def bought_seconds(price_msat: int, hourly_price_sat: int) -> int:
    return price_msat * HOUR_SECONDS // (hourly_price_sat * 1000)


def price_bounds(hourly_price_sat: int, *, min_seconds: int, max_seconds: int) -> Prices:
    """The prices that buy min_seconds to max_seconds. ValueError if no whole price does: as with an hourly 0 sat."""
    if not 0 < hourly_price_sat <= MAX_SAT:
        raise ValueError(
            f"an hourly price of {hourly_price_sat} sat cannot be paid; must be from 1 to {MAX_SAT}"
        )
    least = max(1, -(-min_seconds * hourly_price_sat // HOUR_SECONDS))
    most = min(MAX_SAT, ((max_seconds + 1) * hourly_price_sat - 1) // HOUR_SECONDS)
    if least > most:
        raise ValueError(
            f"at {hourly_price_sat} sat an hour no whole price buys from {min_seconds} to {max_seconds} "
            "seconds; widen vpn.min_seconds and vpn.max_seconds"
        )
    return Prices(least, most)


def parse_price(text: object) -> int:
    """Sat. ValueError unless it is a whole number of sat from 1 on, without sign, point, spaces or zeros in front."""
    if not isinstance(text, str) or not _PRICE.fullmatch(text) or int(text) > MAX_SAT:
        raise ValueError(f"must be a whole number of sat from 1 to {MAX_SAT}, such as 100")
    return int(text)


def check_price(text: object, prices: Prices) -> int:
    """Sat. ValueError also for what is outside the bounds."""
    price_sat = parse_price(text)
    if not prices.min_sat <= price_sat <= prices.max_sat:
        raise ValueError(f"is {price_sat} sat; must be from {prices.min_sat} to {prices.max_sat} sat")
    return price_sat
