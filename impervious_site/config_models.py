"""The sections of the configuration as types: what the rest of the node reads, and the keys and rules of the file."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, Secret, SecretStr

from impervious_site import config_values as values
from impervious_site.config_values import Address, is_unset

# A keysend's preimage travels under this number, lnd's own.
KEYSEND_RECORD = 5482373484
DEFAULT_RECORDS = {
    "federate": 100_000,
    "vpn": 200_000,
    "websocket": 300_000,
    "message": 400_000,
    "socket": 500_000,
    "sign": 800_000,
}

MAX_LEASE_SECONDS = 10 * 366 * 86_400

# Keys that protect or spend: to ignore them would be worse than to refuse to start.
NOT_AVAILABLE: frozenset[str] = frozenset()


class Section(BaseModel):
    """A mapping of the file; descriptions are what a message asks for when a required key is missing."""

    # Built at the first validation: of several sections there never is one.
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


class ApiKey(Section):
    """What its calls may cost in 24 hours (sat), and how many there may be in a minute; None: no limit."""

    name: str
    key: SecretStr
    scopes: frozenset[str]
    budget_sat: int | None = None
    calls_per_minute: int | None = None


class Server(Section):
    """tls_cert and tls_key are both there or both None. max_connections_per_address: None for the default, which does not
    hold for loopback.
    """

    enabled: values.Flag = True
    grpc_addr: values.AddressValue = Address("127.0.0.1", 8881)
    http_addr: values.AddressValue = Address("127.0.0.1", 8882)
    api_keys: tuple[ApiKey, ...] = ()
    allowed_hosts: values.Hosts = ()
    allowed_origins: values.Origins = ()
    message_encoding: values.MessageEncoding = "base64"
    tls_cert: values.FilePath | None = None
    tls_key: values.FilePath | None = None
    trusted_proxies: values.Proxies = ()
    max_connections: Annotated[int, values.whole(10)] = 10_000
    max_connections_per_address: Annotated[int, values.whole(1)] | None = None
    max_grpc_connections: Annotated[int, values.whole(10)] = 1_000

    @property
    def scheme(self) -> str:
        return "https" if self.tls_cert else "http"

    @property
    def exposed(self) -> dict[str, str]:
        """The keys of the addresses that other machines reach, each with what is wrong if there is no API key."""
        addresses = {"grpc_addr": self.grpc_addr, "http_addr": self.http_addr}
        return {
            name: f"{address} is reachable from other machines and no API key is set; make one by ./impervious keys make, "
            "set one by IMPD_SERVER__API_KEY, by IMPD_SERVER__API_KEY_FILE or in server.api_keys, or listen on 127.0.0.1"
            for name, address in addresses.items()
            if not address.is_loopback
        }


class Admin(Section):
    """The first account of the admin pages."""

    username: values.Username | None = None
    password: values.Secret | None = None


class Lnd(Section):
    """The LND node; tls_cert is PEM, None for the system's authorities; pub_key may be empty."""

    host: str
    port: int
    pub_key: str
    tls_cert: bytes | None
    macaroon_hex: SecretStr


class Lightning(Section):
    """Fee limit of a payment: the larger of max_fee_sat (sat) and max_fee_percent (% of its amount). The most that one call
    may send, and that all may cost in 24 hours; None: no limit. For how long no channel holds a payment that lnd calls
    under way before it is given up.
    """

    max_fee_sat: Annotated[int, values.whole(0)] = 10
    max_fee_percent: values.Percent = 5.0
    max_amount_sat: Annotated[int, values.whole(1)] | None = None
    daily_budget_sat: Annotated[int, values.whole(0)] | None = None
    dead_payment_seconds: Annotated[int, values.whole(1)] = 600


class Federate(Section):
    """ttl in seconds, at most 100 years; whose requests are accepted: everybody's (auto), those of peers that are marked as
    known, or those that the admin accepts (manual).
    """

    ttl: Annotated[int, values.whole(1, 3_155_760_000)] = 31_560_000
    imp_id: values.ImpId = ""
    accept: values.FederateAccept = "auto"
    max_members: Annotated[int, values.whole(1, 1_000)] = 100


class AutoRenew(Section):
    """Leases this node has bought are renewed lead_seconds before their end, for at most budget_sat in 24 hours, with the
    messages and fees that it takes.
    """

    enabled: values.Flag = False
    budget_sat: Annotated[int, values.whole(1)] | None = None
    lead_seconds: Annotated[int, values.whole(60, 86_400)] = 600


class VpnKeys(Section):
    """price in sat per hour; server_ip may be a host name; server_pub_key is empty unless it is a valid WireGuard key. subnet has one IPv4 network,
    one IPv6 network, or both in this order. min_seconds and max_seconds bound what one payment may buy;
    quotes_per_minute is for one buyer. private_networks
    are those that a seller's endpoint, or a tunnel that was bought, may lie in although they are not public.
    """

    price: Annotated[int, values.whole(0)] = 100
    server_ip: values.Host = "127.0.0.1"
    server_port: values.Port = 51820
    subnet: values.Subnets = values.parse_subnets("10.0.0.0/24")
    server_pub_key: values.Text = ""
    allowed_ips: values.Networks = (values.parse_network("0.0.0.0/0"),)
    binary_path: values.Program = "/usr/bin/wg"
    dns: values.Ips = ()
    private_networks: values.Networks = ()
    min_seconds: Annotated[int, values.whole(1, MAX_LEASE_SECONDS)] = 3_600
    max_seconds: Annotated[int, values.whole(1, MAX_LEASE_SECONDS)] = 30 * 86_400
    quote_seconds: Annotated[int, values.whole(1, 86_400)] = 300
    quotes_per_minute: Annotated[int, values.whole(1)] = 30
    quarantine_seconds: Annotated[int, values.whole(0, 30 * 86_400)] = 180
    exit_rules: values.Flag = False


class Vpn(VpnKeys):
    auto_renew: AutoRenew = AutoRenew()


class Socket(Section):
    """server_ip is what other nodes are told, never bound. None: any free ports, no limit, no end."""

    server_ip: values.Ip = "127.0.0.1"
    port_range: values.PortRange | None = None
    pin: values.Flag = True
    max_bytes_per_second: Annotated[int, values.whole(1)] | None = None
    idle_seconds: Annotated[int, values.whole(1)] | None = None


class Message(Section):
    """A message is tried for expires_seconds at most: receivers keep its parts for an hour more than a day."""

    max_bytes: Annotated[int, values.whole(1)] = 1_048_576
    in_flight: Annotated[int, values.whole(1)] = 256
    in_flight_per_peer: Annotated[int, values.whole(1)] = 64
    expires_seconds: Annotated[int, values.whole(1, 86_400)] = 86_400
    incomplete_per_peer: Annotated[int, values.whole(1)] = 64
    incomplete: Annotated[int, values.whole(2)] = 1_024
    incomplete_bytes: Annotated[int, values.whole(2)] = 64 * 2**20
    incomplete_seconds: Annotated[int, values.whole(1)] = 90_000


class Events(Section):
    keep_days: Annotated[int, values.whole(1)] = 30


class Messages(Section):
    """For how many days ended messages are kept; None: for ever. What strangers sent is not kept longer than
    `strangers_keep_days`. A day would be too short: senders repeat themselves for one, and by what is stored a repeated
    message is known.
    """

    keep_days: Annotated[int, values.whole(2)] | None = None
    strangers_keep_days: Annotated[int, values.whole(2)] = 90


class Logging(Section):
    """The least that is logged: by the node, and by some parts of it, each with its level."""

    level: values.LogLevel = "info"
    parts: values.LogParts = ()


class Inbound(Section):
    """Who may write to this node with one service, or, as "default", with each that says nothing else: the least that a
    message pays (sat), whether its sender must be known, and what one peer, and all, may send in an hour. 0: no limit;
    None: as the default, which has no limits unless it says so.
    """

    min_amount_sat: Annotated[int, values.whole(0, 2_100_000_000_000_000)] | None = None
    only_known: values.Flag | None = None
    peer_messages_per_hour: Annotated[int, values.whole(0, 2**62)] | None = None
    peer_bytes_per_hour: Annotated[int, values.whole(0, 2**62)] | None = None
    all_messages_per_hour: Annotated[int, values.whole(0, 2**62)] | None = None
    all_bytes_per_hour: Annotated[int, values.whole(0, 2**62)] | None = None


class InboundStrangers(Section):
    """What all nodes together that are not known to this one may send in an hour, of whatever service. 0: no limit."""

    bytes_per_hour: Annotated[int, values.whole(0, 2**62)] = 64 * 2**20


class InboundAnswers(Section):
    """What this node sends because others have written to it: how much more it may cost in 24 hours than they have paid (sat),
    and how many are sent in an hour over hints that are not known to work.
    """

    allowance_sat: Annotated[int, values.whole(0, 2_100_000_000_000_000)] = 0
    unproven_hints_per_hour: Annotated[int, values.whole(0, 100_000)] = 10


class Database(Section):
    """Where all is stored: an SQLite file, or a PostgreSQL database by libpq's parameters, the password among them. One
    of the two is None. `secret_key_path` is of Django's secret key. `may_be_others`: the file was there under the name
    that all configurations beside it have used, and nothing tells whose it is until lnd tells this node's key.
    """

    sqlite_path: Path | None
    postgres: Secret[dict[str, str]] | None
    secret_key_path: Path
    may_be_others: bool = False


def _parse_service_type(value: Any) -> str:
    name = values.parse_text(value)
    if name not in DEFAULT_RECORDS:
        raise ValueError(f"{values.shown(name)} is no service; must be one of {', '.join(DEFAULT_RECORDS)}")
    return name


def _parse_record_number(value: Any) -> int:
    number = values.parse_integer(value, 65_536, 2**64 - 1)
    if number == KEYSEND_RECORD:
        raise ValueError(f"{number} is the record of every keysend's preimage; must be another number")
    return number


def _parse_service_data(value: Any) -> dict[str, Any]:
    if is_unset(value):
        return {}
    if not isinstance(value, dict):
        raise ValueError("is no mapping; must be a mapping or empty")
    return value


class ServiceConfig(Section):
    service_type: Annotated[str, PlainValidator(_parse_service_type)] = Field(
        description="the name of a service"
    )
    active: values.Flag = Field(description="true or false")
    custom_record_number: Annotated[int, PlainValidator(_parse_record_number)] = Field(
        description="a number such as 400000"
    )
    additional_service_data: Annotated[dict[str, Any], PlainValidator(_parse_service_data)] = Field(
        default_factory=dict
    )


class Config(Section):
    path: Path | None
    simulated: bool
    server: Server
    admin: Admin
    services: tuple[ServiceConfig, ...]
    lnd: Lnd
    lightning: Lightning
    federate: Federate
    vpn: Vpn
    socket: Socket
    database: Database
    redis_url: SecretStr | None
    message: Message
    events: Events
    messages: Messages
    logging: Logging
    inbound: dict[str, Inbound]
    answers: InboundAnswers
    strangers: InboundStrangers
    warnings: tuple[str, ...]


INBOUND = ("default", *DEFAULT_RECORDS)


# From here on: sections whose keys in the file differ from what the node reads.
class ApiKeyEntry(Section):
    name: values.KeyName = Field(description="a name for the key's owner")
    key_file: values.ApiKeyFile = Field(description="the path of the file that holds the key")
    scopes: values.Scopes = Field(description=f"a list out of {', '.join(values.SCOPES)}")
    budget_sat: Annotated[int, values.whole(0, 21_000_000 * 10**8)] | None = None
    calls_per_minute: Annotated[int, values.whole(1, 100_000)] | None = None


class LndNode(Section):
    ip: values.Host = Field(description="the IP address or host name of the LND node")
    port: values.Port = Field(description="the port of its gRPC API, often 10009")
    pub_key: values.PubKey = ""
    tls_cert: values.CertificateFile | None = None
    tls_cert_hex: values.CertificateHex | None = None
    admin_macaroon: values.MacaroonFile | None = None
    admin_macaroon_hex: values.MacaroonHex | None = None


class DatabaseUrl(Section):
    url: values.DatabaseUrl | None = None


class RedisUrl(Section):
    url: values.RedisUrl | None = None


SECTIONS: dict[str, type[Section]] = {
    "server": Server,
    "sqlite3": Admin,
    "lightning": Lightning,
    "lightning.lnd_node": LndNode,
    "federate": Federate,
    "vpn": VpnKeys,
    "vpn.auto_renew": AutoRenew,
    "socket": Socket,
    "message": Message,
    "events": Events,
    "messages": Messages,
    "logging": Logging,
    "database": DatabaseUrl,
    "redis": RedisUrl,
    **{f"inbound.{name}": Inbound for name in INBOUND},
    "inbound.answers": InboundAnswers,
    "inbound.strangers": InboundStrangers,
}
# Of these an unknown key is no mere warning: who mistypes a key that protects must not believe to be protected.
STRICT_SECTIONS = ("inbound",)
