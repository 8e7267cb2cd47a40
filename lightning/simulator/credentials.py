"""TLS certificate, macaroon and control token. Secret files have mode 0600 and are made once."""

import datetime
import hmac
import ipaddress
import os
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

MACAROON_BYTES = 128
VALID_DAYS = 3650


def ensure_tls(directory: Path) -> tuple[bytes, bytes]:
    """PEM of certificate and key in `directory`, made when one of them is missing."""
    cert_path, key_path = directory / "tls.cert", directory / "tls.key"
    if not (cert_path.exists() and key_path.exists()):
        certificate, key = _self_signed(directory.name)
        write_secret(key_path, key)
        write_secret(cert_path, certificate)
    return cert_path.read_bytes(), key_path.read_bytes()


def ensure_secret(path: Path, size: int = MACAROON_BYTES) -> bytes:
    """Random bytes in a file of their own, made once."""
    if not path.exists():
        write_secret(path, secrets.token_bytes(size))
    return path.read_bytes()


def write_secret(path: Path, content: bytes) -> None:
    """Whole or not at all: a killed process leaves no half file."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(temporary, 0o600)
    temporary.replace(path)


def same_macaroon(given: str | bytes, macaroon_hex: str) -> bool:
    """Compares in constant time."""
    given = given if isinstance(given, bytes) else given.encode()
    return hmac.compare_digest(given.lower(), macaroon_hex.encode())


def _self_signed(name: str) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "simulated lnd"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    names = [x509.DNSName("localhost")] + [
        x509.IPAddress(ipaddress.ip_address(ip)) for ip in ("127.0.0.1", "::1")
    ]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
