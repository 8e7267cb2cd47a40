"""The second run, on PostgreSQL, leaves out what is only about the doors, lnd or the shell: the database makes no difference there."""

from tests.support.databases import ON_POSTGRES

WITHOUT_DATABASE = (
    "access",
    "addresses",
    "bad_input",
    "behind_proxy",
    "cert_command",
    "commands",
    "commands_page",
    "connections",
    "contract",
    "docs_served",
    "door_list",
    "floods",
    "grpc_garbage",
    "macaroon",
    "macaroon_real_lnd",
    "monitoring_docs",
    "openapi",
    "rates",
    "real_lnd",
    "relay_pump",
    "rest_habits",
    "service_pages",
    "slow_clients",
    "socket_page",
    "text_encoding",
    "tls",
    "vpn_real_lnd",
)
collect_ignore = [f"test_{name}.py" for name in WITHOUT_DATABASE] if ON_POSTGRES else []
