"""What the admin shows of messages: text to read, and bytes that are none."""

import pytest

from messaging.admin_base import SHOWN_BODY_BYTES, begin, shown_bytes
from messaging.registry import ABOUT, HANDLERS


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"hello", "hello"),
        ("grüße 😀\n\ttwo lines\r\n".encode(), "grüße 😀\n\ttwo lines\r\n"),
        (b'{"type":"x"}', '{"type":"x"}'),
        (b"\0\1\2\3", "4 bytes: 00 01 02 03"),
        (b"\0", "1 byte: 00"),
        (b"\xff\xfe", "2 bytes: ff fe"),
        (b"a\x1b[31mred", "9 bytes: 61 1b 5b 33 31 6d 72 65 64"),
        # Marks of direction make a text look like another one.
        ("a\u202eb".encode(), "5 bytes: 61 e2 80 ae 62"),
        (b"a\xc3", "2 bytes: 61 c3"),
    ],
)
def test_readable(raw, shown):
    assert shown_bytes(raw) == shown


def test_long_text_is_cut_between_characters():
    text = "x" + "ü" * SHOWN_BODY_BYTES
    shown = shown_bytes(text.encode())
    assert shown == "x" + "ü" * (SHOWN_BODY_BYTES // 2 - 1) + f" … and {SHOWN_BODY_BYTES + 1:,} bytes more"


def test_long_bytes_tell_how_many_there_are():
    shown = shown_bytes(bytes(SHOWN_BODY_BYTES + 5))
    assert shown.startswith("2,005 bytes: 00 00")
    assert shown.endswith(" … and 5 bytes more")
    assert begin(bytes(100)) == "100 bytes: " + "00 " * 9 + "00…"


def test_every_service_says_what_it_is():
    assert ABOUT.keys() == HANDLERS.keys()
