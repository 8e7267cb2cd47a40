"""What the federation is told by the configuration (its section `federate`) and by lnd."""

from dataclasses import dataclass

SERVICE = "federate"
ACCEPT_AUTO, ACCEPT_KNOWN, ACCEPT_MANUAL = "auto", "known", "manual"


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """`accept` says whose requests are accepted: everybody's (auto), those of peers that are marked as known, or those
    that the admin accepts (manual).
    """

    own_pubkey: str
    imp_id: str
    ttl_seconds: int
    accept: str
    max_members: int
