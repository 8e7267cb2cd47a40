"""The metrics of runimpd over its gRPC, for its daphnes: a runimpd without HTTP is scraped through any of them.

No part of the API: a request is the header Accept, an answer the content type, a line feed and the page, all as bytes.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from nodeapi.auth import Visit
from nodeapi.errors import ApiError
from nodeapi.forward import Forwarder, credentials_of, is_unanswered
from nodeapi.monitoring.gauges import Scrape
from nodeapi.rpc_requests import Request, read_bytes, refuse

SERVICE, METHOD = "monitoring.Monitoring", "Scrape"
ASK_SECONDS = 8.0


def handler_for(
    scrape: Scrape, admit: Callable[[grpc.aio.ServicerContext], Request]
) -> grpc.GenericRpcHandler:
    """`admit` gives the request that is to be read, and raises ApiError for those who may not."""

    async def answer(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        try:
            accept = await read_bytes(admit(context), context)
        except ApiError as error:
            await refuse(context, error)
        content_type, body = await scrape.page(accept.decode("latin-1"))
        return content_type.encode() + b"\n" + body

    return grpc.method_handlers_generic_handler(
        SERVICE, {METHOD: grpc.stream_unary_rpc_method_handler(answer)}
    )


async def ask(forwarder: Forwarder, visit: Visit) -> tuple[str, bytes]:
    """Content type and page of runimpd, with the caller's credentials. ApiError."""
    method: Any = forwarder.channel.unary_unary(f"/{SERVICE}/{METHOD}")
    try:
        accept = visit.metadata.get("accept", "").encode("latin-1")
        answer = await method(accept, metadata=credentials_of(visit), timeout=ASK_SECONDS)
    except grpc.aio.AioRpcError as error:
        away = is_unanswered(error) or error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        raise ApiError(error.code(), "runimpd does not answer" if away else error.details() or "") from None
    content_type, _, body = answer.partition(b"\n")
    return content_type.decode(), body
