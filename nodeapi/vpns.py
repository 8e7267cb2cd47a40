"""The calls of vpn.VPN."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from uuid import UUID

import grpc

from messaging.idempotency import Claim
from nodeapi.checks import (
    answered_before,
    require_other_node,
    require_permitted,
    require_running,
    require_spendable,
    with_amount,
)
from nodeapi.errors import ApiError
from vpn import services
from vpn.buying import NotPossible
from vpn.settings import SERVICE


async def request_quote(doors, *, pubkey: str, claim: Claim | None) -> dict[str, Any]:
    """Asks a node what its VPN costs."""
    return await _ask(doors, pubkey, claim, partial(services.quote_request, outbox=doors.engine.outbox))


async def accept_contract(
    doors, *, pubkey: str, nonce: str, price: str, claim: Claim | None
) -> dict[str, Any]:
    """Buys a lease for `price` sat."""
    return await _buy(doors, services.contract_accept, pubkey, nonce, price, claim)


async def refresh_contract(
    doors, *, pubkey: str, nonce: str, price: str, claim: Claim | None
) -> dict[str, Any]:
    """Buys more time for a lease that runs."""
    return await _buy(doors, services.contract_refresh, pubkey, nonce, price, claim)


async def list_leases(doors, **filters) -> dict[str, Any]:
    """The leases that this node has bought, or sold, the newest first."""
    return {"leases": await doors.database.read(partial(services.lease_list, **filters))}


async def get_lease_config(doors, *, id: UUID, format: str) -> dict[str, Any]:
    """The file that brings a bought lease's tunnel up, with its private key: text, or a QR code."""
    try:
        text = await doors.database.read(partial(services.lease_file, lease_id=id))
    except services.NoFile as error:
        raise ApiError(grpc.StatusCode.NOT_FOUND, f"id: {error}") from None
    if format == "qr":
        return {"config": services.as_qr(text), "content_type": services.SVG}
    return {"config": text, "content_type": services.TEXT}


async def _buy(doors, service, pubkey: str, nonce: str, price: str, claim: Claim | None) -> dict[str, Any]:
    engine = doors.engine

    async def ask(**arguments) -> UUID:
        price_msat = int(price) * 1000
        require_permitted(engine, "price", price_msat)
        require_spendable(engine, "price", price_msat)
        engine.budgets.reserve_further(price_msat)
        return await service(
            outbox=engine.outbox, database=doors.database, nonce=nonce, price=price, **arguments
        )

    return await _ask(doors, pubkey, claim, ask)


async def _ask(
    doors, pubkey: str, claim: Claim | None, ask: Callable[..., Awaitable[UUID]]
) -> dict[str, Any]:
    engine = doors.engine
    require_running(engine, SERVICE)
    require_other_node(engine, pubkey)
    if answer := await answered_before(engine, claim):
        return await with_amount(doors.database, answer)
    try:
        return await with_amount(doors.database, {"id": str(await ask(pubkey=pubkey, claim=claim))})
    except NotPossible as error:
        code = grpc.StatusCode.INVALID_ARGUMENT if error.invalid else grpc.StatusCode.FAILED_PRECONDITION
        raise ApiError(code, f"{error.field}: {error}") from None
