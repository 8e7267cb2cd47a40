"""What the configuration file itself tells."""

from collections.abc import Iterator
from datetime import timedelta

from cryptography import x509

from nodeapi.cli.doctor import certificate, report
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong

# Other checks say it: of WireGuard, and of files with secrets.
_ELSEWHERE = ("vpn.server_pub_key:", "server.tls_key:")
# What the configuration says of the certificate is why clients refuse it.
_CERTIFICATE = "server.tls_cert:"


def check(patient: Patient) -> Iterator[Finding]:
    config = patient.config
    for problem in patient.problems:
        yield wrong(*report.split(problem))
    if not patient.problems:
        yield ok(f"{config.path} is valid")
    for warning in config.warnings:
        if warning.startswith(_CERTIFICATE):
            yield wrong(*report.split(warning))
        elif not warning.startswith(_ELSEWHERE):
            yield note(*report.split(warning))
    if not any(service.active for service in config.services):
        yield wrong(
            "no service is active: the node does nothing",
            "add services to service_list (config/example.config.yml)",
        )
    if patient.door is not None and patient.door.tls_cert:
        yield from _own_certificate(patient.door.tls_cert)


def _own_certificate(pem: bytes) -> Iterator[Finding]:
    shown = x509.load_pem_x509_certificate(pem)
    left = certificate.left(shown)
    words = f"server.tls_cert holds until {shown.not_valid_after_utc:%Y-%m-%d}"
    if left > certificate.SOON:
        yield ok(words)
    elif left > timedelta(0):
        yield note(
            words, "replace it and its key (./impervious cert --force); the node takes up new ones by itself"
        )
