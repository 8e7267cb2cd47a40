"""Django's secret key: made once, kept beside the database, readable by the node's user alone."""

import os
import secrets
from pathlib import Path


class EmptyKeyFile(ValueError):
    """The file is there, and no key in it."""


def read_or_make(path: Path) -> str:
    """OSError, EmptyKeyFile. Of several processes that begin at the same time one makes it, and all read the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _make(path)
    return read(path)


def read(path: Path) -> str:
    """Empty if there is none yet. OSError, EmptyKeyFile."""
    try:
        key = path.read_text()
    except FileNotFoundError:
        return ""
    if not key.strip():
        raise EmptyKeyFile(
            "is empty; delete it, then restore a backup, or start with a new key (all are logged out of the admin, and the "
            "files of bought VPN leases cannot be opened any more)"
        )
    return key


def _make(path: Path) -> None:
    """Under its name it is whole from the first moment on, on a full disk and when this process is killed too."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            if os.geteuid() == 0:
                # A command run as root, such as `vpn setup`, must not lock out the user who runs the node.
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(secrets.token_urlsafe(50))
            file.flush()
            os.fsync(descriptor)
        os.link(unfinished, path)
    except FileExistsError:
        # Another process was faster.
        pass
    finally:
        unfinished.unlink()
