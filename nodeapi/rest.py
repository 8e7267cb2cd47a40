"""The table of operations as DRF views, proto3 JSON in and out, for an ASGI server.

The views run in the event loop: Django's middleware and DRF's usual hop to a thread cost more than the whole call. DRF's
parsing, rendering and error handling do their work all the same.
"""

import io
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar
from urllib.parse import parse_qs

import grpc
from django.http import HttpRequest
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from rest_framework.exceptions import APIException
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from nodeapi import codec
from nodeapi.auth import Visit
from nodeapi.content_coding import plain_body
from nodeapi.doors import Doors
from nodeapi.errors import ApiError, invalid
from nodeapi.monitoring.calls import counted
from nodeapi.operations import OPERATIONS, Operation, Plain
from nodeapi.spelling import misspelled

logger = logging.getLogger("nodeapi.rest")

# Of a parameter's name, in an error: a longer one is none that was misspelled.
MAX_SHOWN_CHARACTERS = 40


class RawParser(BaseParser):
    """The body as bytes, whatever its Content-Type says: clients send a form type, or none."""

    media_type = "*/*"

    def parse(self, stream, media_type=None, parser_context=None) -> Any:
        return stream.read()


class ProtoJsonRenderer(BaseRenderer):
    """A proto message, or an error's dict, as JSON."""

    media_type = "application/json"
    format = "json"
    charset = None

    def __init__(self, *, as_text: bool):
        self._as_text = as_text

    def render(self, data, accepted_media_type=None, renderer_context=None) -> bytes:
        return codec.dump(
            codec.json_from_message(data, as_text=self._as_text) if isinstance(data, Message) else data
        )


class PlainRenderer(BaseRenderer):
    """One field of a proto message as it is. What is sent so may be secret: nothing keeps it."""

    charset = None
    # For all that may be sent: a browser shows it as what it is said to be, and runs nothing of it.
    headers: ClassVar[dict[str, str]] = {
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    }

    def __init__(self, field: str, media_type: str):
        self._field = field
        self.media_type = media_type

    def render(self, data, accepted_media_type=None, renderer_context=None) -> bytes:
        return getattr(data, self._field).encode()


PARSERS = (RawParser(),)
RENDERERS = {as_text: ProtoJsonRenderer(as_text=as_text) for as_text in (False, True)}


class OperationView(APIView):
    """One operation. `doors` and `operation` come from `as_view`."""

    # as_view() asks for defaults, and is always given others.
    doors: Doors = None  # type: ignore[assignment]  # see above
    operation: Operation = None  # type: ignore[assignment]  # see above

    def initialize_request(self, request: HttpRequest) -> Request:
        return Request(request, parsers=PARSERS)

    def initial(self, request: Request) -> None:
        """The API speaks JSON, whatever is asked for. Who may call is the doors' matter, the same for REST and gRPC."""
        renderer = RENDERERS[self.doors.as_text]
        request.accepted_renderer, request.accepted_media_type = renderer, renderer.media_type

    async def dispatch(  # type: ignore[override]  # called by web.py alone
        self, request: HttpRequest, visit: Visit, **path_fields: str
    ) -> Response:
        self.args, self.kwargs = (), path_fields
        self.headers = {}
        self.names: dict[str, str] = {}
        self.request = request = self.initialize_request(request)
        try:
            self.initial(request)
            # Who calls is asked before the body is looked at.
            read = partial(self._message, request, path_fields)
            with counted(self.operation):
                response = Response(await self.doors.call(self.operation, read, visit))
            if self.operation.plain:
                self._send_plain(self.operation.plain, response.data)
        except ApiError as error:
            response = self.handle_exception(error.named(self.names))
        except Exception as error:
            response = self.handle_exception(error)
        return self.finalize_response(request, response)

    def _send_plain(self, plain: Plain, reply: Any) -> None:
        renderer = PlainRenderer(plain.field, reply.content_type)
        self.request.accepted_renderer, self.request.accepted_media_type = renderer, renderer.media_type
        self.headers = renderer.headers

    def _message(self, request, path_fields: dict[str, str]) -> Message:
        message_class = self.operation.request_class
        if self.operation.http == "POST":
            # As with grpc-gateway the path prevails.
            fields = codec.object_from_body(self._plain_body(request)) | path_fields
        else:
            asked = Parameters.of_message(message_class, in_path=path_fields.keys())
            fields = query_fields(request.META["QUERY_STRING"], asked) | path_fields
        self.names = codec.json_names(codec.descriptor_of(message_class), fields.keys())
        return codec.message_from_json(fields, message_class, as_text=self.doors.as_text)

    def _plain_body(self, request) -> bytes:
        coding = request.META["HTTP_CONTENT_ENCODING"]
        return plain_body(request.data or b"", coding, max_bytes=self.doors.max_body_bytes)


class ApiRequest(HttpRequest):
    """What DRF needs of an ASGI request: Django's own reads a lot more of it than an API call needs."""

    def __init__(self, scope: dict, headers: Mapping[str, str], body: bytes):
        self.method = scope["method"]
        self.path = self.path_info = scope["path"]
        self.META = {
            "CONTENT_TYPE": headers.get("content-type", ""),
            "HTTP_CONTENT_ENCODING": headers.get("content-encoding", ""),
            # A chunked body comes without a length, and DRF reads none where none is told.
            "CONTENT_LENGTH": str(len(body)),
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
        }
        self._stream = io.BytesIO(body)
        self._read_started = False


@dataclass(frozen=True)
class Parameters:
    """What a query may have: names that are taken, those of them that are told where another one is given, and those
    that may come more than once.
    """

    known: Collection[str]
    told: Collection[str]
    repeated: Collection[str] = ()

    @classmethod
    def of_message(cls, message_class: type[Message], *, in_path: Iterable[str] = ()) -> "Parameters":
        """The fields of a request, but for those that its path holds."""
        return _parameters_of(codec.descriptor_of(message_class), frozenset(in_path))

    def refuse_unknown(self, names: Iterable[str]) -> None:
        """Raises ApiError."""
        unknown = next((name for name in names if name not in self.known), None)
        if unknown is None:
            return
        shown = unknown if unknown.isprintable() and len(unknown) <= MAX_SHOWN_CHARACTERS else "query"
        meant = misspelled([unknown], self.told)
        hint = f"; did you mean `{meant[1]}`?" if meant else "."
        allowed = f"Allowed: {', '.join(self.told)}" if self.told else "There are none here"
        raise invalid(shown, f"is no parameter of this call{hint} {allowed}")


@cache
def _parameters_of(descriptor: Descriptor, in_path: frozenset[str]) -> Parameters:
    fields = descriptor.fields
    repeated = [field for field in fields if field.is_repeated]
    return Parameters(
        known=codec.known_names(descriptor),
        told=sorted(field.json_name for field in fields if field.name not in in_path),
        repeated=frozenset(name for field in repeated for name in (field.name, field.json_name)),
    )


def query_fields(query_string: str, parameters: Parameters) -> dict[str, Any]:
    """A query's parameters as JSON fields; a repeated one takes every value, any other the last. What has no value is
    left out. ApiError for a parameter that is not known: a filter that is misspelled must not be none.
    """
    try:
        given = parse_qs(query_string, max_num_fields=100, keep_blank_values=True)
    except ValueError:
        raise ApiError(grpc.StatusCode.INVALID_ARGUMENT, "query: is not a query string") from None
    parameters.refuse_unknown(given)
    values = {name: [value for value in found if value] for name, found in given.items()}
    return {
        name: found if name in parameters.repeated else found[-1] for name, found in values.items() if found
    }


def handle_exception(error: Exception, context: dict) -> Response:
    """DRF's exception handler: every error of the API in grpc-gateway's form."""
    if isinstance(error, ApiError):
        return Response(error.as_json(), status=error.http_status, headers=error.http_headers)
    if isinstance(error, APIException):
        return handle_exception(ApiError(grpc.StatusCode.INVALID_ARGUMENT, str(error.detail)), context)
    logger.error("unexpected error", exc_info=error)
    return handle_exception(
        ApiError(grpc.StatusCode.INTERNAL, "internal error; the node's log tells more"), context
    )


class Routes:
    """Which view serves a path and method; path fields as in `/v1/message/{id}`."""

    def __init__(self, doors: Doors):
        self._exact: dict[str, dict[str, Any]] = {}
        self._patterns: list[tuple[re.Pattern, dict[str, Any]]] = []
        for operation in OPERATIONS:
            self._views(operation.path)[operation.http] = OperationView.as_view(
                doors=doors, operation=operation
            )

    def _views(self, path: str) -> dict[str, Any]:
        if "{" not in path:
            return self._exact.setdefault(path, {})
        pattern = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path))
        views: dict[str, Any] = {}
        self._patterns.append((pattern, views))
        return views

    def find(self, path: str, method: str) -> tuple[Any, dict[str, str]]:
        """The view and its path fields. ApiError NOT_FOUND for the path, UNIMPLEMENTED (as grpc-gateway) for the method."""
        views, fields = self._exact.get(path), {}
        if views is None:
            for pattern, candidates in self._patterns:
                if found := pattern.fullmatch(path):
                    views, fields = candidates, found.groupdict()
        if views is None:
            raise ApiError(grpc.StatusCode.NOT_FOUND, "Not Found")
        if method not in views:
            raise ApiError(grpc.StatusCode.UNIMPLEMENTED, "Method Not Allowed")
        return views[method], fields

    def methods(self, path: str) -> list[str]:
        views = self._exact.get(path) or next(
            (candidates for pattern, candidates in self._patterns if pattern.fullmatch(path)), {}
        )
        return sorted(views)
