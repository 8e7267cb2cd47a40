"""One error for all doors, and its place in HTTP as grpc-gateway defines it; one for what ends the node."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


# gRPC gives the same status where nobody answers.
BY_NODE = ("impervious-unavailable", "node")


def is_by_node(trailing_metadata: Iterable[Any] | None) -> bool:
    """Whether an answer UNAVAILABLE is by a node, and not of gRPC itself because nobody answers."""
    return any(tuple(pair) == BY_NODE for pair in trailing_metadata or ())


class ApiError(Exception):
    """What a client is told: a gRPC status and a sentence that names the field, if there is one."""

    def __init__(self, code: grpc.StatusCode, message: str, *, retry_after_seconds: float | None = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = None if retry_after_seconds is None else max(1, math.ceil(retry_after_seconds))

    @property
    def http_status(self) -> int:
        return HTTP_STATUS[self.code]

    @property
    def http_headers(self) -> dict[str, str]:
        if self.retry_after is not None:
            return {"Retry-After": str(self.retry_after)}
        return {"WWW-Authenticate": "Bearer"} if self.code is grpc.StatusCode.UNAUTHENTICATED else {}

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        """For gRPC: what REST says by Retry-After, and that it is the node that is unavailable, not the way to it."""
        told = (BY_NODE,) if self.code is grpc.StatusCode.UNAVAILABLE else ()
        return told if self.retry_after is None else (*told, ("retry-after", str(self.retry_after)))

    @property
    def status_name(self) -> str:
        """As gRPC's own documents have it: ResourceExhausted."""
        return "".join(word.capitalize() for word in self.code.name.split("_"))

    def named(self, names: Mapping[str, str]) -> "ApiError":
        """The same error, whose field has the name that it has here."""
        field, colon, text = self.message.partition(": ")
        if not colon or field not in names:
            return self
        return ApiError(self.code, f"{names[field]}: {text}", retry_after_seconds=self.retry_after)

    def as_json(self) -> dict:
        return {"code": self.code.value[0], "message": self.message, "details": []}


class UnsupportedCodingError(ApiError):
    """Of a body: HTTP has a status of its own for it."""

    def __init__(self, message: str, *, accepted: str):
        super().__init__(grpc.StatusCode.INVALID_ARGUMENT, message)
        self._accepted = accepted

    @property
    def http_status(self) -> int:
        return 415

    @property
    def http_headers(self) -> dict[str, str]:
        return {"Accept-Encoding": self._accepted}


class StartError(Exception):
    """The node cannot start, or go on; `str()` says why and what to do."""


def invalid(field: str, text: str) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {text}")


def shown_sat(amount_msat: int) -> str:
    whole, rest = divmod(amount_msat, 1000)
    return f"{whole}.{rest:03} sat" if rest else f"{whole} sat"
