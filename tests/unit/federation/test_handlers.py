"""Requests of strangers are answered only so often: each answer costs this node."""

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from federation import bodies, handlers, steps
from federation.models import Federation, Step, Wish
from federation.settings import FederationSettings
from messaging.models import Direction, Message, Origin, Peer, State
from messaging.outgoing import new_message

PUBKEY = "02" + "ab" * 32
SETTINGS = FederationSettings(
    own_pubkey="03" + "cd" * 32, imp_id="us", ttl_seconds=3_600, accept="auto", max_members=100
)


@pytest.fixture(autouse=True)
def migrated():
    call_command("migrate", verbosity=0)
    yield
    for model in (Federation, Step, Wish, Peer):
        model.objects.all().delete()
    connection.close()


def ask(pubkey: str, settings: FederationSettings):
    body = bodies.encode(bodies.Body(type=bodies.REQUEST, imp_id="x", ttl=60))
    message = Message(
        message_id=uuid4(),
        direction=Direction.IN,
        pubkey=pubkey,
        service="federate",
        body=body,
        amount_msat=1_000,
        state=State.RECEIVED,
    )
    return handlers.handle(message, settings=settings)


def test_one_stranger_is_answered_so_often():
    answered = [bool(ask(PUBKEY, SETTINGS).answers) for _ in range(70)]
    assert answered == [True] * 60 + [False] * 10
    assert ask(PUBKEY, SETTINGS).dropped == "too_many_requests"


def test_all_strangers_together_are_answered_so_often():
    settings = replace(SETTINGS, max_members=1_000)
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    answered = sum(len(ask(f"02{number:064x}", settings).answers) for number in range(320))
    assert answered == steps.MAX_STEPS_AN_HOUR // 2
    # The other half is kept for known peers.
    assert ask(PUBKEY, settings).answers


@pytest.mark.parametrize("accept", ["auto", "known", "manual"])
def test_full_federation_answers_no_stranger(accept):
    settings = replace(SETTINGS, max_members=1, accept=accept)
    Federation.objects.create(pubkey="02" + "ee" * 32, state="member")
    reaction = ask(PUBKEY, settings)
    assert (reaction.answers, reaction.events, reaction.dropped) == ([], [], steps.FULL)
    assert not Federation.objects.filter(pubkey=PUBKEY).exists()
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    assert ask(PUBKEY, settings).answers


def test_strangers_get_half_of_the_places():
    settings = replace(SETTINGS, max_members=4)
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    strangers = [f"02{number:064x}" for number in range(3)]
    assert [ask(stranger, settings).dropped for stranger in strangers] == ["", "", steps.FULL]
    assert ask(PUBKEY, settings).answers
    members = Federation.objects.filter(state="member").values_list("pubkey", flat=True)
    assert set(members) == {*strangers[:2], PUBKEY}
    # Who is a member goes on being one, however many strangers there are.
    Federation.objects.filter(pubkey=PUBKEY).update(pubkey="02" + "ee" * 32)
    assert ask(strangers[0], settings).answers


def wanted(number: int, settings: FederationSettings) -> Message:
    message = new_message(service="federate", pubkey=f"03{number:064x}", body=b"", origin=Origin.CALLER)
    steps.request(message, settings)
    return message


def test_whom_the_operator_asks_gets_the_place_of_the_oldest_stranger():
    settings = replace(SETTINGS, max_members=3)
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    now = timezone.now()
    members = [f"02{number:064x}" for number in (1, 2)]
    for age, pubkey in enumerate([*members, PUBKEY]):
        Federation.objects.create(pubkey=pubkey, state="member", since=now + timedelta(seconds=age))
    wanted(1, settings)
    wanted(2, settings)
    wishes = Wish.objects.order_by("pk").values_list("pubkey", "action")
    assert list(wishes) == [(members[0], "leave"), (members[1], "leave")]
    # The third place is a known peer's.
    with pytest.raises(steps.NotPossible, match=r"federate\.max_members: 3"):
        wanted(3, settings)
    assert Wish.objects.count() == 2


def test_whom_the_operator_accepts_gets_the_place_of_the_oldest_stranger():
    settings = replace(SETTINGS, max_members=2, accept="manual")
    now = timezone.now()
    for number in (1, 2):
        Federation.objects.create(pubkey=f"02{number:064x}", state="member", since=now)
    Peer.objects.create(pubkey=f"02{2:064x}", marked=True)
    Federation.objects.create(pubkey=PUBKEY, state="received", received_id=uuid4(), ttl_seconds=60)
    assert steps.accept_waiting(PUBKEY, settings).answers
    assert Wish.objects.get().pubkey == f"02{1:064x}"


def test_requests_of_strangers_that_wait_leave_half_of_the_room_to_known_peers():
    settings = replace(SETTINGS, max_members=4, accept="manual")
    Peer.objects.create(pubkey=PUBKEY, written_to=True)
    dropped = [ask(f"02{number:064x}", settings).dropped for number in range(3)]
    assert dropped == ["", "", steps.FULL]
    assert ask(PUBKEY, settings).dropped == ""
    assert Federation.objects.filter(state="received").count() == 3


@pytest.mark.parametrize(
    ("asked", "body", "is_one"),
    [
        (bodies.REQUEST, bodies.ACCEPT, True),
        (bodies.REQUEST, bodies.REFUSE, True),
        (bodies.REQUEST, None, True),
        (bodies.REQUEST, bodies.REQUEST, False),
        (bodies.REQUEST, bodies.LEAVE, False),
        (bodies.LEAVE, bodies.ACCEPT, False),
        (bodies.ACCEPT, bodies.REFUSE, False),
    ],
)
def test_only_a_request_asks_and_only_its_answers_answer(asked, body, is_one):
    made = {
        type: bodies.encode(bodies.Body(type=type, imp_id="x", ttl=60, expires_at=2_000_000_000))
        for type in bodies.TYPES
    }
    assert handlers.is_answer(made[asked], made.get(body)) == is_one
    assert not handlers.is_answer(b"no json", made.get(body))


def test_a_marked_peer_is_always_answered():
    Peer.objects.create(pubkey=PUBKEY, marked=True)
    assert all(ask(PUBKEY, SETTINGS).answers for _ in range(70))


def test_whom_we_have_asked_is_answered_so_often_too():
    """It may ask and ask instead of answering."""
    steps.request(new_message(service="federate", pubkey=PUBKEY, body=b""), SETTINGS)
    assert sum(len(ask(PUBKEY, SETTINGS).answers) for _ in range(70)) == 59


def test_strangers_do_not_keep_us_from_answering_whom_we_have_asked():
    for number in range(320):
        ask(f"02{number:064x}", SETTINGS)
    steps.request(
        new_message(service="federate", pubkey=PUBKEY, body=b""), replace(SETTINGS, max_members=1_000)
    )
    assert ask(PUBKEY, replace(SETTINGS, max_members=1_000)).answers
