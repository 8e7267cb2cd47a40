"""What is there for running the node elsewhere, as far as it can be checked without an engine: names, keys, ports."""

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from django.core.management import load_command_class

from impervious_site.config import _FILE_KEYS, load_config
from impervious_site.config_sources import env_name
from impervious_site.version import VERSION
from nodeapi.entry import LAST_SECONDS
from nodeapi.runtime import DRAIN_SECONDS
from tests.support.code import ROOMS
from tests.support.nodes import ROOT, free_port

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "impervious"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CADDYFILE = (ROOT / "deploy/compose/Caddyfile").read_text()
UNITS = ROOT / "deploy/systemd"


def commands() -> set[str]:
    return {path.stem for path in ROOT.glob("*/management/commands/[a-z]*.py")}


def variables() -> set[str]:
    known = {env_name(key) for key in _FILE_KEYS | {"server.api_key"}}
    return known | {f"{name}_FILE" for name in known} | {"IMPD_CONFIG"}


@pytest.mark.parametrize("name", OURS)
def test_services_call_what_exists_with_keys_that_exist(name):
    service = OURS[name]
    assert service.get("environment", {}).keys() <= variables()
    command = service.get("command")
    if command:
        assert command[0] in commands()
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    test = service.get("healthcheck", {}).get("test", [])
    assert not any(
        part.startswith("/app/deploy") and not (ROOT / part.removeprefix("/app/")).exists() for part in test
    )


def test_what_services_use_is_declared():
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        names = {volume.partition(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in names if not name.startswith(".")} <= COMPOSE["volumes"].keys()
        paths = {name for name in names if name.startswith("./") and not name.endswith("config/config.yml")}
        assert all((ROOT / path).exists() for path in paths)
        for other in service.get("depends_on", {}):
            assert other in SERVICES


def test_ports_and_addresses_agree():
    node, daphnes = OURS["node"], [OURS["daphne1"], OURS["daphne2"]]
    address = node["networks"]["inside"]["ipv4_address"]
    assert node["environment"]["IMPD_SERVER__GRPC_ADDR"] == "0.0.0.0:8881"
    for daphne in daphnes:
        assert daphne["environment"]["IMPD_SERVER__GRPC_ADDR"] == f"{address}:8881"
        assert "--port=8882" in daphne["entrypoint"]
    assert "reverse_proxy daphne1:8882 daphne2:8882" in CADDYFILE
    # Each daphne has metrics of its own, so that Prometheus has to be let in by the daphnes' names, and not by the proxy.
    assert "respond /metrics 404" in CADDYFILE
    for daphne in daphnes:
        assert {"daphne1", "daphne2"} <= set(
            yaml.safe_load(daphne["environment"]["IMPD_SERVER__ALLOWED_HOSTS"])
        )
    assert re.search(r"^EXPOSE 8881 8882$", DOCKERFILE, re.MULTILINE)
    trying = {
        name: OURS[name]["environment"]["IMPD_SERVER__HTTP_ADDR"].split(":")[1] for name in ("alice", "bob")
    }
    published = {port.split(":")[-1] for port in OURS["simulated"]["ports"]}
    assert set(trying.values()) <= published
    assert len(set(trying.values())) == 2


def test_the_image_has_all_rooms_and_nothing_else_is_sent_to_the_build():
    copied = set(re.findall(r"^COPY (?!--)(\S+)", DOCKERFILE, re.MULTILINE))
    assert set(ROOMS) <= copied
    assert all((ROOT / name).exists() for name in copied)
    allowed = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    assert allowed == copied
    assert "USER impervious" in DOCKERFILE
    assert "--require-hashes" in DOCKERFILE


@pytest.fixture
def secrets(tmp_path) -> Path:
    """As deploy/compose/secrets.sh makes them, with an lnd's beside them."""
    shutil.copy(ROOT / "deploy/compose/secrets.sh", tmp_path)
    for _ in range(2):
        subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True)
    (tmp_path / "secrets/lnd_macaroon").write_bytes(bytes.fromhex("0201036c6e64") + b"\x07" * 40)
    (tmp_path / "secrets/lnd_tls_cert").write_text("")
    return tmp_path / "secrets"


@pytest.mark.parametrize("name", ["node", "daphne1"])
def test_the_configuration_of_compose_is_whole(name, secrets, tmp_path):
    """With the example's file, whose places of lnd are replaced."""
    example = (ROOT / "config/example.config.yml").read_text()
    (tmp_path / "config.yml").write_text(example)
    environ = {
        key: str(value)
        .replace("/run/secrets", str(secrets))
        .replace("${NODE_HOST:-localhost}", "node.example.com")
        for key, value in OURS[name]["environment"].items()
        if not key.endswith("TLS_CERT")
    }
    environ["IMPD_LIGHTNING__LND_NODE__TLS_CERT"] = ""
    example_without = re.sub(r"(?m)^    tls_cert: .*$", "    tls_cert:", example)
    (tmp_path / "config.yml").write_text(example_without)
    config = load_config(tmp_path / "config.yml", environ)
    assert config.database.postgres.get_secret_value()["host"] == "database"
    assert config.server.allowed_hosts == ("node.example.com", "daphne1", "daphne2")
    assert not config.warnings
    assert len(config.server.api_keys[0].key.get_secret_value()) == 48


def unit(name: str) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read(UNITS / name)
    return parser


def test_units_call_what_exists():
    node, daphne = unit("impervious.service")["Service"], unit("impervious-daphne@.service")["Service"]
    assert "manage.py runimpd --config" in node["ExecStart"]
    assert "runimpd" in commands()
    path = node["ExecStart"].split()[-1]
    assert f"IMPD_CONFIG={path}" in daphne["Environment"].split()
    assert "impervious_site.asgi:application" in daphne["ExecStart"]
    assert (ROOT / "impervious_site/asgi.py").exists()
    without = (UNITS / "without-http.conf").read_text()
    assert "runimpd --no-http --config " + path in without
    for service in (node, daphne):
        assert service["ProtectSystem"] == "strict"
        assert service["NoNewPrivileges"] == "yes"


def test_backup_unit_calls_what_exists():
    words = unit("impervious-backup.service")["Service"]["ExecStart"].split()
    assert words[1].endswith("/manage.py")
    command = load_command_class("nodeapi", words[2])
    asked = command.create_parser("manage.py", words[2]).parse_args(words[3 : words.index("--config")])
    assert (asked.keep, asked.without_vpn_key) == (14, True)
    assert asked.directory.is_relative_to("/var/lib/impervious")
    assert unit("impervious-backup.timer")["Timer"]["Persistent"] == "true"


def commands_in_containers() -> list[list[str]]:
    """What docs/deploying.md lets the containers' manage.py do, up to where the shell goes on."""
    page = (ROOT / "docs/deploying.md").read_text()
    ends = r"([^\n`<>|)]+)"
    called = re.findall(r"docker compose exec -T node /app/\.venv/bin/python /app/manage\.py " + ends, page)
    called += re.findall(r"docker compose run [-a-zA-Z ]+ node " + ends, page)
    return [words.split() for words in called]


def test_backup_and_restore_in_containers_call_what_exists():
    called = commands_in_containers()
    assert {tuple(words[:2]) for words in called} == {
        ("backup", "-"),
        ("backup", "--directory"),
        ("restore", "-"),
        ("restore", "--check"),
    }
    for name, *arguments in called:
        asked = load_command_class("nodeapi", name).create_parser("manage.py", name).parse_args(arguments)
        # What lasts; /tmp is in memory.
        assert not getattr(asked, "directory", None) or asked.directory.is_relative_to("/data")
    assert "data:/data" in OURS["node"]["volumes"]
    # Its image, and not only the engine's, has pg_dump.
    assert "postgresql-client" in OURS["node"]["build"]["args"]["PACKAGES"]


@pytest.mark.parametrize("name", ["node", "daphne1", "daphne2"])
def test_no_health_check_waits_for_lnd(name):
    """A wallet may be locked for long after a restart of the machine."""
    checked = OURS[name]["healthcheck"]["test"][-1]
    assert checked.endswith(("/health/live", "/websocket.Websocket"))


def test_each_container_has_limits():
    for name, service in SERVICES.items():
        assert {"mem_limit", "pids_limit"} <= service.keys(), name


# Each of these means NoNewPrivileges=yes to systemd 252 where User= is set, whatever is said of that (systemd.exec(5)).
IMPLY_NO_NEW_PRIVILEGES = {
    "DynamicUser",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallLog",
}


def test_a_node_that_sells_vpn_can_call_sudo():
    """systemd says nothing where one of these stands against NoNewPrivileges=no."""
    settings = dict(unit("impervious.service")["Service"]) | dict(unit("selling-vpn.conf")["Service"])
    assert settings["NoNewPrivileges"] == "no"
    assert {name for name in IMPLY_NO_NEW_PRIVILEGES if settings.get(name, "no") not in ("", "no")} == set()


@pytest.mark.parametrize("name", ["impervious.service", "impervious-daphne@.service"])
def test_units_are_watched_and_reload(name):
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(UNITS / name)
    service = unit["Service"]
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    # However often it has failed.
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["WatchdogSec"]) > 0
    assert service["ExecReload"].split()[1:] == ["-HUP", "$MAINPID"]
    # Longer than a stop takes.
    assert int(service["TimeoutStopSec"]) > DRAIN_SECONDS + LAST_SECONDS


ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not here")
@pytest.mark.parametrize(
    "name", ["impervious.service", "impervious-daphne@.service", "impervious-backup.service"]
)
def test_units_pass_systemds_own_check(name, tmp_path):
    unit_file = runnable_copy(UNITS / name, tmp_path)
    assert not complaints(unit_file)
    rated = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--threshold=20", str(unit_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" not in rated.stderr:
        assert rated.returncode == 0, rated.stdout[-300:]


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not here")
def test_timer_passes_systemds_own_check(tmp_path):
    runnable_copy(UNITS / "impervious-backup.service", tmp_path)
    assert not complaints(runnable_copy(UNITS / "impervious-backup.timer", tmp_path))


@pytest.mark.skipif(not ANALYZE, reason="systemd-analyze is not here")
def test_what_is_put_beside_the_unit_passes_too(tmp_path):
    unit_file = runnable_copy(UNITS / "impervious.service", tmp_path)
    (tmp_path / "impervious.service.d").mkdir()
    for path in UNITS.glob("*.conf"):
        runnable_copy(path, tmp_path / "impervious.service.d")
    assert not complaints(unit_file)


def runnable_copy(path: Path, directory: Path) -> Path:
    """It calls a program which is there."""
    copy = directory / path.name
    copy.write_text(path.read_text().replace("/opt/impervious/.venv/bin/python", "/bin/true"))
    return copy


def complaints(unit_file: Path) -> list[str]:
    found = subprocess.run(
        [ANALYZE, "verify", "--man=no", str(unit_file)], capture_output=True, text=True, check=False
    )
    return [line for line in (found.stdout + found.stderr).splitlines() if "impervious" in line]


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_the_health_check_asks_the_node_and_no_proxy(door, alice):
    """A container engine may give each container a proxy for the way out."""
    nobody = f"http://127.0.0.1:{free_port()}"
    environ = (
        os.environ | dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nobody) | {"no_proxy": ""}
    )
    alice.wait_until(lambda: alice.get("/health/ready").status == 200)
    url = f"http://{alice.http}/health/ready" if door == "http" else f"grpc://{alice.grpc}"

    def asked(url: str, **more) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "deploy/healthcheck.py", url]
        return subprocess.run(command, capture_output=True, text=True, check=False, **more)

    if door == "grpc":
        url += "/websocket.Websocket"
        unknown = asked(url.replace("Websocket", "Nothing"), env=environ)
        assert unknown.returncode == 1
    # An engine asks again too, where a node has stood still for longer than the check waits.
    alice.wait_until(lambda: asked(url, env=environ).returncode == 0)
    away = f"{door}://{nobody.removeprefix('http://')}"
    ill = asked(away)
    assert ill.returncode == 1
    assert away in ill.stderr


def test_the_version_is_told():
    for command in (["sh", "impervious", "--version"], [sys.executable, "manage.py", "--version"]):
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert told == f"impervious {VERSION}\n"
