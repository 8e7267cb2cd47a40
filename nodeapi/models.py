"""What this node alone keeps."""

from django.db import models
from django.utils import timezone


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
            models.UniqueConstraint(fields=["running"], condition=models.Q(running=True), name="one_relay_running"),
        ]

    def __str__(self) -> str:
        return f"relay on UDP ports {self.port1} and {self.port2}"
