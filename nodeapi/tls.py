"""TLS of both doors, from one pair of files that may change while the node runs.

Each new connection gets the pair that stands in the files then; those that are open keep theirs. A pair that cannot
be used, such as one of which only the first file has been written yet, leaves the last good one in use.
"""

import logging
import threading
import time
from pathlib import Path

import grpc
from OpenSSL import crypto
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

from messaging.required import required
from nodeapi.certificates import Pair, PairError, doubts_about, read_pair

logger = logging.getLogger("nodeapi.tls")

# How often a pair that could not be used is looked at again.
RETRY_SECONDS = 1.0
HTTP_PROTOCOLS = [b"http/1.1"]


class PairFiles:
    """The two files, read again when they have changed. Callable from any thread. PairError when they are wrong from
    the beginning.
    """

    def __init__(self, cert_path: Path, key_path: Path):
        self._paths = (cert_path, key_path)
        self._lock = threading.Lock()
        self._seen = self._state()
        self._pair = read_pair(cert_path, key_path)
        self._failed = ""
        self._retry_at = 0.0

    def current(self) -> Pair:
        with self._lock:
            state = self._state()
            if state != self._seen or (self._failed and time.monotonic() >= self._retry_at):
                # Noted before reading: what changes meanwhile is read once more.
                self._seen = state
                self._read()
            return self._pair

    def _state(self) -> tuple:
        return tuple(_state_of(path) for path in self._paths)

    def _read(self) -> None:
        cert_path, key_path = self._paths
        try:
            pair = read_pair(cert_path, key_path)
        except PairError as error:
            if not self._failed:
                logger.warning("server.%s: %s; the certificate from before stays in use", error.which, error)
            self._failed = str(error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return
        self._failed = ""
        if pair == self._pair:
            return
        self._pair = pair
        logger.info("new certificate in use", extra={"ends": pair.ends.isoformat(), "names": pair.names()})
        for which, text in doubts_about(pair, key_path):
            logger.warning("server.%s: %s", which, text)


def _state_of(path: Path) -> tuple | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@implementer(IOpenSSLServerConnectionCreator)
class HttpTls:
    """What Twisted asks for the TLS of each new connection."""

    def __init__(self, files: PairFiles):
        self._files = files
        self._pair: Pair | None = None
        self._options: CertificateOptions | None = None

    def serverConnectionForTLS(self, protocol):
        pair = self._files.current()
        if pair is not self._pair:
            self._options = _options(pair)
            self._pair = pair
        return required(self._options).serverConnectionForTLS(protocol)


def _options(pair: Pair) -> CertificateOptions:
    """TLS 1.2 and newer, by Twisted's default."""
    chain = [crypto.X509.from_cryptography(certificate) for certificate in pair.chain]
    return CertificateOptions(
        privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem),
        certificate=chain[0],
        extraCertChain=chain[1:],
        acceptableProtocols=HTTP_PROTOCOLS,
    )


def grpc_server_credentials(files: PairFiles) -> grpc.ServerCredentials:
    """gRPC asks at each new connection, from threads of its own."""
    in_use = [files.current()]

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        pair = files.current()
        if pair is in_use[0]:
            return None
        in_use[0] = pair
        return _grpc_configuration(pair)

    first = _grpc_configuration(in_use[0])
    # None says that nothing has changed.
    return grpc.dynamic_ssl_server_credentials(first, fetch)  # type: ignore[arg-type]  # see above


def _grpc_configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key_pem, pair.cert_pem)])


def grpc_channel(address: str, pair: Pair, options: tuple[tuple[str, object], ...] = ()) -> grpc.aio.Channel:
    """To a server that has this very certificate, whatever address it is reached at."""
    credentials = grpc.ssl_channel_credentials(root_certificates=pair.cert_pem)
    names = [name.replace("*", "node") for name in pair.names()]
    override = (("grpc.ssl_target_name_override", names[0]),) if names else ()
    return grpc.aio.secure_channel(address, credentials, options=(*options, *override))
