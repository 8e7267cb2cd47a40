from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestFederateRequest(_message.Message):
    __slots__ = ("pubkey", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class RequestFederateResponse(_message.Message):
    __slots__ = ("id", "amount_sat")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_SAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    amount_sat: int
    def __init__(self, id: _Optional[str] = ..., amount_sat: _Optional[int] = ...) -> None: ...

class LeaveFederationRequest(_message.Message):
    __slots__ = ("pubkey", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class LeaveFederationResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListFederationsRequest(_message.Message):
    __slots__ = ("state", "pubkey", "limit")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    state: str
    pubkey: str
    limit: int
    def __init__(self, state: _Optional[str] = ..., pubkey: _Optional[str] = ..., limit: _Optional[int] = ...) -> None: ...

class ListFederationsResponse(_message.Message):
    __slots__ = ("federations",)
    FEDERATIONS_FIELD_NUMBER: _ClassVar[int]
    federations: _containers.RepeatedCompositeFieldContainer[Federation]
    def __init__(self, federations: _Optional[_Iterable[_Union[Federation, _Mapping]]] = ...) -> None: ...

class Federation(_message.Message):
    __slots__ = ("pubkey", "imp_id", "state", "since", "expires_at", "seconds_left", "cause", "updated_at")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    IMP_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    imp_id: str
    state: str
    since: str
    expires_at: str
    seconds_left: int
    cause: str
    updated_at: str
    def __init__(self, pubkey: _Optional[str] = ..., imp_id: _Optional[str] = ..., state: _Optional[str] = ..., since: _Optional[str] = ..., expires_at: _Optional[str] = ..., seconds_left: _Optional[int] = ..., cause: _Optional[str] = ..., updated_at: _Optional[str] = ...) -> None: ...
