"""All checks, in the order in which one explains the next."""

from collections.abc import Callable, Iterable, Iterator

from nodeapi.cli.doctor import (
    clock,
    configuration,
    database,
    disk,
    lnd,
    node,
    private_files,
    redis_server,
    wireguard,
)
from nodeapi.cli.doctor.findings import Finding, Patient, wrong

Check = Callable[[Patient], Iterable[Finding]]

CHECKS: dict[str, Check] = {
    "configuration": configuration.check,
    "lnd": lnd.check,
    "node": node.check,
    "database": database.check,
    "disk": disk.check,
    "clock": clock.check,
    "files": private_files.check,
    "Redis": redis_server.check,
    "WireGuard": wireguard.check,
}


def examine(patient: Patient, on_begin: Callable[[str], None]) -> Iterator[tuple[str, list[Finding]]]:
    """What each check finds. A check that fails itself says so, and the others go on."""
    for name, check in CHECKS.items():
        on_begin(name)
        try:
            findings = list(check(patient))
        except Exception as error:
            findings = [
                wrong(f"this could not be checked ({type(error).__name__}: {error})", "please report this")
            ]
        yield name, findings
