"""Bodies that their client has compressed (RFC 9110, 8.4). Pure."""

import zlib

from nodeapi.errors import UnsupportedCodingError, invalid

ACCEPTED = "gzip"
_GZIP = frozenset({"gzip", "x-gzip"})
# Of zlib: with the header and trailer of gzip.
_GZIP_BITS = 16 + zlib.MAX_WBITS
# A body may consist of several; what is left is copied for each.
MAX_MEMBERS = 64


def plain_body(body: bytes, content_encoding: str, *, max_bytes: int) -> bytes:
    """The body as it was before it was compressed, of at most `max_bytes`. Raises ApiError."""
    codings = [word.strip().lower() for word in content_encoding.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if not codings:
        return body
    if len(codings) > 1 or codings[0] not in _GZIP:
        raise UnsupportedCodingError(
            "body: its Content-Encoding is not supported; must be gzip, or none", accepted=ACCEPTED
        )
    return _gunzipped(body, max_bytes) if body else body


def _gunzipped(body: bytes, max_bytes: int) -> bytes:
    """Never more than one byte above the limit is made of it."""
    plain: list[bytes] = []
    room_bytes = max_bytes + 1
    for _ in range(MAX_MEMBERS):
        member = zlib.decompressobj(_GZIP_BITS)
        try:
            piece = member.decompress(body, room_bytes)
        except zlib.error:
            raise invalid("body", "is not gzip") from None
        room_bytes -= len(piece)
        if room_bytes <= 0:
            raise invalid("body", f"is larger than {max_bytes} bytes")
        if not member.eof:
            raise invalid("body", "is not gzip")
        plain.append(piece)
        if not member.unused_data:
            return b"".join(plain)
        body = member.unused_data
    raise invalid("body", f"has more than {MAX_MEMBERS} gzip members")
