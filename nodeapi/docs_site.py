"""The documentation at /docs, out of the files that docs/generator has made."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import condition, require_safe

SITE = Path(__file__).resolve().parent / "site"
START = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
OTHER_CONTENT_TYPE = "text/plain; charset=utf-8"
NOT_MADE = "The pages are not there yet. ./impervious prepare makes them.\n"
HEADERS = {
    # Furo's pages have style within them, and its search reads pages.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # A browser asks whether a page is still the same, so that none is of the version before an update.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class File:
    content: bytes
    content_type: str
    etag: str


def site() -> dict[str, File]:
    """All files by their paths below /docs/. Nothing else is served, so that no path can lead out of them."""
    try:
        found = SITE.stat()
    except FileNotFoundError:
        return {}
    return _files(found.st_ino, found.st_mtime_ns)


@lru_cache(maxsize=1)
def _files(*_made: int) -> dict[str, File]:
    """Read once: pages that are made anew come as a new folder."""
    paths = {path.relative_to(SITE).as_posix(): path for path in sorted(SITE.rglob("*")) if path.is_file()}
    return {name: _file(path) for name, path in paths.items()}


def _file(path: Path) -> File:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:32]
    return File(content, CONTENT_TYPES.get(path.suffix, OTHER_CONTENT_TYPE), f'"{digest}"')


def _etag(request: HttpRequest, name: str = START) -> str | None:
    file = site().get(name)
    return file.etag if file else None


@require_safe
@condition(etag_func=_etag)
def page(request: HttpRequest, name: str = START) -> HttpResponse:
    """One file of the site. Host is checked by Django's middleware, as for the admin."""
    file = site().get(name)
    if file is None and not site():
        return HttpResponse(NOT_MADE, status=404, content_type=OTHER_CONTENT_TYPE)
    if file is None:
        raise Http404
    return HttpResponse(file.content, content_type=file.content_type, headers=HEADERS)
