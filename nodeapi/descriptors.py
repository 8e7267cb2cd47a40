"""File descriptors: every connection takes one, and the node needs some besides."""

import logging
import resource
from functools import lru_cache
from typing import NamedTuple

logger = logging.getLogger("nodeapi.descriptors")

# For the databases, lnd, the relay, logs, and connections that are just being refused.
RESERVED = 256


class Shares(NamedTuple):
    http: int
    grpc: int


def raise_limit() -> None:
    """To what the system allows this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        logger.warning("the limit of open files stays at %d: %s", soft, error)


@lru_cache
def shares(http: int, grpc: int) -> Shares:
    """As many connections as were asked for, or as many as there are descriptors for, in the same proportion."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = max(limit - min(RESERVED, limit // 4), 2)
    if limit == resource.RLIM_INFINITY or http + grpc <= room:
        return Shares(http, grpc)
    smaller = Shares(http=max(room * http // (http + grpc), 1), grpc=max(room * grpc // (http + grpc), 1))
    logger.warning(
        "this process may open %d files only, so it takes %d HTTP and %d gRPC connections instead of %d and %d; raise the "
        "limit (ulimit -n, systemd: LimitNOFILE) or lower server.max_connections",
        limit,
        *smaller,
        http,
        grpc,
    )
    return smaller
