"""Certificates as operators have them: self-signed by the node's own command, or by an authority, with a chain."""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from nodeapi.certificates import make_pair, write_pair

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


def self_signed(directory: Path, *hosts: str) -> dict[str, str]:
    """A new pair in this directory, in place of one that is there; as keys of the configuration."""
    cert_path, key_path = write_pair(directory, *make_pair(hosts, days=30), replace=True)
    return {"tls_cert": str(cert_path), "tls_key": str(key_path)}


def key_pem(key, password: bytes | None = None) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, encryption)


class Authority:
    """Issues through an intermediate, as public ones do."""

    def __init__(self):
        self._root_key, self._middle_key = new_key(), new_key()
        self.root = certificate("Root", "Root", self._root_key, self._root_key, ca=True)
        self.middle = certificate("Middle", "Root", self._middle_key, self._root_key, ca=True)

    def issue(self, name: str, *, days: int = 30, key=None) -> tuple[bytes, bytes]:
        """The certificate with its chain, and its key."""
        key = key or new_key()
        leaf = certificate(name, "Middle", key, self._middle_key, days=days, names=[x509.DNSName(name)])
        return leaf.public_bytes(PEM) + self.middle.public_bytes(PEM), key_pem(key)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def new_rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def certificate(subject, issuer, key, issuer_key, *, days=30, names=(), ca=False) -> x509.Certificate:
    """Valid from 60 days ago until in so many days, which may be a negative number."""
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 60 * DAY)
        .not_valid_after(now + days * DAY)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
