from collections.abc import Iterator

import pytest

from tests.support.machines import Client, WireGuardServer, why_no_machines


@pytest.fixture(scope="session")
def machines() -> None:
    """Asked for by all tests that need namespaces; where there are none they tell why they did not run."""
    if reason := why_no_machines():
        pytest.skip(f"not run: {reason}")


@pytest.fixture
def server(machines, tmp_path) -> Iterator[WireGuardServer]:
    with WireGuardServer(tmp_path, "10.77.0.1/24", "fd00:77::1/64") as server:
        yield server


@pytest.fixture
def client(server, tmp_path) -> Iterator[Client]:
    """Joined to the server: 192.0.2.1 is the server, 192.0.2.2 the client."""
    with Client(tmp_path) as client:
        server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        yield client
