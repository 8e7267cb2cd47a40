"""The steps of a federation's life, each a part of the caller's transaction, in which it is the only writer.

Both nodes must end up holding each other with the same end, or not at all, in whatever order messages arrive: that is
what rounds are for (bodies.py). A step that is repeated, or that nothing calls for, changes nothing and tells nothing.
"""

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from django.db.models import QuerySet
from django.utils import timezone

from federation import bodies
from federation.bodies import Body
from federation.models import Federation, Step, Wish
from federation.settings import ACCEPT_AUTO, ACCEPT_KNOWN, ACCEPT_MANUAL, SERVICE, FederationSettings
from federation.states import WAYS, State
from federation.telling import EXPIRED, step_event
from messaging import peers
from messaging.json_bodies import MAX_NUMBER
from messaging.models import Direction, Event, Message, Peer
from messaging.outgoing import DEFAULT_EXPIRES_SECONDS, new_message
from messaging.registry import Reaction
from messaging.required import required
from messaging.transitions import require_way

# Clocks of two nodes differ: so much later than our ttl allows may an end be that the other node has set.
CLOCK_SLACK_SECONDS = 30
# Our unanswered requests to one node that are remembered.
MAX_ASKED = 16

MAX_STEPS_OF_A_PEER_AN_HOUR = 60
MAX_STEPS_AN_HOUR = 300

FULL = "full"
NOT_KNOWN = "not known to this node"
REFUSED_BY_HAND = "refused by the operator"


class NotPossible(Exception):
    """`str()` says why this cannot be asked for now; it begins with a verb: "is …"."""


# what this node asks for


def request(message: Message, settings: FederationSettings) -> None:
    """Our request, which `message` carries; its body is made here. Raises NotPossible.

    There is no event of it: the first one under the id of the call that asked is the other node's answer.
    """
    found = Federation.objects.filter(pubkey=message.pubkey).first()
    federation = found or Federation(pubkey=message.pubkey)
    if not _make_place(message.pubkey, settings):
        raise NotPossible(
            f"cannot be asked: the federation is full (federate.max_members: {settings.max_members}, with those that "
            "were asked)"
        )
    message.body = request_body(settings, federation.round)
    federation.asked = [*federation.asked[1 - MAX_ASKED :], str(message.message_id)]
    federation.received_id = None
    federation.waits_until = _in_seconds(settings.ttl_seconds)
    if federation.state == State.MEMBER:
        _store(federation, step="asked again by this node")
    else:
        federation.expires_at = federation.since = None
        _move(federation, State.REQUESTED, "asked by this node")


def request_body(settings: FederationSettings, round: int = bodies.LONGEST_ROUND) -> bytes:
    return bodies.encode(
        Body(type=bodies.REQUEST, imp_id=settings.imp_id, ttl=settings.ttl_seconds, round=round)
    )


def leave(message: Message, settings: FederationSettings, *, by: str = "this node") -> Federation:
    """We leave, or take back what we asked, which `message` tells; its body is made here. Raises NotPossible.

    Returns:
        What was left. There is no event: where a call asked for it, its reply has told the caller.
    """
    federation = Federation.objects.filter(pubkey=message.pubkey).first()
    if federation is None or federation.state not in (State.MEMBER, State.REQUESTED):
        raise NotPossible("is not a node that this one is federated with, or has asked")
    message.body = leave_body(settings, federation.round)
    cause = f"left by {by}"
    if federation.state == State.REQUESTED:
        # By this it is known over there what is taken back, where it may still wait for somebody's decision.
        message.reply_to = UUID(federation.asked[-1])
        cause = f"the request was taken back by {by}"
    _end(federation, State.LEFT, cause)
    return federation


def leave_by_operator(pubkey: str, settings: FederationSettings) -> Reaction:
    """No call has told a program of it, so that the stream does. Raises NotPossible."""
    message = new_message(service=SERVICE, pubkey=pubkey, body=leave_body(settings))
    federation = leave(message, settings, by="the operator")
    return Reaction(events=[step_event(bodies.LEAVE, federation, message.message_id)], answers=[message])


def leave_body(settings: FederationSettings, round: int = bodies.LONGEST_ROUND) -> bytes:
    return bodies.encode(Body(type=bodies.LEAVE, imp_id=settings.imp_id, round=round))


# what the operator decides


def accept_waiting(pubkey: str, settings: FederationSettings) -> Reaction:
    """Raises NotPossible."""
    federation = _waiting(pubkey)
    if not _make_place(pubkey, settings):
        raise NotPossible(
            f"cannot be accepted: the federation is full (federate.max_members: {settings.max_members})"
        )
    return _accept(
        federation,
        required(federation.received_id),
        required(federation.ttl_seconds),
        settings,
        "accepted by the operator",
    )


def refuse_waiting(pubkey: str, settings: FederationSettings) -> Reaction:
    """Raises NotPossible."""
    federation = _waiting(pubkey)
    return _refuse(federation, required(federation.received_id), REFUSED_BY_HAND, settings)


def _waiting(pubkey: str) -> Federation:
    federation = Federation.objects.filter(pubkey=pubkey).first()
    if federation is None or federation.state != State.RECEIVED:
        raise NotPossible("has no request that waits")
    return federation


# what the other node tells


def request_received(message: Message, body: Body, settings: FederationSettings) -> Reaction:
    federation = Federation.objects.filter(pubkey=message.pubkey).first() or Federation(pubkey=message.pubkey)
    if _too_many_steps(federation):
        return Reaction(dropped="too_many_requests")
    if _has_no_room(federation, settings) and not _is_known(federation):
        # Nothing is said to strangers: whatever they ask would only cost.
        return Reaction(dropped=FULL)
    federation.imp_id = body.imp_id
    federation.round = max(federation.round, body.round or 0)
    told = step_event(bodies.REQUEST, federation, message.message_id, received=message)
    reaction = _answer_request(federation, message, body, settings)
    return Reaction(events=[told, *reaction.events], answers=reaction.answers)


def _too_many_steps(federation: Federation) -> bool:
    """Each makes work and rows: strangers, whose keys cost nothing, must not do so without end. What all strangers do
    together keeps nobody from being answered whom we have asked; half of it is kept for known peers.
    """
    if Peer.objects.filter(pubkey=federation.pubkey, marked=True).exists():
        return False
    lately = Step.objects.filter(created_at__gte=timezone.now() - timedelta(hours=1))
    if lately.filter(pubkey=federation.pubkey).count() >= MAX_STEPS_OF_A_PEER_AN_HOUR:
        return True
    if federation.asked:
        return False
    if lately.count() >= MAX_STEPS_AN_HOUR:
        return True
    return not _is_known(federation) and peers.of_strangers(lately).count() >= MAX_STEPS_AN_HOUR // 2


def _is_known(federation: Federation) -> bool:
    """Whom this node has asked, or written to, or that its operator knows."""
    return bool(federation.asked) or bool(peers.are_known([federation.pubkey]))


def _has_no_room(federation: Federation, settings: FederationSettings) -> bool:
    """Whether a request of this node can neither be accepted nor wait for the operator."""
    if _is_full(federation, settings):
        return True
    return (
        settings.accept == ACCEPT_MANUAL
        and not federation.asked
        and federation.state != State.MEMBER
        and _no_more_may_wait(federation, settings)
    )


def _no_more_may_wait(federation: Federation, settings: FederationSettings) -> bool:
    """Half of the requests that may wait for the operator are those of known peers."""
    waiting = Federation.objects.filter(state=State.RECEIVED).exclude(pubkey=federation.pubkey)
    if waiting.count() >= settings.max_members:
        return True
    return not _is_known(federation) and peers.of_strangers(waiting).count() >= _strangers_share(settings)


def _answer_request(
    federation: Federation, message: Message, body: Body, settings: FederationSettings
) -> Reaction:
    ttl_seconds = required(body.ttl)
    if _is_full(federation, settings):
        return _refuse(federation, message.message_id, FULL, settings)
    # Whom we asked ourselves, or have accepted before, needs no further leave; a mark that was taken away counts.
    wanted = federation.asked or (federation.state == State.MEMBER and settings.accept != ACCEPT_KNOWN)
    if wanted or settings.accept == ACCEPT_AUTO:
        return _accept(federation, message.message_id, ttl_seconds, settings, "its request was accepted")
    if settings.accept == ACCEPT_KNOWN:
        if Peer.objects.filter(pubkey=federation.pubkey, marked=True).exists():
            return _accept(
                federation, message.message_id, ttl_seconds, settings, "its request was accepted: it is known"
            )
        return _refuse(federation, message.message_id, NOT_KNOWN, settings)
    if _no_more_may_wait(federation, settings):
        return _refuse(federation, message.message_id, FULL, settings)
    ttl_seconds = min(ttl_seconds, settings.ttl_seconds)
    federation.received_id, federation.ttl_seconds = message.message_id, ttl_seconds
    federation.waits_until = _in_seconds(ttl_seconds)
    federation.expires_at = federation.since = None
    _move(federation, State.RECEIVED, "asks this node")
    return Reaction()


def accept_received(message: Message, body: Body, settings: FederationSettings) -> Reaction:
    federation = Federation.objects.filter(pubkey=message.pubkey).first()
    if federation is None:
        return Reaction(dropped="accept_unasked")
    request_id = message.reply_to
    if request_id is None or not _answers_us(federation, message):
        return _unasked(federation, message, body, settings)
    now = timezone.now()
    latest = int(now.timestamp()) + settings.ttl_seconds + CLOCK_SLACK_SECONDS
    holds_against = _holds_against(federation, body, settings)
    told_end = required(body.expires_at)
    if told_end > latest and not holds_against:
        return _decline(federation, message, request_id, body, settings)
    expires_at = datetime.fromtimestamp(min(told_end, latest), UTC)
    federation.imp_id = body.imp_id
    _strike_off(federation, request_id)
    if holds_against:
        # Ours, which crossed it, holds at both nodes; should it not get there, theirs does.
        federation.before_expires_at = expires_at
        _store(federation)
        return Reaction(events=[step_event(bodies.ACCEPT, federation, request_id, received=message)])
    told_round = federation.round + 1 if body.round is None else body.round
    federation.round = min(max(federation.round, told_round), MAX_NUMBER)
    federation.expires_at, federation.before_expires_at = expires_at, None
    federation.agreed_id, federation.agreed_here = request_id, False
    _move_to_member(federation, "accepted by the other node")
    return Reaction(events=[step_event(bodies.ACCEPT, federation, request_id, received=message)])


def _holds_against(federation: Federation, body: Body, settings: FederationSettings) -> bool:
    """Whether what is agreed already is newer than this accept, by the order that both nodes know."""
    if federation.state != State.MEMBER or body.round is None or federation.agreed_id is None:
        return False
    decider = settings.own_pubkey if federation.agreed_here else federation.pubkey
    return (federation.round, decider) > (body.round, federation.pubkey)


def _outranks(federation: Federation, body: Body, settings: FederationSettings) -> bool:
    """Whether this accept is newer than what is agreed."""
    decider = settings.own_pubkey if federation.agreed_here else federation.pubkey
    return body.round is not None and (body.round, federation.pubkey) > (federation.round, decider)


def _answers_us(federation: Federation, message: Message) -> bool:
    return str(message.reply_to) in federation.asked


def _strike_off(federation: Federation, request_id: UUID) -> None:
    """This request of ours needs no answer any more."""
    federation.asked = [asked for asked in federation.asked if asked != str(request_id)]
    if not federation.asked:
        federation.waits_until = None


def _unasked(federation: Federation, message: Message, body: Body, settings: FederationSettings) -> Reaction:
    """An accept that answers nothing which is still asked. If it was asked once, its sender holds us and may not know
    that we no longer hold it: it is told.
    """
    request_id = message.reply_to
    if request_id is None or federation.state == State.REQUESTED:
        return Reaction(dropped="accept_unasked")
    asked_once = Message.objects.filter(
        direction=Direction.OUT, pubkey=message.pubkey, message_id=request_id, service=SERVICE
    )
    if not asked_once.exists():
        return Reaction(dropped="accept_unasked")
    if federation.state == State.MEMBER:
        # One that was declined before may hold at its sender against what was agreed since: then neither holds anything.
        if not _outranks(federation, body, settings):
            return Reaction(dropped="accept_unasked")
        return _decline(federation, message, request_id, body, settings)
    if _too_many_steps(federation):
        return Reaction(dropped="accept_unasked")
    federation.round = max(federation.round, body.round or 0)
    # A step, although nothing changes: answers are counted by them.
    _store(federation, step="it accepted what is no longer asked for, and was told so")
    return Reaction(answers=[_leave_answer(federation, message, settings)], dropped="accept_unasked")


def _decline(
    federation: Federation, message: Message, request_id: UUID, body: Body, settings: FederationSettings
) -> Reaction:
    cause = "its accept ends later than federate.ttl allows"
    federation.round = max(federation.round, body.round or 0)
    answer = _leave_answer(federation, message, settings)
    _end(federation, State.LEFT if federation.state == State.MEMBER else State.REFUSED, cause)
    event = step_event(bodies.LEAVE, federation, request_id, received=message, reason=cause)
    return Reaction(events=[event], answers=[answer])


def refuse_received(message: Message, body: Body, settings: FederationSettings) -> Reaction:
    federation = Federation.objects.filter(pubkey=message.pubkey).first()
    request_id = message.reply_to
    if federation is None or request_id is None or not _answers_us(federation, message):
        return Reaction(dropped="refuse_unasked")
    federation.imp_id = body.imp_id
    _strike_off(federation, request_id)
    cause = f"refused by the other node: {body.reason}" if body.reason else "refused by the other node"
    if federation.state == State.MEMBER or federation.asked:
        # What was agreed before holds until its end; what was asked later is still to be answered.
        _store(federation, step=cause)
    else:
        _move(federation, State.REFUSED, cause)
    event = step_event(bodies.REFUSE, federation, request_id, received=message, reason=body.reason)
    return Reaction(events=[event])


def leave_received(message: Message, body: Body, settings: FederationSettings) -> Reaction:
    federation = Federation.objects.filter(pubkey=message.pubkey).first()
    if federation is None or not _is_ended_by(federation, message, body):
        return Reaction(dropped="leave_of_no_member")
    federation.imp_id = body.imp_id
    federation.round = max(federation.round, body.round or 0)
    taken_back = federation.state == State.RECEIVED
    _end(
        federation,
        State.LEFT,
        "the request was taken back by the other node" if taken_back else "left by the other node",
    )
    return Reaction(events=[step_event(bodies.LEAVE, federation, message.message_id, received=message)])


def _is_ended_by(federation: Federation, message: Message, body: Body) -> bool:
    if federation.state == State.MEMBER:
        return body.round is None or body.round >= federation.round
    if federation.state == State.RECEIVED:
        # No other leave: one that comes late may belong to what was agreed before this request.
        return message.reply_to is not None and message.reply_to == federation.received_id
    # It has accepted our request, and left: the accept was slower than the leave.
    return federation.state == State.REQUESTED and body.round is not None and body.round > federation.round


# what time, and messages that do not get there, make of it


def expire(now: datetime) -> list[Event]:
    """Ends what is over at `now`."""
    told = []
    for federation in Federation.objects.filter(state=State.MEMBER, expires_at__lte=now):
        told.append(step_event(EXPIRED, federation, federation.agreed_id or uuid4()))
        if federation.asked and required(federation.waits_until) > now:
            federation.since = federation.expires_at = None
            _move(federation, State.REQUESTED, "its time was over; asked again by this node")
        else:
            _end(federation, State.EXPIRED, "its time was over")
    for federation in Federation.objects.filter(waits_until__lte=now):
        request_id = UUID(federation.asked[-1]) if federation.asked else federation.received_id
        if federation.state == State.MEMBER:
            federation.asked, federation.waits_until = [], None
            _store(federation)
            continue
        asked_by_us = federation.state == State.REQUESTED
        cause = "the other node did not answer" if asked_by_us else "nobody answered its request"
        _end(federation, State.EXPIRED, cause)
        told.append(step_event(EXPIRED, federation, request_id or uuid4(), reason=cause))
    return told


def next_end() -> datetime | None:
    """When something is over next."""
    ends = (
        Federation.objects.filter(state=State.MEMBER)
        .order_by("expires_at")
        .values_list("expires_at", flat=True)[:1]
    )
    waits = Federation.objects.filter(waits_until__isnull=False).order_by("waits_until")
    first = (*ends, *waits.values_list("waits_until", flat=True)[:1])
    return min((moment for moment in first if moment), default=None)


def request_failed(message: Message, cause: str) -> list[Event]:
    federation = Federation.objects.filter(pubkey=message.pubkey).first()
    if federation is None or str(message.message_id) not in federation.asked:
        return []
    _strike_off(federation, message.message_id)
    cause = f"the request was not delivered: {cause}"
    if federation.state == State.MEMBER or federation.asked:
        _store(federation, step=cause)
        return []
    _move(federation, State.EXPIRED, cause)
    return [step_event(EXPIRED, federation, message.message_id, reason=cause)]


def accept_failed(message: Message, cause: str) -> list[Event]:
    """The other node does not know of our accept: what held before it holds again."""
    request_id = message.reply_to
    if request_id is None:
        return []
    federation = Federation.objects.filter(
        pubkey=message.pubkey, state=State.MEMBER, agreed_here=True, agreed_id=request_id
    ).first()
    if federation is None:
        return []
    if federation.before_expires_at and federation.before_expires_at > timezone.now():
        federation.expires_at, federation.before_expires_at = federation.before_expires_at, None
        _store(federation, step="the accept was not delivered: the end before it holds")
        return [step_event(bodies.ACCEPT, federation, request_id, reason="the end before this accept holds")]
    cause = f"the accept was not delivered: {cause}"
    _end(federation, State.LEFT, cause)
    return [step_event(bodies.LEAVE, federation, request_id, reason=cause)]


# shared


def _accept(
    federation: Federation, request_id: UUID, ttl_seconds: int, settings: FederationSettings, cause: str
) -> Reaction:
    ttl_seconds = min(ttl_seconds, settings.ttl_seconds)
    now = timezone.now()
    federation.before_expires_at = federation.expires_at if federation.state == State.MEMBER else None
    federation.expires_at = now.replace(microsecond=0) + timedelta(seconds=ttl_seconds)
    federation.round = min(federation.round + 1, MAX_NUMBER)
    federation.agreed_id, federation.agreed_here = request_id, True
    federation.received_id = None
    if not federation.asked:
        federation.waits_until = None
    _move_to_member(federation, cause)
    body = Body(
        type=bodies.ACCEPT,
        imp_id=settings.imp_id,
        ttl=ttl_seconds,
        expires_at=int(federation.expires_at.timestamp()),
        round=federation.round,
    )
    answer = _answer(federation, request_id, body, expires_seconds=ttl_seconds)
    return Reaction(events=[step_event(bodies.ACCEPT, federation, request_id)], answers=[answer])


def _refuse(federation: Federation, request_id: UUID, reason: str, settings: FederationSettings) -> Reaction:
    federation.received_id = None
    if federation.state == State.MEMBER or federation.asked:
        _store(federation, step=f"its request was refused by this node: {reason}")
    else:
        federation.waits_until = federation.expires_at = federation.since = None
        _move(federation, State.REFUSED, f"refused by this node: {reason}")
    body = Body(type=bodies.REFUSE, imp_id=settings.imp_id, reason=reason)
    event = step_event(bodies.REFUSE, federation, request_id, reason=reason)
    return Reaction(events=[event], answers=[_answer(federation, request_id, body)])


def _leave_answer(federation: Federation, message: Message, settings: FederationSettings) -> Message:
    body = Body(type=bodies.LEAVE, imp_id=settings.imp_id, round=federation.round)
    return _answer(federation, message.message_id, body)


def _answer(
    federation: Federation, reply_to: UUID, body: Body, *, expires_seconds: int = DEFAULT_EXPIRES_SECONDS
) -> Message:
    return new_message(
        service=SERVICE,
        pubkey=federation.pubkey,
        body=bodies.encode(body),
        reply_to=reply_to,
        expires_seconds=min(expires_seconds, DEFAULT_EXPIRES_SECONDS),
    )


def _is_full(federation: Federation, settings: FederationSettings) -> bool:
    """Whether there is no place for a node that asks. Half of the places are for known peers."""
    places = _places(federation.pubkey)
    if places.count() >= settings.max_members:
        return True
    if federation.state == State.MEMBER or _is_known(federation):
        return False
    return peers.of_strangers(places).count() >= _strangers_share(settings)


def _strangers_share(settings: FederationSettings) -> int:
    return -(-settings.max_members // 2)


def _make_place(pubkey: str, settings: FederationSettings) -> bool:
    """Gives a node that is wanted here a place. Where none is free it is that of the oldest stranger, which the worker then
    leaves. False if all are those of known peers.
    """
    places = _places(pubkey)
    if places.count() < settings.max_members:
        return True
    strangers = peers.of_strangers(places.filter(state=State.MEMBER)).order_by("since")
    oldest = next((member for member in strangers if not member.asked), None)
    if oldest is None:
        return False
    Wish.objects.create(
        pubkey=oldest.pubkey, action=Wish.Action.LEAVE, asked_by=f"this node, to make room for {pubkey}"
    )
    return True


def _places(pubkey: str) -> QuerySet[Federation]:
    """The places that others than this node have. Those that we have asked have one: their accept must not be too late."""
    leaving = Wish.objects.filter(done_at__isnull=True, action=Wish.Action.LEAVE)
    taken = Federation.objects.filter(state__in=(State.MEMBER, State.REQUESTED))
    return taken.exclude(pubkey=pubkey).exclude(pubkey__in=leaving.values("pubkey"))


def _move_to_member(federation: Federation, cause: str) -> None:
    if federation.state != State.MEMBER:
        federation.since = timezone.now()
    _move(federation, State.MEMBER, cause)


def _end(federation: Federation, state: State, cause: str) -> None:
    federation.asked = []
    federation.received_id = federation.waits_until = federation.before_expires_at = None
    _move(federation, state, cause)


def _move(federation: Federation, state: State, cause: str) -> None:
    require_way(WAYS, State(federation.state) if federation.state else None, state)
    federation.state, federation.cause = state, cause[:500]
    _store(federation, step=cause)


def _store(federation: Federation, *, step: str = "") -> None:
    federation.updated_at = timezone.now()
    federation.save()
    if step:
        Step.objects.create(
            pubkey=federation.pubkey,
            state=federation.state,
            cause=step[:500],
            imp_id=federation.imp_id,
            expires_at=federation.expires_at,
            created_at=federation.updated_at,
        )


def _in_seconds(seconds: int) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)
