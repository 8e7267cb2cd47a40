"""Calls of the API as they are counted."""

import asyncio
import contextlib

import grpc
import pytest
from rest_framework.exceptions import ParseError

from messaging import metrics, tracing
from nodeapi.errors import ApiError, invalid
from nodeapi.monitoring.calls import counted
from tests.support.doors import GET_INFO, SEND_MESSAGE, operation


def count(rpc: str, code: str) -> float:
    labels = {"operation": rpc, "code": code}
    return metrics.PROCESS.get_sample_value("impervious_call_seconds_count", labels) or 0.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, "OK"),
        (invalid("x", "is wrong"), "INVALID_ARGUMENT"),
        (ApiError(grpc.StatusCode.NOT_FOUND, "none"), "NOT_FOUND"),
        (ParseError("no form"), "INVALID_ARGUMENT"),
        (asyncio.CancelledError(), "CANCELLED"),
        (ValueError(), "INTERNAL"),
    ],
)
def test_calls_are_counted_by_their_status(error, code):
    before = count(SEND_MESSAGE, code)
    expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
    with expected, counted(operation(SEND_MESSAGE)):
        if error:
            raise error
    assert count(SEND_MESSAGE, code) == before + 1


def test_log_names_the_operation_meanwhile():
    assert tracing.by_whom() == "the node itself"
    with pytest.raises(KeyError), counted(operation(GET_INFO)):
        assert tracing.by_whom() == GET_INFO
        raise KeyError
    assert tracing.by_whom() == "the node itself"
