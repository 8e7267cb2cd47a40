"""What the configuration file itself tells."""

from collections.abc import Iterator

from cryptography import x509

from nodeapi.cli.doctor import certificate
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
        yield wrong(
            "no service is active: the node does nothing",
            "add services to service_list (config/example.config.yml)",
        )
    if patient.door is not None and patient.door.tls_cert:
        yield _own_certificate(patient.door.tls_cert)
    if not config.server.api_keys:
        yield ok(
            "no API key is set here: without one, whoever has an account on this machine may use the node"
        )


def _own_certificate(pem: bytes) -> Finding:
    shown = x509.load_pem_x509_certificate(pem)
    words = f"server.tls_cert holds until {shown.not_valid_after_utc:%Y-%m-%d}"
    if certificate.left(shown) > certificate.SOON:
        return ok(words)
    return note(
        words, "replace it and its key (./impervious cert --force); the node takes up new ones by itself"
    )
