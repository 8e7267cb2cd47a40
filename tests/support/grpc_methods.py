"""The gRPC methods of the API, as the .proto files have them."""

from protos import (
    federate_pb2,
    lightning_pb2,
    messaging_pb2,
    node_pb2,
    signing_pb2,
    socket_pb2,
    vpn_pb2,
    websocket_pb2,
)

FILES = (
    federate_pb2,
    lightning_pb2,
    messaging_pb2,
    node_pb2,
    signing_pb2,
    socket_pb2,
    vpn_pb2,
    websocket_pb2,
)
# Those that answer once.
METHODS = [
    method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.server_streaming
]
PATHS = {f"/{method.containing_service.full_name}/{method.name}": method for method in METHODS}
