"""One true example for each operation, shown in the API's description. A test sends each of them to a node.

PUBKEY stands for another node, MESSAGE_ID for a message of this one, INVOICE for another node's invoice and OWN_INVOICE for
one of this node, NONCE for a quote and a lease of the other node, LEASE_ID for that lease.
"""

from dataclasses import dataclass, field
from typing import Any

PUBKEY = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619"
MESSAGE_ID = "5fedffdc-c883-4aaf-95bc-358d7a79b7db"
INVOICE = "lnbc10n1pj…another node's"
OWN_INVOICE = "lnbc20n1pj…this node's"
NONCE = "8c1f0e2d3b4a59687786a5b4c3d2e1f0"
LEASE_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
SIGNER = "0256b328b30c8bf5839e24058747879408bdb36241dc9c2e7c619faa12b2920967"
SIGNATURE = (
    "d9i87w1z9sj86r37ib6m6dsfekdrmuwg9jgz6u8p9ahrru1ps7i11a6ho3gw1g39ibdeece4shmbm4me7j3pgihq8hmszhn6ifdttj9j"
)


@dataclass(frozen=True)
class Example:
    """A request's fields, of the body or of the query, and a reply as it may look."""

    request: dict[str, Any] = field(default_factory=dict)
    reply: dict[str, Any] = field(default_factory=dict)


_MESSAGE = {
    "id": MESSAGE_ID,
    "direction": "out",
    "pubkey": PUBKEY,
    "service": "message",
    "replyToId": "",
    "msg": "aGVsbG8=",
    "amount": "1",
    "state": "settled",
    "attempts": "1",
    "feeMsat": "0",
    "error": "",
    "createdAt": "2026-11-23T12:00:00.000Z",
    "updatedAt": "2026-11-23T12:00:00.080Z",
    "parts": "1",
}

EXAMPLES = {
    "/messaging.Messaging/SendMessage": Example(
        {"msg": "aGVsbG8=", "pubkey": PUBKEY, "amount": "1", "replyToId": "", "expiresIn": "3600"},
        {"id": MESSAGE_ID},
    ),
    "/messaging.Messaging/GetMessage": Example({"id": MESSAGE_ID}, {"message": _MESSAGE}),
    "/messaging.Messaging/ListMessages": Example(
        {"pubkey": PUBKEY, "service": "message", "direction": "out", "limit": "10"}, {"messages": [_MESSAGE]}
    ),
    "/messaging.Messaging/ListMessagePayments": Example(
        {"id": MESSAGE_ID},
        {
            "payments": [
                {
                    "paymentHash": "f1a2" * 16,
                    "state": "settled",
                    "amountMsat": "1000",
                    "feeMsat": "0",
                    "messages": "1",
                    "part": "0",
                    "error": "",
                    "createdAt": "2026-11-23T12:00:00.005Z",
                    "endedAt": "2026-11-23T12:00:00.080Z",
                }
            ]
        },
    ),
    "/messaging.Messaging/GiveUpMessage": Example(
        {"id": MESSAGE_ID}, {"id": MESSAGE_ID, "mayCostMsat": "11000"}
    ),
    "/messaging.Messaging/EstimateMessage": Example(
        {"pubkey": PUBKEY, "size": "20000", "amount": "1"},
        {
            "reachable": True,
            "problem": "",
            "keysend": True,
            "parts": "22",
            "hops": "1",
            "amount": "22",
            "feeMsat": "0",
            "costMsat": "22000",
        },
    ),
    "/messaging.Messaging/ListPeers": Example(
        {"limit": "10"},
        {
            "peers": [
                {
                    "pubkey": PUBKEY,
                    "label": "bob",
                    "marked": True,
                    "writtenTo": True,
                    "federation": "member",
                    "firstSeenAt": "2026-11-20T08:00:00.000Z",
                    "lastSeenAt": "2026-11-23T12:00:00.080Z",
                    "blocked": False,
                },
            ]
        },
    ),
    "/node.Node/GetInfo": Example(
        {},
        {
            "pubkey": PUBKEY,
            "alias": "alice",
            "network": "mainnet",
            "version": "0.2.0",
            "lndVersion": "0.21.0-beta",
            "lndReachable": True,
            "synced": True,
            "keysend": True,
            "spendableSat": "950000",
            "receivableSat": "930000",
            "warnings": [],
            "services": [
                {
                    "serviceType": "message",
                    "customRecordNumber": "400000",
                    "active": True,
                    "state": "running",
                },
            ],
            "state": "running",
            "lastSeq": "42",
            "answersLimitSat": "120",
            "answersUsedSat": "35",
            "deadPayments": 0,
        },
    ),
    "/messaging.Messaging/Broadcast": Example(
        {"msg": "aGVsbG8=", "amount": "1"}, {"messages": [{"pubkey": PUBKEY, "id": MESSAGE_ID}]}
    ),
    "/websocket.Websocket/Send": Example(
        {"pubkey": PUBKEY, "data": "aGVsbG8=", "amount": "1"}, {"id": MESSAGE_ID}
    ),
    "/federate.Federate/RequestFederate": Example({"pubkey": PUBKEY}, {"id": MESSAGE_ID, "amountSat": "3"}),
    "/federate.Federate/LeaveFederation": Example({"pubkey": PUBKEY}, {"id": MESSAGE_ID}),
    "/federate.Federate/ListFederations": Example(
        {"state": "member", "limit": "10"},
        {
            "federations": [
                {
                    "pubkey": PUBKEY,
                    "impId": "Bob",
                    "state": "member",
                    "since": "2026-11-23T12:00:00Z",
                    "expiresAt": "2027-11-23T18:40:00Z",
                    "secondsLeft": "31560000",
                    "cause": "",
                    "updatedAt": "2026-11-23T12:00:00Z",
                }
            ]
        },
    ),
    "/socket.Socket/StartSocket": Example(
        {}, {"protocol": "udp", "ip": "127.0.0.1", "port1": ":6000", "port2": ":9000"}
    ),
    "/socket.Socket/SendSocket": Example({"pubkey": PUBKEY}, {"id": MESSAGE_ID}),
    "/socket.Socket/StopSocket": Example(),
    "/signing.Signing/SignMessage": Example({"msg": "hello"}, {"signature": SIGNATURE}),
    "/signing.Signing/VerifySignature": Example(
        {"msg": "hello", "signature": SIGNATURE, "pubkey": SIGNER}, {"result": True, "pubkey": SIGNER}
    ),
    "/lightning.Lightning/GenerateInvoice": Example(
        {"amount": "2", "memo": "a cup of tea", "expiresIn": "3600"},
        {
            "invoice": OWN_INVOICE,
            "id": MESSAGE_ID,
            "paymentHash": "00" * 32,
            "expiresAt": "2026-11-23T13:00:00Z",
        },
    ),
    "/lightning.Lightning/PayInvoice": Example(
        {"invoice": INVOICE, "timeout": "30"},
        {
            "preimage": "00" * 32,
            "paymentHash": "00" * 32,
            "amountMsat": "1000",
            "feeMsat": "0",
            "payee": PUBKEY,
        },
    ),
    "/lightning.Lightning/CheckInvoice": Example(
        {"invoice": OWN_INVOICE},
        {
            "paid": False,
            "state": "open",
            "amount": "2",
            "amountPaidMsat": "0",
            "paymentHash": "00" * 32,
            "memo": "a cup of tea",
            "expiresAt": "2026-11-23T13:00:00Z",
            "settledAt": "",
        },
    ),
    "/vpn.VPN/RequestQuote": Example({"pubkey": PUBKEY}, {"id": MESSAGE_ID, "amountSat": "3"}),
    "/vpn.VPN/AcceptContract": Example(
        {"pubkey": PUBKEY, "nonce": NONCE, "price": "100"}, {"id": MESSAGE_ID, "amountSat": "3"}
    ),
    "/vpn.VPN/RefreshContract": Example(
        {"pubkey": PUBKEY, "nonce": NONCE, "price": "100"}, {"id": MESSAGE_ID, "amountSat": "3"}
    ),
    "/vpn.VPN/ListLeases": Example(
        {"state": "active", "pubkey": PUBKEY, "limit": "10", "role": "bought"},
        {
            "leases": [
                {
                    "id": LEASE_ID,
                    "pubkey": PUBKEY,
                    "nonce": NONCE,
                    "price": "100",
                    "state": "active",
                    "address": "10.0.0.2/32",
                    "endpoint": "203.0.113.5:51820",
                    "serverPubKey": "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
                    "publicKey": "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
                    "expiresAt": "2026-11-23T13:00:00Z",
                    "secondsLeft": "3600",
                    "path": f"http://127.0.0.1:8882/v1/vpn/leases/{LEASE_ID}/config",
                    "role": "bought",
                    "seconds": "7200",
                    "paidSat": "200",
                    "paymentHash": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                }
            ]
        },
    ),
    "/vpn.VPN/GetLeaseConfig": Example(
        {"id": LEASE_ID},
        {
            "config": "[Interface]\nPrivateKey = …\nAddress = 10.0.0.2/32\n\n[Peer]\n…\n",
            "contentType": "text/plain",
        },
    ),
}
