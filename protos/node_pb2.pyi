from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetInfoResponse(_message.Message):
    __slots__ = ("pubkey", "alias", "network", "version", "lnd_version", "lnd_reachable", "synced", "keysend", "spendable_sat", "receivable_sat", "warnings", "services", "last_seq", "answers_limit_sat", "answers_used_sat", "dead_payments", "state")
    PUBKEY_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LND_VERSION_FIELD_NUMBER: _ClassVar[int]
    LND_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    KEYSEND_FIELD_NUMBER: _ClassVar[int]
    SPENDABLE_SAT_FIELD_NUMBER: _ClassVar[int]
    RECEIVABLE_SAT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_LIMIT_SAT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_USED_SAT_FIELD_NUMBER: _ClassVar[int]
    DEAD_PAYMENTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    pubkey: str
    alias: str
    network: str
    version: str
    lnd_version: str
    lnd_reachable: bool
    synced: bool
    keysend: bool
    spendable_sat: int
    receivable_sat: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    services: _containers.RepeatedCompositeFieldContainer[Service]
    last_seq: int
    answers_limit_sat: int
    answers_used_sat: int
    dead_payments: int
    state: str
    def __init__(self, pubkey: _Optional[str] = ..., alias: _Optional[str] = ..., network: _Optional[str] = ..., version: _Optional[str] = ..., lnd_version: _Optional[str] = ..., lnd_reachable: _Optional[bool] = ..., synced: _Optional[bool] = ..., keysend: _Optional[bool] = ..., spendable_sat: _Optional[int] = ..., receivable_sat: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ..., services: _Optional[_Iterable[_Union[Service, _Mapping]]] = ..., last_seq: _Optional[int] = ..., answers_limit_sat: _Optional[int] = ..., answers_used_sat: _Optional[int] = ..., dead_payments: _Optional[int] = ..., state: _Optional[str] = ...) -> None: ...

class Service(_message.Message):
    __slots__ = ("service_type", "custom_record_number", "active", "state")
    SERVICE_TYPE_FIELD_NUMBER: _ClassVar[int]
    CUSTOM_RECORD_NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    service_type: str
    custom_record_number: int
    active: bool
    state: str
    def __init__(self, service_type: _Optional[str] = ..., custom_record_number: _Optional[int] = ..., active: _Optional[bool] = ..., state: _Optional[str] = ...) -> None: ...
