"""What every Lightning network for tests has in common, be it simulated or made of real lnd nodes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LndNode:
    """One running lnd, as a client sees it. `pubkey` is hex."""

    name: str
    host: str
    port: int
    tls_cert_path: Path
    macaroon_path: Path
    pubkey: str
    directory: Path
