"""The quick starts, done as they stand there in a copy of the project: on simulated nodes, on a hosted lnd (a simulated
one, whose certificate the machine trusts), on a real lnd.
"""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import real_lnd
from tests.support.code import copy_of_the_code
from tests.support.doc_examples import Page
from tests.support.loops import LoopThread
from tests.support.nodes import ROOT
from tests.support.ports import free_port

PORTS = (8881, 8882, 9991, 9992, 10001, 10002, 10003)
GUARD_SECONDS = 600


def wait_until(condition: Callable[[], object], *, output: Path) -> None:
    for _ in range(GUARD_SECONDS * 10):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"in vain; the last output:\n{output.read_text()[-3000:]}")


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project with this environment's packages, which it takes for those of requirements.txt."""
    root = copy_of_the_code(tmp_path / "project")
    for name in ("impervious", "requirements.txt"):
        shutil.copy(ROOT / name, root / name)
    environment = root / ".venv"
    environment.mkdir()
    for path in Path(sys.prefix).iterdir():
        if not path.name.startswith(".installed-"):
            (environment / path.name).symlink_to(path)
    shutil.copy(ROOT / "requirements.txt", environment / ".installed-requirements.txt")
    return root


@pytest.fixture(scope="module")
def machine() -> Iterator[list[str]]:
    """The words before a command that run it in a network of its own: no internet, and the page's ports are free."""
    as_root = [] if os.geteuid() == 0 else ["-r"]
    holder = subprocess.Popen(
        ["unshare", *as_root, "-n", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"],
        env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if holder.stdout.readline() == "ready\n":
            user = ["-U", "--preserve-credentials"] if as_root else []
            yield ["nsenter", "-t", str(holder.pid), *user, "-n"]
        elif any(taken(port) for port in PORTS):
            pytest.skip("no network namespaces here, and the ports of the page are taken: not run")
        else:
            yield []
    finally:
        holder.kill()
        holder.wait()


def taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def events(output: Path) -> list[dict]:
    """Those whose lines are whole by now."""
    lines = output.read_text().splitlines(keepends=True)
    return [json.loads(line)["result"] for line in lines if line.startswith("{") and line.endswith("}\n")]


def send_until_seen(page: Page, words: str, output: Path, is_seen: Callable[[dict, set[str]], bool]) -> dict:
    """Sends, again if curl began to listen too late, until the stream shows what is waited for, of any that was sent."""
    sent: set[str] = set()
    for _ in range(60):
        sent.add(json.loads(page.run(words))["id"])
        for _ in range(100):
            for event in events(output):
                if is_seen(event, sent):
                    return event
            time.sleep(0.1)
    raise AssertionError(f"in vain: {output.read_text()[-3000:]}")


def test_simulated(project, machine, tmp_path):
    page = Page("quick-start.md", inside=machine, cwd=project)
    (shown,) = [block.text for block in page.blocks if '"delivery"' in block.text]
    log, stream = tmp_path / "node.log", tmp_path / "stream"

    with page.running("./impervious\n", output=log):
        wait_until(lambda: "curl -d" in log.read_text(), output=log)
        with page.running("8882/v1/subscribe", output=stream):
            answer = send_until_seen(page, "$PARTNER", stream, lambda event, sent: event["replyToId"] in sent)
            assert base64.b64decode(answer["data"]) == b"hello"
            assert answer["amount"] == "1"
            # Between the delivery and the answer of the one that was seen curl may have begun to listen.
            page.run("$PARTNER")
            wait_until(lambda: len({event["serviceType"] for event in events(stream)}) == 2, output=stream)
            by_type = {event["serviceType"]: event for event in events(stream)}
            for line in shown.splitlines():
                example = json.loads(line)["result"]
                assert by_type[example["serviceType"]].keys() == example.keys()

    logs = {name: tmp_path / f"{name}.log" for name in ("network", "alice", "bob")}
    network = project / "network"
    with page.running("./impervious simulate --dir", output=logs["network"]):
        wait_until(
            lambda: all((network / name / "config.yml").exists() for name in logs if name != "network"),
            output=logs["network"],
        )
        with (
            page.running("network/alice/config.yml", output=logs["alice"]),
            page.running("--config network/bob/config.yml", output=logs["bob"]),
        ):
            for name in ("alice", "bob"):
                wait_until(lambda name=name: "IMPD started!" in logs[name].read_text(), output=logs[name])
            with page.running("9992/v1/subscribe", output=stream):
                seen = send_until_seen(page, "$BOB", stream, lambda event, sent: event["id"] in sent)
                assert (base64.b64decode(seen["data"]), seen["amount"]) == (b"hello", "5")
            (sent,) = json.loads(page.run("/v1/messages?limit=1"))["messages"]
            assert sent["pubkey"] in (network / "bob" / "config.yml").read_text()
    assert not page.left


def of_the_test(**more: str) -> dict[str, str]:
    """The node's ports, by the environment; they stand in no command of the page."""
    http = f"127.0.0.1:{free_port()}"
    return {
        "IMPD_SERVER__GRPC_ADDR": f"127.0.0.1:{free_port()}",
        "IMPD_SERVER__HTTP_ADDR": http,
        "NODE": http,
    } | more


def test_hosted(project, network, tmp_path):
    lnd = network.nodes["carol"]
    macaroon = lnd.macaroon_path.read_bytes()
    environ = of_the_test(
        LND_HOST="localhost", LND_PORT=str(lnd.port), GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(lnd.tls_cert_path)
    )
    page = Page("hosted-lnd.md", cwd=project, **environ)
    (project / "macaroon.base64").write_text(base64.b64encode(macaroon).decode())
    log = tmp_path / "node.log"
    terminal = ("cat > node.yml", "__IP=", "touch macaroon.hex", "base64 -d", "./impervious --config")
    with page.running(*terminal, output=log):
        wait_until(lambda: "IMPD started!" in log.read_text(), output=log)
        assert lnd.pubkey in log.read_text()
        assert macaroon.hex() not in log.read_text()
    assert (project / "macaroon.hex").read_text() == macaroon.hex()
    assert (project / "macaroon.hex").stat().st_mode & 0o077 == 0
    assert not page.left


def test_the_other_base64(tmp_path):
    """The page tells in words how the command changes."""
    raw = bytes(range(256))
    (tmp_path / "macaroon.base64").write_text(base64.urlsafe_b64encode(raw).decode())
    page = Page("hosted-lnd.md")
    (text,) = [block.text for block in page.blocks if block.text.startswith("base64 -d")]
    before = "tr -- '-_' '+/' < macaroon.base64 |"
    assert f"`{before}`" in (ROOT / "docs" / "hosted-lnd.md").read_text()
    subprocess.run(f"{before} {text.replace('< macaroon.base64 ', '')}", shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "macaroon.hex").read_text() == raw.hex()


@pytest.mark.real_lnd
@pytest.mark.skipif(not real_lnd.available(), reason="real_lnd: lnd and btcd are not on PATH; not run")
def test_on_a_real_lnd(project, tmp_path_factory, tmp_path):
    loop = LoopThread()
    real = real_lnd.RealNetwork(tmp_path_factory.mktemp("real"), ["alice", "bob"])
    loop.run(real.__aenter__())
    try:
        lnd, peer = real.nodes["alice"], real.nodes["bob"]
        environ = of_the_test(
            LND_DIR=str(lnd.directory), NETWORK="simnet", LND_PORT=str(lnd.port), PEER=peer.pubkey
        )
        page = Page("real-lnd.md", cwd=project, **environ)
        page.run("cat > node.yml")
        log = tmp_path / "node.log"
        with page.running("./impervious --config", output=log):
            wait_until(lambda: "IMPD started!" in log.read_text(), output=log)
            info = json.loads(page.run("/v1/node"))
            (shown,) = [block.text for block in page.blocks if '"spendableSat"' in block.text]
            assert info.keys() == set(re.findall(r'"(\w+)":', shown))
            assert (info["pubkey"], info["warnings"]) == (lnd.pubkey, [])
            assert json.loads(page.run("/v1/message/estimate"))["reachable"]
            assert '"state":"settled"' in page.run("ID=$(curl")
        assert [block.text.split()[1] for block in page.left] == ["LND_DIR=$HOME/.lnd"]
    finally:
        loop.run(real.stop())
