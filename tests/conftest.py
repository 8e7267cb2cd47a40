"""One simulated network and two nodes for the whole run of a worker: alice and bob. Carol's lnd is free for tests with
nodes of their own.

The channels are alice – bob – carol. Nothing may depend on the order of the tests, on how fast they are, or on who runs
beside them: whoever changes a shared part puts it back, and whoever meets a limit of the defaults, such as quotes or lines of
the log a minute, sets it in a node of the test's own, or takes one that nobody else uses. Workers share the servers that
tests/services.sh starts, and nothing else; tests/support/servers.py has others, for tests that stop them or set them.
"""

import os
import signal
from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, settings

import tests.support.django_setup  # noqa: F401  (before modules that import models are collected)
from tests.support.databases import drop_databases
from tests.support.examples import LONG, examples
from tests.support.networks import Network, simulated_network
from tests.support.nodes import Node, launched

# A machine that is busy with something else has found no fault, and two runs share no file.
settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    print_blob=True,
    max_examples=examples(100),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

# A script's background job ignores Ctrl-C, and so would all that is started here, which tests end with it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# xdist tells its workers of a terminal, for which commands that tests run would wrap their lines.
os.environ.pop("COLUMNS", None)


KINDS = ("e2e", "integration", "unit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole nodes first, so that no worker is left with a long file in the end. Whoever asks for tables runs SQL."""
    for item in items:
        if "migrated" in item.fixturenames:
            item.add_marker("sql")
    if not LONG:
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
    items.sort(key=lambda item: [kind in item.nodeid.split("/") for kind in KINDS], reverse=True)


def pytest_runtest_setup() -> None:
    launched[:] = [node for node in launched if node.running]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """With a failure stands what the nodes of the test said last."""
    report = yield
    if report.failed:
        for node in dict.fromkeys(launched):
            report.sections.append((f"log of {node.directory.name}", node.log_tail))
    return report


@pytest.fixture(scope="session", autouse=True)
def databases() -> Iterator[None]:
    yield
    drop_databases()


@pytest.fixture(autouse=True)
def shared_nodes_run(request) -> Iterator[None]:
    """A test that leaves one dead, because it failed or found a fault, takes no other with it."""
    yield
    shared = {name: request.node.funcargs.get(name) for name in ("alice", "bob")}
    dead = {name: node for name, node in shared.items() if isinstance(node, Node) and not node.running}
    for node in dead.values():
        node.start()
    assert not dead, f"after this test there ran no more: {', '.join(dead)}"


@pytest.fixture(scope="session")
def migrated() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield
    connection.close()


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Iterator[Network]:
    with simulated_network(tmp_path_factory.mktemp("network")) as running:
        yield running


@pytest.fixture(scope="session")
def alice(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["alice"], tmp_path_factory.mktemp("alice")) as node:
        yield node


@pytest.fixture(scope="session")
def bob(network, tmp_path_factory) -> Iterator[Node]:
    with Node(network.nodes["bob"], tmp_path_factory.mktemp("bob")) as node:
        yield node
