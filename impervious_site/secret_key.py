"""Django's secret key: made once, kept beside the database, readable by the node's user alone."""

import os
import secrets
from pathlib import Path


def read_or_make(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    key = secrets.token_urlsafe(50)
    try:
        with os.fdopen(descriptor, "w") as file:
            if os.geteuid() == 0:
                # A command run as root, such as `vpn setup`, must not lock out the user who runs the node.
                owner = path.parent.stat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(key)
    except OSError:
        # Half a key, on a full disk, would be taken for one at the next start.
        path.unlink()
        raise
    return key
