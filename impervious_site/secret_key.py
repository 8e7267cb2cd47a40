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
            file.write(key)
    except OSError:
        # Half a key, on a full disk, would be taken for one at the next start.
        path.unlink()
        raise
    return key
