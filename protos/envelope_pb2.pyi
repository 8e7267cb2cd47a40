from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Compression(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NONE: _ClassVar[Compression]
    DEFLATE: _ClassVar[Compression]
NONE: Compression
DEFLATE: Compression

class Packet(_message.Message):
    __slots__ = ("items", "reply_hints")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    REPLY_HINTS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    reply_hints: _containers.RepeatedCompositeFieldContainer[HopHint]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ..., reply_hints: _Optional[_Iterable[_Union[HopHint, _Mapping]]] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("id", "reply_to", "body", "amount_msat", "compression", "part", "sent_at_ms")
    ID_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MSAT_FIELD_NUMBER: _ClassVar[int]
    COMPRESSION_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_MS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    reply_to: bytes
    body: bytes
    amount_msat: int
    compression: Compression
    part: Part
    sent_at_ms: int
    def __init__(self, id: _Optional[bytes] = ..., reply_to: _Optional[bytes] = ..., body: _Optional[bytes] = ..., amount_msat: _Optional[int] = ..., compression: _Optional[_Union[Compression, str]] = ..., part: _Optional[_Union[Part, _Mapping]] = ..., sent_at_ms: _Optional[int] = ...) -> None: ...

class HopHint(_message.Message):
    __slots__ = ("node_id", "chan_id", "fee_base_msat", "fee_ppm", "cltv_delta")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CHAN_ID_FIELD_NUMBER: _ClassVar[int]
    FEE_BASE_MSAT_FIELD_NUMBER: _ClassVar[int]
    FEE_PPM_FIELD_NUMBER: _ClassVar[int]
    CLTV_DELTA_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    chan_id: int
    fee_base_msat: int
    fee_ppm: int
    cltv_delta: int
    def __init__(self, node_id: _Optional[bytes] = ..., chan_id: _Optional[int] = ..., fee_base_msat: _Optional[int] = ..., fee_ppm: _Optional[int] = ..., cltv_delta: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("index", "count", "size", "sha256")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    index: int
    count: int
    size: int
    sha256: bytes
    def __init__(self, index: _Optional[int] = ..., count: _Optional[int] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
