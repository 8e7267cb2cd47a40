"""The proto3 JSON mapping as grpc-gateway speaks it. Pure.

protobuf's own json_format does the work; base64 that is none, which it lets pass, is refused before. With `as_text`
(server.message_encoding: text) the fields of TEXT_FIELDS are UTF-8 text instead of base64, as they were in v0.1.3.
"""

import base64
import re
from collections.abc import Collection
from functools import cache
from typing import Any, TypeVar, cast

import grpc
import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from messaging.required import required
from nodeapi.errors import ApiError, invalid
from nodeapi.spelling import misspelled

TEXT_FIELDS = frozenset({"msg", "data"})
# Text in the proto, and yet numbers: JSON has them as either.
NUMERIC_TEXT_FIELDS = frozenset({"price"})
Read = TypeVar("Read", bound=Message)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*")
# Encoders break long lines, and some indent them. A space within a line is none of theirs: such a value is text.
_LINE_BREAKS = re.compile(r"[ \t]*[\r\n]+[ \t]*")
# json_format's errors repeat the value that is wrong: only the field's name is taken out of them.
_FIELD = re.compile(r"^Failed to parse (\w+) field:| at \w+\.(\w+)(?:\[\d+\])?\.?$")
_WHOLE_NUMBERS = {
    FieldDescriptor.TYPE_INT32: "must be a whole number of 32 bits",
    FieldDescriptor.TYPE_INT64: "must be a whole number of 64 bits",
    FieldDescriptor.TYPE_UINT32: "must be a whole number of 32 bits, 0 or more",
    FieldDescriptor.TYPE_UINT64: "must be a whole number of 64 bits, 0 or more",
}
_WHAT_IT_MUST_BE = _WHOLE_NUMBERS | {
    FieldDescriptor.TYPE_STRING: "must be text",
    FieldDescriptor.TYPE_BOOL: "must be true or false",
}


def message_from_body(body: bytes, message_class: type[Read], *, as_text: bool = False) -> Read:
    """The message that a request body holds."""
    return message_from_json(object_from_body(body), message_class, as_text=as_text)


def object_from_body(body: bytes) -> dict[str, Any]:
    """The JSON object that a request body holds. No body is {}."""
    return _object(_load(body) if body.strip() else {})


def message_from_json(data: Any, message_class: type[Read], *, as_text: bool = False) -> Read:
    """The message that a JSON object holds. ApiError names the field that is wrong."""
    _refuse_misspelled(_object(data), descriptor_of(message_class))
    _normalise_bytes(data, message_class, as_text)
    _refuse_odd_numbers(data, message_class)
    _numbers_as_text(data, message_class)
    try:
        return json_format.ParseDict(data, message_class(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise _field_error(str(error), descriptor_of(message_class)) from None


def json_from_message(message: Message, *, as_text: bool = False) -> dict:
    """Every field, empty ones too, in the proto's order; lowerCamelCase; 64-bit integers as strings; bytes in base64, or
    as text with U+FFFD in place of what is none.
    """
    data = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    if as_text:
        _write_text(data, descriptor_of(message))
    return {
        field.json_name: data[field.json_name]
        for field in message.DESCRIPTOR.fields
        if field.json_name in data
    }


def descriptor_of(message: Message | type[Message]) -> Descriptor:
    """The stubs of protobuf know two kinds, which are alike."""
    return cast("Descriptor", message.DESCRIPTOR)


def dump(data: dict) -> bytes:
    return orjson.dumps(data)


def json_names(descriptor: Descriptor, given: Collection[str]) -> dict[str, str]:
    """How REST calls the fields that have two names: as the request did; those that it left out in lowerCamelCase."""
    return {
        field.name: field.name if field.name in given else field.json_name
        for field in descriptor.fields
        if field.name != field.json_name
    }


@cache
def known_names(descriptor: Descriptor) -> tuple[str, ...]:
    """Of each field both JSON names, the one of REST last."""
    return tuple(name for field in descriptor.fields for name in (field.name, field.json_name))


def _object(data: Any) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "body: must be a JSON object")
    return data


def _refuse_misspelled(data: dict, descriptor: Descriptor) -> None:
    """Unknown fields are ignored, but what was meant to be `amount` would else not count."""
    found = misspelled(data, known_names(descriptor))
    if found is None:
        return
    given, meant = found
    field = _field_named(meant, descriptor)
    name = field.name if field and "_" in given else meant
    raise invalid(given, f"is not known; did you mean `{name}`?")


def _load(body: bytes) -> Any:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "body: is not UTF-8") from None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"body: is not JSON ({error.msg})") from None


def _normalise_bytes(data: dict, message_class: type[Message], as_text: bool) -> None:
    for name in _bytes_fields(descriptor_of(message_class)):
        if data.get(name) is not None:
            read = _base64_of_text if as_text and name in TEXT_FIELDS else _standard_base64
            data[name] = read(name, data[name])


def _base64_of_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid(name, "must be text")
    return base64.b64encode(value.encode()).decode()


def _write_text(data: dict, descriptor: Descriptor) -> None:
    """Puts text in place of base64, in messages within the message too."""
    for field in descriptor.fields:
        value = data.get(field.json_name)
        if field.type == FieldDescriptor.TYPE_MESSAGE and value:
            for inner in value if field.is_repeated else [value]:
                _write_text(inner, required(field.message_type))
        elif field.type == FieldDescriptor.TYPE_BYTES and field.name in TEXT_FIELDS and value is not None:
            data[field.json_name] = base64.b64decode(value).decode(errors="replace")


def _refuse_odd_numbers(data: dict, message_class: type[Message]) -> None:
    """Python reads more as a number than JSON does: "1_0" and digits of other scripts."""
    for name, must in _whole_numbers(descriptor_of(message_class)).items():
        value = data.get(name)
        if isinstance(value, str) and not (value.isascii() and "_" not in value):
            raise invalid(name, must)


def _numbers_as_text(data: dict, message_class: type[Message]) -> None:
    """Whether the number is a right one is for the operation to say."""
    for field in descriptor_of(message_class).fields:
        value = data.get(field.name)
        if (
            field.name in NUMERIC_TEXT_FIELDS
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            data[field.name] = f"{int(value)}" if value == value // 1 else f"{value}"


@cache
def _whole_numbers(descriptor: Descriptor) -> dict[str, str]:
    """What they must be, by both JSON names of each field."""
    fields = [field for field in descriptor.fields if field.type in _WHOLE_NUMBERS]
    return {name: _WHOLE_NUMBERS[field.type] for field in fields for name in (field.name, field.json_name)}


@cache
def _bytes_fields(descriptor: Descriptor) -> frozenset[str]:
    """Both JSON names of each field that holds bytes."""
    fields = [field for field in descriptor.fields if field.type == FieldDescriptor.TYPE_BYTES]
    return frozenset(name for field in fields for name in (field.name, field.json_name))


def _standard_base64(name: str, value: Any) -> str:
    """The standard alphabet with padding, from either alphabet, padded or not."""
    if not isinstance(value, str):
        raise invalid(name, "must be base64 text")
    one_line = _LINE_BREAKS.sub("", value.strip(" \t"))
    raw = one_line.replace("-", "+").replace("_", "/").rstrip("=").encode("ascii", "replace")
    if not _BASE64.fullmatch(raw) or len(raw) % 4 == 1:
        raise invalid(name, "is not base64")
    return raw.decode() + "=" * (-len(raw) % 4)


def _field_error(text: str, descriptor: Descriptor) -> ApiError:
    found = _FIELD.search(text)
    name = (found[1] or found[2]) if found else ""
    field = _field_named(name, descriptor)
    if not field:
        return ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"body: is no {descriptor.name}")
    must = _WHAT_IT_MUST_BE.get(field.type, "is not of its type")
    return invalid(name, f"must be a list, of which each {must}" if field.is_repeated else must)


def _field_named(name: str, descriptor: Descriptor) -> FieldDescriptor | None:
    """By either of its JSON names."""
    return next((field for field in descriptor.fields if name in (field.name, field.json_name)), None)
