"""How much of requests the gRPC server takes at a time, and for how long it waits for them."""

import grpc

from nodeapi.addresses import sources_of
from nodeapi.auth import Visit, offered_key
from nodeapi.keys import hash_of
from nodeapi.rpc_requests import Places, Request, RequestRoom, RoomLimits

# The least that is taken of a message that is too long, so that the answer can say what is wrong with it.
MIN_MESSAGE_BYTES = 2**20
# Of requests that are received or worked on at a time, unless the largest messages need more; of those that need no key.
CALLERS_BYTES, STRANGERS_BYTES, REQUESTS = 12 * 2**20, 7 * 2**20, 2
# For a request to arrive, besides what its bytes take at the slowest rate.
REQUEST_SECONDS, BYTES_PER_SECOND = 30.0, 65_536
# What health and reflection are asked is a name.
SMALL_BYTES = 4_096
WATCHES = 64


class Rooms:
    """Where requests are received: those of callers with a key, and those for which nobody needs one.

    `streams` is how many Subscribe streams there may be at a time.
    """

    def __init__(self, *, received_bytes: int, streams: int):
        self.received_bytes = received_bytes
        self.streams = streams
        self.watches = Places(WATCHES)
        self._callers = RequestRoom(
            RoomLimits(
                all_bytes=max(CALLERS_BYTES, REQUESTS * received_bytes),
                received_bytes=received_bytes,
                request_bytes=received_bytes,
                seconds=REQUEST_SECONDS + received_bytes // BYTES_PER_SECOND,
                crowded_seconds=1.0,
                wait_seconds=60.0,
                waiting=512,
            )
        )
        self._strangers = RequestRoom(
            RoomLimits(
                all_bytes=max(STRANGERS_BYTES, REQUESTS * received_bytes),
                received_bytes=received_bytes,
                request_bytes=SMALL_BYTES,
                seconds=REQUEST_SECONDS,
                crowded_seconds=0.5,
                wait_seconds=10.0,
                waiting=32,
            )
        )

    def of_caller(self, context: grpc.aio.ServicerContext, visit: Visit) -> Request:
        """It is read only when the key has been found to be valid, so that one key is one source."""
        place, connection = sources_of(context)
        key = offered_key(visit.metadata)
        return Request(self._callers, (hash_of(key).hex() if key else place, connection))

    def of_stranger(self, context: grpc.aio.ServicerContext) -> Request:
        return Request(self._strangers, sources_of(context))
