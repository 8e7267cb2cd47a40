"""On whose behalf something is done: what the log says of a message that was accepted."""

from contextvars import ContextVar

# The operation of the API that is being carried out, as in its gRPC path: messaging.Messaging/SendMessage.
operation: ContextVar[str] = ContextVar("operation", default="")


def by_whom() -> str:
    return operation.get() or "the node itself"
