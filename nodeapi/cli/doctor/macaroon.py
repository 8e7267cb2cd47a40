"""Which of the node's calls the macaroon does not permit. Each call is made once, with what lnd can only refuse or not
find: lnd looks at the macaroon first."""

import asyncio
import secrets
from collections.abc import Awaitable

from lightning.client import LndClient, LndError, Trouble
from protos.invoicesrpc import invoices_pb2
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2

# A stream that was not refused by then is open.
STREAM_SECONDS = 2.0
CALL_SECONDS = 10.0
# Of which lnd makes no invoice.
_NO_AMOUNT_SAT = -1
_SIGNED = b"impervious doctor: may this node sign?"


async def refused_calls(client: LndClient, own_pubkey: str) -> list[str]:
    calls = _harmless(client, bytes.fromhex(own_pubkey))
    refused = await asyncio.gather(*(_is_refused(call) for call in calls.values()))
    return [name for name, is_refused in zip(calls, refused, strict=True) if is_refused]


def _harmless(client: LndClient, own_pubkey: bytes) -> dict[str, Awaitable]:
    unknown = secrets.token_bytes(32)
    return {
        "ListChannels": client.list_channels(),
        "GetNodeInfo": client.node_info(own_pubkey),
        "GetChanInfo": client.channel_info(1),
        "QueryRoutes": client.query_routes(lightning_pb2.QueryRoutesRequest(pub_key=own_pubkey.hex(), amt=1)),
        "SignMessage": client.sign_message(_SIGNED),
        "AddInvoice": client.add_invoice(lightning_pb2.Invoice(value=_NO_AMOUNT_SAT)),
        "LookupInvoice": client.lookup_invoice(unknown),
        "ListInvoices": client.list_invoices(lightning_pb2.ListInvoiceRequest(num_max_invoices=1)),
        "DecodePayReq": client.decode_payment_request("none"),
        "SubscribeInvoices": _first_of(client.subscribe_invoices()),
        "SendPaymentV2": client.send_payment(router_pb2.SendPaymentRequest()),
        "TrackPaymentV2": client.track_payment(unknown),
        "AddHoldInvoice": client.add_hold_invoice(invoices_pb2.AddHoldInvoiceRequest(hash=b"none", value=_NO_AMOUNT_SAT)),
        "SubscribeSingleInvoice": _first_of(client.subscribe_single_invoice(unknown)),
        "SettleInvoice": client.settle_invoice(unknown),
        "CancelInvoice": client.cancel_invoice(unknown),
    }


async def _first_of(stream) -> None:
    try:
        async with asyncio.timeout(STREAM_SECONDS):
            await anext(stream)
    except TimeoutError:
        return
    finally:
        await stream.aclose()


async def _is_refused(call: Awaitable) -> bool:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await call
    except LndError as error:
        return error.trouble is Trouble.MACAROON
    except (TimeoutError, StopAsyncIteration):
        pass
    return False
