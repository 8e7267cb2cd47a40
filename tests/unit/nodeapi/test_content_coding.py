"""Bodies as their client compressed them."""

import gzip

import pytest

from nodeapi.content_coding import MAX_MEMBERS, plain_body
from nodeapi.errors import ApiError, UnsupportedCodingError

TEXT = b'{"msg":"aGVsbG8="}'


def refused(body: bytes, coding: str, max_bytes: int = 1_000) -> ApiError:
    with pytest.raises(ApiError) as error:
        plain_body(body, coding, max_bytes=max_bytes)
    return error.value


@pytest.mark.parametrize("coding", ["", "identity", " Identity ", "identity, identity"])
def test_not_compressed(coding):
    assert plain_body(TEXT, coding, max_bytes=1) == TEXT


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
@pytest.mark.parametrize("body", [TEXT, b"", b"x" * 1_000])
def test_gzip(coding, body):
    assert plain_body(gzip.compress(body), coding, max_bytes=1_000) == body


def test_gzip_of_several_members():
    assert (
        plain_body(gzip.compress(b"a") + gzip.compress(b"") + gzip.compress(b"b"), "gzip", max_bytes=2)
        == b"ab"
    )
    many = gzip.compress(b"") * (MAX_MEMBERS + 1)
    assert refused(many, "gzip").message == f"body: has more than {MAX_MEMBERS} gzip members"


def test_no_body():
    assert plain_body(b"", "gzip", max_bytes=1) == b""


@pytest.mark.parametrize(
    "body",
    [gzip.compress(b"x" * 1_001), gzip.compress(b"x" * 600) * 2, gzip.compress(bytes(10**8))],
    ids=["a little", "two members", "a bomb"],
)
def test_what_becomes_too_large(body):
    assert refused(body, "gzip").message == "body: is larger than 1000 bytes"


@pytest.mark.parametrize(
    "body",
    [TEXT, gzip.compress(TEXT)[:-1], gzip.compress(TEXT) + b"x", b"\x1f\x8b"],
    ids=["plain", "cut off", "followed by something", "two bytes"],
)
def test_what_is_not_gzip(body):
    assert refused(body, "gzip").message == "body: is not gzip"


@pytest.mark.parametrize("coding", ["br", "deflate", "gzip, gzip", "zstd", "gzip;q=1"])
def test_other_codings(coding):
    error = refused(TEXT, coding)
    assert isinstance(error, UnsupportedCodingError)
    assert (error.http_status, error.http_headers) == (415, {"Accept-Encoding": "gzip"})
