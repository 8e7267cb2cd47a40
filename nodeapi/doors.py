"""What all doors share: who may pass, and where a call is carried out, here or in the runimpd process."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from django.db import Error as DatabaseError
from google.protobuf.message import Message

from messaging.budget import OverBudget
from messaging.database import Database
from messaging.idempotency import Claim, KeyReused
from nodeapi.auth import Caller, Keys, WebGuard, require
from nodeapi.engine import Engine
from nodeapi.errors import ApiError, invalid
from nodeapi.forward import Forwarder
from nodeapi.operations import Operation
from nodeapi.stream import Hub

logger = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "idempotency-key"
MAX_KEY_CHARACTERS = 255


@dataclass(kw_only=True)
class Doors:
    """`engine` is there in the runimpd process, `forwarder` in every other. `as_text`: JSON carries messages as text."""

    database: Database
    hub: Hub
    keys: Keys
    guard: WebGuard
    version: str
    engine: Engine | None = None
    forwarder: Forwarder | None = None
    as_text: bool = False

    async def call(self, operation: Operation, request: Message, metadata: Mapping[str, str]) -> Message:
        """Carries out an operation for whoever sent this metadata. Raises ApiError and nothing else."""
        caller = self.keys.authenticate(metadata)
        require(caller, operation.scope)
        if self.engine is None and not operation.reads_only:
            return await self.forwarder.call(operation, request, metadata)
        fields = operation.request.check(request)
        if operation.once:
            fields["claim"] = claim_of(caller, operation, request, metadata)
        try:
            return operation.reply.data_to_message(await operation.function(self, **fields))
        except ApiError:
            raise
        except KeyReused:
            raise ApiError(
                grpc.StatusCode.ALREADY_EXISTS, "Idempotency-Key: was given before, with another request"
            ) from None
        except OverBudget as error:
            raise ApiError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from None
        except DatabaseError as error:
            logger.error("database: %s", error)
            raise ApiError(
                grpc.StatusCode.UNAVAILABLE,
                "the database cannot do this now, it may be away or its disk full (the node's log tells); try again",
            ) from None
        except Exception:
            logger.exception("%s failed", operation.rpc_path)
            raise ApiError(grpc.StatusCode.INTERNAL, "internal error; the node's log tells more") from None


def claim_of(caller: Caller, operation: Operation, request: Message, metadata: Mapping[str, str]) -> Claim | None:
    """What the caller's Idempotency-Key stands for; None without one."""
    key = metadata.get(IDEMPOTENCY_KEY)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_CHARACTERS or not key.isprintable():
        raise invalid("Idempotency-Key", f"must have 1 to {MAX_KEY_CHARACTERS} printable characters")
    asked = operation.rpc_path.encode() + request.SerializeToString(deterministic=True)
    return Claim(caller=caller.name, key=key, request_hash=hashlib.sha256(asked).digest())
