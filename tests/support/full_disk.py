"""A node whose files cannot grow."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.nodes import Node


@contextmanager
def full_disk(node: Node) -> Iterator[None]:
    """No file of the node may grow inside. Its log is one: it has a gap there."""
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        if node.process.poll() is None:
            resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
