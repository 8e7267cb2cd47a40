"""What is stored of messages: the messages, the attempts to deliver them, what was received, the event log, the peers."""

import uuid
from collections.abc import Iterable
from typing import Any

from django.db import models
from django.db.models.expressions import RawSQL
from django.db.models.functions import Coalesce
from django.db.models.lookups import Exact
from django.utils import timezone


class State(models.TextChoices):
    """A message's life. Sent from here: queued → in_flight → settled | retrying → in_flight … | failed."""

    QUEUED = "queued"
    IN_FLIGHT = "in_flight"
    RETRYING = "retrying"
    SETTLED = "settled"
    FAILED = "failed"
    RECEIVED = "received"


# From which states a message may come into each state.
TRANSITIONS = {
    State.IN_FLIGHT: (State.QUEUED, State.RETRYING),
    # Without an attempt, when there was no way to even try one.
    State.RETRYING: (State.QUEUED, State.IN_FLIGHT, State.RETRYING),
    State.SETTLED: (State.IN_FLIGHT,),
    State.FAILED: (State.QUEUED, State.IN_FLIGHT, State.RETRYING),
}
UNFINISHED = (State.QUEUED, State.IN_FLIGHT, State.RETRYING)
# A message that was given up by hand while lnd had its payment under way has failed, but may be paid all the same.
ABANDONED = models.Q(state=State.FAILED, abandoned_at__isnull=False)


def may_come_into(state: State) -> models.Q:
    """Messages that may come into a state."""
    usual = models.Q(state__in=TRANSITIONS[state])
    return usual | ABANDONED if state == State.SETTLED else usual


class Direction(models.TextChoices):
    OUT = "out", "sent"
    IN = "in", "received"


class Origin(models.TextChoices):
    """Why a message is sent: a caller of this node wants it (a call, an operator, this node's own purchase), another node
    caused it and has paid for it with what it sent, or it is about something that was sold. Null: stored by a version
    that did not tell them apart.
    """

    CALLER = "caller", "asked for at this node"
    ANSWER = "answer", "caused by another node"
    SALE = "sale", "about what was sold"


# Nobody here asked for these; what they cost was paid by others before.
UNASKED = (Origin.ANSWER, Origin.SALE)
ASKED_FOR = (Origin.CALLER, None)


class Peer(models.Model):
    """A node that this one has written to or heard from.

    Of its hints: `proven_hints` are those that a payment of this node got there with, `tried_hints` those that an answer
    was sent over without knowing that, at `hint_tried_at`.
    """

    pubkey = models.CharField(max_length=66, primary_key=True, help_text="The node's key in hexadecimal.")
    label = models.CharField(max_length=100, blank=True, help_text="Your own name for this node.")
    marked = models.BooleanField(
        "known to you",
        default=False,
        help_text="Room for its long messages is kept when strangers fill the rest.",
    )
    blocked = models.BooleanField(
        default=False, help_text="Nothing that it sends is taken, of whatever service."
    )
    refused = models.PositiveBigIntegerField(
        default=0, help_text="Messages, and parts of long ones, that the inbound policy refused."
    )
    written_to = models.BooleanField(default=False, help_text="This node has sent it a message.")
    reply_hints = models.JSONField(
        default=list, blank=True, help_text="Private channels over which it can be reached, as it told last."
    )
    proven_hints = models.JSONField(null=True, blank=True, editable=False)
    tried_hints = models.JSONField(null=True, blank=True, editable=False)
    hint_tried_at = models.DateTimeField(null=True, blank=True, editable=False)
    first_seen_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["hint_tried_at"],
                name="peer_hint_tried",
                condition=models.Q(hint_tried_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return self.label or self.pubkey


class Attempt(models.Model):
    """One payment that carries one or more messages to one node.

    It is stored before lnd hears of it: after a crash the same secret names the same payment, so that nothing is paid
    twice. `packet` is what the record holds behind its header; lnd's signature over it is deterministic.
    """

    class State(models.TextChoices):
        IN_FLIGHT = "in_flight"
        SETTLED = "settled"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    secret = models.BinaryField(help_text="The preimage.")
    name = models.BinaryField(max_length=32, unique=True, help_text="The payment hash.")
    payer = models.CharField(max_length=66, blank=True, help_text="The node whose lnd pays.")
    destination = models.CharField(max_length=66)
    service = models.CharField(max_length=32)
    packet = models.BinaryField(help_text="Kept until the payment has ended.")
    amount_msat = models.BigIntegerField()
    fee_msat = models.BigIntegerField(default=0)
    fee_limit_msat = models.BigIntegerField(
        null=True, help_text="Null: what the configuration says when it is paid."
    )
    state = models.CharField(max_length=16, choices=State, default=State.IN_FLIGHT)
    cause = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["created_at"], name="attempt_in_flight", condition=models.Q(state="in_flight")
            ),
        ]

    def __str__(self) -> str:
        return f"{bytes(self.name).hex()[:16]}… to {self.destination[:16]}…"


class Carried(models.Model):
    """What an attempt carries, a whole message or a part of one, and how far it has come."""

    state = models.CharField(max_length=16, choices=State)
    attempts = models.PositiveIntegerField(default=0)
    attempt = models.ForeignKey(Attempt, null=True, on_delete=models.PROTECT, related_name="%(class)ss")
    amount_msat = models.BigIntegerField()
    fee_msat = models.BigIntegerField(default=0)
    error = models.CharField("cause", max_length=500, blank=True)
    next_try_at = models.DateTimeField(null=True)
    secret_number = models.PositiveSmallIntegerField(
        null=True, help_text="Null: each attempt has a new secret. Else all have the one of this number."
    )

    class Meta:
        abstract = True


class Message(Carried):
    """One message, sent or received, of whatever service. `body` is the user's bytes.

    One that is divided into parts (`parts` > 1) is never carried itself; its parts are. `amount_msat` is what is paid in
    all, `cost_msat` what the message may cost with its fees while it is under way, and what it has cost when it has ended.

    An unasked message names who has paid for it: `paid_by` is the key of a received message, `account` that of an Account.
    """

    message_id = models.UUIDField()
    direction = models.CharField(max_length=3, choices=Direction)
    pubkey = models.CharField(
        "peer", max_length=66, blank=True, help_text="Empty for records that do not name a sender."
    )
    service = models.CharField(max_length=32)
    reply_to = models.UUIDField(null=True)
    body = models.BinaryField()
    parts = models.PositiveIntegerField(default=1, help_text="How many payments carry it.")
    cost_msat = models.BigIntegerField(default=0)
    alone = models.BooleanField(default=False, help_text="Failed in company: not joined with others again.")
    # Null rather than a default: a column without one is added to millions of rows in no time.
    origin = models.CharField("reason", max_length=8, choices=Origin, null=True)  # noqa: DJ001 (see above)
    fee_limit_msat = models.BigIntegerField(null=True, help_text="Null: as the configuration says.")
    max_attempts = models.PositiveIntegerField(null=True, help_text="Null: until its time is over.")
    paid_by = models.BigIntegerField(null=True)
    account = models.CharField(max_length=64, null=True)  # noqa: DJ001 (see above)
    answers_msat = models.BigIntegerField(
        null=True, help_text="Of a received message: what the answers to it cost, or may cost."
    )
    free_answers = models.PositiveIntegerField(
        null=True, help_text="Of a sent message: answers to it that came in below the price."
    )
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)
    abandoned_at = models.DateTimeField(
        null=True,
        help_text="When it was given up by hand, as long as lnd has not told the end of its payment.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["direction", "pubkey", "message_id"], name="message_once"),
        ]
        indexes = [
            models.Index(fields=["message_id"], name="message_by_id"),
            models.Index(fields=["pubkey", "id"], name="message_by_peer"),
            models.Index(fields=["direction", "id"], name="message_by_direction"),
            models.Index(fields=["service", "direction", "id"], name="message_by_service"),
            # For the budgets, which ask for nothing but these columns.
            models.Index(
                fields=["origin", "created_at", "cost_msat"],
                name="message_cost_by_origin",
                condition=models.Q(cost_msat__gt=0),
            ),
            models.Index(fields=["id"], name="message_unfinished", condition=models.Q(state__in=UNFINISHED)),
            models.Index(fields=["id"], name="message_failed", condition=models.Q(state="failed")),
            models.Index(
                fields=["id"], name="message_abandoned", condition=models.Q(abandoned_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return str(self.message_id)

    @property
    def is_unasked(self) -> bool:
        return self.origin in UNASKED


def unfinished() -> models.QuerySet[Message]:
    """Messages that are sent and have not ended: few, and found by their own index among however many others."""
    states = ", ".join(f"'{state.value}'" for state in UNFINISHED)
    return _indexed(f'"messaging_message"."state" IN ({states})')


def asked_for(messages: models.QuerySet[Message]) -> models.QuerySet[Message]:
    """Those of these messages that somebody at this node wanted to be sent."""
    return messages.filter(models.Q(origin=Origin.CALLER) | models.Q(origin=None))


def failed() -> models.QuerySet[Message]:
    return _indexed(f""""messaging_message"."state" = '{State.FAILED.value}'""")


def costing(origin: Origin | None) -> models.QuerySet[Message]:
    """Messages that were sent for this reason and have a cost, or may have one."""
    return _indexed('"messaging_message"."cost_msat" > 0').filter(origin=origin)


def _indexed(condition: str) -> models.QuerySet[Message]:
    """SQLite takes a partial index only where its condition stands in the query as it is, not with parameters in its
    place.
    """
    of_index = RawSQL(condition, (), output_field=models.BooleanField())  # noqa: S611 (constants above)
    return Message.objects.filter(of_index)


def named(
    direction: Direction, ids: Iterable[uuid.UUID] | models.QuerySet[Any, Any]
) -> models.QuerySet[Message]:
    """Messages of one direction, by their ids."""
    return Message.objects.filter(besides("direction", direction), message_id__in=ids)


def besides(field: str, value: str) -> Exact:
    """A condition for messages that another one finds. SQLite, which knows no numbers of rows, would take the index of
    this column before a better one, and look through half of all messages.
    """
    return Exact(Coalesce(field, models.Value("")), value)


class Division(models.Model):
    """How a message that is too long for its route is divided: stored before the first attempt, deleted at the end.

    `body` are the bytes as they are sent, compressed or not; each part but the last has `part_bytes` of them.
    """

    message = models.OneToOneField(Message, primary_key=True, on_delete=models.CASCADE)
    body = models.BinaryField()
    compression = models.PositiveSmallIntegerField()
    sha256 = models.BinaryField(max_length=32)
    part_bytes = models.PositiveIntegerField()


class Part(Carried):
    """One part of a divided message that is sent; its states are those of a message."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE)
    index = models.PositiveIntegerField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["message", "index"], name="part_once")]

    @property
    def pubkey(self) -> str:
        return self.message.pubkey

    @property
    def service(self) -> str:
        return self.message.service


class Assembly(models.Model):
    """A message of which some parts have been received. The first part that came set what all must agree with."""

    pubkey = models.CharField("sender", max_length=66)
    message_id = models.UUIDField()
    service = models.CharField(max_length=32)
    reply_to = models.UUIDField(null=True)
    compression = models.PositiveSmallIntegerField()
    count = models.BigIntegerField(help_text="Parts in all.")
    size = models.BigIntegerField(help_text="Bytes of the whole, as its sender declares.")
    sha256 = models.BinaryField(max_length=32)
    known = models.BooleanField(help_text="From a peer that this node has written to, or that was marked.")
    received_parts = models.BigIntegerField(default=0)
    received_bytes = models.BigIntegerField(default=0)
    amount_msat = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name = "incomplete message"
        constraints = [models.UniqueConstraint(fields=["pubkey", "message_id"], name="assembly_once")]

    def __str__(self) -> str:
        return f"{self.received_parts} of {self.count} parts of {self.message_id}"


class ReceivedPart(models.Model):
    """One part of an incomplete message."""

    assembly = models.ForeignKey(Assembly, on_delete=models.CASCADE, related_name="received")
    index = models.BigIntegerField()
    body = models.BinaryField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["assembly", "index"], name="received_part_once")]


class Account(models.Model):
    """What others have paid for something that this node sells, of which messages about it are paid: each counts with
    what it may cost until it has ended, then with what it has cost.
    """

    name = models.CharField(max_length=64, primary_key=True)
    paid_msat = models.BigIntegerField()
    spent_msat = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Income(models.Model):
    """What others have paid with messages in one step of time, and how many bytes of them were taken from strangers
    (messaging/income.py). Old rows are deleted.
    """

    step = models.BigIntegerField(primary_key=True)
    paid_msat = models.BigIntegerField()
    strangers_bytes = models.BigIntegerField(default=0)

    class Meta:
        verbose_name = "income with messages"
        verbose_name_plural = "income with messages"

    def __str__(self) -> str:
        return str(self.step)


class ReceivedHtlc(models.Model):
    """The key of each settled HTLC that was handled, so that none is handled twice. Never pruned.

    The key is the hash of our node, the payment hash, the channel and the HTLC's index: whoever has seen a preimage can
    pay its invoice again, and that is another HTLC.
    """

    key = models.BinaryField(primary_key=True, max_length=32)
    received_at = models.DateTimeField(default=timezone.now)


class IdempotencyKey(models.Model):
    """A key that a caller gave with a request, and the id that answered it."""

    caller = models.CharField(max_length=100, blank=True)
    key = models.CharField(max_length=255)
    request_hash = models.BinaryField(max_length=32)
    message_id = models.UUIDField()
    further_ids = models.JSONField(default=list, help_text="Where one request made several messages.")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["caller", "key"], name="idempotency_key_once")]


class Epoch(models.Model):
    """One row: how often a process has begun to write to this database (messaging/epoch.py)."""

    number = models.BigIntegerField()


class InvoiceMark(models.Model):
    """How far an lnd's invoices were looked through: up to this add_index nothing can change any more."""

    pubkey = models.CharField(max_length=66, primary_key=True)
    add_index = models.BigIntegerField()


class MessageAction(models.Model):
    """Something that an operator asked for in the admin, which the outbox carries out within seconds."""

    class Action(models.TextChoices):
        GIVE_UP = "give_up", "give up"

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="actions")
    action = models.CharField(max_length=8, choices=Action)
    asked_by = models.CharField(max_length=150)
    created_at = models.DateTimeField("asked at", default=timezone.now)
    done_at = models.DateTimeField("carried out at", null=True)
    outcome = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = "instruction"
        verbose_name_plural = "instructions to the node"
        indexes = [
            models.Index(fields=["id"], name="message_action_open", condition=models.Q(done_at__isnull=True))
        ]

    def __str__(self) -> str:
        return f"{self.get_action_display()} {self.message}"


class Event(models.Model):
    """The event log: what the stream tells. `seq` grows and is never used again; the runimpd process is the only writer."""

    seq = models.BigAutoField(primary_key=True)
    message_id = models.UUIDField()
    reply_to = models.UUIDField(null=True)
    from_pubkey = models.CharField(max_length=66, blank=True)
    data = models.BinaryField()
    service_type = models.CharField(max_length=32)
    amount_sat = models.BigIntegerField()
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.seq} {self.service_type}"


NO_LIMIT = "Empty: as in the configuration. 0: no limit."


class InboundPolicy(models.Model):
    """What the operator allows others to send of one service, where it differs from the configuration (null: it does
    not). `configured` is what the running node was started with, for the admin in whatever process.
    """

    service = models.CharField(max_length=32, primary_key=True)
    min_amount_sat = models.PositiveBigIntegerField(
        "at least (sat)", null=True, blank=True, help_text="A message that pays less is refused. " + NO_LIMIT
    )
    only_known = models.BooleanField(
        "only known peers",
        null=True,
        blank=True,
        help_text="Known are those that this node has written to, and those that you marked.",
    )
    peer_messages_per_hour = models.PositiveBigIntegerField(
        "messages an hour of one peer", null=True, blank=True, help_text=NO_LIMIT
    )
    peer_bytes_per_hour = models.PositiveBigIntegerField(
        "bytes an hour of one peer", null=True, blank=True, help_text=NO_LIMIT
    )
    all_messages_per_hour = models.PositiveBigIntegerField(
        "messages an hour in all", null=True, blank=True, help_text=NO_LIMIT
    )
    all_bytes_per_hour = models.PositiveBigIntegerField(
        "bytes an hour in all", null=True, blank=True, help_text=NO_LIMIT
    )
    configured = models.JSONField(default=dict, editable=False)

    class Meta:
        verbose_name = "inbound policy"
        verbose_name_plural = "inbound policies"

    def __str__(self) -> str:
        return self.service


class InboundUse(models.Model):
    """What was taken of a quota in the last hour: of one peer, or of all (`of` is "*"). Old rows are deleted."""

    service = models.CharField(max_length=32)
    of = models.CharField(max_length=80)
    steps = models.JSONField(
        help_text="[number of a step of time, messages, bytes] for each in which something came."
    )
    last_step = models.BigIntegerField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["service", "of"], name="inbound_use_once")]


class Refused(models.Model):
    """How much of one service the inbound policy has refused for one cause: few rows, whatever flood comes."""

    class Cause(models.TextChoices):
        BLOCKED = "blocked", "from a blocked peer"
        NOT_KNOWN = "not_known", "from a peer that is not known"
        AMOUNT = "amount", "paid too little"
        PEER_MESSAGES = "peer_messages", "too many messages of one peer"
        PEER_BYTES = "peer_bytes", "too many bytes of one peer"
        ALL_MESSAGES = "all_messages", "too many messages in all"
        ALL_BYTES = "all_bytes", "too many bytes in all"
        STRANGERS_BYTES = "strangers_bytes", "too many bytes of strangers"

    service = models.CharField(max_length=32)
    cause = models.CharField(max_length=16, choices=Cause)
    count = models.PositiveBigIntegerField(
        "refused", default=0, help_text="Messages, and parts of long ones."
    )
    amount_msat = models.BigIntegerField(
        default=0, help_text="What was paid with them, which lnd has taken before."
    )
    first_at = models.DateTimeField(default=timezone.now)
    last_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "refused by policy"
        verbose_name_plural = "refused by policy"
        constraints = [models.UniqueConstraint(fields=["service", "cause"], name="refused_once")]

    def __str__(self) -> str:
        return f"{self.service}: {self.get_cause_display()}"
