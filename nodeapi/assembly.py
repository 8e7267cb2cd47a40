"""Puts the parts of the node together, from the configuration. Each function makes one part."""

from functools import partial
from ipaddress import ip_address
from typing import Any

from federation.settings import FederationSettings
from lightning.client import LndClient
from lightning.rpcs import Rpc, calls_for
from messaging import clock
from messaging.database import Database
from messaging.joining import Bounds
from messaging.policy import Rules
from messaging.registry import Registry
from messaging.traffic import Limits
from nodeapi.addresses import trust
from nodeapi.audit import AuditLog
from nodeapi.auth import Caller, Keys, WebGuard
from nodeapi.backups.places import home_of
from nodeapi.descriptors import shares
from nodeapi.doors import Doors
from nodeapi.engine import Engine, EngineLimits
from nodeapi.forward import Forwarder
from nodeapi.http_limits import HttpLimits
from nodeapi.key_list import spent_msat
from nodeapi.keys import hash_of
from nodeapi.lnd_status import LndStatus
from nodeapi.monitoring.gauges import Scrape
from nodeapi.monitoring.health import Health
from nodeapi.monitoring.surroundings import Surroundings
from nodeapi.relay.service import RelayOptions
from nodeapi.retention import Keep
from nodeapi.stream import UNWOKEN_POLL_SECONDS, Hub
from nodeapi.tls import PairFiles
from vpn.settings import VpnSettings

POLL_WHEN_WOKEN_SECONDS = 1.0
# Room for request bodies that are here at a time, unless the largest messages need more.
BODIES_BYTES, BODIES = 64 * 2**20, 8


def make_client(config) -> LndClient:
    return LndClient(
        host=config.lnd.host,
        port=config.lnd.port,
        tls_cert=config.lnd.tls_cert,
        macaroon_hex=config.lnd.macaroon_hex.get_secret_value(),
    )


def lnd_calls(config) -> list[Rpc]:
    """What this node calls of lnd."""
    return calls_for({service.service_type for service in config.services if service.active})


def configured_callers(config) -> list[Caller]:
    return [
        Caller(
            name=key.name,
            scopes=frozenset(key.scopes),
            hash=hash_of(key.key.get_secret_value()),
            budget_sat=key.budget_sat,
            calls_per_minute=key.calls_per_minute,
        )
        for key in config.server.api_keys
    ]


def make_early_keys(config) -> Keys:
    """Those of the configuration, before the others can be read."""
    keys = make_keys(config, None, beside_engine=False)
    keys.go_without_stored()
    return keys


def make_keys(config, database: Database | None, *, beside_engine: bool) -> Keys:
    return Keys(
        configured_callers(config),
        database=database,
        open_on_loopback=not config.server.exposed,
        tells=beside_engine,
    )


def make_guard(config) -> WebGuard:
    return WebGuard(
        allowed_hosts=config.server.allowed_hosts,
        allowed_origins=config.server.allowed_origins,
        # The address that is listened on is a name of this node, unless it stands for all addresses.
        bound_hosts=() if config.server.http_addr.is_any else (config.server.http_addr.host,),
    )


def make_engine(
    config, *, database: Database, client: LndClient, lnd: LndStatus, hub: Hub, version: str
) -> Engine:
    limits = EngineLimits(
        bounds=Bounds(
            max_bytes=config.message.max_bytes,
            per_peer=config.message.incomplete_per_peer,
            in_all=config.message.incomplete,
            received_bytes=config.message.incomplete_bytes,
            seconds=config.message.incomplete_seconds,
        ),
        inbound=inbound_rules(config),
        strangers_bytes_per_hour=config.strangers.bytes_per_hour,
        traffic=Limits(
            in_flight=config.message.in_flight,
            in_flight_per_peer=config.message.in_flight_per_peer,
        ),
        expires_seconds=config.message.expires_seconds,
        max_fee_sat=config.lightning.max_fee_sat,
        max_fee_percent=config.lightning.max_fee_percent,
        max_amount_sat=config.lightning.max_amount_sat,
        daily_budget_sat=config.lightning.daily_budget_sat,
        answers_allowance_sat=config.answers.allowance_sat,
        unproven_hints_per_hour=config.answers.unproven_hints_per_hour,
        dead_payment_seconds=config.lightning.dead_payment_seconds,
        keep=make_keep(config),
    )
    registry = Registry(config.services, service_settings(config, lnd.info.identity_pubkey, lnd.network))
    return Engine(
        database=database,
        client=client,
        lnd=lnd,
        registry=registry,
        limits=limits,
        relay=RelayOptions(
            server_ip=config.socket.server_ip,
            port_range=config.socket.port_range,
            pin=config.socket.pin,
            max_bytes_per_second=config.socket.max_bytes_per_second,
            idle_seconds=config.socket.idle_seconds,
        ),
        version=version,
        feed=hub.feed,
    )


def make_keep(config) -> Keep:
    return Keep(
        events_days=config.events.keep_days,
        messages_days=config.messages.keep_days,
        strangers_days=config.messages.strangers_keep_days,
    )


def inbound_rules(config) -> dict[str, Rules]:
    """Of each service: what its own section says, else what holds for all."""
    given = {name: keys.model_dump(exclude_none=True) for name, keys in config.inbound.items()}
    services = [service.service_type for service in config.services]
    return {service: Rules(**(given["default"] | given[service])) for service in services}


def service_settings(config, own_pubkey: str, network: str) -> dict[str, Any]:
    """What the handlers and workers of services are told, by service type."""
    return {
        "federate": FederationSettings(
            own_pubkey=own_pubkey,
            imp_id=config.federate.imp_id,
            ttl_seconds=config.federate.ttl,
            accept=config.federate.accept,
            max_members=config.federate.max_members,
        ),
        "vpn": VpnSettings(
            own_pubkey=own_pubkey,
            network=network,
            base_url=f"{config.server.scheme}://{config.server.http_addr}",
            price_sat=config.vpn.price,
            server_ip=str(config.vpn.server_ip),
            server_port=config.vpn.server_port,
            networks=config.vpn.subnet,
            server_pub_key=config.vpn.server_pub_key,
            allowed_ips=config.vpn.allowed_ips,
            dns=tuple(map(ip_address, config.vpn.dns)),
            private_networks=config.vpn.private_networks,
            binary_path=config.vpn.binary_path,
            min_seconds=config.vpn.min_seconds,
            max_seconds=config.vpn.max_seconds,
            quote_seconds=config.vpn.quote_seconds,
            quotes_per_minute=config.vpn.quotes_per_minute,
            quarantine_seconds=config.vpn.quarantine_seconds,
            exit_rules=config.vpn.exit_rules,
            auto_renew=config.vpn.auto_renew.enabled,
            auto_renew_budget_sat=config.vpn.auto_renew.budget_sat or 0,
            auto_renew_lead_seconds=config.vpn.auto_renew.lead_seconds,
        ),
    }


def make_hub(config, database: Database, *, beside_engine: bool) -> Hub:
    woken = beside_engine or config.redis_url
    return Hub(
        database,
        poll_seconds=POLL_WHEN_WOKEN_SECONDS if woken else UNWOKEN_POLL_SECONDS,
        as_text=carries_text(config),
    )


def carries_text(config) -> bool:
    return config.server.message_encoding == "text"


async def make_doors(
    config,
    *,
    database: Database,
    hub: Hub,
    beside_engine: bool,
    version: str,
    lnd: LndStatus | None = None,
) -> Doors:
    """The doors of the runimpd process, which gets its engine when lnd has answered, or of another process, which forwards
    to it. Raises django.db.Error.
    """
    keys = make_keys(config, database, beside_engine=beside_engine)
    await keys.load()
    trust(config.server.trusted_proxies)
    return Doors(
        database=database,
        hub=hub,
        keys=keys,
        audit=AuditLog(database, stores=beside_engine),
        guard=make_guard(config),
        version=version,
        lnd=lnd,
        forwarder=None if beside_engine else Forwarder(str(config.server.grpc_addr), make_tls(config)),
        as_text=carries_text(config),
        services=tuple(config.services),
        max_body_bytes=max_body_bytes(config),
    )


def make_scrape(config, doors: Doors, health: Health, lnd: LndStatus | None = None) -> Scrape:
    """`lnd` is there in the runimpd process."""
    return Scrape(
        database=doors.database,
        file=config.database.sqlite_path,
        hub=doors.hub,
        health=health,
        keys=doors.keys,
        surroundings=make_surroundings(config, with_lnd=lnd is not None),
        spent_msat=partial(_spent_msat, config) if lnd else None,
        engine=lambda: doors.engine,
        lnd=lnd,
        version=doors.version,
        with_redis=config.redis_url is not None,
    )


def make_early_scrape(
    config, *, keys: Keys, health: Health, version: str, lnd: LndStatus | None = None
) -> Scrape:
    """What can be told before the database can be used."""
    return Scrape(
        database=None,
        file=config.database.sqlite_path,
        hub=None,
        health=health,
        keys=keys,
        surroundings=make_surroundings(config, with_lnd=lnd is not None),
        engine=lambda: None,
        lnd=lnd,
        version=version,
        with_redis=config.redis_url is not None,
    )


def make_surroundings(config, *, with_lnd: bool) -> Surroundings:
    return Surroundings(
        directory=home_of(config),
        tls=make_tls(config),
        lnd_address=(config.lnd.host, config.lnd.port) if with_lnd else None,
    )


def _spent_msat(config, name: str) -> int:
    return spent_msat(config, name, clock.now())


def max_body_bytes(config) -> int:
    """Room for the largest message in base64 and JSON, or in JSON's escapes: six characters a byte."""
    return (6 if carries_text(config) else 2) * config.message.max_bytes + 65_536


def make_tls(config) -> PairFiles | None:
    """None where no certificate is configured."""
    return PairFiles(config.server.tls_cert, config.server.tls_key) if config.server.tls_cert else None


def make_http_limits(config) -> HttpLimits:
    """As many connections as there are descriptors for: call it after descriptors.raise_limit."""
    server, body_bytes = config.server, max_body_bytes(config)
    return HttpLimits(
        body_bytes=body_bytes,
        all_bodies_bytes=max(BODIES_BYTES, BODIES * body_bytes),
        connections=shares(server.max_connections, server.max_grpc_connections).http,
        per_address=server.max_connections_per_address,
        trusted=server.trusted_proxies,
    )


def max_grpc_connections(config) -> int:
    return shares(config.server.max_connections, config.server.max_grpc_connections).grpc
