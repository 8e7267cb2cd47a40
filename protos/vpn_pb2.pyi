from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RequestQuoteRequest(_message.Message):
    __slots__ = ("pubkey", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class RequestQuoteResponse(_message.Message):
    __slots__ = ("id", "amount_sat")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_SAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    amount_sat: int
    def __init__(self, id: _Optional[str] = ..., amount_sat: _Optional[int] = ...) -> None: ...

class AcceptContractRequest(_message.Message):
    __slots__ = ("pubkey", "nonce", "price", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    nonce: str
    price: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., nonce: _Optional[str] = ..., price: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class AcceptContractResponse(_message.Message):
    __slots__ = ("id", "amount_sat")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_SAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    amount_sat: int
    def __init__(self, id: _Optional[str] = ..., amount_sat: _Optional[int] = ...) -> None: ...

class RefreshContractRequest(_message.Message):
    __slots__ = ("pubkey", "nonce", "price", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    nonce: str
    price: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., nonce: _Optional[str] = ..., price: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class RefreshContractResponse(_message.Message):
    __slots__ = ("id", "amount_sat")
    ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_SAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    amount_sat: int
    def __init__(self, id: _Optional[str] = ..., amount_sat: _Optional[int] = ...) -> None: ...

class ListLeasesRequest(_message.Message):
    __slots__ = ("state", "pubkey", "limit", "role")
    STATE_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    state: str
    pubkey: str
    limit: int
    role: str
    def __init__(self, state: _Optional[str] = ..., pubkey: _Optional[str] = ..., limit: _Optional[int] = ..., role: _Optional[str] = ...) -> None: ...

class ListLeasesResponse(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("id", "pubkey", "nonce", "price", "state", "address", "endpoint", "server_pub_key", "public_key", "expires_at", "seconds_left", "path", "role", "seconds", "paid_sat", "payment_hash")
    ID_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    SERVER_PUB_KEY_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_LEFT_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    PAID_SAT_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    id: str
    pubkey: str
    nonce: str
    price: str
    state: str
    address: str
    endpoint: str
    server_pub_key: str
    public_key: str
    expires_at: str
    seconds_left: int
    path: str
    role: str
    seconds: int
    paid_sat: int
    payment_hash: str
    def __init__(self, id: _Optional[str] = ..., pubkey: _Optional[str] = ..., nonce: _Optional[str] = ..., price: _Optional[str] = ..., state: _Optional[str] = ..., address: _Optional[str] = ..., endpoint: _Optional[str] = ..., server_pub_key: _Optional[str] = ..., public_key: _Optional[str] = ..., expires_at: _Optional[str] = ..., seconds_left: _Optional[int] = ..., path: _Optional[str] = ..., role: _Optional[str] = ..., seconds: _Optional[int] = ..., paid_sat: _Optional[int] = ..., payment_hash: _Optional[str] = ...) -> None: ...

class GetLeaseConfigRequest(_message.Message):
    __slots__ = ("id", "format")
    ID_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    id: str
    format: str
    def __init__(self, id: _Optional[str] = ..., format: _Optional[str] = ...) -> None: ...

class GetLeaseConfigResponse(_message.Message):
    __slots__ = ("config", "content_type")
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    config: str
    content_type: str
    def __init__(self, config: _Optional[str] = ..., content_type: _Optional[str] = ...) -> None: ...
