"""The certificate that a TLS server shows."""

import socket
import ssl

from cryptography import x509

from messaging.required import required

CONNECT_SECONDS = 5.0


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
