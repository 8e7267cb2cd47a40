"""A Lightning network of real lnd nodes on a private btcd simnet, for tests and benchmarks.

    async with RealNetwork(directory, ["alice", "bob", "carol"]) as network:
        node = network.nodes["alice"]

`lnd`, `lncli`, `btcd` and `btcctl` must be on PATH. Everything listens on loopback, on free ports. The processes end
with the context, and with this process if that is killed. The directory is the caller's.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from coincurve import PrivateKey

from lightning.simulator.process import LndNode
from protos.lnrpc import lightning_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.ports import HOST, free_port

PROGRAMS = ("lnd", "lncli", "btcd", "btcctl")
CHANNEL_SAT = 10_000_000
# Segwit is active on simnet from block 300 on; the first coinbase is mature long before.
BLOCKS = 310
COINBASE_SAT = 50 * 10**8
FUNDING_FEE_SAT = 10_000
CONFIRMATIONS = 6
GUARD_SECONDS = 600
TAIL_BYTES = 2000
DATABASES = {"bbolt": [], "sqlite": ["--db.backend=sqlite"]}

# Runs a program that the kernel kills when its parent dies, however that dies.
_LEASH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9);"
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execvp(sys.argv[2], sys.argv[2:])"
)


class NetworkError(Exception):
    """The network could not be made, or did not come to the state that was waited for."""


def available() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


@dataclass
class _Process:
    """A program in a process group of its own, with its output in a file."""

    arguments: list[str]
    output: Path
    home: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {**os.environ, "HOME": str(self.home)}
        with self.output.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-ISc", _LEASH, str(os.getpid())),
                *self.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.home,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def kill(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    def tail(self) -> str:
        return self.output.read_bytes()[-TAIL_BYTES:].decode(errors="replace")


@dataclass
class _Lnd:
    name: str
    directory: Path
    rpc_port: int
    peer_port: int
    process: _Process
    client: BareClient | None = None
    channel_peers: set[str] = field(default_factory=set)


class RealNetwork:
    """`names` in a chain: each has a channel of 10,000,000 sat with the next, half of it on either side.

    `channels` tells other pairs; those of nodes in `private` are not announced. Nodes in `without_keysend` take no keysend. `database` is "bbolt", lnd's own choice,
    or "sqlite", for which lnd must have been built (kvdb_sqlite). `lnd_arguments` go to every lnd.
    """

    def __init__(
        self,
        directory: Path,
        names: Sequence[str],
        *,
        channels: Sequence[tuple[str, str]] | None = None,
        private: Collection[str] = (),
        without_keysend: Collection[str] = (),
        database: str = "bbolt",
        lnd_arguments: Sequence[str] = (),
    ):
        self.directory = Path(directory).resolve()
        self.names = list(names)
        self.nodes: dict[str, LndNode] = {}
        self._channels = list(itertools.pairwise(names)) if channels is None else list(channels)
        self._private = set(private)
        self._without_keysend = set(without_keysend)
        self._lnd_arguments = [*DATABASES[database], *lnd_arguments]
        self._miner_key = PrivateKey()
        self._password = secrets.token_hex(16)
        self._btcd: _Process | None = None
        self._btcd_port = 0
        self._lnds: dict[str, _Lnd] = {}

    async def __aenter__(self) -> "RealNetwork":
        try:
            await self._start_network()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc_info) -> None:
        await self.stop()

    async def kill(self, name: str) -> None:
        """SIGKILL."""
        await self._lnds[name].process.kill()

    async def start(self, name: str) -> None:
        """Starts a killed lnd again and waits until its channels with running peers are active."""
        lnd = self._lnds[name]
        await lnd.process.start()
        await self._until_ready(lnd)
        await self._until_channels_active([lnd, *(self._lnds[peer] for peer in lnd.channel_peers)])

    async def stop(self) -> None:
        """Ends every process. Nothing of the network can be used after it."""
        for lnd in self._lnds.values():
            if lnd.client:
                await lnd.client.close()
            await lnd.process.kill()
        if self._btcd:
            await self._btcd.kill()

    async def mine(self, blocks: int) -> None:
        await self._btcctl("generate", str(blocks))

    # How the network comes up

    async def _start_network(self) -> None:
        if not available():
            raise NetworkError(f"not all of {', '.join(PROGRAMS)} are on PATH")
        self.directory.mkdir(parents=True, exist_ok=True)
        await self._start_btcd()
        await self.mine(BLOCKS)
        self._lnds = {name: self._new_lnd(name) for name in self.names}
        await self._each(lambda lnd: lnd.process.start())
        await self._each(self._until_ready)
        self.nodes = {name: self.nodes[name] for name in self.names}
        await self._fund_wallets()
        await self._open_channels()
        await self._until_graph_known()

    async def _start_btcd(self) -> None:
        home = self.directory / "btcd"
        home.mkdir(exist_ok=True)
        self._btcd_port = free_port()
        arguments = [
            *("btcd", "--simnet", "--configfile=/dev/null", "--nodnsseed", "--nolisten", "--nostalldetect"),
            *("--txindex", "--debuglevel=warn", f"--datadir={home}/data", f"--logdir={home}/log"),
            *("--rpcuser=simnet", f"--rpcpass={self._password}", f"--rpclisten={HOST}:{self._btcd_port}"),
            *(f"--rpccert={home}/rpc.cert", f"--rpckey={home}/rpc.key"),
            # A bare public key is an address too: its coins are spent below without a wallet.
            f"--miningaddr={self._miner_key.public_key.format().hex()}",
        ]
        self._btcd = _Process(arguments, home / "output.log", home)
        await self._btcd.start()
        await _until("btcd answers", self._btcd_answers, [self._btcd])

    async def _btcd_answers(self) -> bool:
        if not (self.directory / "btcd" / "rpc.cert").exists():
            return False
        try:
            await self._btcctl("getblockcount")
        except NetworkError:
            return False
        return True

    def _new_lnd(self, name: str) -> _Lnd:
        home = self.directory / name
        home.mkdir(exist_ok=True)
        rpc_port, peer_port = free_port(), free_port()
        arguments = [
            *("lnd", f"--lnddir={home}", "--noseedbackup", f"--alias={name}", "--bitcoin.simnet"),
            *("--bitcoin.node=btcd", f"--btcd.rpchost={HOST}:{self._btcd_port}", "--btcd.rpcuser=simnet"),
            *(f"--btcd.rpcpass={self._password}", f"--btcd.rpccert={self.directory}/btcd/rpc.cert"),
            *(
                f"--rpclisten={HOST}:{rpc_port}",
                f"--listen={HOST}:{peer_port}",
                f"--externalip={HOST}:{peer_port}",
            ),
            *(
                "--norest",
                "--nobootstrap",
                "--tlsdisableautofill",
                "--debuglevel=warn",
                "--logging.file.disable",
            ),
            # Nothing that a payment takes is changed here: only how soon channels, gossip and peers are there.
            *("--bitcoin.defaultchanconfs=1", "--trickledelay=50", "--gossip.sub-batch-delay=5ms"),
            *("--db.batch-commit-interval=10ms", "--minbackoff=200ms", "--maxbackoff=1s"),
            *([] if name in self._without_keysend else ["--accept-keysend"]),
            *self._lnd_arguments,
        ]
        return _Lnd(name, home, rpc_port, peer_port, _Process(arguments, home / "output.log", home))

    async def _until_ready(self, lnd: _Lnd) -> None:
        macaroon = lnd.directory / "data/chain/bitcoin/simnet/admin.macaroon"
        await _until(f"{lnd.name} makes its macaroon", macaroon.exists, [lnd.process])
        node = LndNode(
            name=lnd.name,
            host=HOST,
            port=lnd.rpc_port,
            tls_cert_path=lnd.directory / "tls.cert",
            macaroon_path=macaroon,
            pubkey="",
            directory=lnd.directory,
        )
        if lnd.client:
            await lnd.client.close()
        lnd.client = BareClient(node)

        async def ready() -> bool:
            try:
                info = await lnd.client.lightning.GetInfo(lightning_pb2.GetInfoRequest())
            except grpc.aio.AioRpcError:
                return False
            self.nodes[lnd.name] = LndNode(**{**vars(node), "pubkey": info.identity_pubkey})
            return info.synced_to_chain

        await _until(f"{lnd.name} is ready", ready, [lnd.process])

    async def _fund_wallets(self) -> None:
        """Spends the first coinbase to two addresses of each wallet, of a kind that btcd makes transactions for."""
        addresses = []
        for lnd in self._lnds.values():
            for _ in range(2):
                addresses.append((await self._lncli(lnd, "newaddress", "np2wkh"))["address"])
        share = (COINBASE_SAT - FUNDING_FEE_SAT) // len(addresses)
        block = await self._btcctl("getblock", await self._btcctl("getblockhash", "1", parse=False))
        coinbase = [{"txid": block["tx"][0], "vout": 0}]
        outputs = dict.fromkeys(addresses, share / 10**8)
        unsigned = await self._btcctl(
            "createrawtransaction", json.dumps(coinbase), json.dumps(outputs), parse=False
        )
        await self._btcctl("sendrawtransaction", _sign_single_input(unsigned, self._miner_key), parse=False)
        await self.mine(1)

        async def funded(lnd: _Lnd) -> None:
            async def has_coins() -> bool:
                balance = await self._lncli(lnd, "walletbalance")
                return int(balance["confirmed_balance"]) >= 2 * share

            await _until(f"{lnd.name} sees its coins", has_coins, [lnd.process])
            await self._until_synced(lnd)

        await self._each(funded)

    async def _open_channels(self) -> None:
        for name, peer in self._channels:
            await self._open_channel(self._lnds[name], self._lnds[peer])
        await self.mine(CONFIRMATIONS)
        await self._until_channels_active(self._lnds.values())

    async def _open_channel(self, lnd: _Lnd, peer: _Lnd) -> None:
        async def opened() -> bool:
            try:
                await self._lncli(
                    lnd,
                    "openchannel",
                    f"--node_key={self.nodes[peer.name].pubkey}",
                    f"--connect={HOST}:{peer.peer_port}",
                    f"--local_amt={CHANNEL_SAT}",
                    f"--push_amt={CHANNEL_SAT // 2}",
                    "--sat_per_vbyte=2",
                    *(["--private"] if self._private & {lnd.name, peer.name} else []),
                )
            except NetworkError as error:
                if "synced" in str(error) or "syncing" in str(error):
                    return False
                raise
            return True

        await _until(f"{lnd.name} opens a channel to {peer.name}", opened, [lnd.process, peer.process])
        lnd.channel_peers.add(peer.name)
        peer.channel_peers.add(lnd.name)

    async def _until_synced(self, lnd: _Lnd) -> None:
        height = int(await self._btcctl("getblockcount", parse=False))

        async def synced() -> bool:
            info = await lnd.client.lightning.GetInfo(lightning_pb2.GetInfoRequest())
            return info.synced_to_chain and info.block_height >= height

        await _until(f"{lnd.name} is at block {height}", synced, [lnd.process])

    async def _until_channels_active(self, lnds: Collection[_Lnd]) -> None:
        for lnd in lnds:
            if not lnd.process.running:
                continue
            expected = {
                self.nodes[peer].pubkey for peer in lnd.channel_peers if self._lnds[peer].process.running
            }

            async def active(lnd=lnd, expected=expected) -> bool:
                answer = await lnd.client.lightning.ListChannels(
                    lightning_pb2.ListChannelsRequest(active_only=True)
                )
                return expected <= {channel.remote_pubkey for channel in answer.channels}

            await _until(f"{lnd.name}'s channels are active", active, [lnd.process])

    async def _until_graph_known(self) -> None:
        """Until every node knows every node's features and both policies of every channel."""
        ids = set()
        for lnd in self._lnds.values():
            answer = await lnd.client.lightning.ListChannels(lightning_pb2.ListChannelsRequest())
            ids |= {channel.chan_id for channel in answer.channels if not channel.private}
        announced = self.nodes.keys() - self._private
        with_channels = [self.nodes[name].pubkey for name in announced if self._lnds[name].channel_peers]

        async def knows_all(lnd: _Lnd) -> None:
            async def known() -> bool:
                try:
                    for pubkey in with_channels:
                        request = lightning_pb2.NodeInfoRequest(pub_key=pubkey)
                        if not (await lnd.client.lightning.GetNodeInfo(request)).node.features:
                            return False
                    for chan_id in ids:
                        edge = await lnd.client.lightning.GetChanInfo(
                            lightning_pb2.ChanInfoRequest(chan_id=chan_id)
                        )
                        if not (edge.HasField("node1_policy") and edge.HasField("node2_policy")):
                            return False
                except grpc.aio.AioRpcError:
                    return False
                return True

            await _until(f"{lnd.name} knows the graph", known, [lnd.process])
            await self._until_synced(lnd)

        await self._each(knows_all)

    # Tools

    async def _each(self, action: Callable[[_Lnd], Coroutine]) -> None:
        async with asyncio.TaskGroup() as group:
            for lnd in self._lnds.values():
                group.create_task(action(lnd))

    async def _btcctl(self, *arguments: str, parse: bool = True):
        certificate = self.directory / "btcd" / "rpc.cert"
        output = await _run(
            *("btcctl", "--simnet", "--configfile=/dev/null", f"--rpcserver={HOST}:{self._btcd_port}"),
            *("--rpcuser=simnet", f"--rpcpass={self._password}", f"--rpccert={certificate}", *arguments),
            home=self.directory,
        )
        return json.loads(output) if parse and output else output.strip()

    async def _lncli(self, lnd: _Lnd, *arguments: str):
        output = await _run(
            *("lncli", f"--lnddir={lnd.directory}", "--network=simnet", f"--rpcserver={HOST}:{lnd.rpc_port}"),
            *arguments,
            home=self.directory,
        )
        return json.loads(output)


async def _run(*arguments: str, home: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(home)},
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), GUARD_SECONDS)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    if process.returncode:
        raise NetworkError(f"{arguments[0]} {arguments[-1]}: {errors.decode(errors='replace').strip()}")
    return output.decode()


async def _until(what: str, condition: Callable, processes: Sequence[_Process]) -> None:
    """Asks until `condition` holds. NetworkError, with the last output, when a process ends or it takes very long."""
    for _ in range(GUARD_SECONDS * 20):
        answer = condition()
        if await answer if asyncio.iscoroutine(answer) else answer:
            return
        ended = [process for process in processes if not process.running]
        if ended:
            raise NetworkError(f"waited until {what}, but a process ended: {ended[0].tail()}")
        await asyncio.sleep(0.05)
    raise NetworkError(f"waited in vain until {what}: {' '.join(process.tail() for process in processes)}")


def _sign_single_input(unsigned_hex: str, key: PrivateKey) -> str:
    """Signs a transaction whose only input spends an output of the form <public key> OP_CHECKSIG."""
    raw = bytes.fromhex(unsigned_hex)
    # Version (4 bytes), number of inputs (1), outpoint (36), then the empty input script's length.
    head, tail = raw[:41], raw[42:]
    if raw[4] != 1 or raw[41] != 0:
        raise NetworkError("btcd made a transaction of another form than expected")
    pubkey = key.public_key.format()
    spent = bytes([len(pubkey)]) + pubkey + b"\xac"
    signed = head + bytes([len(spent)]) + spent + tail + (1).to_bytes(4, "little")
    digest = hashlib.sha256(hashlib.sha256(signed).digest()).digest()
    signature = key.sign(digest, hasher=None) + b"\x01"
    script = bytes([len(signature)]) + signature
    return (head + bytes([len(script)]) + script + tail).hex()
