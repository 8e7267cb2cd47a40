"""Whether the system lets a node open as many files as it may have connections."""

import resource
from collections.abc import Iterator

from nodeapi.cli.doctor.findings import Finding, Patient, note, ok
from nodeapi.descriptors import RESERVED


def check(patient: Patient) -> Iterator[Finding]:
    server = patient.config.server
    needed = server.max_connections + server.max_grpc_connections + RESERVED
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit >= needed:
        yield ok("a node that is started from here may open as many files as it may have connections")
        return
    yield note(
        f"a node that is started from here may open {limit:,} files, and would need {needed:,} for all connections that "
        "server.max_connections and server.max_grpc_connections permit: it takes fewer",
        "raise the limit (ulimit -n; systemd: LimitNOFILE), or lower server.max_connections",
    )
