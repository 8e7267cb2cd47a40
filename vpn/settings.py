"""What the VPN service is told by the configuration (its section `vpn`) and by lnd."""

from dataclasses import dataclass, field

from vpn import endpoint
from vpn.pool import Address, Network, Pool
from vpn.pricing import Prices, price_bounds
from vpn.waking import Wake

SERVICE = "vpn"
KEEPALIVE_SECONDS = 25


@dataclass(frozen=True, kw_only=True)
class VpnSettings:
    """`networks` are those that clients are given addresses of. `base_url` is where this node's REST is found. The
    bells wake the two halves of the worker.
    """

    own_pubkey: str
    network: str
    base_url: str
    price_sat: int
    server_ip: str
    server_port: int
    networks: tuple[Network, ...]
    server_pub_key: str
    allowed_ips: tuple[Network, ...]
    dns: tuple[Address, ...]
    binary_path: str
    min_seconds: int
    max_seconds: int
    quote_seconds: int
    quotes_per_minute: int
    quarantine_seconds: int
    exit_rules: bool = False
    private_networks: tuple[Network, ...] = ()
    auto_renew: bool = False
    auto_renew_budget_sat: int = 0
    auto_renew_lead_seconds: int = 600
    selling: Wake = field(default_factory=Wake, repr=False, compare=False)
    buying: Wake = field(default_factory=Wake, repr=False, compare=False)

    @property
    def pool(self) -> Pool:
        return Pool(self.networks)

    @property
    def endpoint_host(self) -> Address | None:
        """None where it is a host name, whose address is looked up (vpn/endpoint.py)."""
        return endpoint.literal(self.server_ip)

    @property
    def price_problem(self) -> str:
        """Why nothing can be sold at vpn.price; empty if it can."""
        try:
            self.bounds(self.price_sat)
        except ValueError as error:
            return "vpn.price is 0" if not self.price_sat else f"vpn.price: {error}"
        return ""

    def bounds(self, hourly_price_sat: int) -> Prices:
        """ValueError where no price buys an allowed time."""
        return price_bounds(hourly_price_sat, min_seconds=self.min_seconds, max_seconds=self.max_seconds)
