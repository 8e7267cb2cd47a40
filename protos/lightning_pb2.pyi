from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateInvoiceRequest(_message.Message):
    __slots__ = ("amount", "memo", "expires_in", "private")
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    MEMO_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_IN_FIELD_NUMBER: _ClassVar[int]
    PRIVATE_FIELD_NUMBER: _ClassVar[int]
    amount: int
    memo: str
    expires_in: int
    private: bool
    def __init__(self, amount: _Optional[int] = ..., memo: _Optional[str] = ..., expires_in: _Optional[int] = ..., private: _Optional[bool] = ...) -> None: ...

class GenerateInvoiceResponse(_message.Message):
    __slots__ = ("invoice", "id", "payment_hash", "expires_at")
    INVOICE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    invoice: str
    id: str
    payment_hash: str
    expires_at: str
    def __init__(self, invoice: _Optional[str] = ..., id: _Optional[str] = ..., payment_hash: _Optional[str] = ..., expires_at: _Optional[str] = ...) -> None: ...

class PayInvoiceRequest(_message.Message):
    __slots__ = ("invoice", "amount", "timeout", "max_cost_sat")
    INVOICE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_SAT_FIELD_NUMBER: _ClassVar[int]
    invoice: str
    amount: int
    timeout: int
    max_cost_sat: int
    def __init__(self, invoice: _Optional[str] = ..., amount: _Optional[int] = ..., timeout: _Optional[int] = ..., max_cost_sat: _Optional[int] = ...) -> None: ...

class PayInvoiceResponse(_message.Message):
    __slots__ = ("preimage", "payment_hash", "amount_msat", "fee_msat", "payee")
    PREIMAGE_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MSAT_FIELD_NUMBER: _ClassVar[int]
    FEE_MSAT_FIELD_NUMBER: _ClassVar[int]
    PAYEE_FIELD_NUMBER: _ClassVar[int]
    preimage: str
    payment_hash: str
    amount_msat: int
    fee_msat: int
    payee: str
    def __init__(self, preimage: _Optional[str] = ..., payment_hash: _Optional[str] = ..., amount_msat: _Optional[int] = ..., fee_msat: _Optional[int] = ..., payee: _Optional[str] = ...) -> None: ...

class CheckInvoiceRequest(_message.Message):
    __slots__ = ("invoice",)
    INVOICE_FIELD_NUMBER: _ClassVar[int]
    invoice: str
    def __init__(self, invoice: _Optional[str] = ...) -> None: ...

class CheckInvoiceResponse(_message.Message):
    __slots__ = ("paid", "state", "amount", "amount_paid_msat", "payment_hash", "memo", "expires_at", "settled_at")
    PAID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_PAID_MSAT_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_HASH_FIELD_NUMBER: _ClassVar[int]
    MEMO_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    SETTLED_AT_FIELD_NUMBER: _ClassVar[int]
    paid: bool
    state: str
    amount: int
    amount_paid_msat: int
    payment_hash: str
    memo: str
    expires_at: str
    settled_at: str
    def __init__(self, paid: _Optional[bool] = ..., state: _Optional[str] = ..., amount: _Optional[int] = ..., amount_paid_msat: _Optional[int] = ..., payment_hash: _Optional[str] = ..., memo: _Optional[str] = ..., expires_at: _Optional[str] = ..., settled_at: _Optional[str] = ...) -> None: ...
