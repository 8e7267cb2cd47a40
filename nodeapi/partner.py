"""A simulated network for trying the node, with a partner that answers every message with the message itself."""

import asyncio
import logging
import secrets
import sys
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import yaml

from lightning import keysend, signature
from lightning.client import LndClient, LndError
from lightning.simulator import program
from messaging import envelope
from nodeapi import wg_stand_in
from protos.lnrpc import lightning_pb2

logger = logging.getLogger("nodeapi.partner")

ECHOED = {"message": 400000, "websocket": 300000}
MAX_BYTES = 1_048_576
AMOUNT_MSAT = 1_000


async def simulate(
    directory: Path,
    names: list[str],
    *,
    base_port: int,
    topology: str,
    echo: str | None,
    attached: bool,
    vpn: str | None = None,
) -> None:
    """Runs the network until SIGINT or SIGTERM or, when attached, until standard input ends. The node `vpn`, when it is
    started, sells leases by a stand-in for `wg`.
    """
    stop = asyncio.Event()
    ready = asyncio.Event()
    tasks = []
    if attached:
        tasks.append(asyncio.create_task(_stop_with_input(stop)))
    if echo:
        tasks.append(asyncio.create_task(_echo_when_ready(directory / echo, ready)))
    try:
        await program.run(
            directory,
            names,
            base_port=base_port,
            topology=topology,
            stop=stop,
            ready=ready.set,
            configured=partial(_equip, directory / vpn) if vpn else None,
        )
    finally:
        for task in tasks:
            task.cancel()


def _equip(node_directory: Path) -> None:
    wg_stand_in.equip(node_directory, node_directory / "config.yml")
    program.say(
        f"{node_directory.name} sells VPN by a stand-in for wg once it is started: for trying; no tunnel comes of it"
    )


async def _stop_with_input(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()


async def _echo_when_ready(node_directory: Path, ready: asyncio.Event) -> None:
    await ready.wait()
    partner = EchoPartner(node_directory)
    while True:
        try:
            await partner.run()
        except LndError as error:
            await asyncio.sleep(1.0)
            logger.warning("partner: %s", error)


class EchoPartner:
    """Answers each message that reaches one simulated node with the same body, 1 sat and `reply_to`."""

    def __init__(self, node_directory: Path):
        lnd = yaml.safe_load((node_directory / "config.yml").read_text())["lightning"]["lnd_node"]
        self._pubkey = bytes.fromhex(lnd["pub_key"])
        self._client = LndClient(
            host=lnd["ip"],
            port=lnd["port"],
            tls_cert=(node_directory / "tls.cert").read_bytes(),
            macaroon_hex=(node_directory / "admin.macaroon").read_bytes().hex(),
        )
        self._answering: set[asyncio.Task] = set()

    async def run(self) -> None:
        async for invoice in self._client.subscribe_invoices():
            if invoice.state != lightning_pb2.Invoice.SETTLED:
                continue
            for htlc in invoice.htlcs:
                for number in ECHOED.values():
                    if number in htlc.custom_records:
                        task = asyncio.create_task(
                            self._answer(number, htlc.custom_records[number], htlc.amt_msat)
                        )
                        self._answering.add(task)
                        task.add_done_callback(self._answering.discard)

    async def _answer(self, number: int, record: bytes, paid_msat: int) -> None:
        if not envelope.is_ours(record):
            return
        try:
            packet = envelope.decode_record(
                record, recipient=self._pubkey, record_number=number, paid_msat=paid_msat, max_bytes=MAX_BYTES
            )
            for item in packet.items:
                await self._send(packet.sender, number, item)
        except (envelope.EnvelopeError, LndError) as error:
            logger.warning("partner could not answer: %s", error)

    async def _send(self, recipient: bytes, number: int, received: envelope.Item) -> None:
        item = envelope.Item(
            id=uuid4(),
            reply_to=received.id,
            body=received.body,
            amount_msat=AMOUNT_MSAT,
            sent_at_ms=int(time.time() * 1000),
        )
        packet = envelope.encode_packet([envelope.encode_item(item)])
        signed = envelope.signed_bytes(recipient=recipient, record_number=number, packet=packet)
        compact = signature.compact_from_zbase32(await self._client.sign_message(signed))
        record = envelope.encode_record(sender=self._pubkey, compact_signature=compact, packet=packet)
        payment = keysend.KeysendPayment(
            destination=recipient,
            preimage=secrets.token_bytes(32),
            amount_msat=AMOUNT_MSAT,
            fee_limit_msat=10_000,
            records={number: record},
        )
        await self._client.send_payment(keysend.send_request(payment, timeout_seconds=30))
