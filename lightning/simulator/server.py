"""The gRPC server of one simulated lnd: TLS with its own certificate, on loopback."""

import socket
from pathlib import Path

import grpc

from lightning.simulator import credentials
from lightning.simulator.bakery import Bakery
from lightning.simulator.errors import StartError
from lightning.simulator.gates import Gate
from lightning.simulator.network import Node
from lightning.simulator.servicers import add_services
from lightning.simulator.services import Services

HOST = "127.0.0.1"
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # lnd lets clients ping every 5 seconds, also without a call.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class NodeServer:
    """Can be stopped and started again on the same port. Port 0 takes a free one."""

    def __init__(self, node: Node, services: Services, *, directory: Path, port: int):
        self.node = node
        self.port = port
        self.directory = directory
        self._services = services
        self._tls_cert, self._tls_key = credentials.ensure_tls(directory)
        self._bakery = Bakery(credentials.ensure_secret(directory / "admin.macaroon"))
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        if self._server is not None:
            return
        check_port(self.port, f"the node {self.node.name}")
        server = grpc.aio.server(interceptors=[Gate(self.node, self._bakery)], options=_OPTIONS)
        self.port = bind(server, self.port, grpc.ssl_server_credentials([(self._tls_key, self._tls_cert)]))
        add_services(server, self.node, self._services, self._bakery, f"{HOST}:{self.port}")
        await server.start()
        self._server = server

    async def stop(self, grace_seconds: float = 0) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_seconds)


def bind(server: grpc.aio.Server, port: int, server_credentials: grpc.ServerCredentials | None = None) -> int:
    """Binds to loopback; port 0 takes a free one. Returns the port."""
    address = f"{HOST}:{port}"
    try:
        if server_credentials is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, server_credentials)
    except RuntimeError:
        bound = 0
    if not bound:
        raise StartError(_taken(port, "the simulator"))
    return bound


def check_port(port: int, what: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OverflowError:
            raise StartError(f"{port} is no port for {what}") from None
        except OSError:
            raise StartError(_taken(port, what)) from None


def _taken(port: int, what: str) -> str:
    return f"port {port} of {HOST}, wanted for {what}, is taken: stop what listens there or choose another --base-port"
