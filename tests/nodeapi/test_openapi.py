"""The API's description: valid, complete, and every example in it true."""

import json

import pytest
from openapi_spec_validator import validate

from tests.nodeapi.streams import send
from tests.support.nodes import Node

PUBKEY = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619"
MESSAGE_ID = "5fedffdc-c883-4aaf-95bc-358d7a79b7db"
INVOICE = "lnbc10n1pj…another node's"
OWN_INVOICE = "lnbc20n1pj…this node's"
# Some calls need what others have done.
FIRST = ["/v1/federate/request", "/v1/socket/start"]
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
    with_summary = {operation["operationId"] for _, _, operation in operations(description) if operation["summary"]}
    assert described == with_summary
    assert {"messaging_Messaging_SendMessage", "node_Node_GetInfo"} <= described


def test_every_operation_has_an_example(description):
    for method, path, operation in operations(description):
        assert "example" in operation["responses"]["200"]["content"]["application/json"], path
        if method == "POST":
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
    return path + ("?" + "&".join(query) if query else ""), None if body is None else json.loads(real(json.dumps(body, ensure_ascii=False)))


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
    return sorted(operations(description), key=lambda entry: (entry[1] in LAST, entry[1] not in FIRST, entry[1]))


def test_every_example_is_true(description, alice, bob):
    def invoice(node: Node) -> str:
        return node.post("/v1/lightning/generateinvoice", {"amount": 1}).json["invoice"]

    def is_member() -> bool:
        return bool(alice.get(f"/v1/federate?pubkey={bob.pubkey}").json["federations"])

    values = {PUBKEY: bob.pubkey, MESSAGE_ID: send(alice, bob), INVOICE: invoice(bob), OWN_INVOICE: invoice(alice)}
    for method, path, operation in in_order(description):
        if path not in FIRST + LAST:
            alice.wait_until(is_member)
        address, body = as_sent(operation, path, values)
        reply = alice.request(method, address, body)
        assert reply.status == 200, (address, body, reply.body)
        content = operation["responses"]["200"]["content"]["application/json"]
        shape(reply.json, content["schema"], description)
        shape(content["example"], content["schema"], description)
        assert set(content["example"]) == set(reply.json), path


def test_page_works_without_the_internet(alice):
    page = alice.get("/docs/api")
    assert page.status == 200
    links = [part.split('"')[0] for part in page.body.decode().replace("src=", "href=").split('href="')[1:]]
    assert len(links) >= 3 and all(link.startswith("/static/") for link in links)
    assert {alice.get(link).status for link in links} == {200}
