"""What is wrong with a TLS certificate, and for how long it holds."""

import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from messaging.required import required
from nodeapi.certificates import names_of

CONNECT_SECONDS = 5.0
SOON = timedelta(days=30)


def shown_by(host: str, port: int) -> x509.Certificate:
    """The certificate that a server shows, whatever it is worth. ssl.SSLError when it speaks no TLS; OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout=CONNECT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        return x509.load_der_x509_certificate(required(secured.getpeercert(binary_form=True)))


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
