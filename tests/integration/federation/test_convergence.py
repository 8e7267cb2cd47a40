"""Two nodes that ask and leave as they like, with messages that arrive in any order: in the end both hold the other with
the same end, or neither does.

Both nodes' rows live in one table here: each is about the other, so they do not meet.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import patch
from uuid import uuid4

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation import bodies, handlers, steps
from federation.models import Federation, Step
from federation.settings import SERVICE, FederationSettings
from federation.states import State
from messaging.models import Direction, Message, Peer
from messaging.outgoing import new_message
from tests.support.examples import examples

A, B, STRANGER = "02" + "aa" * 32, "03" + "bb" * 32, "02" + "cc" * 32
TTL_SECONDS = 100_000

pytestmark = pytest.mark.usefixtures("migrated")


class World:
    """Two nodes, and the messages between them that are under way. Time passes with every step."""

    def __init__(self, accept: str = "auto", max_members: int = 10):
        for model in (Federation, Step, Message, Peer):
            model.objects.all().delete()
        self.settings = {
            one: FederationSettings(
                own_pubkey=one, imp_id=name, ttl_seconds=TTL_SECONDS, accept=accept, max_members=max_members
            )
            for one, name in ((A, "Anna"), (B, "Bert"))
        }
        self.under_way: list[tuple[str, Message]] = []
        self.events: dict[str, list[dict]] = {A: [], B: []}
        self.dropped: list[str] = []
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def pass_seconds(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)

    def _tell(self, one: str, events) -> None:
        self.events[one] += [json.loads(event.data) | {"id": event.message_id} for event in events]

    def _send(self, one: str, messages) -> None:
        for message in messages:
            # Its row would stand for both nodes: the receiver's is made when it arrives.
            message.save(force_insert=True)
            self.under_way.append((one, message))

    def act(self, one: str, action: str) -> bool:
        other = B if one == A else A
        message = new_message(service=SERVICE, pubkey=other, body=b"")
        step = steps.request if action == "ask" else steps.leave
        try:
            step(message, self.settings[one])
        except steps.NotPossible:
            return False
        self._send(one, [message])
        return True

    def deliver(self, place: int) -> None:
        sender, message = self.under_way.pop(place)
        self.receive(
            sender, B if sender == A else A, message.message_id, message.reply_to, bytes(message.body)
        )

    def receive(self, sender: str, receiver: str, message_id, reply_to, body: bytes) -> None:
        received = Message(
            message_id=message_id,
            direction=Direction.IN,
            pubkey=sender,
            service=SERVICE,
            reply_to=reply_to,
            body=body,
            amount_msat=1000,
            state="received",
        )
        reaction = handlers.handle(received, settings=self.settings[receiver])
        self._tell(receiver, reaction.events)
        self._send(receiver, reaction.answers)
        self.dropped += [reaction.dropped] if reaction.dropped else []

    def deliver_all(self) -> None:
        while self.under_way:
            self.deliver(0)

    def row(self, one: str) -> Federation | None:
        """How this node stands to the other."""
        return Federation.objects.filter(pubkey=B if one == A else A).first()

    def held(self, one: str):
        row = self.row(one)
        return row.expires_at if row and row.state == State.MEMBER else None


@pytest.fixture
def world():
    made = World()
    with patch.object(steps, "timezone", SimpleNamespace(now=made.now)):
        yield made


ACTIONS = st.tuples(
    st.sampled_from(["ask", "leave", "ttl", "deliver"]), st.sampled_from([A, B]), st.integers(0, 99)
)


# What is suppressed here takes the place of what the profile suppresses.
@settings(
    max_examples=examples(300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(ACTIONS, max_size=25))
def test_both_hold_the_same_or_nothing(script):
    # One transaction an example: a commit for each row would take most of the time.
    with transaction.atomic():
        world = World()
        play(world, script)
        assert world.held(A) == world.held(B)
        assert not world.row(A) or not world.row(A).asked
        assert not world.row(B) or not world.row(B).asked


def play(world: World, script) -> None:
    with patch.object(steps, "timezone", SimpleNamespace(now=world.now)):
        for action, one, number in script:
            world.pass_seconds(3)
            if action == "ttl":
                world.settings[one] = replace(world.settings[one], ttl_seconds=TTL_SECONDS - 7 * number)
            elif action == "deliver":
                if world.under_way:
                    world.deliver(number % len(world.under_way))
            else:
                world.act(one, action)
        world.deliver_all()


def test_steps_are_kept(world):
    world.act(A, "ask")
    world.deliver_all()
    world.act(B, "leave")
    world.deliver_all()
    history = list(Step.objects.filter(pubkey=B).order_by("pk").values_list("state", "cause"))
    assert history == [
        ("requested", "asked by this node"),
        ("member", "accepted by the other node"),
        ("left", "left by the other node"),
    ]


@pytest.mark.parametrize("type", ["accept", "leave", "refuse"])
def test_what_nobody_asked_for_changes_nothing(world, type):
    world.act(A, "ask")
    asked = world.under_way.pop()[1].message_id
    body = json.dumps(
        {"type": type, "imp_id": "?", "ttl": 60, "expires_at": int(world.time.timestamp()) + 60}
    ).encode()
    before = list(Federation.objects.values())
    world.receive(STRANGER, A, uuid4(), asked, body)
    world.receive(B, A, uuid4(), uuid4(), body)
    world.receive(B, A, uuid4(), None, body)
    assert list(Federation.objects.values()) == before
    assert world.under_way == []
    assert len(world.dropped) == 3


def test_an_accept_that_is_told_again_changes_nothing(world):
    world.act(A, "ask")
    world.deliver(0)
    _, accept = world.under_way[0]
    world.deliver(0)
    before = Federation.objects.filter(pubkey=B).values().get()
    world.pass_seconds(50)
    world.receive(B, A, uuid4(), accept.reply_to, bytes(accept.body))
    assert Federation.objects.filter(pubkey=B).values().get() == before
    assert world.under_way == []


def test_an_accept_beyond_our_ttl_ends_it_on_both_sides(world):
    world.settings[B] = replace(world.settings[B], ttl_seconds=10 * TTL_SECONDS)
    world.act(A, "ask")
    _, request = world.under_way[0]
    request.body = bodies.encode(replace(bodies.decode(bytes(request.body)), ttl=10 * TTL_SECONDS))
    world.deliver(0)
    assert world.row(B).state == State.MEMBER
    world.deliver_all()
    assert (world.row(A).state, world.row(B).state) == ("refused", "left")


def test_bodies_without_rounds(world):
    """As a node sends them that knows no more than wire.md."""
    expires_at = int(world.time.timestamp()) + 500
    world.receive(B, A, uuid4(), None, b'{"type":"request","imp_id":"old","ttl":500}')
    assert world.row(A).state == State.MEMBER
    assert int(world.row(A).expires_at.timestamp()) == expires_at
    world.receive(B, A, uuid4(), None, b'{"type":"leave","imp_id":"old"}')
    assert world.row(A).state == State.LEFT
    world.under_way.clear()
    world.act(A, "ask")
    asked = world.under_way.pop()[1].message_id
    world.receive(
        B, A, uuid4(), asked, json.dumps({"type": "accept", "ttl": 500, "expires_at": expires_at}).encode()
    )
    assert int(world.held(A).timestamp()) == expires_at


def test_a_request_is_taken_back_before_and_after_its_answer(world):
    """The answer is under way, or comes later: either way nobody holds anything."""
    world.act(A, "ask")
    world.deliver(0)
    assert world.act(A, "leave")
    assert (world.row(A).state, world.row(A).cause) == ("left", "the request was taken back by this node")
    world.deliver_all()
    assert (world.held(A), world.held(B), world.row(B).state) == (None, None, "left")
    assert not world.act(A, "leave")


def test_a_request_that_waits_is_taken_back_by_its_own_leave_only():
    world = World(accept="manual")
    with patch.object(steps, "timezone", SimpleNamespace(now=world.now)):
        world.act(A, "ask")
        world.act(A, "leave")
        world.act(A, "ask")
        (_, first), (_, leave), (_, second) = world.under_way
        world.deliver(2)
        assert (world.row(B).state, world.row(B).received_id) == ("received", second.message_id)
        world.receive(A, B, uuid4(), leave.reply_to, bytes(leave.body))
        assert world.row(B).state == "received"
        assert leave.reply_to == first.message_id
        world.act(A, "leave")
        world.deliver(2)
        assert (world.row(B).state, world.row(B).cause) == (
            "left",
            "the request was taken back by the other node",
        )
        assert world.events[B][-1]["type"] == "leave"


def test_accepts_of_an_old_request_are_answered_so_often(world):
    """Each answer is a payment of ours."""
    world.act(A, "ask")
    _, request = world.under_way[0]
    world.deliver_all()
    world.act(A, "leave")
    world.under_way.clear()
    body = bodies.encode(bodies.Body(type=bodies.ACCEPT, ttl=60, expires_at=int(world.time.timestamp()) + 60))
    for _ in range(100):
        world.receive(B, A, uuid4(), request.message_id, body)
    assert len(world.under_way) + Step.objects.filter(pubkey=B, state="member").count() < 60
    assert world.dropped == ["accept_unasked"] * 100


def test_a_round_without_end_ends_nothing_of_ours(world):
    """Whoever tells the highest round that there is does not bring ours beyond what can be read."""
    for _ in range(3):
        world.receive(B, A, uuid4(), None, b'{"type":"request","ttl":500,"round":9007199254740992}')
    for _, answer in world.under_way:
        assert bodies.decode(bytes(answer.body)).round == bodies.MAX_NUMBER
        assert handlers.failed(answer, "away") is not None
    assert world.act(A, "ask")


def test_the_end_while_asked_again(world):
    """The answer may come after the end: it is still an answer."""
    world.act(A, "ask")
    world.deliver_all()
    world.pass_seconds(TTL_SECONDS - 10)
    world.act(A, "ask")
    world.deliver(0)
    world.pass_seconds(20)
    steps.expire(world.time)
    assert (world.row(A).state, world.row(B).state) == ("requested", "member")
    world.deliver_all()
    assert world.held(A) == world.held(B) is not None


def test_an_accept_that_fails_is_taken_back(world):
    world.act(A, "ask")
    world.deliver(0)
    _, accept = world.under_way.pop()
    (event,) = handlers.failed(accept, "nobody there")
    assert world.row(B).state == State.LEFT
    assert "nobody there" in world.row(B).cause
    assert event.message_id == accept.reply_to


def test_a_refresh_that_fails_leaves_the_end_before(world):
    world.act(A, "ask")
    world.deliver_all()
    held = world.held(A)
    world.pass_seconds(100)
    world.act(A, "ask")
    world.deliver(0)
    _, accept = world.under_way.pop()
    assert world.held(B) > held
    handlers.failed(accept, "nobody there")
    assert world.held(A) == world.held(B) == held


def test_a_request_without_answer_ends(world):
    world.act(A, "ask")
    world.under_way.clear()
    world.pass_seconds(TTL_SECONDS + 1)
    (_,) = steps.expire(world.time)
    assert world.row(A).state == State.EXPIRED
    assert world.row(A).cause == "the other node did not answer"
    assert steps.expire(world.time) == []


def test_requests_that_wait_for_the_admin_are_bounded():
    world = World(accept="manual", max_members=3)
    with patch.object(steps, "timezone", SimpleNamespace(now=world.now)):

        def ask(number):
            world.receive(f"02{number:064x}", A, uuid4(), None, b'{"type":"request","ttl":60}')
            return list(Federation.objects.order_by("pubkey").values_list("state", flat=True))

        for number in range(5):
            states = ask(number)
        # Strangers have half of the room, and are not answered beyond it.
        assert states == ["received"] * 2
        for number in (5, 6):
            Peer.objects.create(pubkey=f"02{number:064x}", marked=True)
            states = ask(number)
        assert states == ["received"] * 3 + ["refused"]
