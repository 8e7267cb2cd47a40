"""What an operator can do about messages in the admin: give them up, knowing what that means.

The admin may run in another process than the node, so it only stores what is asked for (messaging/operator_actions.py).
"""

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from messaging.admin_base import HistoryAdmin, Noted, sat, short, to_the_second
from messaging.models import UNFINISHED, Direction, Message, MessageAction, State


class GivesUp(Noted):
    """The action "give up" of the list of messages. It asks before it does."""

    noted_as = "messages"
    actions = ("give_up",)

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("messaging.change_message")

    @admin.action(description="Give up the chosen messages …", permissions=["act"])
    def give_up(self, request: HttpRequest, queryset: QuerySet[Message]) -> HttpResponse | None:
        unfinished = queryset.filter(direction=Direction.OUT, state__in=UNFINISHED).defer("body")
        if request.POST.get("confirmed") == "yes":
            self._ask_node(request, list(unfinished))
            return None
        rows = [_told(message) for message in unfinished.order_by("-pk")]
        context = {
            **self.admin_site.each_context(request),
            "title": "Give up messages",
            "unfinished": rows,
            "ended": queryset.count() - len(rows),
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "messaging/give_up.html", context)

    def _ask_node(self, request: HttpRequest, chosen: list[Message]) -> None:
        action, asked_by = MessageAction.Action.GIVE_UP, request.user.get_username()
        MessageAction.objects.bulk_create(
            [MessageAction(message=message, action=action, asked_by=asked_by) for message in chosen]
        )
        for message in chosen:
            detail = f"message {message.message_id}"
            self.note(request, "give up", peer=message.pubkey, detail=detail, outcome="accepted")
        self.message_user(
            request,
            f"Asked the node to give up: {len(chosen)}. It does so within seconds; what became of it is told under "
            "Instructions to the node.",
            messages.SUCCESS,
        )


def _told(message: Message) -> dict[str, Any]:
    return {
        "pk": message.pk,
        "message_id": message.message_id,
        "peer": short(message.pubkey),
        "state": message.state.replace("_", " "),
        "may_cost": sat(message.cost_msat) if message.state == State.IN_FLIGHT else "nothing",
        "error": message.error,
    }


@admin.register(MessageAction)
class MessageActionAdmin(HistoryAdmin):
    list_display = ("asked", "action", "short_message", "asked_by", "result")
    list_filter = ("action", "created_at")
    fields = ("asked", "action", "message", "asked_by", "result", "done_at")
    readonly_fields = ("asked", "result")
    list_select_related = ("message",)
    ordering = ("-pk",)

    @admin.display(description="asked at (UTC)", ordering="created_at")
    def asked(self, action: MessageAction) -> str:
        return to_the_second(action.created_at)

    @admin.display(description="message")
    def short_message(self, action: MessageAction) -> str:
        return short(str(action.message))

    @admin.display(description="outcome", ordering="outcome")
    def result(self, action: MessageAction) -> str:
        return action.outcome or "the node has not looked at it yet"
