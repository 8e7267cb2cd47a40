"""One true example for each operation, shown in the API's description. A test sends each of them to a node.

PUBKEY stands for another node, MESSAGE_ID for a message of this one.
"""

from dataclasses import dataclass, field
from typing import Any

PUBKEY = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619"
MESSAGE_ID = "5fedffdc-c883-4aaf-95bc-358d7a79b7db"


@dataclass(frozen=True)
class Example:
    """A request's fields, of the body or of the query, and a reply as it may look."""

    request: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] = field(default_factory=dict)


_MESSAGE = {
    "id": MESSAGE_ID, "direction": "out", "pubkey": PUBKEY, "service": "message", "replyToId": "", "msg": "aGVsbG8=",
    "amount": "1", "state": "settled", "attempts": "1", "feeMsat": "0", "error": "",
    "createdAt": "2026-11-23T12:00:00.000Z", "updatedAt": "2026-11-23T12:00:00.080Z", "parts": "1",
}  # fmt: skip

EXAMPLES = {
    "/messaging.Messaging/SendMessage": Example(
        {"msg": "aGVsbG8=", "pubkey": PUBKEY, "amount": "1", "replyToId": "", "expiresIn": "3600"}, {"id": MESSAGE_ID}
    ),
    "/messaging.Messaging/GetMessage": Example({"id": MESSAGE_ID}, {"message": _MESSAGE}),
    "/messaging.Messaging/ListMessages": Example(
        {"pubkey": PUBKEY, "service": "message", "direction": "out", "limit": "10"}, {"messages": [_MESSAGE]}
    ),
    "/messaging.Messaging/EstimateMessage": Example(
        {"pubkey": PUBKEY, "size": "20000", "amount": "1"},
        {
            "reachable": True, "problem": "", "keysend": True, "parts": "22", "hops": "1", "amount": "22", "feeMsat": "0",
            "costMsat": "22000",
        },  # fmt: skip
    ),
    "/node.Node/GetInfo": Example(
        {},
        {
            "pubkey": PUBKEY, "alias": "alice", "network": "mainnet", "version": "0.2.0", "lndVersion": "0.21.0-beta",
            "lndReachable": True, "synced": True, "keysend": True, "spendableSat": "950000", "receivableSat": "930000",
            "warnings": [],
            "services": [
                {"serviceType": "message", "customRecordNumber": "400000", "active": True, "state": "running"},
            ],
        },  # fmt: skip
    ),
}
