"""What is wrong with a TLS certificate, and for how long it holds."""

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from nodeapi.certificates import names_of
from nodeapi.shown_certificate import shown_by as shown_by  # noqa: PLC0414 (for the checks)

SOON = timedelta(days=30)


def is_among(certificate: x509.Certificate, pem: bytes) -> bool:
    shown = certificate.public_bytes(Encoding.DER)
    return any(known.public_bytes(Encoding.DER) == shown for known in x509.load_pem_x509_certificates(pem))


def is_for(certificate: x509.Certificate, host: str) -> bool:
    known = names_of(certificate)
    try:
        return str(ipaddress.ip_address(host)) in known
    except ValueError:
        parent = host.partition(".")[2]
        return host.lower() in (name.lower() for name in known) or f"*.{parent}".lower() in (
            n.lower() for n in known
        )


def left(certificate: x509.Certificate) -> timedelta:
    """Until it expires; negative afterwards."""
    return certificate.not_valid_after_utc - datetime.now(UTC)


def is_from_the_future(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc > datetime.now(UTC)
