"""Paths, queries and errors of REST, without a server."""

import logging

import grpc
import pytest
from rest_framework.exceptions import ParseError

from nodeapi.errors import HTTP_STATUS, ApiError
from nodeapi.operations import OPERATIONS
from nodeapi.rest import Parameters, Routes, handle_exception, query_fields
from protos import messaging_pb2, node_pb2, vpn_pb2, websocket_pb2

PARAMETERS = Parameters(
    known=("limit", "pubkey", "service", "state"),
    told=("limit", "pubkey", "service", "state"),
    repeated=("service",),
)


@pytest.fixture(scope="module")
def routes() -> Routes:
    # A view keeps its doors, which no test here passes through.
    return Routes(doors=None)


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.path)
def test_each_operation_has_its_place(routes, row):
    view, fields = routes.find(row.path.replace("{id}", "5fed"), row.http)
    assert view.view_initkwargs["operation"] is row
    assert fields == ({"id": "5fed"} if "{id}" in row.path else {})
    assert row.http in routes.methods(row.path.replace("{id}", "5fed"))


def test_no_two_operations_have_the_same_place():
    assert len({(row.http, row.path) for row in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize(
    ("path", "rpc"),
    [
        # What is spelled out comes before what stands for anything.
        ("/v1/message/estimate", "/messaging.Messaging/EstimateMessage"),
        ("/v1/message/5fed", "/messaging.Messaging/GetMessage"),
        ("/v1/message/a%2Fb", "/messaging.Messaging/GetMessage"),
    ],
)
def test_paths_beside_each_other(routes, path, rpc):
    view, _ = routes.find(path, "GET")
    assert view.view_initkwargs["operation"].rpc_path == rpc


@pytest.mark.parametrize(
    ("method", "path", "code", "message"),
    [
        ("GET", "/v1", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/nothing", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/Node", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/node/", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/message", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/message/", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("GET", "/v1/message/a/b", grpc.StatusCode.NOT_FOUND, "Not Found"),
        ("POST", "/v1/messages", grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed"),
        ("GET", "/v1/message/send", grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed"),
        ("HEAD", "/v1/node", grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed"),
        ("BREW", "/v1/node", grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed"),
        ("DELETE", "/v1/message/5fed", grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed"),
    ],
)
def test_what_leads_nowhere(routes, method, path, code, message):
    with pytest.raises(ApiError) as error:
        routes.find(path, method)
    assert (error.value.code, error.value.message) == (code, message)


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/v1/node", ["GET"]), ("/v1/message/send", ["POST"]), ("/v1/message/5fed", ["GET"]), ("/v1/no", [])],
)
def test_methods_of_a_path(routes, path, methods):
    assert routes.methods(path) == methods


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("", {}),
        ("limit=5", {"limit": "5"}),
        ("limit=5&limit=6", {"limit": "6"}),
        ("service=a&service=b", {"service": ["a", "b"]}),
        ("service=a", {"service": ["a"]}),
        ("state=&limit=1", {"limit": "1"}),
        ("pubkey=a%20b+c", {"pubkey": "a b c"}),
        ("state", {}),
        ("pubkey=b=c", {"pubkey": "b=c"}),
    ],
)
def test_query(query, fields):
    assert query_fields(query, PARAMETERS) == fields


def refused(query: str, parameters: Parameters) -> str:
    with pytest.raises(ApiError) as error:
        query_fields(query, parameters)
    assert error.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return error.value.message


def test_query_of_too_many_fields():
    query_fields("&".join(["limit=1"] * 100), PARAMETERS)
    assert refused("&".join(["limit=1"] * 101), PARAMETERS) == "query: is not a query string"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "limt=1",
            "limt: is no parameter of this call; did you mean `limit`? Allowed: limit, pubkey, service, state",
        ),
        (
            "limt",
            "limt: is no parameter of this call; did you mean `limit`? Allowed: limit, pubkey, service, state",
        ),
        ("limit=1&x=", "x: is no parameter of this call. Allowed: limit, pubkey, service, state"),
        ("%0d%0a=1", "query: is no parameter of this call. Allowed: limit, pubkey, service, state"),
        ("k" * 50, "query: is no parameter of this call. Allowed: limit, pubkey, service, state"),
    ],
)
def test_unknown_parameters_are_refused(query, message):
    assert refused(query, PARAMETERS) == message


def test_parameters_of_a_request():
    listing = Parameters.of_message(messaging_pb2.ListMessagesRequest)
    assert listing.told == ["before", "direction", "limit", "pubkey", "service", "state"]
    assert Parameters.of_message(websocket_pb2.SubscribeRequest).repeated == {"services"}
    # grpc-gateway takes what the path says, whatever the query says.
    of_path = Parameters.of_message(vpn_pb2.GetLeaseConfigRequest, in_path=["id"])
    assert of_path.told == ["format"]
    assert query_fields("id=5", of_path) == {"id": "5"}
    assert refused("x=5", Parameters.of_message(node_pb2.GetInfoRequest)) == (
        "x: is no parameter of this call. There are none here"
    )


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            ApiError(grpc.StatusCode.NOT_FOUND, "id: none"),
            404,
            {"code": 5, "message": "id: none", "details": []},
        ),
        (ParseError("no form"), 400, {"code": 3, "message": "no form", "details": []}),
        (
            ValueError("secret"),
            500,
            {"code": 13, "message": "internal error; the node's log tells more", "details": []},
        ),
    ],
)
def test_errors(error, status, body):
    response = handle_exception(error, {})
    assert (response.status_code, response.data) == (status, body)


def test_unexpected_error_is_in_the_log(caplog):
    caplog.set_level(logging.ERROR)
    error = ValueError("what went wrong")
    handle_exception(error, {})
    (record,) = caplog.records
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (ApiError(grpc.StatusCode.UNAUTHENTICATED, "x"), {"WWW-Authenticate": "Bearer"}),
        (ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", retry_after_seconds=2.1), {"Retry-After": "3"}),
        (ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "x", retry_after_seconds=0), {"Retry-After": "1"}),
        (ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, "x"), {}),
    ],
)
def test_headers_of_errors(error, headers):
    response = handle_exception(error, {})
    assert {name: response[name] for name in headers} == headers
    assert set(response.headers) - {"Content-Type"} == set(headers)


def test_every_status_has_its_place_in_http():
    assert HTTP_STATUS.keys() == set(grpc.StatusCode)
