"""API keys and the audit log in the admin. A new key is shown on the page that answers its making, and nowhere else."""

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.db.models import Q
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from messaging.admin_base import SHOWN_IN_LIST, HistoryAdmin, in_two_lines, sat, short, to_the_second
from messaging.required import required
from nodeapi import keys
from nodeapi.key_list import spent_msat
from nodeapi.models import ApiKey, AuditEntry
from nodeapi.operations import OPERATIONS
from nodeapi.operators import actor_in_admin

# A field of nodeapi.keys is named as on the command line.
_FIELDS = {
    "name": "name",
    "scopes": "scopes",
    "expires": "expires_at",
    "budget-sat": "budget_sat",
    "calls-per-minute": "calls_per_minute",
}
PAY_INVOICE = "lightning.Lightning/PayInvoice"


class ApiKeyForm(forms.ModelForm):
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in keys.SCOPES],
        widget=forms.CheckboxSelectMultiple,
        help_text=format_html_join("", "{}: {}<br>", keys.SCOPES.items()),
    )
    expires_at = forms.SplitDateTimeField(
        label="Expires (UTC)", required=False, widget=AdminSplitDateTime, help_text="Empty: never."
    )

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "expires_at", "budget_sat", "calls_per_minute")

    def clean(self) -> dict:
        cleaned = required(super().clean())
        if self.errors:
            return cleaned
        try:
            if self.instance.pk is None:
                keys.check_name(
                    cleaned["name"], (key.name for key in required(settings.IMPD).server.api_keys)
                )
            keys.set_limits(ApiKey(), **limits(cleaned))
        except keys.KeyProblem as problem:
            self.add_error(_FIELDS[problem.field], str(problem))
        return cleaned


def limits(cleaned: dict) -> dict:
    return {name: cleaned[name] for name in ("scopes", "expires_at", "budget_sat", "calls_per_minute")}


class StateFilter(admin.SimpleListFilter):
    """Begins with the keys that are valid."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request, model_admin):
        return [("all", "all, revoked ones too")]

    def choices(self, changelist):
        yield {
            "selected": self.value() is None,
            "query_string": changelist.get_query_string(remove=["state"]),
            "display": "not revoked",
        }
        yield {
            "selected": self.value() == "all",
            "query_string": changelist.get_query_string({"state": "all"}),
            "display": "all, revoked ones too",
        }

    def queryset(self, request, queryset):
        return queryset if self.value() == "all" else queryset.filter(revoked_at=None)


class ApiKeyAdmin(admin.ModelAdmin):
    """Keys of the configuration are not here: they are changed there."""

    form = ApiKeyForm
    list_display = ("name", "scope_names", "budget", "calls_per_minute", "made", "expires", "state")
    list_filter = (StateFilter,)
    search_fields = ("name",)
    ordering = ("revoked_at", "-pk")
    actions = ("revoke",)
    show_full_result_count = False

    def get_readonly_fields(self, request, key=None):
        return ("name", "made", "state", "spent") if key else ()

    def get_fields(self, request, key=None):
        if key is None:
            return ApiKeyForm.Meta.fields
        return ("name", "state", "made", "spent", "scopes", "expires_at", "budget_sat", "calls_per_minute")

    def render_change_form(self, request, context, *args, **kwargs):
        """A new key has a page of its own, from which nobody should be hurried on."""
        context |= {"show_save_and_add_another": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)

    def has_change_permission(self, request, key=None) -> bool:
        return super().has_change_permission(request, key) and (key is None or key.revoked_at is None)

    def has_delete_permission(self, request, key=None) -> bool:
        return False

    def save_model(self, request, key, form, change) -> None:
        if change:
            keys.key_change(key, **limits(form.cleaned_data), by=actor_in_admin(request))
            return
        row, request.new_key = keys.key_make(
            name=form.cleaned_data["name"], **limits(form.cleaned_data), by=actor_in_admin(request)
        )
        key.pk = row.pk

    def response_add(self, request, key, post_url_continue=None):
        """No redirect: what carries messages to the next page keeps them, and the key is kept nowhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": f"The API key {key.name}",
            "key": request.new_key,
            "row": key,
            "limits": keys.limits_of(ApiKey.objects.get(pk=key.pk)),
            "opts": self.opts,
        }
        return TemplateResponse(
            request, "nodeapi/key_made.html", context, headers={"Cache-Control": "no-store"}
        )

    @admin.action(description="Revoke", permissions=["change"])
    def revoke(self, request, queryset):
        chosen = list(queryset.filter(revoked_at=None))
        if request.POST.get("confirmed") != "yes":
            context = {
                **self.admin_site.each_context(request),
                "title": "Revoke these keys?",
                "chosen": chosen,
                "opts": self.opts,
                "action": "revoke",
            }
            return TemplateResponse(request, "nodeapi/key_revoke.html", context)
        for key in chosen:
            keys.key_revoke(key.name, by=actor_in_admin(request))
        names = ", ".join(key.name for key in chosen)
        self.message_user(
            request, f"Revoked: {names}." if names else "These are revoked already.", messages.SUCCESS
        )
        return None

    @admin.display(description="scopes")
    def scope_names(self, key: ApiKey) -> str:
        return " ".join(key.scopes)

    @admin.display(description="sat per 24 h", ordering="budget_sat")
    def budget(self, key: ApiKey) -> str:
        return "–" if key.budget_sat is None else f"{key.budget_sat:,}"

    @admin.display(description="made (UTC)", ordering="created_at")
    def made(self, key: ApiKey) -> str:
        return to_the_second(key.created_at)

    @admin.display(description="expires (UTC)", ordering="expires_at")
    def expires(self, key: ApiKey) -> str:
        return to_the_second(key.expires_at) if key.expires_at else "never"

    @admin.display(description="spent in 24 hours, fees and what is under way included")
    def spent(self, key: ApiKey) -> str:
        return sat(spent_msat(settings.IMPD, key.name, timezone.now()))

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        return keys.state_of(key, timezone.now())


class OutcomeFilter(admin.SimpleListFilter):
    title = "outcome"
    parameter_name = "outcome"

    def lookups(self, request, model_admin):
        return [*((value, value) for value in AuditEntry.Outcome.values), ("refused", "refused or failed")]

    def queryset(self, request, queryset):
        if self.value() == "refused":
            return queryset.exclude(outcome__in=AuditEntry.Outcome.values)
        return queryset.filter(outcome=self.value()) if self.value() else queryset


class OperationFilter(admin.SimpleListFilter):
    title = "operation"
    parameter_name = "operation"

    def lookups(self, request, model_admin):
        audited = [operation.rpc_path.strip("/") for operation in OPERATIONS if operation.scope != "read"]
        by_hand = [("keys", "API keys"), ("by-hand", "all that was done by hand")]
        return [*by_hand, *((name, name.partition("/")[2]) for name in audited)]

    def queryset(self, request, queryset):
        if self.value() == "keys":
            return queryset.filter(operation__startswith="keys ")
        if self.value() == "by-hand":
            return queryset.exclude(operation__contains="/")
        return queryset.filter(operation=self.value()) if self.value() else queryset


class AuditEntryAdmin(HistoryAdmin):
    list_display = ("moment", "who", "method", "short_peer", "amount", "outcome", "why", "address", "what")
    list_filter = (OutcomeFilter, OperationFilter, "created_at")
    search_fields = ("caller", "peer__startswith", "detail", "address")
    search_help_text = (
        "A key's name, the beginning of a peer's key, an address, words of a detail, or a message id (whole)"
    )
    ordering = ("-pk",)
    fields = ("created_at", "who", "operation", "peer", "amount", "outcome", "detail", "address", "what")
    readonly_fields = ("who", "amount", "what")

    def get_search_results(self, request, queryset, search_term):
        identity = search_term.strip().replace("-", "")
        if len(identity) == 32 and all(digit in "0123456789abcdefABCDEF" for digit in identity):
            return queryset.filter(Q(message_id=identity)), False
        return super().get_search_results(request, queryset, search_term)

    @admin.display(description="time (UTC)", ordering="pk")
    def moment(self, entry: AuditEntry) -> str:
        return in_two_lines(entry.created_at)

    @admin.display(description="operation", ordering="operation")
    def method(self, entry: AuditEntry) -> str:
        return format_html('<span title="{}">{}</span>', entry.operation, entry.operation.rpartition("/")[2])

    @admin.display(description="detail")
    def why(self, entry: AuditEntry) -> str:
        cut = (
            entry.detail
            if len(entry.detail) <= 2 * SHOWN_IN_LIST
            else entry.detail[: 2 * SHOWN_IN_LIST] + "…"
        )
        return format_html('<span title="{}">{}</span>', entry.detail, cut)

    @admin.display(description="key", ordering="caller")
    def who(self, entry: AuditEntry) -> str:
        return entry.caller or "– (none needed)"

    @admin.display(description="peer", ordering="peer")
    def short_peer(self, entry: AuditEntry) -> str:
        return short(entry.peer)

    @admin.display(description="amount", ordering="amount_msat")
    def amount(self, entry: AuditEntry) -> str:
        return "–" if entry.amount_msat is None else sat(entry.amount_msat)

    @admin.display(description="message or payment")
    def what(self, entry: AuditEntry) -> str:
        if entry.message_id is None:
            return "–"
        if entry.operation == PAY_INVOICE:
            address = reverse("admin:invoices_invoicepayment_change", args=[entry.message_id])
        else:
            address = reverse("admin:messaging_message_changelist") + f"?q={entry.message_id}"
        return format_html('<a href="{}">{}</a>', address, short(str(entry.message_id)))
