"""For columns that may be empty, where a row's state says that they are not."""

from typing import TypeVar

Value = TypeVar("Value")


def required(value: Value | None) -> Value:
    """The value. TypeError when there is none."""
    if value is None:
        raise TypeError("a value is missing that this state requires")
    return value
