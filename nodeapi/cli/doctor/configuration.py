"""What the configuration file itself tells."""

from collections.abc import Iterator

from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong

# The check of WireGuard says more about it.
_ELSEWHERE = ("vpn.server_pub_key:",)


def check(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    yield ok(f"{config.path} is valid")
    for warning in config.warnings:
        if not warning.startswith(_ELSEWHERE):
            yield note(warning)
    if not any(service.active for service in config.services):
        yield wrong("no service is active: the node does nothing", "add services to service_list (config/example.config.yml)")
    if not config.server.api_keys:
        yield ok("no API key is set: whoever has an account on this machine may use the node")
