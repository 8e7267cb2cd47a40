"""A certificate and its key as two PEM files: read and checked as a pair, and made, self-signed."""

import datetime
import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodeapi.node_files import give_to_owner_of

# Not tls.cert and tls.key: those are lnd's, which may be in the same directory.
CERTIFICATE_NAME, KEY_NAME = "server.cert", "server.key"
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
MAX_FILE_BYTES = 1_000_000
MIN_RSA_BITS = 2048
# Clocks of clients may be behind.
BACKDATED = datetime.timedelta(hours=1)
_HOST_NAME = re.compile(
    r"(?=.{1,253}$)(\*\.)?[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?",
    re.IGNORECASE,
)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class PairError(ValueError):
    """`which` of the two files, tls_cert or tls_key, is wrong; `str()` is "what is wrong; what would be right"."""

    def __init__(self, which: str, text: str):
        super().__init__(text)
        self.which = which


@dataclass(frozen=True)
class Pair:
    """A certificate that matches its key. `cert_pem` holds the certificates of its chain too, itself first."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def ends(self) -> datetime.datetime:
        return self.certificate.not_valid_after_utc

    def names(self) -> list[str]:
        """The host names and IP addresses that it is for, as in its SAN."""
        return names_of(self.certificate)

    def is_for(self, host: str) -> bool:
        """Whether a client that asks for this name (not of a wildcard) or IP address accepts it."""
        return host.lower() in (name.lower() for name in self.names())


def names_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return names.get_values_for_type(x509.DNSName) + [
        str(ip) for ip in names.get_values_for_type(x509.IPAddress)
    ]


def read_pair(cert_path: Path, key_path: Path) -> Pair:
    """PairError when either cannot be used."""
    cert_pem, key_pem = _content("tls_cert", cert_path), _content("tls_key", key_path)
    chain = _chain(cert_pem, cert_path)
    key = _key(key_pem, key_path)
    if key.public_key() != chain[0].public_key():
        raise PairError(
            "tls_key",
            f"{key_path} is not the key of the certificate in {cert_path}; must be the one made with it",
        )
    return Pair(cert_pem, key_pem, chain)


def _content(which: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no usable file name"
        raise PairError(which, f"cannot read {path}: {reason}; must be the path of a readable file") from None
    if len(content) > MAX_FILE_BYTES:
        raise PairError(which, f"{path} is larger than {MAX_FILE_BYTES} bytes; must be a file in PEM form")
    return content


def _chain(content: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    right = (
        "must hold a certificate in PEM form (-----BEGIN CERTIFICATE-----), its own first and then its chain"
    )
    try:
        chain = x509.load_pem_x509_certificates(content)
        whole = content.count(b"-----BEGIN ") == content.count(b"-----END ")
        chain[0].public_key()
    except Exception:
        raise PairError("tls_cert", f"{path} holds no certificate; {right}") from None
    if not whole:
        raise PairError("tls_cert", f"{path} ends in the middle of a certificate; {right}")
    return tuple(chain)


def _key(content: bytes, path: Path) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    right = "must hold a private key in PEM form (-----BEGIN PRIVATE KEY-----), without a password"
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise PairError("tls_key", f"{path} is protected by a password; {right}") from None
    except Exception:
        raise PairError("tls_key", f"{path} holds no private key; {right}") from None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= MIN_RSA_BITS:
        return key
    raise PairError(
        "tls_key",
        f"{path} is a key that clients refuse; must be ECDSA (P-256, P-384, P-521) or RSA of "
        f"{MIN_RSA_BITS} bits or more",
    )


def doubts_about(pair: Pair, key_path: Path) -> list[tuple[str, str]]:
    """What does not hinder, but should be mended: which of the two keys, and a text."""
    doubts = []
    now = datetime.datetime.now(datetime.UTC)
    if pair.ends < now:
        doubts.append(
            (
                "tls_cert",
                (
                    f"the certificate ended on {pair.ends:%Y-%m-%d}, so clients refuse it; replace both "
                    "files, the node takes up new ones by itself"
                ),
            )
        )
    elif pair.certificate.not_valid_before_utc > now:
        begins = pair.certificate.not_valid_before_utc
        doubts.append(
            (
                "tls_cert",
                (
                    f"the certificate begins on {begins:%Y-%m-%d %H:%M} UTC, so clients refuse it until "
                    "then; is this machine's clock right?"
                ),
            )
        )
    if not pair.names():
        doubts.append(
            (
                "tls_cert",
                (
                    "the certificate names no host (no subject alternative name), so clients refuse it; "
                    "make another, for example by ./impervious cert"
                ),
            )
        )
    if readable_by_others(key_path):
        doubts.append(
            ("tls_key", f"{key_path} can be read by other users; chmod 600 {shlex.quote(str(key_path))}")
        )
    return doubts


def readable_by_others(path: Path) -> bool:
    """A key may be shared with a group (Debian's ssl-cert), but not with everybody."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def checked_host(text: str) -> str:
    """An IP address or a host name as a certificate names it, perhaps *.example.com. ValueError for anything else."""
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    # Digits and dots only is a mistyped address.
    if not _HOST_NAME.fullmatch(text) or not text.strip("0123456789."):
        raise ValueError(
            f"{text!r} is no host; must be a host name or an IP address, without scheme, port and path"
        )
    return text.lower().rstrip(".")


def make_pair(hosts: Sequence[str], *, days: int) -> tuple[bytes, bytes]:
    """A self-signed certificate for loopback and these host names and IP addresses, and its key (ECDSA P-256), as
    PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Impervious node"),
            x509.NameAttribute(NameOID.COMMON_NAME, next(iter(hosts), "localhost")[:64]),
        ]
    )
    start = datetime.datetime.now(datetime.UTC) - BACKDATED
    own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    names = dict.fromkeys((*LOOPBACK_NAMES, *hosts))
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + BACKDATED + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        # Its own authority: strict clients (X509_STRICT, Python 3.13's default) ask for all of these.
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(own_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own_id), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def write_pair(directory: Path, cert_pem: bytes, key_pem: bytes, *, replace: bool) -> tuple[Path, Path]:
    """The paths of both files. FileExistsError when one is there and is not to be replaced. A node that runs sees
    either the old pair or the new one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    cert_path, key_path = directory / CERTIFICATE_NAME, directory / KEY_NAME
    if not replace:
        for path in (cert_path, key_path):
            if path.exists() or path.is_symlink():
                raise FileExistsError(path)
    _write(key_path, key_pem, 0o600)
    _write(cert_path, cert_pem, 0o644)
    return cert_path, key_path


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others for a moment."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            give_to_owner_of(path.parent, descriptor)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
