"""What is stored: how this node stands to each other one, how it came to that, and what the operator wishes."""

from django.db import models
from django.utils import timezone

from federation.states import State


class Federation(models.Model):
    """How this node stands to one other node. There is one row a node; those in the state `member` are our federation.

    `asked` are our requests that are not answered yet, whatever the state: a member may have been asked again. `agreed_*`
    and `round` name the accept that holds now: the request that it answered, whether this node made it, in which round.
    """

    pubkey = models.CharField("node", max_length=66, primary_key=True)
    imp_id = models.CharField(
        "name", max_length=128, blank=True, help_text="What the other node calls itself."
    )
    state = models.CharField(max_length=16, choices=State)
    cause = models.CharField(max_length=500, blank=True, help_text="Why it came to this.")
    since = models.DateTimeField("member since", null=True, blank=True)
    expires_at = models.DateTimeField("ends at", null=True, blank=True)
    updated_at = models.DateTimeField("last change", default=timezone.now, db_index=True)

    asked = models.JSONField("our unanswered requests", default=list, blank=True)
    received_id = models.UUIDField("their request that waits for you", null=True, blank=True)
    waits_until = models.DateTimeField("request waits until", null=True, blank=True)
    ttl_seconds = models.BigIntegerField(
        null=True, blank=True, help_text="For how long the other node asked."
    )

    round = models.BigIntegerField(default=0)
    agreed_id = models.UUIDField(null=True, blank=True)
    agreed_here = models.BooleanField(default=False)
    before_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="The end that holds again if the accept cannot be delivered."
    )

    class Meta:
        verbose_name = "federated node"
        indexes = [
            models.Index(fields=["expires_at"], name="federation_ends", condition=models.Q(state="member")),
            models.Index(
                fields=["waits_until"], name="federation_waits", condition=models.Q(waits_until__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return self.imp_id or f"{self.pubkey[:16]}…"


class Step(models.Model):
    """One step of the history: into which state, when and why. Never changed."""

    pubkey = models.CharField("node", max_length=66, db_index=True)
    state = models.CharField(max_length=16, choices=State)
    cause = models.CharField(max_length=500, blank=True)
    imp_id = models.CharField("name", max_length=128, blank=True)
    expires_at = models.DateTimeField("ends at", null=True)
    created_at = models.DateTimeField("time", default=timezone.now, db_index=True)

    class Meta:
        verbose_name = "step of the history"
        verbose_name_plural = "history"

    def __str__(self) -> str:
        return f"{self.state} {self.pubkey[:16]}…"


class Wish(models.Model):
    """Something that an operator asked for in the admin, which the federation's worker carries out within a second."""

    class Action(models.TextChoices):
        ACCEPT = "accept"
        REFUSE = "refuse"
        LEAVE = "leave"

    pubkey = models.CharField("node", max_length=66)
    action = models.CharField(max_length=8, choices=Action)
    asked_by = models.CharField(max_length=150)
    created_at = models.DateTimeField("asked at", default=timezone.now)
    done_at = models.DateTimeField("carried out at", null=True)
    outcome = models.CharField(max_length=500, blank=True)

    class Meta:
        verbose_name = "instruction"
        verbose_name_plural = "instructions to the node"
        indexes = [models.Index(fields=["id"], name="wish_open", condition=models.Q(done_at__isnull=True))]

    def __str__(self) -> str:
        return f"{self.action} {self.pubkey[:16]}…"
