"""The federation as the operator sees it, with what can be done: accept, refuse, leave.

The admin may run in another process than the node, which alone writes how nodes stand to each other, and sends. So an
action only stores a wish; the node's worker (worker.py) looks for wishes each second, carries each out in one
transaction and notes its outcome. A wish that is made while the node does not run is carried out when it does.
"""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html

from federation.models import Federation, Step, Wish
from federation.states import State
from messaging.admin_base import HistoryAdmin, Noted, StateFilter, in_words, short, to_the_second
from messaging.models import Peer
from messaging.required import required


class MembersFilter(StateFilter):
    """Begins with the members: that is what "our federation" means."""

    usual, usual_words, choices_of_states = (State.MEMBER,), "members", State.choices


@admin.register(Federation)
class FederationAdmin(HistoryAdmin, Noted):
    noted_as = "federation"
    list_display = ("node", "own_name", "label", "state", "member_since", "ends", "time_left", "cause")
    list_filter = (MembersFilter,)
    search_fields = ("pubkey__startswith", "imp_id")
    search_help_text = "The beginning of a node's key, or words of its name"
    ordering = ("-updated_at",)
    actions = ("accept", "refuse", "leave")
    fields = (
        "pubkey",
        "imp_id",
        "label",
        "state",
        "cause",
        "member_since",
        "ends",
        "time_left",
        "waits_until",
        "updated_at",
        "history",
    )
    readonly_fields = ("label", "member_since", "ends", "time_left", "history")

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("federation.change_federation")

    @admin.action(description="Accept the request of the chosen nodes", permissions=["act"])
    def accept(self, request: HttpRequest, queryset: QuerySet[Federation]) -> None:
        self._wish(request, queryset, Wish.Action.ACCEPT)

    @admin.action(description="Refuse the request of the chosen nodes", permissions=["act"])
    def refuse(self, request: HttpRequest, queryset: QuerySet[Federation]) -> None:
        self._wish(request, queryset, Wish.Action.REFUSE)

    @admin.action(description="Leave the chosen nodes", permissions=["act"])
    def leave(self, request: HttpRequest, queryset: QuerySet[Federation]) -> None:
        self._wish(request, queryset, Wish.Action.LEAVE)

    def _wish(self, request: HttpRequest, queryset: QuerySet[Federation], action: Wish.Action) -> None:
        asked_by = request.user.get_username()
        pubkeys = queryset.values_list("pk", flat=True)
        wishes = [Wish(pubkey=pubkey, action=action, asked_by=asked_by) for pubkey in pubkeys]
        Wish.objects.bulk_create(wishes)
        for wish in wishes:
            self.note(request, action.value, peer=wish.pubkey, outcome="accepted")
        self.message_user(
            request,
            f"Asked the node to {action.value}: {len(wishes)}. It does so within a second; what became of it is told "
            "under Instructions to the node.",
            messages.SUCCESS,
        )

    @admin.display(description="node", ordering="pubkey")
    def node(self, federation: Federation) -> str:
        return short(federation.pubkey)

    @admin.display(description="its name", ordering="imp_id")
    def own_name(self, federation: Federation) -> str:
        return federation.imp_id or "–"

    @admin.display(description="your name for it")
    def label(self, federation: Federation) -> str:
        return Peer.objects.filter(pk=federation.pubkey).values_list("label", flat=True).first() or "–"

    @admin.display(description="member since (UTC)", ordering="since")
    def member_since(self, federation: Federation) -> str:
        return to_the_second(federation.since)

    @admin.display(description="ends (UTC)", ordering="expires_at")
    def ends(self, federation: Federation) -> str:
        return to_the_second(federation.expires_at)

    @admin.display(description="time left", ordering="expires_at")
    def time_left(self, federation: Federation) -> str:
        if federation.state != State.MEMBER:
            return "–"
        return in_words(required(federation.expires_at) - timezone.now())

    @admin.display(description="history (UTC)")
    def history(self, federation: Federation) -> str:
        steps = Step.objects.filter(pubkey=federation.pubkey).order_by("-pk")[:50]
        lines = (f"{to_the_second(step.created_at)}  {step.state}: {step.cause}" for step in steps)
        return format_html('<span style="white-space:pre-line">{}</span>', "\n".join(lines))


@admin.register(Step)
class StepAdmin(HistoryAdmin):
    list_display = ("when", "node", "imp_id", "state", "ends", "cause")
    list_filter = ("state", "created_at")
    search_fields = ("pubkey__startswith", "imp_id", "cause")
    fields = ("when", "pubkey", "imp_id", "state", "ends", "cause")
    readonly_fields = ("when", "ends")
    ordering = ("-pk",)

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, step: Step) -> str:
        return to_the_second(step.created_at)

    @admin.display(description="node", ordering="pubkey")
    def node(self, step: Step) -> str:
        return short(step.pubkey)

    @admin.display(description="ends (UTC)", ordering="expires_at")
    def ends(self, step: Step) -> str:
        return to_the_second(step.expires_at)


@admin.register(Wish)
class WishAdmin(HistoryAdmin):
    list_display = ("asked", "action", "node", "asked_by", "result")
    list_filter = ("action", "created_at")
    search_fields = ("pubkey__startswith",)
    fields = ("asked", "action", "pubkey", "asked_by", "result", "done_at")
    readonly_fields = ("asked", "result")
    ordering = ("-pk",)

    @admin.display(description="asked at (UTC)", ordering="created_at")
    def asked(self, wish: Wish) -> str:
        return to_the_second(wish.created_at)

    @admin.display(description="node", ordering="pubkey")
    def node(self, wish: Wish) -> str:
        return short(wish.pubkey)

    @admin.display(description="outcome", ordering="outcome")
    def result(self, wish: Wish) -> str:
        return wish.outcome or "the node has not looked at it yet"
