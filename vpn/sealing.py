"""Private keys at rest: sealed under the node's own secret, which is in a file that its user alone can read."""

import base64
import hashlib

from cryptography.fernet import Fernet
from django.conf import settings


def seal(private_key: str) -> str:
    return _fernet().encrypt(private_key.encode()).decode()


def unseal(sealed: str) -> str:
    """cryptography.fernet.InvalidToken when it was sealed under another secret."""
    return _fernet().decrypt(sealed.encode()).decode()


def _fernet() -> Fernet:
    digest = hashlib.sha256(b"vpn client keys" + str(settings.SECRET_KEY).encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))
