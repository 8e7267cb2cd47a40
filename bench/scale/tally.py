"""A sum over events that differs when one is missing, comes twice, or comes in another place."""

_PRIME, _MASK = 1_000_003, (1 << 61) - 1


def tally(before: int, seq: int) -> int:
    return (before * _PRIME + seq) & _MASK
