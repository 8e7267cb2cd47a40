"""A pair of real lnds, of which the paying one is killed under traffic until it holds dead payments: do messages go on?

lnd then calls payments under way for good although no channel holds them. Each message must come to its end all the
same, and be told once.
"""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.soak import ledgers, verdict
from bench.soak.run import Plan, Result, ask_states
from bench.soak.traffic import Client, Habits, Sent, clients_between, flowing
from bench.soak.verdict import Verdict
from bench.soak.world import Member, Unhealed, request, until
from lightning.dead_payments import channel_view
from protos.lnrpc import lightning_pb2
from protos.routerrpc import router_pb2
from tests.support.lnd_rpc import BareClient
from tests.support.nodes import Node
from tests.support.real_lnd import RealNetwork

NAMES = ["alice", "bob"]
# Of traffic before each kill.
TRAFFIC_SECONDS = (0.5, 3.0)
# How long lnd needs to take up what it knows, before a payment that no channel holds counts as dead.
SETTLE_SECONDS = 20.0
# Looks, and the longest pause before the next try of what has failed often.
SLACK_SECONDS = 900
WALK_SECONDS = 300
UNDER_WAY = (lightning_pb2.Payment.IN_FLIGHT, lightning_pb2.Payment.INITIATED)


@dataclass
class Pair:
    network: RealNetwork
    alice: Member
    bob: Member

    @property
    def database(self) -> Path:
        return self.alice.node.directory / "impervious.sqlite3"

    async def dead_payments(self) -> set[bytes]:
        """Attempts of alice's that her lnd calls under way, though no channel holds them."""
        async with BareClient(self.network.nodes["alice"]) as client:
            channels = await client.lightning.ListChannels(lightning_pb2.ListChannelsRequest())
            pending = await client.lightning.PendingChannels(lightning_pb2.PendingChannelsRequest())
            view = channel_view(channels, pending, lightning_pb2.GetInfoResponse())
            names = [name for name in ledgers.open_attempts(self.database) if name not in view.held]
            return {name for name in names if await _is_under_way(client, name)}


async def soak(directory: Path, plan: Plan, *, dead_payment_seconds: int, say=print) -> Result:
    """At least `plan.kills` kills of alice's lnd, and more until there are dead payments or the time is over."""
    start, dice = time.monotonic(), random.Random(plan.seed)
    async with RealNetwork(directory / "net", NAMES) as network:
        extra = {"lightning": {"dead_payment_seconds": dead_payment_seconds}}
        nodes = {name: Node(network.nodes[name], directory / name, extra=extra) for name in NAMES}
        alice, bob = (Member(name, node, [node.http]) for name, node in nodes.items())
        pair = Pair(network, alice, bob)
        try:
            for member in (alice, bob):
                member.launch()
                await member.ready()
            say(f"seed {plan.seed}; a payment is given up after {dead_payment_seconds} s")
            return await _run(pair, plan, dead_payment_seconds, dice, start, say)
        finally:
            for member in (alice, bob):
                member.kill()


async def _run(
    pair: Pair, plan: Plan, dead_payment_seconds: int, dice: random.Random, start: float, say
) -> Result:
    habits = Habits(pause=0.03, stranger_share=0)
    client, _ = clients_between(pair.alice, pair.bob, habits, dice)
    kills, dead = 0, set[bytes]()
    async with flowing([client]):
        while time.monotonic() - start < plan.minutes * 60 and (kills < plan.kills or not dead):
            await asyncio.sleep(dice.uniform(*TRAFFIC_SECONDS))
            await pair.network.kill("alice")
            kills += 1
            await pair.network.start("alice")
            say(f"{time.monotonic() - start:5.0f} s  {kills} kills  {len(client.sent):,} asked for")
            if kills >= plan.kills:
                await asyncio.sleep(SETTLE_SECONDS)
                dead = await pair.dead_payments()
    say(f"lnd holds {len(dead)} dead payments")
    judged = Verdict()
    judged.counts["dead payments"] = len(dead)
    if not dead:
        judged.fault("lost", "no kill has left a dead payment; nothing was shown")
    await client.finish()
    told = await _wait_for_ends(pair, client, judged, dead_payment_seconds, say)
    judged.counts["dead payments that the node told of"] = told
    await _judge(judged, pair, client, dead)
    return Result(
        plan=plan,
        kills=Counter({"paying lnd": kills}),
        others=Counter(),
        ends=[],
        verdict=judged,
        seconds=time.monotonic() - start,
    )


async def _is_under_way(client: BareClient, name: bytes) -> bool:
    call = client.router.TrackPaymentV2(router_pb2.TrackPaymentRequest(payment_hash=name))
    try:
        async for payment in call:
            return payment.status in UNDER_WAY
    except grpc.aio.AioRpcError:
        pass
    finally:
        call.cancel()
    return False


async def _wait_for_ends(pair: Pair, client: Client, judged: Verdict, dead_payment_seconds: int, say) -> int:
    """The most dead payments that the node has told of meanwhile."""
    told, start = 0, time.monotonic()

    async def all_ended() -> bool:
        nonlocal told
        _, info = await request(pair.alice.node.http, "GET", "/v1/node", seconds=60)
        told = max(told, info["deadPayments"])
        return not ledgers.unfinished(pair.database)

    try:
        # Messages go on while the dead payments hang.
        later = Sent(
            sender="alice", recipient=pair.bob.node.pubkey, body=b"alice 0 later", kind="small", key="later"
        )
        await client.start(later)
        await until(
            all_ended, "alice has unfinished messages", seconds=dead_payment_seconds + SLACK_SECONDS, pause=2
        )
        say(f"all messages have their end, {time.monotonic() - start:.0f} s after the last kill")
        databases = pair.database, pair.bob.node.directory / "impervious.sqlite3"
        await until(lambda: not ledgers.undelivered(*databases), "bob lacks messages", seconds=WALK_SECONDS)
    except Unhealed as error:
        judged.fault("lost", str(error))
    return told


async def _judge(judged: Verdict, pair: Pair, client: Client, dead: set[bytes]) -> None:
    ids = [message.id for message in client.sent if message.id]
    states = await ask_states(pair.alice, ids)
    judged.counts["messages"] = len(ids)
    for state in states.values():
        judged.counts[state["state"]] += 1
        judged.counts["paid for anew"] += int(state["attempts"]) > 1
    received = await ledgers.paid(pair.network.nodes["bob"])
    # What was given up as dead and came all the same would stand here as a fault of the books.
    verdict.check_payments(judged, "alice", received, ledgers.settled_attempts(pair.database))
    verdict.check_paid_messages(judged, received, states, ids)
    for payment_hash in dead & received.hashes.keys():
        judged.fault("paid twice", f"payment {payment_hash.hex()} was dead, and bob was paid by it")
