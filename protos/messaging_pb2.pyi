from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SendMessageRequest(_message.Message):
    __slots__ = ("msg", "pubkey", "amount", "reply_to_id", "expires_in", "max_cost_sat")
    MSG_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_ID_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    msg: bytes
    pubkey: str
    amount: int
    reply_to_id: str
    expires_in: int
    max_cost_sat: int
    def __init__(self, msg: _Optional[bytes] = ..., pubkey: _Optional[str] = ..., amount: _Optional[int] = ..., reply_to_id: _Optional[str] = ..., expires_in: _Optional[int] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class SendMessageResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class BroadcastRequest(_message.Message):
    __slots__ = ("msg", "amount", "expires_in", "max_cost_sat")
    MSG_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    msg: bytes
    amount: int
    expires_in: int
    max_cost_sat: int
    def __init__(self, msg: _Optional[bytes] = ..., amount: _Optional[int] = ..., expires_in: _Optional[int] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class BroadcastResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[BroadcastMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[BroadcastMessage, _Mapping]]] = ...) -> None: ...

class BroadcastMessage(_message.Message):
    __slots__ = ("pubkey", "id")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    id: str
    def __init__(self, pubkey: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class GetMessageRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetMessageResponse(_message.Message):
    __slots__ = ("message",)
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    message: Message
    def __init__(self, message: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class ListMessagesRequest(_message.Message):
    __slots__ = ("pubkey", "service", "direction", "state", "before", "limit")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    service: str
    direction: str
    state: str
    before: str
    limit: int
    def __init__(self, pubkey: _Optional[str] = ..., service: _Optional[str] = ..., direction: _Optional[str] = ..., state: _Optional[str] = ..., before: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListMessagesResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class EstimateMessageRequest(_message.Message):
    __slots__ = ("pubkey", "size", "amount")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    size: int
    amount: int
    def __init__(self, pubkey: _Optional[str] = ..., size: _Optional[int] = ..., amount: _Optional[int] = ...) -> None: ...

class EstimateMessageResponse(_message.Message):
    __slots__ = ("reachable", "problem", "keysend", "parts", "hops", "amount", "fee_msat", "cost_msat")
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    KEYSEND_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    FEE_MSAT_FIELD_NUMBER: _ClassVar[int]
    COST_MSAT_FIELD_NUMBER: _ClassVar[int]
    reachable: bool
    problem: str
    keysend: bool
    parts: int
    hops: int
    amount: int
    fee_msat: int
    cost_msat: int
    def __init__(self, reachable: _Optional[bool] = ..., problem: _Optional[str] = ..., keysend: _Optional[bool] = ..., parts: _Optional[int] = ..., hops: _Optional[int] = ..., amount: _Optional[int] = ..., fee_msat: _Optional[int] = ..., cost_msat: _Optional[int] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("id", "direction", "pubkey", "service", "reply_to_id", "msg", "amount", "state", "attempts", "fee_msat", "error", "created_at", "updated_at", "parts")
    ID_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_ID_FIELD_NUMBER: _ClassVar[int]
    MSG_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FEE_MSAT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    direction: str
    pubkey: str
    service: str
    reply_to_id: str
    msg: bytes
    amount: int
    state: str
    attempts: int
    fee_msat: int
    error: str
    created_at: str
    updated_at: str
    parts: int
    def __init__(self, id: _Optional[str] = ..., direction: _Optional[str] = ..., pubkey: _Optional[str] = ..., service: _Optional[str] = ..., reply_to_id: _Optional[str] = ..., msg: _Optional[bytes] = ..., amount: _Optional[int] = ..., state: _Optional[str] = ..., attempts: _Optional[int] = ..., fee_msat: _Optional[int] = ..., error: _Optional[str] = ..., created_at: _Optional[str] = ..., updated_at: _Optional[str] = ..., parts: _Optional[int] = ...) -> None: ...

class ListMessagePaymentsRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListMessagePaymentsResponse(_message.Message):
    __slots__ = ("payments",)
    PAYMENTS_FIELD_NUMBER: _ClassVar[int]
    payments: _containers.RepeatedCompositeFieldContainer[MessagePayment]
    def __init__(self, payments: _Optional[_Iterable[_Union[MessagePayment, _Mapping]]] = ...) -> None: ...

class MessagePayment(_message.Message):
    __slots__ = ("payment_hash", "state", "amount_msat", "fee_msat", "messages", "part", "error", "created_at", "ended_at")
    PAYMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MSAT_FIELD_NUMBER: _ClassVar[int]
    FEE_MSAT_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    payment_hash: str
    state: str
    amount_msat: int
    fee_msat: int
    messages: int
    part: int
    error: str
    created_at: str
    ended_at: str
    def __init__(self, payment_hash: _Optional[str] = ..., state: _Optional[str] = ..., amount_msat: _Optional[int] = ..., fee_msat: _Optional[int] = ..., messages: _Optional[int] = ..., part: _Optional[int] = ..., error: _Optional[str] = ..., created_at: _Optional[str] = ..., ended_at: _Optional[str] = ...) -> None: ...

class GiveUpMessageRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GiveUpMessageResponse(_message.Message):
    __slots__ = ("id", "may_cost_msat")
    ID_FIELD_NUMBER: _ClassVar[int]
    MAY_COST_MSAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    may_cost_msat: int
    def __init__(self, id: _Optional[str] = ..., may_cost_msat: _Optional[int] = ...) -> None: ...

class ListPeersRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListPeersResponse(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("pubkey", "label", "marked", "written_to", "federation", "first_seen_at", "last_seen_at", "blocked")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MARKED_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_TO_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_AT_FIELD_NUMBER: _ClassVar[int]
    BLOCKED_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    label: str
    marked: bool
    written_to: bool
    federation: str
    first_seen_at: str
    last_seen_at: str
    blocked: bool
    def __init__(self, pubkey: _Optional[str] = ..., label: _Optional[str] = ..., marked: _Optional[bool] = ..., written_to: _Optional[bool] = ..., federation: _Optional[str] = ..., first_seen_at: _Optional[str] = ..., last_seen_at: _Optional[str] = ..., blocked: _Optional[bool] = ...) -> None: ...
