"""The icon that browsers ask every site for. Without it each visit would be a warning in the log."""

from functools import cache
from pathlib import Path

from django.http import HttpRequest, HttpResponse

_FILE = Path(__file__).parent / "static" / "nodeapi" / "favicon.ico"
_HEADERS = {"Cache-Control": "public, max-age=86400"}


def favicon(request: HttpRequest) -> HttpResponse:
    return HttpResponse(_icon(), content_type="image/x-icon", headers=_HEADERS)


@cache
def _icon() -> bytes:
    return _FILE.read_bytes()
