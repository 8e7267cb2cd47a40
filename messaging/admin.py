"""Messages, attempts, peers and events as the operator sees them. What has happened cannot be edited.

Whom the node takes messages from can: it reads peers and inbound policies anew for whatever comes in.
"""

import re
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.db.models import Count, Field, Q, QuerySet
from django.http import HttpRequest

from messaging.admin_actions import GivesUp
from messaging.admin_base import HistoryAdmin, Noted, When, begin, sat, short, shown_bytes, to_the_second
from messaging.models import Assembly, Attempt, Direction, Event, InboundPolicy, Message, Peer, Refused
from messaging.policy import RULES, Rules, in_force
from messaging.registry import ABOUT


@admin.register(Message)
class MessageAdmin(When, GivesUp, HistoryAdmin):
    list_display = (
        "when",
        "direction",
        "short_peer",
        "service",
        "text_begin",
        "amount",
        "state",
        "attempts",
        "error",
    )
    list_filter = ("direction", "state", "service", "created_at")
    search_fields = ("pubkey__startswith", "error")
    search_help_text = "A message id (whole), the beginning of a peer's key, or words of a cause"
    fields = (
        "message_id",
        "direction",
        "pubkey",
        "service",
        "service_about",
        "reply_to",
        "text",
        "amount",
        "fee",
        "state",
        "error",
        "parts",
        "attempts",
        "attempt",
        "next_try_at",
        "expires_at",
        "created_at",
        "updated_at",
    )
    readonly_fields = ("service_about", "text", "amount", "fee")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Message], search_term: str
    ) -> tuple[QuerySet[Message], bool]:
        identity = search_term.strip().replace("-", "")
        if len(identity) == 32 and all(digit in "0123456789abcdefABCDEF" for digit in identity):
            return queryset.filter(Q(message_id=identity) | Q(reply_to=identity)), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="peer", ordering="pubkey")
    def short_peer(self, message: Message) -> str:
        return short(message.pubkey)

    @admin.display(description="what that is")
    def service_about(self, message: Message) -> str:
        return ABOUT.get(message.service, "–")

    @admin.display(description="message")
    def text(self, message: Message) -> str:
        return shown_bytes(bytes(message.body))

    @admin.display(description="message")
    def text_begin(self, message: Message) -> str:
        return begin(bytes(message.body))

    @admin.display(description="amount", ordering="amount_msat")
    def amount(self, message: Message) -> str:
        return sat(message.amount_msat)

    @admin.display(description="routing fee")
    def fee(self, message: Message) -> str:
        return sat(message.fee_msat)


@admin.register(Attempt)
class AttemptAdmin(When, HistoryAdmin):
    """The preimage is not shown: whoever knows it can pretend to have been paid."""

    list_display = ("when", "short_hash", "short_destination", "service", "amount", "fee", "state", "cause")
    list_filter = ("state", "service", "created_at")
    ordering = ("-created_at",)
    search_fields = ("destination__startswith", "cause")
    fields = (
        "payment_hash",
        "destination",
        "service",
        "messages_carried",
        "amount",
        "fee",
        "state",
        "cause",
        "created_at",
        "ended_at",
    )
    readonly_fields = ("payment_hash", "messages_carried", "amount", "fee")

    @admin.display(description="payment hash")
    def short_hash(self, attempt: Attempt) -> str:
        return short(bytes(attempt.name).hex())

    @admin.display(description="to", ordering="destination")
    def short_destination(self, attempt: Attempt) -> str:
        return short(attempt.destination)

    @admin.display(description="payment hash")
    def payment_hash(self, attempt: Attempt) -> str:
        return bytes(attempt.name).hex()

    @admin.display(description="messages")
    def messages_carried(self, attempt: Attempt) -> str:
        whole = [str(identity) for identity in attempt.messages.values_list("message_id", flat=True)]
        parts = attempt.parts.values_list("message__message_id", "index", "message__parts")
        return (
            ", ".join(
                whole + [f"part {index + 1} of {count} of {identity}" for identity, index, count in parts]
            )
            or "none now"
        )

    @admin.display(description="amount", ordering="amount_msat")
    def amount(self, attempt: Attempt) -> str:
        return sat(attempt.amount_msat)

    @admin.display(description="routing fee")
    def fee(self, attempt: Attempt) -> str:
        return sat(attempt.fee_msat)


@admin.register(Event)
class EventAdmin(When, HistoryAdmin):
    list_display = ("seq", "when", "service_type", "short_id", "short_from", "amount_sat", "content_begin")
    list_filter = ("service_type", "created_at")
    search_fields = ("from_pubkey__startswith",)
    fields = (
        "seq",
        "created_at",
        "service_type",
        "service_about",
        "message_id",
        "reply_to",
        "from_pubkey",
        "amount_sat",
        "content",
    )
    readonly_fields = ("service_about", "content")

    @admin.display(description="what that is")
    def service_about(self, event: Event) -> str:
        return ABOUT.get(event.service_type, "–")

    @admin.display(description="message id")
    def short_id(self, event: Event) -> str:
        return short(str(event.message_id))

    @admin.display(description="from", ordering="from_pubkey")
    def short_from(self, event: Event) -> str:
        return short(event.from_pubkey)

    @admin.display(description="data")
    def content_begin(self, event: Event) -> str:
        return begin(bytes(event.data))

    @admin.display(description="data")
    def content(self, event: Event) -> str:
        return shown_bytes(bytes(event.data))


@admin.register(Assembly)
class AssemblyAdmin(When, HistoryAdmin):
    """Long messages of which parts are missing."""

    list_display = ("when", "short_sender", "service", "parts", "received_bytes", "size", "amount", "known")
    list_filter = ("service", "known", "created_at")
    ordering = ("-created_at",)
    search_fields = ("pubkey__startswith",)
    fields = (
        "message_id",
        "pubkey",
        "service",
        "parts",
        "received_bytes",
        "size",
        "amount",
        "known",
        "created_at",
    )
    readonly_fields = ("parts", "amount")

    @admin.display(description="sender", ordering="pubkey")
    def short_sender(self, assembly: Assembly) -> str:
        return short(assembly.pubkey)

    @admin.display(description="parts here")
    def parts(self, assembly: Assembly) -> str:
        return f"{assembly.received_parts:,} of {assembly.count:,}"

    @admin.display(description="amount so far", ordering="amount_msat")
    def amount(self, assembly: Assembly) -> str:
        return sat(assembly.amount_msat)


class SavesChanges(Noted):
    """The node writes other columns of the same row meanwhile: only what was changed here is stored."""

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        obj.save(update_fields=form.changed_data if change else None, force_insert=not change)
        self.note_saved(request, obj, form, change)


class PeerForm(forms.ModelForm):
    def clean_pubkey(self) -> str:
        pubkey: str = self.cleaned_data["pubkey"].strip().lower()
        if not re.fullmatch(r"0[23][0-9a-f]{64}", pubkey):
            raise forms.ValidationError("must be 66 hexadecimal digits that begin with 02 or 03")
        return pubkey


@admin.register(Peer)
class PeerAdmin(SavesChanges):
    """Peers come by themselves, and can be added before they do; the operator may name, mark and block them."""

    form = PeerForm
    noted_as = "peers"
    list_display = (
        "short_pubkey",
        "label",
        "marked",
        "blocked",
        "refused",
        "sent",
        "received",
        "last_seen",
    )
    list_filter = ("marked", "blocked", "last_seen_at")
    ordering = ("-last_seen_at",)
    search_fields = ("pubkey__startswith", "label")
    actions = ("block", "unblock")
    fields = (
        "pubkey",
        "label",
        "marked",
        "blocked",
        "refused",
        "sent",
        "received",
        "written_to",
        "private_channels",
        "first_seen_at",
        "last_seen_at",
    )
    readonly_fields = (
        "refused",
        "sent",
        "received",
        "written_to",
        "private_channels",
        "first_seen_at",
        "last_seen_at",
    )
    show_full_result_count = False

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return self.fields if obj else ("pubkey", "label", "marked", "blocked")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return ("pubkey", *self.readonly_fields) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Block the chosen nodes", permissions=["change"])
    def block(self, request: HttpRequest, queryset: QuerySet[Peer]) -> None:
        self._set_blocked(request, queryset, "block", blocked=True)

    @admin.action(description="Unblock the chosen nodes", permissions=["change"])
    def unblock(self, request: HttpRequest, queryset: QuerySet[Peer]) -> None:
        self._set_blocked(request, queryset, "unblock", blocked=False)

    def _set_blocked(
        self, request: HttpRequest, queryset: QuerySet[Peer], what: str, *, blocked: bool
    ) -> None:
        pubkeys = list(queryset.values_list("pk", flat=True))
        Peer.objects.filter(pk__in=pubkeys).update(blocked=blocked)
        for pubkey in pubkeys:
            self.note(request, what, peer=pubkey)
        self.message_user(request, f"{what.capitalize()}ed: {len(pubkeys)}.")

    @admin.display(description="node", ordering="pubkey")
    def short_pubkey(self, peer: Peer) -> str:
        return short(peer.pubkey)

    @admin.display(description="last seen (UTC)", ordering="last_seen_at")
    def last_seen(self, peer: Peer) -> str:
        return to_the_second(peer.last_seen_at)

    @admin.display(description="reached by private channels of")
    def private_channels(self, peer: Peer) -> str:
        return ", ".join(hint["node_id"] for hint in peer.reply_hints) or "none told"

    @admin.display(description="messages sent")
    def sent(self, peer: Peer) -> int:
        return self._counts(peer)["sent"]

    @admin.display(description="messages received")
    def received(self, peer: Peer) -> int:
        return self._counts(peer)["received"]

    def _counts(self, peer: Peer) -> dict[str, int]:
        kept: dict[str, dict[str, int]] = vars(peer)
        if "counts" not in kept:
            kept["counts"] = Message.objects.filter(pubkey=peer.pubkey).aggregate(
                sent=Count("pk", filter=Q(direction=Direction.OUT)),
                received=Count("pk", filter=Q(direction=Direction.IN)),
            )
        return kept["counts"]


class KnownSelect(forms.NullBooleanSelect):
    def __init__(self, attrs: dict[str, Any] | None = None) -> None:
        super().__init__(attrs)
        self.choices = [
            ("unknown", "as in the configuration"),
            ("true", "only known peers"),
            ("false", "anybody"),
        ]


class InboundPolicyForm(forms.ModelForm):
    class Meta:
        widgets = {"only_known": KnownSelect}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in self.instance.configured.items():
            if name in self.fields:
                shown = (
                    {True: "only known peers", False: "anybody"}[value]
                    if isinstance(value, bool)
                    else f"{value:,}"
                )
                self.fields[name].help_text += f" The configuration says: {shown}."


@admin.register(InboundPolicy)
class InboundPolicyAdmin(SavesChanges):
    """The node makes a row for each service when it starts."""

    form = InboundPolicyForm
    noted_as = "inbound"
    list_display = ("service", "who", "least", "of_one_peer", "in_all", "set_here")
    fields = (
        "service",
        "in_force_now",
        "min_amount_sat",
        "only_known",
        "peer_messages_per_hour",
        "peer_bytes_per_hour",
        "all_messages_per_hour",
        "all_bytes_per_hour",
    )
    readonly_fields = ("service", "in_force_now")
    ordering = ("service",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description="paid")
    def least(self, row: InboundPolicy) -> str:
        least_sat = rules_of(row).min_amount_sat
        return f"at least {least_sat:,} sat" if least_sat else "any amount"

    @admin.display(description="from")
    def who(self, row: InboundPolicy) -> str:
        return "only known peers" if rules_of(row).only_known else "anybody"

    @admin.display(description="of one peer")
    def of_one_peer(self, row: InboundPolicy) -> str:
        rules = rules_of(row)
        return quota_in_words(rules.peer_messages_per_hour, rules.peer_bytes_per_hour)

    @admin.display(description="in all")
    def in_all(self, row: InboundPolicy) -> str:
        rules = rules_of(row)
        return quota_in_words(rules.all_messages_per_hour, rules.all_bytes_per_hour)

    @admin.display(description="set here")
    def set_here(self, row: InboundPolicy) -> str:
        set_here = [name for name in RULES if getattr(row, name) is not None]
        columns = [cast("Field[Any, Any]", row._meta.get_field(name)) for name in set_here]
        labels = [str(column.verbose_name) for column in columns]
        return ", ".join(labels) or "nothing: as in the configuration"

    @admin.display(description="in force")
    def in_force_now(self, row: InboundPolicy) -> str:
        quotas = f"of one peer: {self.of_one_peer(row)}; in all: {self.in_all(row)}"
        return f"from {self.who(row)}; {self.least(row)}; {quotas}"


def rules_of(row: InboundPolicy) -> Rules:
    return in_force({name: getattr(row, name) for name in RULES}, Rules(**row.configured))


def quota_in_words(messages: int, size_bytes: int) -> str:
    words = [f"{count:,} {unit}" for count, unit in ((messages, "messages"), (size_bytes, "bytes")) if count]
    return f"{' and '.join(words)} an hour" if words else "no limit"


@admin.register(Refused)
class RefusedAdmin(HistoryAdmin):
    """Of what was refused only this is kept."""

    list_display = ("service", "cause", "count", "amount", "first", "last")
    list_filter = ("service", "cause")
    fields = ("service", "cause", "count", "amount", "first", "last")
    readonly_fields = ("amount", "first", "last")
    ordering = ("service", "-count")

    @admin.display(description="paid with them", ordering="amount_msat")
    def amount(self, row: Refused) -> str:
        return sat(row.amount_msat)

    @admin.display(description="first (UTC)", ordering="first_at")
    def first(self, row: Refused) -> str:
        return to_the_second(row.first_at)

    @admin.display(description="last (UTC)", ordering="last_at")
    def last(self, row: Refused) -> str:
        return to_the_second(row.last_at)
