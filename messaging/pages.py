"""Pages of rows that hold bodies: bounded by bytes as well as by number, because a body may have a megabyte."""

from collections.abc import Iterable


def count_within(sizes_bytes: Iterable[int], max_bytes: int) -> int:
    """How many of the first rows, with these sizes, have at most `max_bytes` together: one at least, if there is one."""
    count = total_bytes = 0
    for size_bytes in sizes_bytes:
        total_bytes += size_bytes
        if count and total_bytes > max_bytes:
            break
        count += 1
    return count
