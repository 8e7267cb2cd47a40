"""Bodies that are JSON objects with `type`, and come from strangers. Pure."""

from collections.abc import Container
from typing import Any, TypeGuard

import orjson

# What JSON's numbers hold exactly, in every language.
MAX_NUMBER = 2**53


class Unreadable(Exception):
    """`reason` is a word for what is wrong, to be counted."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def load(raw: bytes, *, max_bytes: int, types: Container[str]) -> dict[str, Any]:
    """The object, of one of these types; what else is in it is unchecked. Raises Unreadable and nothing else."""
    if len(raw) > max_bytes:
        raise Unreadable("body_size")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Unreadable("no_json") from None
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise Unreadable("no_type")
    if data["type"] not in types:
        raise Unreadable("unknown_type")
    return data


def is_whole(value: Any, low: int) -> TypeGuard[int]:
    """Whether it is a whole number from `low` on. A bool is an int to Python; a number beyond 64 bits is a float to
    orjson.
    """
    return type(value) is int and low <= value <= MAX_NUMBER


def is_plain(text: str, max_characters: int) -> bool:
    """Whether it may be shown as it is: no control characters, none that change the direction of what follows."""
    return len(text) <= max_characters and text.isprintable()
