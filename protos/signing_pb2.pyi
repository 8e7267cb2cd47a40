from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class SignRequest(_message.Message):
    __slots__ = ("msg",)
    MSG_FIELD_NUMBER: _ClassVar[int]
    msg: str
    def __init__(self, msg: _Optional[str] = ...) -> None: ...

class SignResponse(_message.Message):
    __slots__ = ("signature",)
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    signature: str
    def __init__(self, signature: _Optional[str] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("msg", "signature", "pubkey")
    MSG_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    msg: str
    signature: str
    pubkey: str
    def __init__(self, msg: _Optional[str] = ..., signature: _Optional[str] = ..., pubkey: _Optional[str] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("result", "pubkey")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    result: bool
    pubkey: str
    def __init__(self, result: _Optional[bool] = ..., pubkey: _Optional[str] = ...) -> None: ...
