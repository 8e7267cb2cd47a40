"""The kinds of values a configuration has: text as a person wrote it in, a checked value out.

Pure, but for the few kinds that are the content of a file. Each function raises ValueError with a text of the form
"what is wrong; what would be right". Values that are or may be secrets are never repeated in such a text.
"""

import ipaddress
import re
import ssl
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import PlainValidator, SecretStr, ValidationInfo
from pydantic import Secret as SecretOf

from impervious_site import log_parts

SCOPES = ("read", "send", "pay", "admin")
LOG_LEVELS = ("debug", "info", "warning", "error")
API_KEY_PATTERN = re.compile(r"[A-Za-z0-9._~-]{20,}")
MAX_FILE_BYTES = 1_000_000
# As many as a bought tunnel's file takes (vpn/wgquick.py).
MAX_IPS = 8

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.IGNORECASE
)
_PLACEHOLDER = re.compile(
    r"/path/to\b.*|<.*>|your_.*|.*(…|\.\.\.)|(server_)?(ip|port|pub_?key)", re.IGNORECASE
)
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


Item = TypeVar("Item")


class Address(NamedTuple):
    """Where a server listens: an IP address (IPv6 without brackets) and a TCP port; port 0 is any free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        ip = ipaddress.ip_address(self.host)
        return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback

    @property
    def is_any(self) -> bool:
        """True for 0.0.0.0 and ::, which take the port on every address of the machine."""
        return ipaddress.ip_address(self.host).is_unspecified


def shown(value: Any) -> str:
    """A value as it may stand in a message: short, on one line. Not for secrets."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…" + text[0]


def is_unset(value: Any) -> bool:
    """What a key without a value looks like: such a key is as good as absent."""
    return value is None or (isinstance(value, str) and not value.strip())


def is_placeholder(text: str) -> bool:
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def refuse_placeholder(text: str, right: str) -> None:
    if is_placeholder(text):
        raise ValueError(f"{shown(text)} is still the placeholder; must be {right}")


def parse_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"is {shown(value)}; must be text")
    return str(value).strip()


def parse_secret(value: Any) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError("is not text; must be text, in quotes if it has special characters")
    return SecretStr(str(value))


def parse_flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"is {shown(value)}; must be true or false")


def parse_integer(value: Any, low: int, high: int | None) -> int:
    bounds = f"from {low} to {high}" if high is not None else f"of at least {low}"
    problem = ValueError(f"is {shown(value)}; must be a whole number {bounds}")
    if isinstance(value, str):
        refuse_placeholder(value, f"a whole number {bounds}")
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise problem
    if value < low or (high is not None and value > high):
        raise problem
    return value


def parse_percent(value: Any) -> float:
    problem = ValueError(f"is {shown(value)}; must be a number from 0 to 100")
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,3}(\.[0-9]{0,9})?\s*", value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise problem
    return float(value)


def parse_ip(value: Any) -> str:
    text = parse_text(value)
    refuse_placeholder(text, "an IP address")
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError(f"{shown(text)} is no IP address; must be one such as 203.0.113.5") from None


def parse_ips(value: Any) -> tuple[str, ...]:
    ips = parse_list(value, parse_ip)
    if len(ips) > MAX_IPS:
        raise ValueError(f"has {len(ips)} addresses; must be at most {MAX_IPS}")
    return ips


def parse_host(value: Any) -> str:
    """An IP address (IPv6 without brackets in the result) or a host name, in lower case."""
    text = parse_text(value)
    refuse_placeholder(text, "an IP address or a host name")
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    # Digits and dots only is a mistyped address, which a resolver would look up for seconds.
    if not _HOST_NAME.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        raise ValueError(
            f"{shown(text)} is no host; must be an IP address or a host name, without scheme, port and path"
        )
    return text.lower()


def parse_address(value: Any) -> Address:
    if isinstance(value, Address):
        return value
    text = parse_text(value)
    right = "must be IP:port such as 127.0.0.1:8881 or [::1]:8881"
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(
            f"{shown(text)} has no port from 1 to 65535 (0: any free one) behind its IP; {right}"
        )
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise ValueError(f"{shown(text)} does not begin with an IP address; {right}") from None
    if bracketed != (ip.version == 6):
        raise ValueError(f"{shown(text)} needs brackets around an IPv6 address and none around IPv4; {right}")
    return Address(str(ip), int(port))


# An app with a scheme of its own names itself as it likes.
_APP_HOST = re.compile(r"[a-z0-9._-]+")
# A page never has such an origin, or any page can: that of a file, or of what it made itself.
_NO_ORIGINS = frozenset({"about", "blob", "data", "file", "javascript", "ws", "wss"})


def parse_origin(value: Any) -> str:
    """A web origin in the form in which browsers send it: lower case, no default port, no slash at the end."""
    text = parse_text(value)
    problem = ValueError(
        f"{shown(text)} is no web origin; must be scheme://host or scheme://host:port, as browsers send it"
    )
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError:
        raise problem from None
    scheme = url.scheme.lower()
    # Apps with a web view have schemes of their own: tauri, capacitor, ionic, app, chrome-extension.
    if not scheme or scheme in _NO_ORIGINS:
        raise problem
    if (
        not host
        or url.path not in ("", "/")
        or url.query
        or url.fragment
        or "@" in url.netloc
        or text[-1] in "?#"
    ):
        raise problem
    if scheme in _DEFAULT_PORTS or not _APP_HOST.fullmatch(host):
        try:
            host = parse_host(host)
        except ValueError:
            raise problem from None
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + (
        f":{port}" if port is not None and port != _DEFAULT_PORTS.get(scheme) else ""
    )


def parse_list(value: Any, parse_item: Callable[[Any], Item]) -> tuple[Item, ...]:
    """A YAML list, or the items in one text with commas between them."""
    if isinstance(value, str):
        value = [part for part in value.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"is {shown(value)}; must be a list")
    items: list[Item] = []
    problems: list[str] = []
    for index, item in enumerate(value):
        try:
            items.append(parse_item(item))
        except ValueError as error:
            problems.append(f"item {index}: {error}")
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(dict.fromkeys(items))


def parse_network(value: Any) -> Network:
    text = parse_text(value)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        right = f"did you mean {ipaddress.ip_network(text, strict=False)}?"
    except ValueError:
        right = "must be one such as 10.0.0.0/24"
    raise ValueError(f"{shown(text)} is no network; {right}")


def parse_proxy(value: Any) -> Network:
    """The IP address of a proxy, or the network that proxies are in."""
    try:
        network = parse_network(value)
    except ValueError as error:
        raise ValueError(
            str(error).replace("is no network", "is neither an IP address nor a network")
        ) from None
    if network.prefixlen == 0:
        raise ValueError(
            f"{network} is every address there is; must be the address or the network of your proxies"
        )
    return network


def parse_subnet(value: Any) -> Network:
    network = parse_network(value)
    if network.num_addresses < 4:
        raise ValueError(f"{network} has no room for a client; must be a network such as 10.0.0.0/24")
    return network


def parse_subnets(value: Any) -> tuple[Network, ...]:
    """One IPv4 network, one IPv6 network, or both with a comma between; IPv4 first in the result."""
    networks = parse_list(value, parse_subnet)
    versions = [network.version for network in networks]
    if not networks or len(set(versions)) != len(versions):
        what = f"has {len(networks)} networks, of which two are of one kind" if networks else "is empty"
        raise ValueError(
            f"{what}; must be one such as 10.0.0.0/24, or one of IPv4 and one of IPv6: "
            "10.0.0.0/24, fd00:1::/64"
        )
    return tuple(sorted(networks, key=lambda network: network.version))


def parse_port_range(value: Any) -> tuple[int, int]:
    """The lowest and the highest of at least two ports, from "6000-6100" or a list of the two."""
    problem = ValueError(
        f"is {shown(value)}; must be two ports from 1 to 65535 such as 6000-6100, the lower one first"
    )
    if isinstance(value, str):
        found = re.fullmatch(r"\s*([0-9]{1,5})\s*[-,]\s*([0-9]{1,5})\s*", value)
        value = found.groups() if found else ()
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise problem
    try:
        low, high = (parse_integer(port, 1, 65535) for port in value)
    except ValueError:
        raise problem from None
    if low >= high:
        raise problem
    return low, high


def parse_program(value: Any) -> str:
    text = parse_text(value)
    refuse_placeholder(text, "the path of the wg command")
    return text


def parse_username(value: Any) -> str:
    text = parse_text(value)
    if not re.fullmatch(r"[\w.@+-]{1,150}", text):
        raise ValueError(f"is {shown(text)}; must be 1 to 150 letters, digits and @ . + - _")
    return text


def parse_pub_key(value: Any) -> str:
    text = parse_text(value)
    right = "the node's public key, 66 hexadecimal digits that begin with 02 or 03, or leave it empty"
    refuse_placeholder(text, right)
    if not re.fullmatch(r"0[23][0-9a-fA-F]{64}", text):
        raise ValueError(f"is {shown(text)}; must be {right}")
    return text.lower()


def parse_redis_url(value: Any) -> SecretStr:
    right = "must be redis://host:port/number or rediss://…"
    text = parse_secret(value).get_secret_value().strip()
    try:
        url = urlsplit(text)
        valid = url.scheme in ("redis", "rediss") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"is no address of a Redis server; {right}")
    return SecretStr(text)


def parse_message_encoding(value: Any) -> str:
    text = parse_text(value)
    if text not in ("base64", "text"):
        raise ValueError(f"is {shown(text)}; must be base64 or text")
    return text


def parse_imp_id(value: Any) -> str:
    text = parse_text(value)
    if len(text) > 128 or not text.isprintable():
        raise ValueError(f"is {shown(text)}; must be at most 128 characters, without control characters")
    return text


def parse_federate_accept(value: Any) -> str:
    text = parse_text(value)
    if text not in ("auto", "known", "manual"):
        raise ValueError(f"is {shown(text)}; must be auto, known or manual")
    return text


def parse_scopes(value: Any) -> frozenset[str]:
    words = parse_list(value, parse_text)
    unknown = [word for word in words if word not in SCOPES]
    if unknown or not words:
        what = f"{shown(unknown[0])} is no scope" if unknown else "is empty"
        raise ValueError(f"{what}; must be a list out of {', '.join(SCOPES)}")
    return frozenset(words)


def parse_key_name(value: Any) -> str:
    name = parse_text(value)
    if not 1 <= len(name) <= 64 or not name.isprintable():
        raise ValueError(f"is {shown(name)}; must be 1 to 64 printable characters")
    return name


def parse_log_level(value: Any) -> str:
    text = parse_text(value).lower()
    if text not in LOG_LEVELS:
        raise ValueError(f"is {shown(text)}; must be one of {', '.join(LOG_LEVELS)}")
    return text


def parse_log_parts(value: Any) -> tuple[tuple[str, str], ...]:
    """Parts of the node, as they stand in the log, each with its level: a mapping, or part=level with commas between."""
    if isinstance(value, str):
        value = dict((pair.partition("=")[::2]) for pair in value.split(",") if pair.strip())
    if not isinstance(value, dict):
        raise ValueError(f"is {shown(value)}; must be a mapping such as {{messaging.outbox: debug}}")
    return tuple((_log_part(str(name).strip()), _level_of(name, level)) for name, level in value.items())


def _log_part(name: str) -> str:
    if not log_parts.is_known(name):
        raise ValueError(
            f"{shown(name)} is no part of the node; must be one as in the log, such as messaging.outbox, or one of "
            f"{', '.join(log_parts.GROUPS)}"
        )
    return name


def _level_of(name: str, level: Any) -> str:
    try:
        return parse_log_level(level)
    except ValueError as error:
        raise ValueError(f"{shown(name)} {error}") from None


def parse_api_key(value: Any) -> SecretStr:
    text = parse_secret(value).get_secret_value().strip()
    if not API_KEY_PATTERN.fullmatch(text):
        raise ValueError("the key is not of the right form; must be 20 or more of A-Z a-z 0-9 . _ ~ -")
    return SecretStr(text)


def _directory(info: ValidationInfo) -> Path:
    """Of the configuration: relative names are taken from it."""
    return cast("Path", info.context)


def parse_database_url(value: Any, info: ValidationInfo) -> Path | SecretOf[dict[str, str]]:
    """The path of an SQLite file, or libpq's parameters for a PostgreSQL database, the password among them."""
    text = parse_secret(value).get_secret_value().strip()
    if re.match(r"postgres(ql)?(\+\w+)?:", text):
        return SecretOf(_postgres_url().parse(text))
    return parse_sqlite_path(text, _directory(info))


def _postgres_url() -> ModuleType:
    # By its name, because it imports psycopg, which a node on SQLite does without.
    try:
        return import_module("impervious_site.postgres_url")
    except ImportError as error:
        if not (error.name or "").startswith("psycopg"):
            raise
        raise ValueError(
            "names a PostgreSQL database, whose driver is not installed here; run ./impervious install postgresql "
            "(or pip install --require-hashes -r requirements-postgresql.txt)"
        ) from None


def parse_sqlite_path(text: str, directory: Path) -> Path:
    """sqlite:///name is relative to directory, sqlite:////name is absolute."""
    right = "must be sqlite:///file.sqlite3, sqlite:////directory/file.sqlite3 or postgresql://user:password@host/name"
    name = text.removeprefix("sqlite:///")
    if name == text or name in ("", "/") or "?" in name or "\0" in name or name == ":memory:":
        raise ValueError(f"is no address of an SQLite file; {right}")
    refuse_placeholder(name, "the path of the database file")
    try:
        path = directory / Path(name).expanduser()
        has_parent, is_directory = path.parent.is_dir(), path.is_dir()
    except (OSError, RuntimeError, ValueError):
        raise ValueError(f"{shown(name)} is no usable file name; {right}") from None
    if not has_parent:
        raise ValueError(f"there is no directory {path.parent}; make it or name another")
    if is_directory:
        raise ValueError(f"{path} is a directory; {right}")
    return path


def read_file(value: Any, directory: Path, *, secret: bool = False) -> bytes:
    """The content of the file named by value, relative names taken from directory.

    With secret, a name that does not look like a path is not repeated: it may be the secret itself.
    """
    text = parse_text(value) if not secret else parse_secret(value).get_secret_value().strip()
    nameable = not secret or text[:1] in ("/", ".", "~")
    refuse_placeholder(text if nameable else "", "the path of the file")
    path = directory / Path(text)
    name: Path | str
    try:
        path = directory / Path(text).expanduser()
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        name, reason = path, error.strerror or type(error).__name__
    except (ValueError, RuntimeError):
        name, reason = shown(text), "no usable file name"
    else:
        if len(content) <= MAX_FILE_BYTES:
            return content
        name, reason = path, f"it is larger than {MAX_FILE_BYTES} bytes"
    raise ValueError(
        f"cannot read {name if nameable else 'the file'}: {reason}; must be the path of a readable file"
    )


def parse_file_path(value: Any, info: ValidationInfo) -> Path:
    """Of a file that somebody else reads; relative to the configuration's directory."""
    text = parse_text(value)
    refuse_placeholder(text, "the path of a file in PEM form")
    try:
        return _directory(info) / Path(text).expanduser()
    except (ValueError, RuntimeError):
        raise ValueError(
            f"{shown(text)} is no usable file name; must be the path of a file in PEM form"
        ) from None


def checked_pem(content: bytes) -> bytes:
    right = "must be a certificate in PEM form, as in lnd's tls.cert"
    try:
        text = content.decode("ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (UnicodeDecodeError, ssl.SSLError, ValueError):
        raise ValueError(f"holds no certificate; {right}") from None
    return content


def parse_hex(value: Any) -> bytes:
    text = parse_secret(value).get_secret_value().strip()
    try:
        content = bytes.fromhex(text)
    except ValueError:
        content = b""
    if not content:
        raise ValueError("is no hexadecimal text; must be the content of the file in hexadecimal digits")
    return content


def read_certificate(value: Any, info: ValidationInfo) -> bytes:
    content = read_file(value, _directory(info))
    try:
        return checked_pem(content)
    except ValueError as error:
        raise ValueError(f"{_directory(info) / Path(parse_text(value)).expanduser()} {error}") from None


def read_macaroon(value: Any, info: ValidationInfo) -> SecretStr:
    """The macaroon in the file, in hexadecimal digits."""
    text = parse_secret(value).get_secret_value().strip()
    if re.fullmatch(r"[0-9a-fA-F]{64,}", text):
        raise ValueError("is the macaroon itself; must be the path of its file, or use admin_macaroon_hex")
    content = read_file(text, _directory(info))
    if not content:
        raise ValueError(f"{_directory(info) / text} is empty; must be the path of lnd's admin.macaroon")
    return SecretStr(content.hex())


def read_api_key(value: Any, info: ValidationInfo) -> SecretStr:
    content = read_file(value, _directory(info), secret=True)
    return parse_api_key(content.decode("ascii", errors="replace"))


def whole(low: int, high: int | None = None) -> PlainValidator:
    """Annotates an int: a whole number from low to high. The reference of the keys reads the bounds out of it."""
    return PlainValidator(partial(parse_integer, low=low, high=high))


Text = Annotated[str, PlainValidator(parse_text)]
Secret = Annotated[SecretStr, PlainValidator(parse_secret)]
Flag = Annotated[bool, PlainValidator(parse_flag)]
Percent = Annotated[float, PlainValidator(parse_percent)]
Port = Annotated[int, whole(1, 65535)]
PortRange = Annotated[tuple[int, int], PlainValidator(parse_port_range)]
Ip = Annotated[str, PlainValidator(parse_ip)]
Ips = Annotated[tuple[str, ...], PlainValidator(parse_ips)]
Host = Annotated[str, PlainValidator(parse_host)]
AddressValue = Annotated[Address, PlainValidator(parse_address)]
Hosts = Annotated[tuple[str, ...], PlainValidator(lambda value: parse_list(value, parse_host))]
Origins = Annotated[tuple[str, ...], PlainValidator(lambda value: parse_list(value, parse_origin))]
Subnets = Annotated[tuple[Network, ...], PlainValidator(parse_subnets)]
Networks = Annotated[tuple[Network, ...], PlainValidator(lambda value: parse_list(value, parse_network))]
Proxies = Annotated[tuple[Network, ...], PlainValidator(lambda value: parse_list(value, parse_proxy))]
FilePath = Annotated[Path, PlainValidator(parse_file_path)]
Program = Annotated[str, PlainValidator(parse_program)]
Username = Annotated[str, PlainValidator(parse_username)]
PubKey = Annotated[str, PlainValidator(parse_pub_key)]
RedisUrl = Annotated[SecretStr, PlainValidator(parse_redis_url)]
MessageEncoding = Annotated[str, PlainValidator(parse_message_encoding)]
ImpId = Annotated[str, PlainValidator(parse_imp_id)]
FederateAccept = Annotated[str, PlainValidator(parse_federate_accept)]
LogLevel = Annotated[str, PlainValidator(parse_log_level)]
LogParts = Annotated[tuple[tuple[str, str], ...], PlainValidator(parse_log_parts)]
Scopes = Annotated[frozenset[str], PlainValidator(parse_scopes)]
DatabaseUrl = Annotated[Path | SecretOf[dict[str, str]], PlainValidator(parse_database_url)]
CertificateFile = Annotated[bytes, PlainValidator(read_certificate)]
CertificateHex = Annotated[bytes, PlainValidator(lambda value: checked_pem(parse_hex(value)))]
MacaroonFile = Annotated[SecretStr, PlainValidator(read_macaroon)]
MacaroonHex = Annotated[SecretStr, PlainValidator(lambda value: SecretStr(parse_hex(value).hex()))]
KeyName = Annotated[str, PlainValidator(parse_key_name)]
ApiKeyFile = Annotated[SecretStr, PlainValidator(read_api_key)]
