"""Every call of lnd that the node makes, with the permission that lnd wants for it. LndClient can make no other.

The permissions are those that lnd tells by ListPermissions; a test compares them with a real lnd.
"""

import enum
from collections.abc import Collection, Iterable

LINE_FILE = "impervious.macaroon"


class Rpc(enum.Enum):
    """A call's full name, and the entity and action of its permission."""

    GET_INFO = "/lnrpc.Lightning/GetInfo", "info:read"
    LIST_CHANNELS = "/lnrpc.Lightning/ListChannels", "offchain:read"
    PENDING_CHANNELS = "/lnrpc.Lightning/PendingChannels", "offchain:read"
    GET_CHAN_INFO = "/lnrpc.Lightning/GetChanInfo", "info:read"
    GET_NODE_INFO = "/lnrpc.Lightning/GetNodeInfo", "info:read"
    QUERY_ROUTES = "/lnrpc.Lightning/QueryRoutes", "info:read"
    SIGN_MESSAGE = "/lnrpc.Lightning/SignMessage", "message:write"
    ADD_INVOICE = "/lnrpc.Lightning/AddInvoice", "invoices:write"
    LOOKUP_INVOICE = "/lnrpc.Lightning/LookupInvoice", "invoices:read"
    LIST_INVOICES = "/lnrpc.Lightning/ListInvoices", "invoices:read"
    SUBSCRIBE_INVOICES = "/lnrpc.Lightning/SubscribeInvoices", "invoices:read"
    DECODE_PAY_REQ = "/lnrpc.Lightning/DecodePayReq", "offchain:read"
    SEND_PAYMENT = "/routerrpc.Router/SendPaymentV2", "offchain:write"
    TRACK_PAYMENT = "/routerrpc.Router/TrackPaymentV2", "offchain:read"
    ADD_HOLD_INVOICE = "/invoicesrpc.Invoices/AddHoldInvoice", "invoices:write"
    SUBSCRIBE_SINGLE_INVOICE = "/invoicesrpc.Invoices/SubscribeSingleInvoice", "invoices:read"
    SETTLE_INVOICE = "/invoicesrpc.Invoices/SettleInvoice", "invoices:write"
    CANCEL_INVOICE = "/invoicesrpc.Invoices/CancelInvoice", "invoices:write"
    CHECK_MACAROON = "/lnrpc.Lightning/CheckMacaroonPermissions", "macaroon:read"

    @property
    def path(self) -> str:
        return self.value[0]

    @property
    def service(self) -> str:
        return self.path.split("/")[1]

    @property
    def method(self) -> str:
        return self.path.split("/")[2]

    @property
    def permission(self) -> tuple[str, str]:
        entity, action = self.value[1].split(":")
        return entity, action


# What only one service of the node calls; all others are always needed.
ONLY_FOR = {
    Rpc.ADD_HOLD_INVOICE: "vpn",
    Rpc.SUBSCRIBE_SINGLE_INVOICE: "vpn",
    Rpc.SETTLE_INVOICE: "vpn",
    Rpc.CANCEL_INVOICE: "vpn",
}


def calls_for(services: Collection[str]) -> list[Rpc]:
    """What a node with these services calls."""
    return [rpc for rpc in Rpc if rpc not in ONLY_FOR or ONLY_FOR[rpc] in services]


def bake_line(calls: Iterable[Rpc]) -> str:
    """The command that makes a macaroon for exactly these calls."""
    return " ".join(["lncli bakemacaroon", f"--save_to {LINE_FILE}", *(f"uri:{rpc.path}" for rpc in calls)])
