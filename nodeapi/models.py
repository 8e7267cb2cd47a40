"""What this node alone keeps."""

from django.db import models
from django.utils import timezone

from messaging.notes import Note


class SchemaVersion(models.Model):
    """Which version of the node has used the database last: one row (nodeapi/schema.py). Its table is to stay as it is,
    because older versions read it to say which version they need.
    """

    version = models.CharField(max_length=64)
    since = models.DateTimeField()


class LastBackup(models.Model):
    """Of which moment the last whole backup is: one row (nodeapi/backups/record.py)."""

    made_at = models.DateTimeField()


class RelayRun(models.Model):
    """The UDP relay from one StartSocket to its end. At most one is `running`, across restarts of the node too.

    `peer1` and `peer2` are the addresses that have spoken on the ports, as the socket module has them, null before.
    Counters are of what came from a side and was passed to the other; they are written every few seconds.
    """

    running = models.BooleanField(default=True)
    port1 = models.PositiveIntegerField()
    port2 = models.PositiveIntegerField()
    peer1 = models.JSONField("address that spoke on port 1", null=True)
    peer2 = models.JSONField("address that spoke on port 2", null=True)
    datagrams1 = models.BigIntegerField("datagrams 1 → 2", default=0)
    datagrams2 = models.BigIntegerField("datagrams 2 → 1", default=0)
    bytes1 = models.BigIntegerField("bytes 1 → 2", default=0)
    bytes2 = models.BigIntegerField("bytes 2 → 1", default=0)
    dropped = models.BigIntegerField("datagrams not passed on", default=0)
    started_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True)
    end_cause = models.CharField(max_length=100, blank=True)
    sampled_at = models.DateTimeField("counted until", default=timezone.now)

    class Meta:
        verbose_name = "relay"
        constraints = [
            models.UniqueConstraint(
                fields=["running"], condition=models.Q(running=True), name="one_relay_running"
            ),
        ]

    def __str__(self) -> str:
        return f"relay on UDP ports {self.port1} and {self.port2}"


class ApiKey(models.Model):
    """A key made by the operator: of the key itself only the SHA-256 is here. Revoked ones stay until they are forgotten:
    as long as there is any, this node is not open (nodeapi/auth.py).
    """

    name = models.CharField(max_length=64, help_text="Whose key it is: 1 to 64 printable characters.")
    hash = models.BinaryField(max_length=32, unique=True)
    scopes = models.JSONField(default=list)
    budget_sat = models.BigIntegerField(
        "budget (sat per 24 h)",
        null=True,
        blank=True,
        help_text="The most that all calls with this key may cost in any 24 hours, fees included; empty: no limit.",
    )
    calls_per_minute = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: no limit.")
    created_at = models.DateTimeField("made", default=timezone.now)
    expires_at = models.DateTimeField("expires (UTC)", null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField("revoked", null=True)

    class Meta:
        verbose_name = "API key"
        constraints = [
            models.UniqueConstraint(
                fields=["name"], condition=models.Q(revoked_at__isnull=True), name="api_key_name_once"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class AuditEntry(Note):
    """A call that sends, pays or changes something, or was refused; or what was done to a key. One row for each message
    that a call sends. Never the content of a message, nor a key.

    A row that `spends` was written in the transaction of its message or payment: by these rows a key's budget is kept.
    """

    class Outcome(models.TextChoices):
        """Or, of what was refused, the name of the gRPC status."""

        ACCEPTED = "accepted"
        REPEATED = "repeated", "repeated: an idempotent repetition"
        PAID = "paid"
        DONE = "done"

    created_at = models.DateTimeField(default=timezone.now)
    caller = models.CharField("key", max_length=100, blank=True, help_text="Empty where no key was needed.")
    operation = models.CharField(max_length=100)
    peer = models.CharField(max_length=66, blank=True)
    amount_msat = models.BigIntegerField(null=True)
    outcome = models.CharField(max_length=32)
    detail = models.CharField(max_length=300, blank=True)
    address = models.CharField("client", max_length=64, blank=True)
    message_id = models.UUIDField("message or payment", null=True)
    spends = models.BooleanField(default=False)

    class Meta:
        verbose_name = "audit entry"
        verbose_name_plural = "audit log"
        indexes = [
            models.Index(fields=["caller", "created_at"], name="audit_by_caller"),
            models.Index(fields=["message_id"], name="audit_by_message"),
        ]

    def __str__(self) -> str:
        return f"{self.operation} {self.outcome}"
