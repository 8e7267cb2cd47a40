from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SendSocketRequest(_message.Message):
    __slots__ = ("pubkey", "max_cost_sat")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    max_cost_sat: int
    def __init__(self, pubkey: _Optional[str] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class SendSocketResponse(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StartSocketRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StartSocketResponse(_message.Message):
    __slots__ = ("protocol", "ip", "port1", "port2")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    PORT1_FIELD_NUMBER: _ClassVar[int]
    PORT2_FIELD_NUMBER: _ClassVar[int]
    protocol: str
    ip: str
    port1: str
    port2: str
    def __init__(self, protocol: _Optional[str] = ..., ip: _Optional[str] = ..., port1: _Optional[str] = ..., port2: _Optional[str] = ...) -> None: ...

class StopSocketRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopSocketResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
