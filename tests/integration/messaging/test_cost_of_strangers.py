"""What strangers cause this node to pay is never more than what they have paid, whatever they send: all services with their
handlers and workers, and one that was made up to be careless.

Packets come by the inbox as lnd tells them, and what a worker does is done by its own steps. What becomes of a message is
drawn: each may cost all that it may cost.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import orjson
import pytest
from coincurve import PrivateKey
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import steps
from federation.models import Federation, Step, Wish
from federation.settings import FederationSettings
from federation.worker import carry_out
from messaging import deliveries, peers
from messaging import registry as rows_of_services
from messaging.answers import AnswerTerms
from messaging.clock import Clock
from messaging.inbox import Inbox
from messaging.joining import Bounds
from messaging.models import (
    Assembly,
    Direction,
    InboundUse,
    Message,
    Origin,
    Peer,
    ReceivedHtlc,
    ReceivedPart,
    Refused,
    State,
)
from messaging.outgoing import new_message, store_all
from messaging.registry import HANDLERS, Reaction, Registry
from messaging.workers import WorkerContext
from protos import envelope_pb2
from protos.lnrpc import lightning_pb2
from tests.support.examples import examples
from tests.support.outboxes import OWN_PUBKEY
from tests.support.records import sealed
from tests.support.tables import emptied
from tests.support.vpn_deals import TABLES, open_shop, vpn_settings
from vpn import bodies, selling
from vpn.keys import new_key_pair
from vpn.models import Lease, Quote, Term
from vpn.states import LeaseState, TermState

pytestmark = [pytest.mark.sql, pytest.mark.usefixtures("migrated")]

INVENTED = "invented"
NUMBERS = {name: 400_000 + number for number, name in enumerate([*HANDLERS, INVENTED])}
KEYS = [PrivateKey(bytes([7, number]) * 16) for number in range(3)]
PUBKEYS = [key.public_key.format().hex() for key in KEYS]
BOUNDS = Bounds(max_bytes=10_000, per_peer=4, in_all=16, received_bytes=100_000, seconds=60)
ALL_TABLES = (
    *TABLES,
    Federation,
    Step,
    Wish,
    ReceivedPart,
    Assembly,
    InboundUse,
    Refused,
    ReceivedHtlc,
)
HOUR = timedelta(hours=1)


def careless(message: Message) -> Reaction:
    """A handler as somebody may write it: it answers whatever comes, often, dearly, to anybody and in any name."""
    choice = hashlib.sha256(bytes(message.body)).digest()
    answers = []
    for number in range(choice[0] % 4):
        answer = new_message(
            service=INVENTED,
            pubkey=[message.pubkey, PUBKEYS[0], "03" + "77" * 32][choice[1] % 3],
            body=b"x" * (choice[2] % 2 * 3_000 + number + 1),
            amount_sat=1 + choice[3],
            reply_to=[message.message_id, message.reply_to, None][choice[4] % 3],
            origin=list(Origin)[choice[5] % 3],
        )
        if choice[6] % 2:
            answer.account = "vpn lease 1"
        answer.fee_limit_msat = 1_000_000
        answer.max_attempts = None
        answers.append(answer)
    return Reaction(answers=answers)


class Row:
    active = True

    def __init__(self, service_type: str):
        self.service_type, self.custom_record_number = service_type, NUMBERS[service_type]


class DirectInbox(Inbox):
    """One that stores what comes in the caller's transaction."""

    def __init__(self, registry: Registry, terms: AnswerTerms):
        super().__init__(
            database=None,  # type: ignore[arg-type]
            registry=registry,
            own_pubkey=OWN_PUBKEY,
            bounds=BOUNDS,
            published=lambda events: None,
            hints=None,  # type: ignore[arg-type]
            send_stored=lambda messages: None,
            answer_terms=terms,
            policies={},
            now_seconds=lambda: 0.0,
        )
        self.registry = registry
        self._disbelieved = Mock()

    def store(self, invoice: lightning_pb2.Invoice) -> None:
        if arrivals := self._arrivals(invoice):
            self._storing(arrivals)()

    def _note_dropped(self, dropped: Counter[tuple[str, str]]) -> None:
        """Nobody asks, and there is no event loop for the line in the log."""


class World:
    """One node, what strangers have paid it, and what was asked for at it."""

    def __init__(self, accept: str, shop_is_open: bool, known: int):
        self.paid_msat: Counter[str] = Counter()
        self.asked_for: set[UUID] = set()
        self.vpn = vpn_settings(own_pubkey=OWN_PUBKEY.hex())
        self.federation = FederationSettings(
            own_pubkey=OWN_PUBKEY.hex(), imp_id="us", ttl_seconds=3_600, accept=accept, max_members=2
        )
        services = {"vpn": self.vpn, "federate": self.federation}
        # The budget in all hides nothing: what holds for one stranger has to hold by itself.
        terms = AnswerTerms(fee_limit_msat=lambda amount_msat: 10_000, allowance_msat=10**9)
        self.inbox = DirectInbox(Registry([Row(name) for name in NUMBERS], services), terms)
        self.context = WorkerContext(
            database=None,  # type: ignore[arg-type]
            clock=Clock(),
            published=lambda events: None,
            send_stored=lambda messages: None,
            cost_msat=lambda size, amount_msat: amount_msat,
            answer_terms=terms,
            postage_sat=None,  # type: ignore[arg-type]
            client=None,  # type: ignore[arg-type]
            payer=None,
            settings=None,
        )
        self._shop_is_open, self._known = shop_is_open, known

    def begin(self) -> None:
        for table in ALL_TABLES:
            table.objects.all().delete()
        peers._touched_at.clear()
        if self._shop_is_open:
            open_shop()
        for pubkey in PUBKEYS[: self._known]:
            Peer.objects.create(pubkey=pubkey, marked=True)

    def pay(self, sender: int, paid_msat: int, records: list[tuple[str, list[tuple]]]) -> None:
        """A payment of one stranger, with a packet for each of some services."""
        made = {}
        for service, items in records:
            found = [self._item(sender, service, *drawn) for drawn in items]
            packet = envelope_pb2.Packet(items=found).SerializeToString()
            made[NUMBERS[service]] = sealed(
                KEYS[sender], packet, recipient=OWN_PUBKEY, record_number=NUMBERS[service]
            )
        htlc = lightning_pb2.InvoiceHTLC(
            chan_id=1, htlc_index=1, amt_msat=paid_msat, state=lightning_pb2.SETTLED, custom_records=made
        )
        invoice = lightning_pb2.Invoice(
            is_keysend=True,
            state=lightning_pb2.Invoice.SETTLED,
            r_hash=uuid4().bytes * 2,
            htlcs=[htlc],
        )
        self.paid_msat[PUBKEYS[sender]] += paid_msat
        self.inbox.store(invoice)

    def _item(
        self, sender: int, service: str, kind: int, choice: int, share_msat: int, is_part: bool
    ) -> envelope_pb2.Item:
        body = self._body(sender, service, kind, choice)
        item = envelope_pb2.Item(
            id=uuid4().bytes, body=body, amount_msat=share_msat, reply_to=self._reply_to(sender, choice)
        )
        if is_part:
            item.part.CopyFrom(
                envelope_pb2.Part(index=0, count=1, size=len(body), sha256=hashlib.sha256(body).digest())
            )
        return item

    def _reply_to(self, sender: int, choice: int) -> bytes:
        """Nothing, or what this node has sent to it."""
        ids = list(Message.objects.filter(direction=Direction.OUT).values_list("message_id", flat=True)[:20])
        return ids[choice % len(ids)].bytes if ids and choice % 3 else b""

    def _body(self, sender: int, service: str, kind: int, choice: int) -> bytes:
        if service == "vpn":
            return self._vpn_body(sender, kind, choice)
        if service == "federate":
            type = ("request", "accept", "refuse", "leave", "nonsense")[kind % 5]
            end = int((timezone.now() + HOUR * (choice % 3)).timestamp())
            return orjson.dumps(
                {"type": type, "imp_id": "x", "ttl": 60, "expires_at": end, "round": choice % 4}
            )
        return b"%d %d" % (kind, choice)

    def _vpn_body(self, sender: int, kind: int, choice: int) -> bytes:
        quotes = list(Quote.objects.filter(buyer=PUBKEYS[sender]).order_by("pk"))
        leases = list(Lease.objects.filter(buyer=PUBKEYS[sender]).order_by("pk"))
        quote = quotes[choice % len(quotes)] if quotes else None
        lease = leases[choice % len(leases)] if leases else None
        asked = {
            "price": ["10", "600"][choice % 2],
            "pubkey": lease.wg_key if lease and kind % 2 else new_key_pair().public,
        }
        made: list[Callable[[], bytes]] = [
            lambda: bodies.encode(bodies.QUOTE_REQUEST),
            lambda: bodies.encode(bodies.CONTRACT, nonce=quote.nonce if quote else "none", **asked),
            lambda: bodies.encode(bodies.REFRESH, nonce=lease.nonce if lease else "none", **asked),
            lambda: bodies.encode(bodies.LEASE_REQUEST, id=lease.contract_id if lease else uuid4()),
            lambda: bodies.encode(bodies.REFUSAL, reason="full"),
            lambda: b"{nonsense",
        ]
        return made[kind % len(made)]()

    # what this node does of its own accord

    def ask(self, sender: int) -> None:
        """A caller asks a node to federate."""
        message = new_message(service="federate", pubkey=PUBKEYS[sender], body=b"", origin=Origin.CALLER)
        try:
            steps.request(message, self.federation)
        except steps.NotPossible:
            return
        self.asked_for.update(one.message_id for one in store_all([message], self.context))

    def decide(self, sender: int, action: str) -> None:
        """The operator does something in the admin."""
        wish = Wish.objects.create(pubkey=PUBKEYS[sender], action=action, asked_by="me")
        sent = carry_out(wish.pk, _with_settings(self.context, self.federation))
        self.asked_for.update(message.message_id for message in sent)

    def sell(self, choice: int) -> None:
        """The seller's worker does what it can, and buyers pay or do not."""
        now = timezone.now()
        told: list[Any] = []
        for term in Term.objects.select_related("lease").order_by("pk"):
            if term.state == TermState.WANTED:
                told += selling.offer(term, "lnsb1" + "q" * (choice % 2 * 400))
            elif term.state == TermState.OFFERED and choice % 3:
                selling.hold(term, self.vpn, now)
            elif term.state == TermState.OFFERED:
                told += selling.cancel(term, "not paid in time")[0]
            elif term.state == TermState.HELD and choice % 5:
                selling.decide_to_settle(term)
                told += selling.settle(term, now, self.vpn)[0]
                self.paid_msat[term.buyer] += term.price_sat * 1000
            elif term.state == TermState.HELD:
                selling.give_back(term, "no tunnel")
            elif term.state == TermState.CANCELING:
                told += selling.cancel(term, "given back")[0]
        if choice % 2:
            Lease.objects.filter(state=LeaseState.ACTIVE).update(warns_at=now - HOUR)
            told += selling.pass_time(now)[0]
        if choice % 3 == 1:
            Lease.objects.filter(state=LeaseState.EXPIRING).update(expires_at=now - HOUR)
            told += selling.pass_time(now)[0]
            told += selling.peers_gone(set(), now, self.vpn)[0]
        store_all(told, self.context)

    def buy(self, sender: int, paid_msat: int, choices: list[int]) -> None:
        """A purchase as far as it goes: a quote, a contract, and what the seller's worker does then."""
        for kind in (0, 1):
            self.pay(sender, paid_msat, [("vpn", [(kind, choices[0], paid_msat, False)])])
        for choice in choices:
            self.sell(choice)

    def deliver(self, choice: int) -> None:
        """Messages end: some are paid, with any fee that was permitted, some fail."""
        waiting = Message.objects.filter(direction=Direction.OUT, state=State.QUEUED).order_by("pk")
        for number, message in enumerate(waiting[: choice % 4]):
            Message.objects.filter(pk=message.pk).update(state=State.IN_FLIGHT)
            is_paid = (choice + number) % 3
            limit_msat = message.fee_limit_msat or 0
            message.fee_msat = limit_msat * is_paid // 2
            message.cost_msat = message.amount_msat + message.fee_msat if is_paid else 0
            state = State.SETTLED if is_paid else State.FAILED
            deliveries.move([message], state, timezone.now(), cause="", published=lambda events: None)

    # what always holds

    def check(self) -> None:
        """What each stranger causes, and each received message and each sale by itself."""
        cost_msat: Counter[str] = Counter()
        parts_msat: Counter[tuple[str, int]] = Counter()
        for message in Message.objects.filter(direction=Direction.OUT):
            if message.message_id in self.asked_for:
                continue
            assert message.origin in (Origin.ANSWER, Origin.SALE)
            at_stake_msat = message.amount_msat + message.fee_limit_msat
            has_ended = message.state in (State.SETTLED, State.FAILED)
            message_msat = message.cost_msat if has_ended else at_stake_msat
            cost_msat[_payer_of(message)] += message_msat
            parts_msat[_part_of(message)] += message_msat
            assert message.parts == 1
            assert message.max_attempts in (1, 2)
        for pubkey, msat in cost_msat.items():
            assert msat <= self.paid_msat[pubkey], (pubkey, msat, self.paid_msat)
        for (kind, key), msat in parts_msat.items():
            assert msat <= _paid_msat(kind, key), (kind, key, msat)


def _with_settings(context: WorkerContext, settings: FederationSettings) -> Any:
    return type("Context", (), {**vars(context), "settings": settings})


def _part_of(message: Message) -> tuple[str, int]:
    if message.origin == Origin.SALE:
        return "lease", int(message.account.removeprefix("vpn lease "))
    return "message", message.paid_by


def _paid_msat(kind: str, key: int) -> int:
    if kind == "message":
        return Message.objects.get(pk=key).amount_msat
    return 1000 * sum(term.price_sat for term in Term.objects.filter(lease=key, state=TermState.SETTLED))


def _payer_of(message: Message) -> str:
    if message.origin == Origin.SALE:
        return Lease.objects.get(pk=int(message.account.removeprefix("vpn lease "))).buyer
    return Message.objects.get(pk=message.paid_by, direction=Direction.IN).pubkey


numbers = st.integers(0, 999)
shares = st.sampled_from([1_000, 2_500, 9_000, 0, 999])
items = st.tuples(numbers, numbers, shares, st.sampled_from([False, False, False, True]))
# Those that answer are drawn more often.
services = st.sampled_from([*[INVENTED, "federate", "vpn"] * 3, *NUMBERS])
records = st.lists(st.tuples(services, st.lists(items, min_size=1, max_size=4)), min_size=1, max_size=3)
senders = st.integers(0, len(KEYS) - 1)
amounts = st.sampled_from([3_000, 40_000, 12_000, 1_000, 999, 1])
payments = st.tuples(st.just("pay"), senders, amounts, records)
purchases = st.tuples(
    st.just("buy"),
    senders,
    st.sampled_from([1_000, 3_000, 40_000]),
    st.lists(numbers, min_size=5, max_size=8),
)
actions = st.one_of(
    payments,
    payments,
    payments,
    purchases,
    st.tuples(st.just("ask"), senders),
    st.tuples(st.just("decide"), senders, st.sampled_from(["accept", "refuse", "leave"])),
    st.tuples(st.just("sell"), numbers),
    st.tuples(st.just("deliver"), numbers),
)


@pytest.fixture
def invented(monkeypatch):
    monkeypatch.setitem(rows_of_services.HANDLERS, INVENTED, f"{__name__}.careless")
    yield from emptied(ALL_TABLES)


@settings(
    max_examples=max(60, examples(500)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(actions, min_size=5, max_size=20),
    st.sampled_from(["auto", "known", "manual"]),
    st.booleans(),
    st.integers(0, 1),
)
def test_no_stranger_makes_this_node_pay_more_than_it_has_paid(invented, script, accept, shop_is_open, known):
    # One transaction an example: a commit for each row would take most of the time.
    with transaction.atomic():
        world = World(accept, shop_is_open, known)
        world.begin()
        for name, *arguments in script:
            getattr(world, name)(*arguments)
            world.check()
        transaction.set_rollback(True)


@pytest.mark.parametrize("service", NUMBERS)
def test_items_that_pay_nothing_reach_no_handler(invented, monkeypatch, service):
    """However many one payment has room for, in however many records."""
    handled = []

    world = World("auto", shop_is_open=True, known=0)
    world.begin()
    for row in world.inbox.registry.services:
        object.__setattr__(row, "handler", lambda message: handled.append(message) or Reaction())
    others = [name for name in NUMBERS if NUMBERS[name] > NUMBERS[service]]
    free = [(number, number, 0, False) for number in range(20)]
    paid = (0, 0, 1_000, False)
    world.pay(0, 1_000, [(service, [paid, *free]), *((name, [paid, paid]) for name in others)])
    assert [message.service for message in handled] == [service]
