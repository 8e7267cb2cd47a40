"""All checks, in the order in which one explains the next."""

from collections.abc import Callable, Iterable, Iterator

from nodeapi.cli.doctor import (
    access,
    clock,
    configuration,
    database,
    descriptors,
    disk,
    lnd,
    node,
    private_files,
    redis_server,
    wireguard,
)
from nodeapi.cli.doctor.findings import Finding, Patient, note, wrong

Check = Callable[[Patient], Iterable[Finding]]

CHECKS: dict[str, Check] = {
    "configuration": configuration.check,
    "lnd": lnd.check,
    "node": node.check,
    "database": database.check,
    "API keys": access.check,
    "disk": disk.check,
    "clock": clock.check,
    "files": private_files.check,
    "descriptors": descriptors.check,
    "Redis": redis_server.check,
    "WireGuard": wireguard.check,
}
# By the beginnings of the keys that they examine: with a wrong one they would examine something else.
FOLLOW_FROM = {
    "lnd": ("lightning.lnd_node.ip", "lightning.lnd_node.port"),
    "node": ("server.grpc_addr", "server.http_addr", "server.enabled", "server.tls_"),
    "database": ("database.",),
    "API keys": ("database.", "server.grpc_addr", "server.http_addr", "server.api_keys"),
    "disk": ("database.",),
    "Redis": ("redis.",),
    "WireGuard": ("vpn.", "service_list"),
}


def examine(patient: Patient, on_begin: Callable[[str], None]) -> Iterator[tuple[str, list[Finding]]]:
    """What each check finds. A check that fails itself says so, and the others go on."""
    for name, check in CHECKS.items():
        on_begin(name)
        if key := patient.problem_with(*FOLLOW_FROM.get(name, ())):
            yield name, [note(f"not checked, because {key} is wrong")]
            continue
        try:
            findings = list(check(patient))
        except Exception as error:
            findings = [
                wrong(f"this could not be checked ({type(error).__name__}: {error})", "please report this")
            ]
        yield name, findings
