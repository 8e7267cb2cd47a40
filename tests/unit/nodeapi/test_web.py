"""The HTTP door of /v1 as an ASGI application, called without a server."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from uuid import uuid4

import pytest

from messaging.models import Direction, Message, State
from nodeapi import rest
from nodeapi.doors import Doors
from nodeapi.errors import invalid
from nodeapi.operations import OPERATIONS
from nodeapi.stream import Hub
from nodeapi.web import ApiApplication, CrossOrigin, respond
from tests.support.asgi import Reply, call
from tests.support.doors import ENGINE, PUBKEY, SEND_MESSAGE, caller, make_doors, secret_of

SEND = "/v1/message/send"
KEY = ("authorization", f"Bearer {secret_of('app')}")
APP = ("origin", "https://app.example")
NOT_FOUND = {"code": 5, "message": "Not Found", "details": []}
NOT_ALLOWED = {"code": 12, "message": "Method Not Allowed", "details": []}


@pytest.fixture
def doors(database) -> Doors:
    callers = caller("app", "read", "send", "pay"), caller("often", "read", calls_per_minute=1)
    return make_doors(database, *callers, engine=ENGINE)


Application = Callable[..., CrossOrigin]


@pytest.fixture
def application(doors, monkeypatch) -> Application:
    """Makes one, as it is served, whose operations have these functions, by their methods."""

    def make(**functions) -> CrossOrigin:
        table = [
            dataclasses.replace(row, function=functions.get(row.method, row.function)) for row in OPERATIONS
        ]
        monkeypatch.setattr(rest, "OPERATIONS", table)
        return CrossOrigin(ApiApplication(doors), doors.guard)

    return make


class Doing:
    """An operation's function that remembers what it was asked."""

    def __init__(self, reply: dict | None = None):
        self._reply = reply or {}
        self.asked: list[dict] = []

    async def __call__(self, doors, **fields):
        self.asked.append(fields)
        return self._reply


async def send(application: Application, body, *headers: tuple[str, str]) -> tuple[Reply, list[dict]]:
    """The answer, and what the operation was asked."""
    doing = Doing({"id": "x"})
    reply = await call(application(SendMessage=doing), "POST", SEND, body, [KEY, *headers])
    return reply, doing.asked


# requests


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "")],
        [("content-type", "application/json")],
        [("content-type", "application/x-www-form-urlencoded")],
        [("content-type", "multipart/form-data; boundary=x")],
        [("content-type", "text/plain"), ("accept", "text/html")],
        [("content-type", "no/such; =")],
    ],
)
async def test_body_is_json_whatever_it_is_said_to_be(application, headers):
    reply, asked = await send(application, {"msg": "aGVsbG8=", "pubkey": PUBKEY}, *headers)
    assert (reply.status, reply.json) == (200, {"id": "x"})
    assert reply.headers == {"content-type": "application/json", "content-length": "10"}
    assert [fields["msg"] for fields in asked] == [b"hello"]


async def test_body_in_pieces(application):
    whole = json.dumps({"msg": "aGVsbG8=", "pubkey": PUBKEY}).encode()
    reply, asked = await send(application, [whole[:5], b"", whole[5:20], whole[20:], b""])
    assert reply.status == 200
    assert asked[0]["pubkey"] == PUBKEY


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "msg: is missing or empty"),
        (b"{", "body: is not JSON (unexpected end of data)"),
        (b"[]", "body: must be a JSON object"),
        ({"msg": "not base64!"}, "msg: is not base64"),
        ({"msg": "aGk=", "pubkey": "02"}, "pubkey: must be 66 hexadecimal digits"),
    ],
)
async def test_wrong_requests(application, body, message):
    reply, asked = await send(application, body)
    assert (reply.status, asked) == (400, [])
    assert reply.json == {"code": 3, "message": message, "details": []}
    assert reply.headers["content-type"] == "application/json"


async def test_client_that_leaves_within_its_body(application, doors):
    doing = Doing()
    sent, events = (
        [],
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}],
    )
    scope = {
        "type": "http",
        "method": "POST",
        "path": SEND,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }

    async def receive():
        return events.pop(0)

    async def note(event):
        sent.append(event)

    await application(SendMessage=doing)(scope, receive, note)
    assert sent == doing.asked == events == []


async def test_query(application):
    doing = Doing({"messages": []})
    path = "/v1/messages?limit=5&limit=7&direction=in"
    reply = await call(application(ListMessages=doing), "GET", path, headers=[KEY])
    assert (reply.status, reply.json) == (200, {"messages": []})
    assert (doing.asked[0]["limit"], doing.asked[0]["direction"]) == (7, "in")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/v1/messages?limit=x", "limit: must be a whole number of 64 bits"),
        ("/v1/messages?limit=0x5", "limit: must be a whole number of 64 bits"),
        ("/v1/messages?state=lost", None),
        ("/v1/messages?" + "&".join(["limit=1"] * 101), "query: is not a query string"),
        (
            "/v1/messages?service=mesage",
            (
                "service: did you mean `message`? It must be one of federate, message, "
                "sign, socket, vpn, websocket"
            ),
        ),
        (
            "/v1/messages?service=bogus",
            "service: must be one of federate, message, sign, socket, vpn, websocket",
        ),
        (
            "/v1/messages?stat=failed",
            (
                "stat: is no parameter of this call; did you mean `state`? "
                "Allowed: before, direction, limit, pubkey, service, state"
            ),
        ),
        ("/v1/node?verbose=1", "verbose: is no parameter of this call. There are none here"),
        ("/v1/openapi.json?x", "x: is no parameter of this call. There are none here"),
        ("/v1/message/no-uuid", "id: is not a UUID"),
        # The path says which, whatever the query says.
        ("/v1/message/no-uuid?id=5fedffdc-c883-4aaf-95bc-358d7a79b7db", "id: is not a UUID"),
    ],
)
async def test_wrong_queries(application, path, message):
    reply = await call(application(), "GET", path, headers=[KEY])
    assert (reply.status, reply.json["code"]) == (400, 3)
    if message:
        assert reply.json["message"] == message


async def test_stored_message(application, database):
    message_id = uuid4()
    stored = Message(
        message_id=message_id,
        direction=Direction.OUT,
        pubkey=PUBKEY,
        service="message",
        body=b"hi",
        amount_msat=2_000,
        state=State.SETTLED,
    )
    await database.write(stored.save)
    reply = await call(application(), "GET", f"/v1/message/{message_id}", headers=[KEY])
    assert reply.status == 200
    message = reply.json["message"]
    assert (message["id"], message["msg"], message["state"]) == (str(message_id), "aGk=", "settled")
    missing = uuid4()
    reply = await call(application(), "GET", f"/v1/message/{missing}", headers=[KEY])
    assert reply.json == {"code": 5, "message": f"id: there is no message {missing}", "details": []}


async def test_messages_as_text(application, doors):
    doors.as_text = True
    doing = Doing({"message": {"id": "x", "msg": "grüße".encode()}})
    app = application(SendMessage=doing, GetMessage=doing)
    await call(app, "POST", SEND, {"msg": "grüße", "pubkey": PUBKEY}, [KEY])
    assert doing.asked[0]["msg"] == "grüße".encode()
    reply = await call(app, "GET", f"/v1/message/{uuid4()}", headers=[KEY])
    assert reply.json["message"]["msg"] == "grüße"


@pytest.mark.parametrize("content_type", ["text/plain", "image/svg+xml"])
async def test_plain_reply(application, content_type):
    """What may be secret: nothing keeps it, and a browser runs nothing of it."""
    doing = Doing({"config": "[Interface]\n", "content_type": content_type})
    path = f"/v1/vpn/leases/{uuid4()}/config"
    reply = await call(application(GetLeaseConfig=doing), "GET", path, headers=[KEY])
    assert (reply.status, reply.body) == (200, b"[Interface]\n")
    assert reply.headers == {
        "content-type": content_type,
        "content-length": "12",
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
    }


async def test_plain_reply_that_is_refused_is_json(application):
    path = "/v1/vpn/leases/no-uuid/config"
    reply = await call(application(), "GET", path, headers=[KEY])
    assert (reply.status, reply.headers["content-type"]) == (400, "application/json")
    assert reply.json["message"] == "id: is not a UUID"


# who may, and where to


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ([], 401, 16),
        ([("x-api-key", "wrong")], 401, 16),
        ([("x-api-key", secret_of("app"))], 200, None),
        ([("grpc-metadata-x-api-key", secret_of("app"))], 200, None),
        ([KEY, ("host", "node.example")], 200, None),
        ([KEY, ("host", "10.0.0.7:8882")], 200, None),
        ([KEY, ("host", "evil.example")], 403, 7),
        ([KEY, ("host", "localhost"), ("Host", "localhost")], 403, 7),
        ([KEY, ("origin", "http://evil.example")], 403, 7),
        ([KEY, ("origin", "null")], 403, 7),
    ],
)
async def test_who_may(application, headers, status, code):
    doing = Doing({"messages": []})
    reply = await call(application(ListMessages=doing), "GET", "/v1/messages", headers=headers)
    assert reply.status == status
    assert len(doing.asked) == (1 if status == 200 else 0)
    if code:
        assert reply.json["code"] == code
    assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_who_may_is_asked_before_the_body_is_looked_at(application):
    reply = await call(application(), "POST", SEND, b"{")
    assert reply.status == 401


async def test_retry_after(application):
    headers = [("x-api-key", secret_of("often")), APP]
    app = application(ListMessages=Doing({"messages": []}))
    assert (await call(app, "GET", "/v1/messages", headers=headers)).status == 200
    refused = await call(app, "GET", "/v1/messages", headers=headers)
    assert (refused.status, refused.json["code"]) == (429, 8)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["access-control-expose-headers"] == "retry-after"


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1/nothing", 404, NOT_FOUND),
        ("GET", SEND, 501, NOT_ALLOWED),
        ("PUT", SEND, 501, NOT_ALLOWED),
        ("POST", "/v1/subscribe", 501, NOT_ALLOWED),
        ("OPTIONS", "/v1/node", 501, NOT_ALLOWED),
        ("POST", "/v1/openapi.json", 404, NOT_FOUND),
    ],
)
async def test_what_leads_nowhere(application, method, path, status, body):
    """It is told without a key: the paths are no secret."""
    reply = await call(application(), method, path, headers=[])
    assert (reply.status, reply.json) == (status, body)


async def test_unexpected_error(application):
    async def fail(doors, **fields):
        raise ValueError("secret")

    reply = await call(application(SendMessage=fail), "POST", SEND, {"msg": "aGk=", "pubkey": PUBKEY}, [KEY])
    assert (reply.status, reply.json["code"]) == (500, 13)
    assert b"secret" not in reply.body


async def test_idempotency_key(application):
    _, asked = await send(
        application, {"msg": "aGk=", "pubkey": PUBKEY}, ("Idempotency-Key", "k"), ("idempotency-key", "other")
    )
    assert (asked[0]["claim"].caller, asked[0]["claim"].key) == ("app", "k")


async def test_description_is_open(application):
    reply = await call(application(), "GET", "/v1/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json["info"]["version"] == "1.2.3"
    assert {row.path for row in OPERATIONS} <= reply.json["paths"].keys()
    foreign = await call(application(), "GET", "/v1/openapi.json", headers=[("host", "evil.example")])
    assert foreign.status == 403


# CORS


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost:3000"])
@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/messages", 200), ("POST", SEND, 400), ("GET", "/v1/no", 404)]
)
async def test_page_of_an_allowed_origin_may_read(application, origin, method, path, status):
    headers = [KEY, ("origin", origin)]
    app = application(ListMessages=Doing({"messages": []}))
    reply = await call(app, method, path, headers=headers)
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, origin)
    assert reply.headers["vary"] == "Origin"


async def test_page_of_another_origin_may_not_even_read_the_refusal(application):
    reply = await call(application(), "GET", "/v1/node", headers=[KEY, ("origin", "http://evil.example")])
    assert reply.status == 403
    assert not [name for name in reply.headers if name.startswith("access-control")]


async def test_no_origin_no_cors(application):
    reply = await call(
        application(ListMessages=Doing({"messages": []})), "GET", "/v1/messages", headers=[KEY]
    )
    assert "access-control-allow-origin" not in reply.headers
    assert "vary" not in reply.headers


@pytest.mark.parametrize(
    ("path", "methods"),
    [(SEND, "POST"), ("/v1/node", "GET"), ("/v1/message/5fed", "GET"), ("/v1/subscribe", "GET")],
)
async def test_preflight_asks_for_no_key(application, path, methods):
    reply = await call(application(), "OPTIONS", path, headers=[APP])
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == "https://app.example"
    assert reply.headers["access-control-allow-methods"] == methods
    assert reply.headers["access-control-allow-headers"] == (
        "authorization, content-encoding, content-type, grpc-metadata-x-api-key, idempotency-key, x-api-key"
    )
    assert reply.headers["access-control-max-age"] == "600"
    assert "access-control-allow-private-network" not in reply.headers


async def test_preflight_of_what_is_not_there(application):
    """The page then reads that the call itself leads nowhere."""
    reply = await call(application(), "OPTIONS", "/v1/nothing", headers=[APP])
    assert (reply.status, reply.headers["access-control-allow-methods"]) == (204, "GET, POST")


@pytest.mark.parametrize("path", [SEND, "/v1/nothing"])
async def test_preflight_of_a_public_page_to_a_private_network(application, path):
    headers = [APP, ("access-control-request-private-network", "true")]
    reply = await call(application(), "OPTIONS", path, headers=headers)
    assert reply.headers["access-control-allow-private-network"] == "true"


@pytest.mark.parametrize("headers", [[("origin", "https://evil.example")], [APP, ("host", "evil.example")]])
async def test_preflight_that_is_refused(application, headers):
    wants = ("access-control-request-private-network", "true")
    reply = await call(application(), "OPTIONS", SEND, headers=[*headers, wants])
    assert reply.status == 403
    assert "access-control-allow-private-network" not in reply.headers


async def page(scope, receive, send) -> None:
    """What Django serves."""
    await respond(send, 404, b"a page")


@pytest.mark.parametrize(
    ("method", "path", "origin", "status", "readable"),
    [
        ("GET", "/docs/", "https://app.example", 404, True),
        ("GET", "/docs/", "https://evil.example", 404, False),
        ("OPTIONS", "/docs/", "https://app.example", 204, True),
        ("OPTIONS", "/health/ready", "http://localhost:3000", 204, True),
        ("OPTIONS", "/docs/", "https://evil.example", 404, False),
        ("OPTIONS", "/v1/node", "https://app.example", 404, True),
    ],
)
async def test_pages_of_allowed_origins_may_read_every_answer(doors, method, path, origin, status, readable):
    reply = await call(CrossOrigin(page, doors.guard), method, path, headers=[("origin", origin)])
    assert reply.status == status
    assert reply.headers.get("access-control-allow-origin") == (origin if readable else None)


async def test_cross_origin_headers_come_once(application):
    front = application(ListMessages=Doing({"messages": []}))
    assert (await call(front, "GET", "/v1/messages", headers=[KEY, APP])).status == 200


# HEAD, compressed bodies, names


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/messages", 200), ("/v1/openapi.json", 200), (SEND, 501), ("/v1/no", 404)]
)
async def test_head_is_get_without_its_body(application, path, status):
    app = application(ListMessages=Doing({"messages": []}))
    got, head = [await call(app, method, path, headers=[KEY]) for method in ("GET", "HEAD")]
    assert (head.status, head.headers, head.body) == (status, got.headers, b"")


async def test_head_of_the_stream_ends(application, doors, database):
    doors.hub = Hub(database, poll_seconds=600)
    reply = await call(application(), "HEAD", "/v1/subscribe", headers=[KEY])
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "application/json", b"")
    assert doors.hub.subscriptions == ()
    assert (await call(application(), "HEAD", "/v1/subscribe?aftr=1", headers=[KEY])).status == 400
    assert (await call(application(), "HEAD", "/v1/subscribe")).status == 401


async def test_gzip(application):
    body = gzip.compress(json.dumps({"msg": "aGVsbG8=", "pubkey": PUBKEY}).encode())
    reply, asked = await send(application, body, ("content-encoding", "gzip"))
    assert (reply.status, asked[0]["msg"]) == (200, b"hello")


async def test_gzip_is_as_large_as_a_body_may_be(application, doors):
    doors.max_body_bytes = 1_000
    reply, asked = await send(application, gzip.compress(b" " * 1_001), ("content-encoding", "gzip"))
    assert (reply.status, reply.json["message"], asked) == (400, "body: is larger than 1000 bytes", [])


async def test_who_calls_is_asked_before_a_body_is_decompressed(application):
    reply = await call(application(), "POST", SEND, b"no gzip", [("content-encoding", "gzip")])
    assert reply.status == 401


async def test_other_codings_are_named(application):
    reply, asked = await send(application, b"x", ("content-encoding", "br"), APP)
    assert (reply.status, reply.json["code"], asked) == (415, 3, [])
    assert reply.headers["accept-encoding"] == "gzip"
    assert reply.json["message"] == "body: its Content-Encoding is not supported; must be gzip, or none"


@pytest.mark.parametrize("name", ["replyToId", "reply_to_id"])
async def test_errors_name_a_field_as_the_request_did(application, name):
    reply, _ = await send(application, {"msg": "aGk=", "pubkey": PUBKEY, name: "no uuid"})
    assert reply.json["message"] == f"{name}: is not a UUID"


@pytest.mark.parametrize(("given", "named"), [({"expires_in": 5}, "expires_in"), ({}, "expiresIn")])
async def test_errors_of_a_function_name_a_field_as_the_request_did(application, given, named):
    async def refuse(doors, **fields):
        raise invalid("expires_in", "is wrong")

    body = {"msg": "aGk=", "pubkey": PUBKEY, **given}
    reply = await call(application(SendMessage=refuse), "POST", SEND, body, [KEY])
    assert reply.json["message"] == f"{named}: is wrong"


@pytest.mark.parametrize(
    "body", [{"amout": "500"}, {"amuont": "21", "amount": "5"}, {"AMOUNT": 5}, {"amounts": 5}]
)
async def test_misspelled_amounts_are_not_ignored(application, body):
    reply, asked = await send(application, {"msg": "aGk=", "pubkey": PUBKEY, **body})
    assert (reply.status, asked) == (400, [])
    assert reply.json["message"] == f"{next(iter(body))}: is not known; did you mean `amount`?"


async def test_pubkey_to_payinvoice_is_ignored(application):
    """A client of 2021 sends it."""
    doing = Doing({"preimage": "00"})
    body = {"invoice": "lnbcrt1", "pubkey": PUBKEY}
    assert (
        await call(application(PayInvoice=doing), "POST", "/v1/lightning/payinvoice", body, [KEY])
    ).status == 200


async def test_calls_are_noted_with_their_operation(application, doors, caplog):
    caplog.set_level("INFO")
    await send(application, {"msg": "aGk=", "pubkey": PUBKEY})
    (line,) = [record for record in caplog.records if record.name == "audit"]
    assert (line.operation, line.client) == (SEND_MESSAGE, "127.0.0.1")
