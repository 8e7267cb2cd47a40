"""The relay, the API keys, the audit log and the accounts as the operator sees them."""

from django.contrib import admin
from django.contrib.auth.models import Group, User

from messaging.admin_base import HistoryAdmin, in_two_lines
from nodeapi.admin_accounts import AccountAdmin, AccountGroupAdmin
from nodeapi.admin_keys import ApiKeyAdmin, AuditEntryAdmin
from nodeapi.models import ApiKey, AuditEntry, RelayRun

# In the places of Django's own.
admin.site.unregister([User, Group])
admin.site.register(User, AccountAdmin)
admin.site.register(Group, AccountGroupAdmin)
admin.site.register(ApiKey, ApiKeyAdmin)
admin.site.register(AuditEntry, AuditEntryAdmin)


@admin.register(RelayRun)
class RelayRunAdmin(HistoryAdmin):
    """Counters are as of "counted until", a few seconds ago at most while datagrams pass."""

    list_display = ("ports", "running", "since", "ended", "side1", "side2", "passed1", "passed2", "dropped")
    list_filter = ("running", "started_at")
    ordering = ("-pk",)
    fields = (
        "ports",
        "running",
        "since",
        "ended",
        "end_cause",
        "side1",
        "side2",
        "datagrams1",
        "bytes1",
        "datagrams2",
        "bytes2",
        "dropped",
        "counted",
    )
    readonly_fields = ("ports", "since", "ended", "side1", "side2", "counted")

    @admin.display(description="UDP ports")
    def ports(self, run: RelayRun) -> str:
        return f":{run.port1} and :{run.port2}"

    @admin.display(description="since (UTC)", ordering="started_at")
    def since(self, run: RelayRun) -> str:
        return in_two_lines(run.started_at)

    @admin.display(description="ended (UTC)", ordering="ended_at")
    def ended(self, run: RelayRun) -> str:
        return in_two_lines(run.ended_at)

    @admin.display(description="counted until (UTC)")
    def counted(self, run: RelayRun) -> str:
        return in_two_lines(run.sampled_at)

    @admin.display(description="spoke on port 1")
    def side1(self, run: RelayRun) -> str:
        return shown_address(run.peer1)

    @admin.display(description="spoke on port 2")
    def side2(self, run: RelayRun) -> str:
        return shown_address(run.peer2)

    @admin.display(description="1 → 2")
    def passed1(self, run: RelayRun) -> str:
        return passed(run.datagrams1, run.bytes1)

    @admin.display(description="2 → 1")
    def passed2(self, run: RelayRun) -> str:
        return passed(run.datagrams2, run.bytes2)


def passed(datagrams: int, size_bytes: int) -> str:
    return f"{datagrams:,} datagrams, {size_bytes:,} bytes" if datagrams else "nothing"


def shown_address(peer: list | None) -> str:
    if not peer:
        return "nobody yet"
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
