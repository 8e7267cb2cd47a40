"""StartSocket, StopSocket and SendSocket."""

from typing import Any

import grpc

from messaging import services
from messaging.idempotency import Claim
from nodeapi.checks import answered_before, require_running, require_sendable
from nodeapi.errors import ApiError
from nodeapi.relay.ports import NoPorts

SERVICE = "socket"
AMOUNT_SAT = 1


async def start_socket(doors) -> dict[str, Any]:
    """Tells the running relay; starts it where there is none."""
    require_running(doors.engine, SERVICE)
    try:
        return (await doors.engine.relay.start()).fields()
    except NoPorts as error:
        raise ApiError(grpc.StatusCode.FAILED_PRECONDITION, str(error)) from None


async def stop_socket(doors) -> dict[str, Any]:
    """Ends the relay, if one is running, and frees its ports."""
    require_running(doors.engine, SERVICE)
    await doors.engine.relay.stop()
    return {}


async def send_socket(doors, *, pubkey: str, claim: Claim | None) -> dict[str, Any]:
    """Tells another node where the running relay is."""
    engine = doors.engine
    require_running(engine, SERVICE)
    require_sendable(engine, pubkey, 0, "pubkey", AMOUNT_SAT)
    if answer := await answered_before(engine, claim):
        return answer
    offer = await engine.relay.running()
    if offer is None:
        raise ApiError(
            grpc.StatusCode.FAILED_PRECONDITION, "no relay is running on this node; StartSocket starts it"
        )
    return await services.message_send(
        outbox=engine.outbox,
        service=SERVICE,
        pubkey=pubkey,
        body=offer.encode(),
        amount_sat=AMOUNT_SAT,
        reply_to=None,
        expires_seconds=None,
        claim=claim,
    )
