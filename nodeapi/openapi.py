"""The REST API's description (OpenAPI 3.1), from the table of operations and the descriptors of its messages. Pure."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from messaging.required import required
from nodeapi.codec import descriptor_of
from nodeapi.examples import EXAMPLES, Example
from nodeapi.operations import Operation
from nodeapi.proto_comments import field_comments

ERROR = "Error"
# proto3 JSON writes 64-bit integers as strings.
_SCALARS = {
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64"},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same request, within 24 hours, gives the same answer; nothing is done twice.",
    "schema": {"type": "string", "maxLength": 255},
}


def describe(operations: Iterable[Operation], *, version: str) -> dict[str, Any]:
    """The whole document."""
    schemas = {ERROR: _error_schema()}
    paths: dict[str, Any] = {"/v1/subscribe": {"get": _subscribe()}}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.http.lower()] = _operation(operation, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Impervious node",
            "version": version,
            "description": "An application layer on top of the Lightning Network. The same operations are gRPC methods; what "
            "comes of a call, and whatever arrives unasked, is told on the stream.",
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"bearer": []}, {"header": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "header": {"type": "apiKey", "in": "header", "name": "Grpc-Metadata-X-API-KEY"},
            },
        },
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    example = EXAMPLES.get(operation.rpc_path)
    described: dict[str, Any] = {
        "operationId": operation.rpc_path.strip("/").replace("/", ".").replace(".", "_"),
        "tags": [operation.service.partition(".")[0]],
        "summary": summary(operation),
        "description": f"gRPC: `{operation.rpc_path}`. Scope of the key: `{operation.scope}`.",
        "responses": {
            "200": {"description": "Done, or accepted.", "content": _content(operation, example, schemas)},
            **_refusals(),
            "default": _error_response(),
        },
    }
    parameters = [_IDEMPOTENCY_KEY] if operation.once else []
    asked = _parameters(operation, example.request if example else {})
    if operation.http == "GET":
        parameters += asked
    elif in_path := [parameter for parameter in asked if parameter["in"] == "path"]:
        # Nothing else is asked for by these.
        parameters += in_path
    else:
        described["requestBody"] = _request_body(operation, schemas)
    return described | ({"parameters": parameters} if parameters else {})


def _content(operation: Operation, example: Example | None, schemas: dict[str, Any]) -> dict[str, Any]:
    """By content type: what the reply is like."""
    if operation.plain:
        contents = {name: {"schema": {"type": "string"}} for name in operation.plain.types}
        if example:
            contents[operation.plain.types[0]]["example"] = example.reply[operation.plain.field]
        return contents
    content: dict[str, Any] = {"schema": _reference(descriptor_of(operation.reply_class), schemas)}
    if example:
        content["example"] = example.reply
    return {"application/json": content}


def summary(operation: Operation) -> str:
    """The first sentence of what the function behind it says of itself."""
    text = " ".join((operation.function.__doc__ or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".").replace("`", "")


def _request_body(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _reference(descriptor_of(operation.request_class), schemas)}
    if operation.rpc_path in EXAMPLES:
        content["example"] = EXAMPLES[operation.rpc_path].request
    return {"required": False, "content": {"application/json": content}}


def _parameters(operation: Operation, example: dict[str, Any]) -> list[dict[str, Any]]:
    parameters = []
    for field in descriptor_of(operation.request_class).fields:
        in_path = f"{{{field.name}}}" in operation.path
        parameter = {
            "name": field.name if in_path else field.json_name,
            "in": "path" if in_path else "query",
            "required": in_path,
            "description": _comment(field),
            "schema": _schema(field, {}),
        }
        if parameter["name"] in example:
            parameter["example"] = example[parameter["name"]]
        parameters.append(parameter)
    return parameters


def _reference(message: Descriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    name = message.full_name
    if name not in schemas:
        schemas[name] = {"type": "object"}
        schemas[name]["properties"] = {
            field.json_name: _schema(field, schemas) | {"description": _comment(field)}
            for field in message.fields
        }
    return {"$ref": f"#/components/schemas/{name}"}


def _schema(field: FieldDescriptor, schemas: dict[str, Any]) -> dict[str, Any]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        one = _reference(required(field.message_type), schemas)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        one = {"type": "string", "contentEncoding": "base64"}
    else:
        one = dict(_SCALARS[field.cpp_type])
    return {"type": "array", "items": one} if field.is_repeated else one


def _comment(field: FieldDescriptor) -> str:
    file = field.file.name  # type: ignore[attr-defined]  # missing in the stubs
    return field_comments(file).get(field.full_name, "")


def _error_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "description": "The gRPC status."},
            "message": {
                "type": "string",
                "description": "What is wrong; names the field where there is one.",
            },
            "details": {"type": "array", "items": {}},
        },
    }


def _error_response() -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{ERROR}"}
    return {
        "description": "Refused; the HTTP status follows from the code as in grpc-gateway.",
        "content": {"application/json": {"schema": schema}},
    }


def _refusals() -> dict[str, Any]:
    """By status: what the key is answered with. A websocket's handshake is answered so too."""
    seconds = {"description": "Seconds until it may be tried again.", "schema": {"type": "integer"}}
    again = {"Retry-After": seconds}
    return {
        "401": _error_response()
        | {"description": "No API key, or one that is unknown, revoked or expired (code 16)."},
        "403": _error_response() | {"description": "The key lacks the scope (code 7)."},
        "429": _error_response()
        | {
            "description": "The key's budget or rate, or the node's budget, is used up (code 8).",
            "headers": again,
        },
    }


def _subscribe() -> dict[str, Any]:
    query = {
        "after": (
            "Replay what came after this seq, then go on live; 0: from the beginning of the log.",
            "uint64",
        ),
        "service": ("Only events of this service type; may stand several times.", None),
        "ack": (
            'Websocket: hold back when so many events are unacknowledged; the client sends {"ack":SEQ}.',
            "int32",
        ),
    }
    return {
        "operationId": "websocket_Websocket_Subscribe",
        "tags": ["websocket"],
        "summary": "The stream of events: a websocket with an Upgrade header, else one JSON object a line, without end",
        "description": "gRPC: `/websocket.Websocket/Subscribe`. Scope of the key: `read`.",
        "parameters": [
            {
                "name": name,
                "in": "query",
                "description": text,
                "schema": {"type": "string"} if form is None else {"type": "integer", "format": form},
            }
            for name, (text, form) in query.items()
        ],
        "responses": {
            "101": {"description": "The websocket is open."},
            "200": {
                "description": "The stream.",
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **_refusals(),
            "default": _error_response(),
        },
    }
