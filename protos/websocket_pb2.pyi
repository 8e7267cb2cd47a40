from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SubscribeRequest(_message.Message):
    __slots__ = ("after", "services")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    after: int
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, after: _Optional[int] = ..., services: _Optional[_Iterable[str]] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("id", "reply_to_id", "from_pubkey", "data", "service_type", "amount", "seq")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_ID_FIELD_NUMBER: _ClassVar[int]
    FROM_PUBKEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    id: str
    reply_to_id: str
    from_pubkey: str
    data: bytes
    service_type: str
    amount: int
    seq: int
    def __init__(self, id: _Optional[str] = ..., reply_to_id: _Optional[str] = ..., from_pubkey: _Optional[str] = ..., data: _Optional[bytes] = ..., service_type: _Optional[str] = ..., amount: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class SendRequest(_message.Message):
    __slots__ = ("pubkey", "data", "amount", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    data: bytes
    amount: int
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., data: _Optional[bytes] = ..., amount: _Optional[int] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class SendResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...
