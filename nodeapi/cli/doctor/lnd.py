"""lnd: reached, its certificate, the macaroon and what it permits, in sync, keysend, channels."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from lightning.client import LndClient, LndError, Trouble
from lightning.hints import only_private_receive
from lightning.keysend import KEYSEND_FEATURE_BIT
from lightning.rpcs import Rpc, calls_for
from nodeapi import terminal
from nodeapi.certificates import names_of
from nodeapi.cli.doctor import certificate
from nodeapi.cli.doctor.findings import Finding, Patient, note, ok, wrong
from nodeapi.lnd_status import (
    LOW_SAT,
    ONLY_PRIVATE_RECEIVE,
    receivable_sat,
    spendable_sat,
)
from protos.lnrpc import lightning_pb2

ANSWER_SECONDS = 10.0
KEY = "lightning.lnd_node"
NO_MACAROON = "00"

_ADVICE = {
    Trouble.STARTING: "wait; the node waits for it, too",
    Trouble.LOCKED: "run lncli unlock, or let lnd do it by itself (wallet-unlock-password-file in lnd.conf)",
    Trouble.AWAY: f"start lnd, or correct {KEY}.ip and {KEY}.port",
    Trouble.BUSY: "look at lnd's log and the load of its machine",
    Trouble.REFUSED: "look at lnd's log",
}


def check(patient: Patient) -> list[Finding]:
    return asyncio.run(_all(patient))


async def _all(patient: Patient) -> list[Finding]:
    lnd = patient.config.lnd
    if lnd is None:
        return [note(f"not checked, because {KEY} is not complete")]
    if patient.problem_with(f"{KEY}.tls_cert", f"{KEY}.admin_macaroon"):
        return await _without_credentials(lnd)
    client = LndClient(
        host=lnd.host, port=lnd.port, tls_cert=lnd.tls_cert, macaroon_hex=lnd.macaroon_hex.get_secret_value()
    )
    try:
        return [finding async for finding in _look(patient, client)]
    finally:
        await client.close()


async def _without_credentials(lnd) -> list[Finding]:
    """What can be said where the certificate or the macaroon cannot be read: whether lnd is there, and has a wallet.

    No secret is sent: the certificate that is trusted is whatever the other side shows.
    """
    try:
        shown = await asyncio.to_thread(certificate.shown_by, lnd.host, lnd.port)
    except OSError as error:
        return [_unreachable(f"{lnd.host}:{lnd.port}", error)]
    client = LndClient(
        host=lnd.host, port=lnd.port, tls_cert=shown.public_bytes(Encoding.PEM), macaroon_hex=NO_MACAROON
    )
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await client.get_info()
    except TimeoutError:
        return [note(f"something answers at {client.address}; more is not known without the credentials")]
    except LndError as error:
        if error.trouble is Trouble.LOCKED and "not created" in error.details.lower():
            return [
                wrong(
                    f"the lnd at {client.address} has no wallet yet",
                    "run lncli create: with the wallet lnd makes admin.macaroon",
                )
            ]
        if error.trouble is not Trouble.MACAROON:
            return [wrong(str(error), _ADVICE.get(error.trouble, "look at lnd's log"))]
    finally:
        await client.close()
    return [note(f"an lnd answers at {client.address}; more can be told once its credentials can be read")]


async def _look(patient: Patient, client: LndClient) -> AsyncIterator[Finding]:
    lnd = patient.config.lnd
    try:
        shown = await asyncio.to_thread(certificate.shown_by, lnd.host, lnd.port)
    except OSError as error:
        yield _unreachable(client.address, error)
        return
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            info = await client.get_info()
    except TimeoutError:
        yield wrong(
            f"lnd at {client.address} did not answer within {ANSWER_SECONDS:.0f} s", _ADVICE[Trouble.BUSY]
        )
        return
    except LndError as error:
        yield _refused(error, shown, lnd)
        return
    patient.lnd_info = info
    yield _answers(client.address, info)
    yield _lifetime(shown)
    for finding in _itself(info, lnd.pub_key):
        yield finding
    yield await _permits(client, patient.config.services)
    try:
        channels = await client.list_channels()
    except LndError:
        return
    yield _channels(channels)
    for finding in _amounts(channels):
        yield finding


def _unreachable(address: str, error: OSError) -> Finding:
    where = f"{KEY}.ip and {KEY}.port"
    if isinstance(error, ConnectionRefusedError):
        return wrong(
            f"nothing listens at {address}",
            f"start lnd, or correct {where} (lnd's rpclisten, often port 10009)",
        )
    if isinstance(error, socket.gaierror):
        return wrong(
            f"the host in {KEY}.ip has no address: {address}",
            f"correct {KEY}.ip, or the machine's name service",
        )
    if isinstance(error, TimeoutError):
        return wrong(
            f"{address} does not answer",
            f"correct {where}, or let a firewall on the way pass TCP to this port",
        )
    if isinstance(error, ssl.SSLError):
        return wrong(
            f"what listens at {address} speaks no TLS, so it is not lnd's gRPC port",
            f"correct {KEY}.port (lnd's rpclisten, often 10009)",
        )
    return wrong(f"{address} cannot be reached: {error.strerror or type(error).__name__}", f"correct {where}")


def _refused(error: LndError, shown: x509.Certificate, lnd) -> Finding:
    if error.trouble is Trouble.CERTIFICATE:
        return _distrusted(shown, lnd)
    if error.trouble is Trouble.MACAROON:
        return _bad_macaroon(error)
    return wrong(str(error), _ADVICE.get(error.trouble, "look at lnd's log"))


def _distrusted(shown: x509.Certificate, lnd) -> Finding:
    again = "delete tls.cert and tls.key of lnd, start lnd again, and copy the new tls.cert here"
    if lnd.tls_cert is None:
        return wrong(
            "no certificate authority of this machine vouches for lnd's certificate",
            f"let {KEY}.tls_cert name lnd's own tls.cert",
        )
    if certificate.left(shown).total_seconds() < 0:
        return wrong(f"lnd's certificate expired on {shown.not_valid_after_utc:%Y-%m-%d}", again)
    if certificate.is_from_the_future(shown):
        return wrong(
            f"lnd's certificate holds only from {shown.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on",
            "set the clock of this machine, or of lnd's",
        )
    if not certificate.is_among(shown, lnd.tls_cert):
        return wrong(
            f"lnd shows another certificate than the one in {KEY}.tls_cert",
            f"copy lnd's tls.cert to where {KEY}.tls_cert points; if lnd was not changed, somebody "
            "else answers",
        )
    if not certificate.is_for(shown, lnd.host):
        option = (
            "tlsextradomain"
            if any(letter.isalpha() for letter in lnd.host.replace(":", ""))
            else "tlsextraip"
        )
        return wrong(
            f"lnd's certificate is for {', '.join(names_of(shown))}, not for {lnd.host}",
            f"set {KEY}.ip to one of these, or put {option}={lnd.host} into lnd.conf, then {again}",
        )
    return wrong("lnd's certificate is not accepted", again)


def _bad_macaroon(error: LndError) -> Finding:
    admin = "data/chain/bitcoin/NETWORK/admin.macaroon in lnd's directory"
    if "permission denied" in error.details.lower():
        return wrong(
            "the macaroon does not permit even GetInfo",
            f"let {KEY}.admin_macaroon name {admin}, or a macaroon made for this node: "
            "./impervious macaroon prints the command",
        )
    if "signature mismatch" in error.details.lower() or "cannot get macaroon" in error.details.lower():
        return wrong(
            "lnd refuses the macaroon: it was made by another lnd, or for another network",
            f"copy this lnd's macaroon: {admin}",
        )
    return wrong(
        f"lnd refuses the macaroon: {error.details[:200]}",
        f"let {KEY}.admin_macaroon name {admin}: the file as it is, not its text",
    )


def _answers(address: str, info: lightning_pb2.GetInfoResponse) -> Finding:
    network = info.chains[0].network if info.chains else "an unknown network"
    alias = f" of {info.alias}" if info.alias else ""
    return ok(f"lnd {info.version.partition(' commit')[0]}{alias} answers at {address}, on {network}")


def _lifetime(shown: x509.Certificate) -> Finding:
    left = certificate.left(shown)
    words = (
        f"lnd's certificate holds for {max(0, left.days)} days, until {shown.not_valid_after_utc:%Y-%m-%d}"
    )
    if left > certificate.SOON:
        return ok(words)
    return note(
        words,
        "before then delete tls.cert and tls.key of lnd, start lnd again, and copy the new tls.cert here",
    )


def _itself(info: lightning_pb2.GetInfoResponse, expected: str) -> list[Finding]:
    findings = []
    if expected and info.identity_pubkey != expected.lower():
        findings.append(
            wrong(
                f"this lnd is {info.identity_pubkey}, but {KEY}.pub_key is {expected}",
                f"correct {KEY}.pub_key, or the address",
            )
        )
    if not info.synced_to_chain:
        findings.append(
            wrong(
                "lnd is not in sync with the chain",
                "wait; if it stays so, look at lnd's connection to its Bitcoin node, and at the clock",
            )
        )
    elif not info.synced_to_graph:
        findings.append(note("lnd does not know the whole network yet: some nodes cannot be reached", "wait"))
    if KEYSEND_FEATURE_BIT in info.features:
        findings.append(ok("keysend is on"))
    else:
        findings.append(
            wrong(
                "keysend is off in lnd: nothing can be received, and the node does not start",
                "put accept-keysend=true into lnd.conf and start lnd again",
            )
        )
    return findings


async def _permits(client: LndClient, services) -> Finding:
    calls = calls_for({service.service_type for service in services if service.active})
    try:
        missing = await client.not_permitted(rpc for rpc in calls if rpc is not Rpc.CHECK_MACAROON)
    except LndError as error:
        return note(f"what the macaroon permits cannot be told: {error}")
    if not missing:
        return ok("the macaroon permits all calls that the node makes")
    return wrong(
        f"the macaroon does not permit {', '.join(rpc.method for rpc in missing)}",
        f"let {KEY}.admin_macaroon name admin.macaroon, or a macaroon made for this node: "
        "./impervious macaroon prints the command",
    )


def _channels(channels: lightning_pb2.ListChannelsResponse) -> Finding:
    there = channels.channels
    active = sum(channel.active for channel in there)
    private = sum(channel.private for channel in there)
    if not there:
        return wrong(
            "lnd has no channel: nothing can be sent or received",
            "open one to a well connected node (lncli openchannel), or have one opened to you",
        )
    if not active:
        return wrong(
            f"none of the {len(there)} channels is active: the peers are offline",
            "lncli listpeers, lncli connect KEY@HOST; a new channel needs some blocks first",
        )
    words = f"{active} of {len(there)} channels active"
    if private == len(there):
        words += ", all private: others answer by the hints that travel with messages"
    return ok(words)


def _amounts(channels: lightning_pb2.ListChannelsResponse) -> list[Finding]:
    if not any(channel.active for channel in channels.channels):
        return []
    spendable, receivable = spendable_sat(channels), receivable_sat(channels)
    findings = [
        ok(f"{terminal.sat(spendable)} can be sent, {terminal.sat(receivable)} received, after the reserves")
    ]
    if spendable < LOW_SAT:
        findings.append(
            _low(
                spendable,
                "sent",
                "this side of the channels is at its reserve",
                "receive something, or open a channel of your own",
            )
        )
    if receivable < LOW_SAT:
        findings.append(
            _low(
                receivable,
                "received",
                "the peers' side of the channels is at its reserve, as after funding the only channel "
                "oneself",
                "pay something out over the channels, or have a channel opened to this node",
            )
        )
    if only_private_receive(channels.channels):
        findings.append(
            note(
                ONLY_PRIVATE_RECEIVE,
                "reconnect these peers (lncli connect KEY@HOST), or pay something out over these channels",
            )
        )
    return findings


def _low(amount_sat: int, done: str, why: str, advice: str) -> Finding:
    words = f"{'nothing' if not amount_sat else 'hardly anything'} can be {done}: {why}"
    return wrong(words, advice) if not amount_sat else note(words, advice)
