"""The parts of the node, as they stand in the log and in `logging.parts`: the names of its loggers.

They are public, and stay when code moves: operators configure them, and search logs for them.
"""

AUDIT = "audit"
PARTS = (
    "federation.worker",
    "invoices.issuing",
    "invoices.paying",
    "lightning.client",
    "lightning.dead_payments",
    "messaging.catchup",
    "messaging.clock",
    "messaging.database",
    "messaging.deliveries",
    "messaging.events",
    "messaging.inbox",
    "messaging.operator_actions",
    "messaging.outbox",
    "messaging.suspected",
    "messaging.workers",
    "nodeapi.access_log",
    "nodeapi.auth",
    "nodeapi.backups.returned",
    "nodeapi.descriptors",
    "nodeapi.doors",
    "nodeapi.engine",
    "nodeapi.entry",
    "nodeapi.first_start",
    "nodeapi.http_limits",
    "nodeapi.lnd_status",
    "nodeapi.management.commands.runimpd",
    "nodeapi.monitoring.asking",
    "nodeapi.monitoring.gauges",
    "nodeapi.monitoring.health",
    "nodeapi.monitoring.rpc_health",
    "nodeapi.partner",
    "nodeapi.relay.process",
    "nodeapi.relay.service",
    "nodeapi.rest",
    "nodeapi.retention",
    "nodeapi.rpc",
    "nodeapi.rpc_requests",
    "nodeapi.runtime",
    "nodeapi.server_lock",
    "nodeapi.signals",
    "nodeapi.stream",
    "nodeapi.subscribe",
    "nodeapi.tls",
    "vpn.buyer",
    "vpn.buying",
    "vpn.exits",
    "vpn.looking",
    "vpn.reliability",
    "vpn.renewing",
    "vpn.seller",
    "vpn.timing",
    "vpn.watch",
    AUDIT,
)
# What a level can be given for together: messaging is messaging.inbox, messaging.outbox and all its others.
GROUPS = tuple(dict.fromkeys(part.partition(".")[0] for part in PARTS))


def is_known(name: str) -> bool:
    """Whether a level can be given for it: a part, or what the names of several begin with."""
    return any(part == name or part.startswith(f"{name}.") for part in PARTS)
