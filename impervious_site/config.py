"""The node's configuration: typed, frozen, checked as a whole, so that every mistake is told at once with its key.

config = load_config(path, os.environ)    # or simulated_config(…) when there is no file
config.server.grpc_addr.port, config.lnd.host, config.lightning.max_fee_sat
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from pydantic import Secret, ValidationError

from impervious_site import config_values as values
from impervious_site.config_models import (
    DEFAULT_RECORDS,
    INBOUND,
    NOT_AVAILABLE,
    SECTIONS,
    STRICT_SECTIONS,
    Admin,
    ApiKey,
    ApiKeyEntry,
    AutoRenew,
    Config,
    Database,
    Lnd,
    LndNode,
    Message,
    Section,
    Server,
    ServiceConfig,
    Vpn,
    VpnKeys,
)
from impervious_site.config_sources import Findings, env_name, flatten, nearest, read_environment, read_yaml
from impervious_site.config_values import Address, is_unset
from impervious_site.default_database import DATABASE_NAME, default_database
from nodeapi.certificates import PairError, doubts_about, read_pair
from vpn.keys import is_public_key

__all__ = [
    "PLACES",
    "Address",
    "ApiKey",
    "Config",
    "ConfigError",
    "ServiceConfig",
    "find_config",
    "load_config",
    "simulated_config",
]

PLACES = ("config/local.config.yml", "config/config.yml")
TEMPLATE_PASSWORD = "supersecretpassword"  # noqa: S105 (of the template; warned of)

_FILE_KEYS = {f"{section}.{name}" for section, model in SECTIONS.items() for name in model.model_fields}
_FILE_KEYS |= {"service_list", *NOT_AVAILABLE}
_API_KEY = "server.api_key"
_JSON_KEYS = ("service_list", "server.api_keys")
_LND_PAIRS = (("tls_cert", "tls_cert_hex"), ("admin_macaroon", "admin_macaroon_hex"))


class ConfigError(Exception):
    """All that is wrong with a configuration, one problem a line: "key: what is wrong; what would be right".

    `partial` is what the rest of it says, with defaults for what is wrong: enough to examine a node, never to run one.
    None if too little could be read.
    """

    def __init__(self, problems: list[str], partial: Config | None = None) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.partial = partial


def find_config(path: str | None, cwd: Path) -> Path | None:
    """The file named by --config, or the first of PLACES below cwd, or None if there is none."""
    if path is not None:
        return _named_config(path, cwd)
    places = [cwd / place for place in PLACES]
    for file in places:
        if _is_file(file):
            return file
    # To overlook it would start the simulated network for someone who has configured a real node.
    for misnamed in (file.with_suffix(".yaml") for file in places):
        if _is_file(misnamed):
            raise ConfigError([f"{misnamed}: the name ends in .yaml; must end in .yml, so rename the file"])
    return None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:
        raise ConfigError(
            [f"{file}: cannot be reached: {error.strerror}; must be readable, or absent"]
        ) from None


def _named_config(path: str, cwd: Path) -> Path:
    file = cwd / path
    if file.suffix != ".yml":
        ending = file.suffix or "nothing"
        raise ConfigError(
            [f"--config: the name {path} ends in {ending}; must end in .yml, so rename the file"]
        )
    try:
        reason = None if file.is_file() else "is a directory" if file.is_dir() else "does not exist"
    except (OSError, ValueError):
        reason = "cannot be reached"
    if reason:
        places = ", ".join(PLACES)
        raise ConfigError(
            [f"--config: {file} {reason}; must be a configuration file (without --config: {places})"]
        )
    return file


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Reads the file and the environment; relative names in them are relative to the file's directory."""
    path = path.absolute()
    findings = Findings(STRICT_SECTIONS)
    tree = read_yaml(path, findings)
    if tree is None:
        # What is missing besides is missing because nothing of the file was read.
        raise ConfigError(findings.problems)
    flat = flatten(tree, _FILE_KEYS | {_API_KEY}, findings)
    if not is_unset(flat.pop(_API_KEY, None)):
        findings.problem(
            _API_KEY,
            "is not read from this file; must be a file named in server.api_keys, or be given "
            f"by {env_name(_API_KEY)}",
        )
    loader = _Loader(path.parent, findings, flat, environ)
    return loader.config(path=path, simulated=False)


def simulated_config(
    directory: Path,
    *,
    host: str,
    port: int,
    tls_cert: Path,
    admin_macaroon: Path,
    pub_key: str,
    environ: Mapping[str, str],
) -> Config:
    """A node of the simulated network, all services on, data in directory; the environment may change all but lnd."""
    findings = Findings(STRICT_SECTIONS)
    flat: dict[str, Any] = {
        "lightning.lnd_node.ip": host,
        "lightning.lnd_node.port": port,
        "lightning.lnd_node.pub_key": pub_key,
        "lightning.lnd_node.tls_cert": str(tls_cert),
        "lightning.lnd_node.admin_macaroon": str(admin_macaroon),
    }
    flat["service_list"] = [
        {"service_type": name, "active": True, "custom_record_number": number}
        for name, number in DEFAULT_RECORDS.items()
    ]
    # Whoever names an lnd means a real one: neither mix the two nor silently ignore it.
    lnd_variables = [
        name for name in sorted(environ) if name.startswith(env_name("lightning.lnd_node") + "__")
    ]
    for name in lnd_variables:
        findings.problem(
            name,
            "is set, but without a configuration file the node runs on the simulated network; "
            "give a file (an empty one will do) with --config or remove the variable",
        )
    environ = {name: value for name, value in environ.items() if name not in lnd_variables}
    loader = _Loader(directory.absolute(), findings, flat, environ)
    return loader.config(path=None, simulated=True)


class _Loader:
    """One run over raw values: flat holds them by key path, the environment's laid over the file's."""

    def __init__(
        self, directory: Path, findings: Findings, flat: dict[str, Any], environ: Mapping[str, str]
    ) -> None:
        self.directory = directory
        self.findings = findings
        from_environment = read_environment(environ, {*_FILE_KEYS, _API_KEY}, _JSON_KEYS, directory, findings)
        for pair in _LND_PAIRS:
            _drop_overridden(flat, from_environment, [f"lightning.lnd_node.{name}" for name in pair])
        self.flat = flat | from_environment

    def config(self, *, path: Path | None, simulated: bool) -> Config:
        self._refuse_unavailable()
        sections = {
            name: self._section(model, name) for name, model in SECTIONS.items() if model is not LndNode
        }
        server = sections["server"].model_copy(update={"api_keys": self._api_keys()})
        lnd = self._lnd()
        services = self._services()
        self._check_listening(server)
        self._check_tls(server)
        self._check_password(server, sections["sqlite3"])
        self._check_told_addresses(sections)
        message = self._checked_message(sections["message"])
        vpn = self._checked_vpn(sections["vpn"], sections["vpn.auto_renew"])
        config = Config.model_construct(
            path=path,
            simulated=simulated,
            server=server,
            admin=sections["sqlite3"],
            services=services,
            lnd=lnd,
            lightning=sections["lightning"],
            federate=sections["federate"],
            vpn=vpn,
            socket=sections["socket"],
            database=self._database(sections["database"].url, path, lnd.pub_key if lnd else ""),
            redis_url=sections["redis"].url,
            message=message,
            events=sections["events"],
            messages=sections["messages"],
            logging=sections["logging"],
            inbound={name: sections[f"inbound.{name}"] for name in INBOUND},
            answers=sections["inbound.answers"],
            strangers=sections["inbound.strangers"],
            warnings=tuple(self.findings.warnings),
        )
        if self.findings.problems:
            raise ConfigError(self.findings.problems, config)
        return config

    def _database(self, url: Any, path: Path | None, pub_key: str) -> Database:
        if isinstance(url, Secret):
            beside = path or self.directory / DATABASE_NAME
            return Database(sqlite_path=None, postgres=url, secret_key_path=beside.with_suffix(".secret_key"))
        taken = False
        if url is None:
            url, taken = default_database(path, self.directory, pub_key)
        secret_key_path = url.with_suffix(".secret_key")
        return Database(sqlite_path=url, postgres=None, secret_key_path=secret_key_path, may_be_others=taken)

    def _refuse_unavailable(self) -> None:
        for key in sorted(NOT_AVAILABLE & self.flat.keys()):
            if not is_unset(self.flat[key]) and self.flat[key] not in ([], {}):
                self.findings.problem(key, "is not available in this version; remove it")

    def _section(self, model: type[Section], name: str) -> Any:
        raw = {field: self.flat.get(f"{name}.{field}") for field in model.model_fields if field != "api_keys"}
        return self._validated(model, raw, name)

    def _validated(self, model: type[Section], raw: Mapping[str, Any], prefix: str) -> Any:
        """The model; keys with problems get their default, so that the rest can be checked; None if there is none."""
        given = {name: value for name, value in raw.items() if not is_unset(value)}
        try:
            return model.model_validate(given, context=self.directory)
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)
        for item in wrong:
            name = str(item["loc"][0])
            if item["type"] == "missing":
                right = model.model_fields[name].description
                self.findings.problem(f"{prefix}.{name}", f"is missing; set it to {right}")
            else:
                reason = item.get("ctx", {}).get("error")
                self.findings.problem(f"{prefix}.{name}", str(reason or item["msg"]))
        rest = {
            name: value for name, value in given.items() if name not in {item["loc"][0] for item in wrong}
        }
        try:
            return model.model_validate(rest, context=self.directory)
        except ValidationError:
            return None

    def _entries(self, key: str, model: type[Section]) -> list[tuple[str, Any]]:
        """The valid entries of a list of mappings, each with its key path."""
        entries = self.flat.get(key)
        if is_unset(entries):
            return []
        if not isinstance(entries, list):
            self.findings.problem(key, "is no list; must be a list of mappings (lines that begin with -)")
            return []
        valid = []
        for index, entry in enumerate(entries):
            path = f"{key}[{index}]"
            if not isinstance(entry, dict):
                self.findings.problem(
                    path, f"is no mapping; must have the keys {', '.join(model.model_fields)}"
                )
                continue
            for name in entry.keys() - model.model_fields.keys():
                self.findings.warn(
                    f"{path}.{name}", f"is not known and not used; {nearest(name, model.model_fields)}"
                )
            valid.append((path, self._validated(model, entry, path)))
        return [(path, entry) for path, entry in valid if entry is not None]

    def _refuse_repeated(self, entries: list[tuple[str, Any]], name: str, *, secret: bool = False) -> None:
        first: dict[Any, str] = {}
        for path, entry in entries:
            value = getattr(entry, name)
            if value in first:
                what = "the same" if secret else values.shown(value)
                self.findings.problem(
                    f"{path}.{name}", f"is {what}, as in {first[value]}; must be another or removed"
                )
            first.setdefault(value, path)

    def _services(self) -> tuple[ServiceConfig, ...]:
        entries = self._entries("service_list", ServiceConfig)
        self._refuse_repeated(entries, "service_type")
        self._refuse_repeated(entries, "custom_record_number")
        return tuple(entry for _, entry in entries)

    def _api_keys(self) -> tuple[ApiKey, ...]:
        entries = self._entries("server.api_keys", ApiKeyEntry)
        self._refuse_repeated(entries, "name")
        self._refuse_repeated(entries, "key_file", secret=True)
        keys = [
            ApiKey(
                name=entry.name,
                key=entry.key_file,
                scopes=entry.scopes,
                budget_sat=entry.budget_sat,
                calls_per_minute=entry.calls_per_minute,
            )
            for _, entry in entries
        ]
        if self.flat.get(_API_KEY) is None:
            return tuple(keys)
        try:
            key = values.parse_api_key(self.flat[_API_KEY])
        except ValueError as error:
            self.findings.problem(_API_KEY, str(error))
            return tuple(keys)
        default = ApiKey(name="default", key=key, scopes=frozenset(values.SCOPES))
        if any(other.name == default.name or other.key == default.key for other in keys):
            text = f"has an entry named default or with the key of {env_name(_API_KEY)}; give each name and key once"
            self.findings.problem("server.api_keys", text)
        return (*keys, default)

    def _lnd(self) -> Lnd | None:
        prefix = "lightning.lnd_node"
        node = self._section(LndNode, prefix)
        for name, other in _LND_PAIRS:
            given = [key for key in (name, other) if not is_unset(self.flat.get(f"{prefix}.{key}"))]
            if len(given) == 2:
                self.findings.problem(f"{prefix}.{other}", f"is given beside {name}; set one of the two")
            if name == "admin_macaroon" and not given and not self.findings.has_problem(f"{prefix}.{name}"):
                self.findings.problem(
                    f"{prefix}.{name}",
                    "is missing; set it to the path of lnd's admin.macaroon, or set admin_macaroon_hex",
                )
        if node is None:
            return None
        macaroon = node.admin_macaroon or node.admin_macaroon_hex
        tls_cert = node.tls_cert or node.tls_cert_hex
        return Lnd.model_construct(
            host=node.ip, port=node.port, pub_key=node.pub_key, tls_cert=tls_cert, macaroon_hex=macaroon
        )

    def _check_listening(self, server: Server) -> None:
        # Whether there is a key for what listens beyond loopback the database knows too: nodeapi/keys.py asks at start.
        if self.findings.has_problem("server.grpc_addr", "server.http_addr"):
            return
        grpc, http = server.grpc_addr, server.http_addr
        if grpc.port == http.port != 0 and (grpc.host == http.host or grpc.is_any or http.is_any):
            text = f"{http} is taken by server.grpc_addr; must have a port of its own"
            self.findings.problem("server.http_addr", text)

    def _check_tls(self, server: Server) -> None:
        if self.findings.has_problem("server.tls_"):
            return
        given = {"tls_cert": server.tls_cert, "tls_key": server.tls_key}
        missing = [name for name, path in given.items() if path is None]
        if len(missing) == 1:
            other = next(name for name, path in given.items() if path)
            self.findings.problem(
                f"server.{missing[0]}",
                f"is missing, but server.{other} is set; set both or neither "
                "(./impervious cert makes a pair)",
            )
        if server.tls_cert is None or server.tls_key is None:
            return
        try:
            doubts = doubts_about(read_pair(server.tls_cert, server.tls_key), server.tls_key)
        except PairError as error:
            self.findings.problem(f"server.{error.which}", str(error))
            return
        for name, text in doubts:
            self.findings.warn(f"server.{name}", text)

    def _check_password(self, server: Server, admin: Admin) -> None:
        if admin.password is None or admin.password.get_secret_value().strip() != TEMPLATE_PASSWORD:
            return
        text = "is the template's, which everybody knows; choose another"
        if server.grpc_addr.is_loopback and server.http_addr.is_loopback:
            self.findings.warn("sqlite3.password", text)
        else:
            self.findings.problem("sqlite3.password", text)

    def _check_told_addresses(self, sections: Mapping[str, Any]) -> None:
        """Addresses under which others are to find this node."""
        for name in ("vpn", "socket"):
            told = _address(sections[name].server_ip)
            if told is None:
                continue  # a host name
            if told.is_unspecified or told.is_multicast:
                text = f"is {told}, which nobody can reach; must be the address under which others find this machine"
                self.findings.warn(f"{name}.server_ip", text)

    def _checked_message(self, message: Message) -> Message:
        if is_unset(self.flat.get("message.in_flight_per_peer")):
            return message.model_copy(
                update={"in_flight_per_peer": min(message.in_flight_per_peer, message.in_flight)}
            )
        if message.in_flight_per_peer > message.in_flight and not self.findings.has_problem("message."):
            self.findings.problem(
                "message.in_flight_per_peer",
                f"is {message.in_flight_per_peer}; must be at most message.in_flight, {message.in_flight}",
            )
        return message

    def _checked_vpn(self, keys: VpnKeys, auto_renew: AutoRenew) -> Vpn:
        vpn = Vpn.model_construct(**dict(keys), auto_renew=auto_renew)
        if vpn.min_seconds > vpn.max_seconds and not self.findings.has_problem(
            "vpn.min_seconds", "vpn.max_seconds"
        ):
            self.findings.problem(
                "vpn.min_seconds", f"is {vpn.min_seconds}; must be at most vpn.max_seconds, {vpn.max_seconds}"
            )
        if (
            auto_renew.enabled
            and not auto_renew.budget_sat
            and not self.findings.has_problem("vpn.auto_renew.")
        ):
            self.findings.problem(
                "vpn.auto_renew.budget_sat",
                "is missing; set it to the most sat that renewals may cost in 24 hours",
            )
        self._check_reached(vpn)
        if not vpn.server_pub_key or is_public_key(vpn.server_pub_key):
            return vpn
        self.findings.warn(
            "vpn.server_pub_key",
            "is no WireGuard public key, so no VPN can be sold; put the output of `wg pubkey` there",
        )
        return vpn.model_copy(update={"server_pub_key": ""})

    def _check_reached(self, vpn: Vpn) -> None:
        """Clients have addresses of versions of IP of which something can be reached."""
        versions = {network.version for network in vpn.subnet}
        if not versions & {network.version for network in vpn.allowed_ips}:
            version = min(versions)
            self.findings.warn(
                "vpn.allowed_ips",
                f"has no IPv{version} network, and vpn.subnet gives clients IPv{version} addresses only, so they reach "
                f"nothing; add {'::/0' if version == 6 else '0.0.0.0/0'}",
            )


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _drop_overridden(flat: dict[str, Any], winners: Mapping[str, Any], alternatives: list[str]) -> None:
    """One of several ways to give a value, in the environment, wins over the other ways in the file."""
    if any(not is_unset(winners.get(key)) for key in alternatives):
        for key in alternatives:
            flat.pop(key, None)
