"""docs/configuration.md: every key of the configuration, from the types that read it (impervious_site/config_models.py)
and the comments of config/example.config.yml, which say what each key means.
"""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import PlainValidator
from pydantic.fields import FieldInfo

from impervious_site import config_models as models
from impervious_site import config_values as values
from impervious_site.config_sources import env_name

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "config" / "example.config.yml"
PAGE = "configuration.md"

# What is written for a value of these types (config_values.py); of any other, the words of the type's name.
WORDS = {
    "Flag": "`true` or `false`",
    "Text": "text",
    "Secret": "text; a secret",
    "Percent": "number, 0 to 100",
    "PortRange": "two ports such as 6000-6100",
    "Ip": "IP address",
    "Ips": "list of IP addresses",
    "Proxies": "list of IP addresses and networks",
    "FilePath": "path of a file",
    "KeyName": "text of at most 64 characters",
    "LogLevel": "`debug`, `info`, `warning` or `error`",
    "LogParts": "mapping of parts to levels",
    "Host": "IP address or host name",
    "AddressValue": "IP:port",
    "Hosts": "list of host names",
    "Origins": "list of web origins",
    "Subnets": "network, or one of IPv4 and one of IPv6",
    "Networks": "list of networks",
    "Program": "path of a program",
    "PubKey": "66 hexadecimal digits",
    "RedisUrl": "`redis://…` or `rediss://…`; a secret",
    "MessageEncoding": "`base64` or `text`",
    "ImpId": "text of at most 128 characters",
    "FederateAccept": "`auto`, `known` or `manual`",
    "Scopes": f"list out of {', '.join(f'`{scope}`' for scope in values.SCOPES)}",
    "DatabaseUrl": "`sqlite:///…` or `postgresql://…`; a secret",
    "CertificateFile": "path of a file",
    "CertificateHex": "hexadecimal digits",
    "MacaroonFile": "path of a file",
    "MacaroonHex": "hexadecimal digits; a secret",
    "ApiKeyFile": "path of a file",
    "_parse_service_type": ", ".join(f"`{name}`" for name in models.DEFAULT_RECORDS),
    "_parse_record_number": f"whole number, 65536 to {2**64 - 1}",
    "_parse_service_data": "mapping",
}
# A bound that nobody reaches is not told.
BEYOND_USE = 10**15
LISTS = {"server.api_keys": models.ApiKeyEntry, "service_list": models.ServiceConfig}
ONLY_ENVIRONMENT = {
    "IMPD_CONFIG": "the configuration file, for every process that is not given `--config`",
    "IMPD_SERVER__API_KEY": "one API key with all scopes: 20 or more of A-Z a-z 0-9 . _ ~ - (or `…_FILE`)",
}

# Where the example's comment is none, or leans on its neighbours.
MEANINGS = {
    "server.tls_cert": "the certificate of gRPC, HTTP and websocket, in PEM form; taken up anew when the file changes",
    "server.tls_key": "its key, in PEM form; both are given, or none",
    "server.trusted_proxies": "reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed",
    "server.max_connections": "the most HTTP and websocket connections at once, in each process",
    "server.max_connections_per_address": "of these, the most from one address; none: 256, and no limit for loopback "
    "and trusted proxies",
    "server.max_grpc_connections": "the most gRPC connections at once",
    "inbound.default.min_amount_sat": "a message that pays less is refused; its sats are kept; 0: no limit",
    "inbound.default.only_known": "true: only peers that were written to, or marked as known in the admin",
    "inbound.default.peer_messages_per_hour": "the most messages of one peer in an hour; 0: no limit",
    "inbound.default.peer_bytes_per_hour": "the most bytes of one peer in an hour; 0: no limit",
    "inbound.default.all_messages_per_hour": "the most messages of all peers in an hour; 0: no limit",
    "inbound.strangers.bytes_per_hour": "the most bytes in an hour of all that are not known peers, together; 0: no limit",
    "inbound.default.all_bytes_per_hour": "the most bytes of all peers in an hour; 0: no limit",
}

_LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+):(?P<value>[^#]*)(?:# (?P<comment>.*))?$")


@dataclass(frozen=True)
class Key:
    """`path` as in messages about it; `meaning` is empty where the example has no comment."""

    path: str
    type: str
    default: str
    environment: str
    meaning: str


def meanings(example: str) -> dict[str, str]:
    """The comment behind each key of the example by key path; list entries have the path of their list. A key that is
    commented out counts; of one that stands there several times, the first comment. MEANINGS come before all.
    """
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in example.splitlines():
        plain = re.sub(r"^( *)# (?=[ -]*\w+:( |$))", r"\1", line)
        key = _LINE.match(re.sub(r"^( *)- ", r"\1  ", plain))
        if not key:
            continue
        indent = len(key["indent"])
        above = [(depth, name) for depth, name in above if depth < indent] + [(indent, key["name"])]
        path = ".".join(name for _, name in above)
        found[path] = found.get(path) or (key["comment"] or "").strip()
    return found | MEANINGS


def _validator(kind: Any) -> Any:
    """The function that reads a value of this field or type; optional types have it one level down."""
    for part in (kind, *get_args(getattr(kind, "annotation", kind))):
        for entry in getattr(part, "metadata", None) or getattr(part, "__metadata__", None) or ():
            if isinstance(entry, PlainValidator):
                return entry.func
    return None


_TYPE_NAMES = {_validator(kind): name for name, kind in vars(values).items() if _validator(kind)}


def _type(field: FieldInfo) -> str:
    reader = _validator(field)
    if isinstance(reader, partial):
        low, high = reader.keywords["low"], reader.keywords["high"]
        bounded = high is not None and high < BEYOND_USE
        return f"whole number, {low} to {high}" if bounded else f"whole number, at least {low}"
    name = _TYPE_NAMES.get(reader) or getattr(reader, "__name__", "list")
    return WORDS.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _default(field: FieldInfo, *, in_list: bool) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", (), {}):
        return "" if in_list else "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if type(value) is tuple:
        return f"`{', '.join(map(str, value))}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _keys(
    prefix: str, section: type[models.Section], meaning: dict[str, str], *, in_list: bool = False
) -> list[Key]:
    return [
        Key(
            path=f"{prefix}.{name}",
            type=_type(field),
            default=_default(field, in_list=in_list),
            environment="" if in_list else env_name(f"{prefix}.{name}"),
            meaning=meaning.get(f"{prefix}.{name}", ""),
        )
        for name, field in section.model_fields.items()
    ]


def alike() -> dict[str, list[str]]:
    """Sections with the same keys as an earlier one, by that one."""
    first: dict[type[models.Section], str] = {}
    found: dict[str, list[str]] = {}
    for name, section in models.SECTIONS.items():
        found.setdefault(first.setdefault(section, name), []).append(name)
    return {name: names[1:] for name, names in found.items()}


def sections(example: str) -> dict[str, list[Key]]:
    """Every key of the configuration under the key of its mapping or list, in the example's order where it has one. Of
    sections that are alike the first.
    """
    meaning = meanings(example)
    found = {name: _keys(name, models.SECTIONS[name], meaning) for name in alike()}
    found |= {name: _keys(name, entry, meaning, in_list=True) for name, entry in LISTS.items()}
    order = {name: place for place, name in enumerate(meaning)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))


def without_meaning() -> list[str]:
    """The paths of keys that the example does not explain."""
    return [key.path for keys in sections(EXAMPLE.read_text()).values() for key in keys if not key.meaning]


INTRODUCTION = """\
# Configuration

<!-- Written by `./impervious docs`, from impervious_site/config_models.py and config/example.config.yml. -->

Every key of `config.yml`. [The example](../config/example.config.yml) has them all, with comments; a file needs only
`lightning.lnd_node` and, for each service that is to run, an entry of `service_list`.

The file is the one that `--config PATH` names; without it `config/local.config.yml`, then `config/config.yml`. Its
name ends in `.yml`. Names of files in it are relative to its own directory. All that is wrong with it is told at once,
each problem with its key; keys that are not known are warned of.

Every key can be given by an environment variable, which wins over the file. With `_FILE` behind its name the variable
names a file that holds the value: `IMPD_REDIS__URL_FILE=/run/secrets/redis`. Lists of mappings are given as JSON.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _section(name: str, keys: list[Key], meaning: str) -> list[str]:
    lines = ["", f"## {name}", ""]
    if meaning:
        lines += [meaning[0].upper() + meaning[1:] + ".", ""]
    if name in LISTS:
        lines += [f"A list; each entry is a mapping of these keys. As JSON: `{env_name(name)}`.", ""]
    if others := alike().get(name):
        lines += [f"The same keys stand in {', '.join(f'`{other}`' for other in others)}.", ""]
    lines += ["| key | meaning | value | default |", "| --- | --- | --- | --- |"]
    for key in keys:
        named = f"`{key.path.removeprefix(name + '.')}`"
        named += f"<br>`{key.environment}`" if key.environment else ""
        lines.append("| " + " | ".join(map(_cell, (named, key.meaning, key.type, key.default))) + " |")
    return lines


def page() -> str:
    """The whole page, as Markdown."""
    example = EXAMPLE.read_text()
    meaning = meanings(example)
    lines = [INTRODUCTION.rstrip()]
    for name, keys in sections(example).items():
        lines += _section(name, [key for key in keys if key.path not in LISTS], meaning.get(name, ""))
    lines += ["", "## By the environment alone", "", "| variable | meaning |", "| --- | --- |"]
    lines += [f"| `{variable}` | {text} |" for variable, text in ONLY_ENVIRONMENT.items()]
    return "\n".join(lines) + "\n"
