"""The whole purchase as docs/vpn.md tells it, its examples run as they stand: quote, contract, file, tunnel, a page
fetched through it, refresh, end. On any pair of nodes whose lnds are joined.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.doc_examples import Page
from tests.support.machines import Client, Machine
from tests.support.nodes import Node
from tests.support.streams import WebsocketStream
from tests.support.vpn_market import (
    Shop,
    answer,
    bought,
    file_of,
    make_due,
    of_lease,
    told,
    wait_until_freed,
)

WEB_PORT = 8000
URL = f"http://10.77.0.1:{WEB_PORT}/"
CONTENT = "<title>a page behind the tunnel</title>\n"


def purchase(shop: Shop, seller: Node, buyer: Node, directory: Path) -> list[dict]:
    """In `directory`, which is the current one. What the buyer's stream told meanwhile, each as {"id", "told"}."""
    seen, environ = [], {"BUYER": f"http://{buyer.http}", "SELLER_PUBKEY": seller.pubkey}
    with WebsocketStream(buyer) as stream, Client(directory) as client:

        def heard(event: dict) -> dict:
            seen.append({"id": event["id"], "told": told(event)})
            return told(event)

        shop.server.cable(client, "192.0.2.1/30", "192.0.2.2/30")
        serve_web(shop, directory / "web")
        page = Page("vpn.md", **environ)
        quote = heard(answer(stream, json.loads(page.run("/v1/vpn/quote"))["id"]))
        assert quote.keys() == json.loads(page.output("/v1/vpn/quote")).keys()
        page = Page("vpn.md", **environ, NONCE=quote["nonce"])
        lease_id = json.loads(page.run("/v1/vpn/contract"))["id"]
        lease = heard(answer(stream, lease_id))
        shown = next(block.text for block in page.blocks if '"type":"lease"' in block.text)
        assert lease.keys() == json.loads(shown).keys()

        Page("vpn.md", **environ, LEASE=lease_id).run("seller.conf")
        file = directory / "seller.conf"
        assert file.read_bytes() == file_of(buyer, lease_id).body
        assert file.stat().st_mode & 0o777 == 0o600
        # wg-quick names the interface after the file, and names are the whole machine's.
        file = file.rename(directory / f"{client.name}.conf")
        client.run("wg-quick", "up", file)
        try:
            assert fetch(client) == CONTENT
            heard(answer(stream, json.loads(page.run("/v1/vpn/refresh"))["id"], "lease"))
            assert fetch(client) == CONTENT
            for type, column in (("expiring", "warns_at"), ("ended", "expires_at")):
                make_due(seller, lease_id, column)
                heard(stream.until(of_lease(type, lease_id))[-1])
            with pytest.raises(AssertionError, match=r"timed out|Failed to connect"):
                client.run("curl", "-sS", "--max-time", "2", URL)
        finally:
            client.run("wg-quick", "down", file)
    wait_until_freed(seller, lease_id)
    assert bought(buyer, lease_id)["state"] == "ended"
    assert file_of(buyer, lease_id).status == 404
    return seen


def serve_web(shop: Shop, directory: Path) -> None:
    directory.mkdir()
    (directory / "index.html").write_text(CONTENT)
    shop.server.start(
        *(
            sys.executable,
            "-m",
            "http.server",
            str(WEB_PORT),
            "--bind",
            "10.77.0.1",
            "--directory",
            directory,
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert fetch(shop.server) == CONTENT


def fetch(machine: Machine) -> str:
    return machine.run("curl", "-sS", "--retry", "60", "--retry-all-errors", "--retry-max-time", "200", URL)
