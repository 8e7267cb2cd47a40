"""What all doors share: who may pass, and where a call is carried out, here or in the runimpd process."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import grpc
from django.db import DatabaseError
from google.protobuf.message import Message

from messaging.database import Database
from nodeapi.auth import Keys, WebGuard, require
from nodeapi.engine import Engine
from nodeapi.errors import ApiError
from nodeapi.forward import Forwarder
from nodeapi.operations import Operation
from nodeapi.stream import Hub

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Doors:
    """`engine` is there in the runimpd process, `forwarder` in every other."""

    database: Database
    hub: Hub
    keys: Keys
    guard: WebGuard
    engine: Engine | None = None
    forwarder: Forwarder | None = None

    async def call(self, operation: Operation, request: Message, metadata: Mapping[str, str]) -> Message:
        """Carries out an operation for whoever sent this metadata. Raises ApiError and nothing else."""
        require(self.keys.authenticate(metadata), operation.scope)
        if self.engine is None and not operation.reads_only:
            return await self.forwarder.call(operation, request, metadata)
        fields = operation.request(message=request).checked()
        try:
            return operation.reply(await operation.function(self, **fields)).message
        except ApiError:
            raise
        except DatabaseError as error:
            logger.error("database: %s", error)
            raise ApiError(grpc.StatusCode.UNAVAILABLE, "the database does not answer now; try again") from None
        except Exception:
            logger.exception("%s failed", operation.rpc_path)
            raise ApiError(grpc.StatusCode.INTERNAL, "internal error; the node's log tells more") from None
