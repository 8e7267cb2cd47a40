"""The API's description: valid, complete, and every example in it true."""

import json
from collections.abc import Iterator

import pytest
from openapi_spec_validator import validate

from tests.support.commands import shell
from tests.support.nodes import Node
from tests.support.streams import send

PUBKEY = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619"
MESSAGE_ID = "5fedffdc-c883-4aaf-95bc-358d7a79b7db"
INVOICE = "lnbc10n1pj…another node's"
OWN_INVOICE = "lnbc20n1pj…this node's"
NONCE = "8c1f0e2d3b4a59687786a5b4c3d2e1f0"
LEASE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
# Some calls need what others have done.
FIRST = ["/v1/federate/request", "/v1/socket/start"]
GIVE_UP = "/v1/message/{id}/give-up"
LAST = ["/v1/federate/leave", "/v1/socket/stop"]


@pytest.fixture(scope="module")
def description(alice) -> dict:
    reply = alice.get("/v1/openapi.json")
    assert reply.status == 200
    return reply.json


def operations(description: dict) -> list[tuple[str, str, dict]]:
    return [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
        if path != "/v1/subscribe"
    ]


def test_it_is_valid_openapi(description):
    validate(description)


def test_every_grpc_method_is_described(description):
    described = {operation["operationId"] for _, _, operation in operations(description)}
    with_summary = {
        operation["operationId"] for _, _, operation in operations(description) if operation["summary"]
    }
    assert described == with_summary
    assert {"messaging_Messaging_SendMessage", "node_Node_GetInfo"} <= described


def test_every_operation_has_an_example(description):
    for method, path, operation in operations(description):
        assert any("example" in content for content in operation["responses"]["200"]["content"].values()), (
            path
        )
        if method == "POST" and "{" in path:
            # All that is asked for is in the path.
            assert all("example" in parameter for parameter in operation["parameters"]), path
        elif method == "POST":
            assert "example" in operation["requestBody"]["content"]["application/json"], path


def as_sent(operation: dict, path: str, values: dict[str, str]) -> tuple[str, dict | None]:
    """The example's address and body, with what its placeholders stand for."""

    def real(text: str) -> str:
        for placeholder, value in values.items():
            text = text.replace(placeholder, value)
        return text

    query = []
    for parameter in operation.get("parameters", []):
        if "example" not in parameter:
            continue
        value = real(str(parameter["example"]))
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", value)
        elif parameter["in"] == "query":
            query.append(f"{parameter['name']}={value}")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    return path + ("?" + "&".join(query) if query else ""), None if body is None else json.loads(
        real(json.dumps(body, ensure_ascii=False))
    )


def shape(value, schema: dict, description: dict) -> None:
    """Whether a reply is what the schema says: every field, of the right JSON type."""
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema["type"] == "object":
        assert set(value) <= set(schema["properties"]), set(value) - set(schema["properties"])
        for name, inner in value.items():
            shape(inner, schema["properties"][name], description)
    elif schema["type"] == "array":
        for inner in value:
            shape(inner, schema["items"], description)
    else:
        assert isinstance(value, {"string": str, "boolean": bool, "integer": int}[schema["type"]])


def in_order(description: dict) -> list[tuple[str, str, dict]]:
    return sorted(
        operations(description), key=lambda entry: (entry[1] in LAST, entry[1] not in FIRST, entry[1])
    )


BOUGHT = """
from datetime import timedelta
from django.utils import timezone
from vpn import keys, sealing
from vpn.models import ClientKey, PurchasedLease, ReceivedQuote
later, pair = timezone.now() + timedelta(hours=2), keys.new_key_pair()
ReceivedQuote.objects.create(request_id="{lease}", seller="{seller}", nonce="{nonce}", price_sat=100, min_price_sat=1,
                             max_price_sat=1000, expires_at=later)
PurchasedLease.objects.create(id="{lease}", seller="{seller}", nonce="{nonce}", price_sat=100, public_key=pair.public,
                              path="http://127.0.0.1:8882/v1/vpn/leases/{lease}/config", expires_at=later, peering=dict(
    address="10.0.0.2/32", endpoint="203.0.113.5:51820", server_pub_key=pair.public, dns="", allowed_ips="0.0.0.0/0",
    keepalive=25))
ClientKey.objects.create(contract_id="{lease}", sealed=sealing.seal(pair.private))
"""
SOLD_AGAIN = """
from vpn.models import ClientKey, PurchasedLease, Purchase, ReceivedQuote
for model in (ClientKey, PurchasedLease, Purchase, ReceivedQuote):
    model.objects.all().delete()
"""


@pytest.fixture
def lease(alice, bob) -> Iterator[None]:
    """A quote and a lease of bob's, who sells none, at alice."""
    shell(alice, BOUGHT.format(lease=LEASE_ID, seller=bob.pubkey, nonce=NONCE))
    yield
    shell(alice, SOLD_AGAIN)


def test_every_example_is_true(description, network, alice, bob, lease):
    def invoice(node: Node) -> str:
        return node.post("/v1/lightning/generateinvoice", {"amount": 1}).json["invoice"]

    def is_member() -> bool:
        return bool(alice.get(f"/v1/federate?pubkey={bob.pubkey}").json["federations"])

    values = {
        PUBKEY: bob.pubkey,
        MESSAGE_ID: send(alice, bob),
        INVOICE: invoice(bob),
        OWN_INVOICE: invoice(alice),
    }
    for method, path, operation in in_order(description):
        if path not in FIRST + LAST:
            alice.wait_until(is_member)
        if path == GIVE_UP:
            # One that has not ended.
            network.command("hold", node="bob")
            values[MESSAGE_ID] = send(alice, bob)
        address, body = as_sent(operation, path, values)
        reply = alice.request(method, address, body)
        if path == GIVE_UP:
            network.command("release", node="bob")
        assert reply.status == 200, (address, body, reply.body)
        contents = operation["responses"]["200"]["content"]
        if "application/json" not in contents:
            assert reply.headers["content-type"].split(";")[0] in contents
            assert reply.body.startswith(b"[Interface]")
            continue
        content = contents["application/json"]
        shape(reply.json, content["schema"], description)
        shape(content["example"], content["schema"], description)
        assert set(content["example"]) == set(reply.json), path


def test_page_works_without_the_internet(alice):
    page = alice.get("/docs/api")
    assert page.status == 200
    links = [part.split('"')[0] for part in page.body.decode().replace("src=", "href=").split('href="')[1:]]
    assert len(links) >= 3
    assert all(link.startswith("/static/") for link in links)
    assert {alice.get(link).status for link in links} == {200}
