"""Counters that begin anew when the interface does, as sums that do not. Pure."""


def more(counter: int, seen: int) -> int:
    """What a counter has grown by since it was seen: one that is lower than it was began anew."""
    return counter - seen if counter >= seen else counter
