"""Where configured values come from: a YAML file and the environment, as one flat mapping of key paths to raw values.

A key path is the way to a value in the file, such as "lightning.lnd_node.port". Scalars of the file stay the text that
stands there, so that a password 0123 or `yes` survives and file and environment are checked by the same rules.
"""

import difflib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import SafeConstructor

from impervious_site.config_values import MAX_FILE_BYTES, is_unset, read_file

ENV_PREFIX = "IMPD_"
ENV_OF_OTHERS = (
    "IMPD_CONFIG",
    "IMPD_LAUNCHED",
    "IMPD_SIMULATED",
    "IMPD_ENGINE_HERE",
    "IMPD_UNREAD",
    "IMPD_COMMAND",
    "IMPD_API_KEY",
    "IMPD_API_KEY_FILE",
)
FREE_FORM_KEY = "additional_service_data"

_NULL_TAG = "tag:yaml.org,2002:null"


class Findings:
    """Problems and warnings so far, each with the key it is about and where its value came from."""

    def __init__(self, strict_sections: Collection[str] = ()) -> None:
        self.strict_sections = strict_sections
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.keys_with_problems: list[str] = []
        self.origins: dict[str, str] = {}

    def problem(self, key: str, text: str) -> None:
        self.keys_with_problems.append(key)
        self._add(self.problems, key, text)

    def warn(self, key: str, text: str) -> None:
        self._add(self.warnings, key, text)

    def unknown(self, key: str, text: str) -> None:
        """A key that nothing reads: a warning, but a problem in the sections that are strict."""
        if "." in key:
            section = key.partition(".")[0]
        else:
            section = key.removeprefix(ENV_PREFIX).partition("__")[0].lower()
        (self.problem if section in self.strict_sections else self.warn)(key, text)

    def has_problem(self, *prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in self.keys_with_problems)

    def _add(self, messages: list[str], key: str, text: str) -> None:
        origin = self.origins.get(key)
        message = f"{key}: {text}" + (f" ({origin})" if origin else "")
        message = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message)
        if message not in messages:
            messages.append(message)


def env_name(key: str) -> str:
    return ENV_PREFIX + key.replace(".", "__").upper()


def nearest(name: str, known: Collection[str]) -> str:
    """'; did you mean …?' or, with nothing near, what to do instead."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else "remove it"


class _RefusingLoader(yaml.SafeLoader):
    """Composes nodes only; aliases are refused, because they make small files endless."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = cast("Any", self).peek_event().start_mark
            raise yaml.MarkedYAMLError(
                problem="an alias (*) is not supported; put a text that begins with * in quotes",
                problem_mark=mark,
            )
        return super().compose_node(parent, index)


def _yaml_problem(error: Exception) -> str:
    """The text of a parser's error, without what it quotes from the file, which may be part of a secret."""
    if isinstance(error, RecursionError):
        return "is nested too deeply; must be the mappings of the example"
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    if any(word in text for word in ("tag", "alias", "anchor")) and "not supported" not in text:
        text = text.split("'")[0].split('"')[0].strip()
    where = f" on line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"is not valid YAML{where}: {text}; correct that line (spaces to indent, quotes around special characters)"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class _TreeReader:
    """Turns YAML nodes into plain values, notes the line of each and finds keys that are given twice."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def value(self, node: yaml.Node, path: str) -> Any:
        self.findings.origins.setdefault(path, f"line {node.start_mark.line + 1}")
        if not node.tag.startswith("tag:yaml.org,2002:"):
            self.findings.problem(path, "has a tag (!); put a text that begins with ! in quotes")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{path}[{index}]") for index, item in enumerate(node.value)]
        return None if node.tag == _NULL_TAG else node.value

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.findings.problem(path, f"has a key on line {line} that is no word; must be a plain name")
                continue
            name = key_node.value
            key = _join(path, name)
            if name in lines:
                self.findings.problem(
                    key, f"is given twice, on lines {lines[name]} and {line}; keep one of them"
                )
                continue
            lines[name] = line
            result[name] = (
                self._free_form(value_node, key) if name == FREE_FORM_KEY else self.value(value_node, key)
            )
        return result

    def _free_form(self, node: yaml.Node, path: str) -> Any:
        """Data of a service keeps YAML's types; what it is for, only the service knows."""
        try:
            return SafeConstructor().construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            self.findings.problem(
                path,
                f"has a value that YAML cannot read, from line {node.start_mark.line + 1} on; "
                "put it in quotes",
            )
            return None


def read_yaml(path: Path, findings: Findings) -> dict[str, Any] | None:
    """The file's mapping, {} if it is empty; None if there is a problem with all of it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        findings.problem(
            str(path),
            f"cannot be read: {getattr(error, 'strerror', None) or 'no usable name'}; "
            "must be a readable file",
        )
        return None
    if len(content) > MAX_FILE_BYTES:
        findings.problem(str(path), f"is larger than {MAX_FILE_BYTES} bytes; must be a configuration file")
        return None
    tree = None
    try:
        node = _RefusingLoader(content).get_single_node()
        if node is not None:
            tree = _TreeReader(findings).value(node, "")
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:
        findings.problem(str(path), _yaml_problem(error))
        return None
    if tree is not None and not isinstance(tree, dict):
        findings.problem(
            str(path),
            f"is a {'list' if isinstance(tree, list) else 'text'} on line 1; must be a mapping "
            "with sections such as server: and lightning:",
        )
        return None
    return tree or {}


def flatten(tree: Mapping[str, Any], known: Collection[str], findings: Findings) -> dict[str, Any]:
    """The values of known keys; unknown ones are warned of, sections that are none are problems."""
    sections = {key.rsplit(".", level)[0] for key in known for level in range(1, key.count(".") + 1)}
    flat: dict[str, Any] = {}

    def walk(branch: Mapping[str, Any], path: str) -> None:
        for name, value in branch.items():
            key = _join(path, name)
            if key in known and "." not in name:
                flat[key] = value
            elif key not in sections or "." in name:
                findings.unknown(key, f"is not known and not used; {nearest(key, [*known, *sections])}")
            elif isinstance(value, dict):
                walk(value, key)
            elif not is_unset(value):
                findings.problem(
                    key,
                    f"is a {'list' if isinstance(value, list) else 'single value'}; "
                    "must be a mapping of keys, indented below it",
                )

    walk(tree, "")
    return flat


def read_environment(
    environ: Mapping[str, str],
    known: Collection[str],
    json_keys: Collection[str],
    directory: Path,
    findings: Findings,
) -> dict[str, Any]:
    """The values of known keys that IMPD_ variables give, directly or by a file named in IMPD_…_FILE.

    Names of files are relative to directory. A variable json_keys lists, or one that begins with [, is JSON.
    """
    keys = {env_name(key): key for key in known}
    flat: dict[str, Any] = {}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX) or name in ENV_OF_OTHERS:
            continue
        plain_name = name if name in keys else name.removesuffix("_FILE")
        if plain_name not in keys:
            findings.unknown(name, f"is not known and not used; {nearest(name, keys)}")
            continue
        key = keys[plain_name]
        findings.origins[key] = f"from {name}"
        if name == plain_name:
            flat[key] = environ[name]
        elif plain_name in environ:
            findings.problem(key, f"is given by {plain_name} and by {name}; set one of the two")
        elif not is_unset(environ[name]):
            flat[key] = _content(environ[name], key, directory, findings)
    return {key: _from_json(value, key, key in json_keys, findings) for key, value in flat.items()}


def _content(name: str, key: str, directory: Path, findings: Findings) -> str | None:
    try:
        return read_file(name, directory, secret=True).decode("utf-8").strip()
    except UnicodeDecodeError:
        findings.problem(key, "the file is not text; must be text in UTF-8")
    except ValueError as error:
        findings.problem(key, str(error))
    return None


def _from_json(value: Any, key: str, demanded: bool, findings: Findings) -> Any:
    if (
        not isinstance(value, str)
        or is_unset(value)
        or not (demanded or key.endswith(("hosts", "origins", "ips", "proxies")))
    ):
        return value
    if not demanded and not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        findings.problem(key, "is not valid JSON; must be a JSON list")
        return None
