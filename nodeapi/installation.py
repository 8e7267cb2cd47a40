"""Whether `./impervious prepare` has made this checkout ready: its marks against what the checkout holds.

Of the standard library alone: it runs where packages are missing, and tells ./impervious what the pages at /docs are made of.
"""

import hashlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# ./impervious copies each file that it has installed into the environment, under this name.
_MARK = ".installed-"
_PACKAGES = ("requirements.txt", "requirements-postgresql.txt")
_SITE_SOURCES = (
    "requirements-docs.txt",
    "docs/*.md",
    "docs/generator/*.py",
    "docs/generator/static/*",
    "docs/generator/templates/*",
    "config/example.config.yml",
)


def stale_packages(root: Path = ROOT, environment: Path | None = None) -> str:
    """Say that the packages of this environment are not those of the checkout; return nothing if they are.

    An environment that was not made by ./impervious, such as a container's, has no marks and is taken as it is.
    """
    environment = environment or Path(sys.prefix)
    for name in _PACKAGES:
        wanted, mark = root / name, environment / f"{_MARK}{name}"
        if wanted.exists() and mark.exists() and wanted.read_bytes() != mark.read_bytes():
            return (
                f"{environment} does not have the packages of this version ({name} has changed): run "
                f"{root}/impervious prepare as {_owner(environment)}, then start again"
            )
    return ""


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:
        return str(path.stat().st_uid)


def is_site_stale(root: Path = ROOT) -> bool:
    """Return whether the pages at /docs are missing or of another version, where they can be made."""
    if not (root / "docs" / "generator").is_dir():
        return False
    if not (root / "nodeapi" / "site" / "index.html").exists():
        return True
    mark = root / ".venv-tools" / ".site-made-of"
    return mark.exists() and mark.read_text() != site_state(root)


def site_state(root: Path = ROOT) -> str:
    """Return a digest of what the pages at /docs are made of."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SITE_SOURCES for path in root.glob(pattern) if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(site_state())
