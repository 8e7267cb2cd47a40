"""Calls of the API, counted at the doors: what was refused before it reached its function counts too."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rest_framework.exceptions import APIException

from messaging import metrics, tracing
from nodeapi.errors import ApiError
from nodeapi.operations import Operation


@contextmanager
def counted(operation: Operation) -> Iterator[None]:
    """Around one call; what is logged of messages meanwhile names the operation."""
    name, code, began = operation.rpc_path[1:], "INTERNAL", time.perf_counter()
    token = tracing.operation.set(name)
    try:
        yield
        code = "OK"
    except ApiError as error:
        code = error.code.name
        raise
    except APIException:
        code = "INVALID_ARGUMENT"
        raise
    except asyncio.CancelledError:
        code = "CANCELLED"
        raise
    finally:
        tracing.operation.reset(token)
        metrics.CALL_SECONDS.labels(name, code).observe(time.perf_counter() - began)
