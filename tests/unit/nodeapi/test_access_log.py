"""What a daphne's log says of requests."""

import io
import logging

import pytest
from daphne.access import AccessLogGenerator

from nodeapi import access_log


@pytest.fixture
def told(monkeypatch, caplog):
    monkeypatch.setattr(AccessLogGenerator, "__call__", AccessLogGenerator.__call__)
    access_log.install()
    caplog.set_level(logging.INFO, access_log.__name__)
    stream = io.StringIO()
    yield AccessLogGenerator(stream)
    assert stream.getvalue() == ""


def test_request_without_its_query(told, caplog):
    generator = told
    details = {
        "client": "127.0.0.1:4711",
        "path": "/v1/messages?key=secret",
        "method": "GET",
        "status": 200,
        "size": 15,
    }
    generator("http", "complete", details | {"time_taken": 0.1})
    (line,) = [vars(record) for record in caplog.records]
    assert line["message"] == "request"
    assert {name: line[name] for name in ("client", "path", "method", "status", "size_bytes")} == {
        "client": "127.0.0.1:4711",
        "path": "/v1/messages",
        "method": "GET",
        "status": 200,
        "size_bytes": 15,
    }
    assert "secret" not in str(line)


def test_websockets(told, caplog):
    generator = told
    for action in ("connecting", "connected", "rejected", "disconnected", "something else"):
        generator("websocket", action, {"client": "127.0.0.1:4711", "path": b"/v1/subscribe"})
    assert [record.message for record in caplog.records] == [
        "websocket asks",
        "websocket opened",
        "websocket refused",
        "websocket closed",
    ]
    assert {record.path for record in caplog.records} == {"/v1/subscribe"}


@pytest.mark.parametrize(
    ("path", "status", "level"),
    [("/health/ready", 200, "DEBUG"), ("/health/ready", 503, "INFO"), ("/metrics", 401, "INFO")],
)
def test_checks_that_are_well_are_no_news(told, caplog, path, status, level):
    caplog.set_level(logging.DEBUG, access_log.__name__)
    told("http", "complete", {"client": None, "path": path, "method": "GET", "status": status, "size": 1})
    assert [record.levelname for record in caplog.records] == [level]


def test_long_path_is_cut(told, caplog):
    details = {"client": None, "path": "/" + "x" * 5_000, "method": "GET", "status": 404, "size": 1}
    told("http", "complete", details)
    (line,) = caplog.records
    assert len(line.path) == access_log.MAX_PATH_CHARACTERS
