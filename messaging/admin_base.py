"""What the admin's pages of all apps have in common: how values are shown, rows that cannot be edited, the audit log."""

import codecs
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

from messaging.models import Peer

SHOWN_BODY_BYTES = 2_000
SHOWN_IN_LIST = 40
UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def shown_bytes(raw: bytes) -> str:
    """Bytes for people: text where they are text that can be read, else hexadecimal; cut when long."""
    cut = bytes(raw[:SHOWN_BODY_BYTES])
    text = _readable(cut, whole=len(raw) <= SHOWN_BODY_BYTES)
    if text is None:
        text = f"{len(raw):,} byte{'' if len(raw) == 1 else 's'}: {cut.hex(' ')}"
    more = len(raw) - SHOWN_BODY_BYTES
    return text + (f" … and {more:,} bytes more" if more > 0 else "")


def _readable(raw: bytes, *, whole: bool) -> str | None:
    """The text that these bytes are; None for what is no text, or has characters that nobody sees."""
    try:
        # Where it was cut, a character may have lost its end.
        text = codecs.getincrementaldecoder("utf-8")().decode(raw, final=whole)
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\t\r\n" for character in text) else None


def begin(raw: bytes) -> str:
    """As much of it as a list has room for."""
    shown = shown_bytes(raw)
    return shown if len(shown) <= SHOWN_IN_LIST else shown[:SHOWN_IN_LIST] + "…"


def sat(amount_msat: int) -> str:
    whole, rest = divmod(amount_msat, 1000)
    return f"{whole:,} sat" if not rest else f"{amount_msat / 1000:,.3f} sat"


def in_words(left: timedelta) -> str:
    """A length of time in its two largest units: "3 days 4 hours"."""
    rest = max(0, int(left.total_seconds()))
    words = []
    for seconds, unit in UNITS:
        count, rest = divmod(rest, seconds)
        if count:
            words.append(f"{count:,} {unit}{'' if count == 1 else 's'}")
    return " ".join(words[:2]) or "0 seconds"


def to_the_second(moment: datetime | None) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else "–"


def in_two_lines(moment: datetime | None) -> str:
    """For lists: broken between day and time, where there is no room for both, and nowhere else."""
    if not moment:
        return "–"
    day, time = to_the_second(moment).split()
    return format_html(
        '<span style="white-space:nowrap">{}</span> <span style="white-space:nowrap">{}</span>', day, time
    )


class NotingSite(Protocol):
    """The site that these pages are made for: it writes the audit log."""

    def note(self, request: HttpRequest, operation: str, **told: str) -> None: ...


class NodeModelAdmin(admin.ModelAdmin):
    class Media:
        css = {"all": ("messaging/admin.css",)}


class HistoryAdmin(NodeModelAdmin):
    """Rows that the node writes. Editing or deleting them would make the history lie."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Noted(NodeModelAdmin):
    """What is done here stands in the audit log: the site writes it down, in the same transaction."""

    noted_as: str

    def note(
        self, request: HttpRequest, what: str, *, peer: str = "", detail: str = "", outcome: str = "done"
    ) -> None:
        site = cast("NotingSite", self.admin_site)
        site.note(request, f"{self.noted_as} {what}", peer=peer, detail=detail, outcome=outcome)

    def note_saved(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Words that were put in are not told: they may be secret."""
        names = form.changed_data if change else form.fields
        values = {name: form.cleaned_data.get(name) for name in names}
        told = ", ".join(f"{name}: {value}" if _is_plain(value) else name for name, value in values.items())
        what = "change" if change else "make"
        if isinstance(obj, Peer):
            self.note(request, what, peer=obj.pk, detail=told)
        else:
            self.note(request, what, detail=f"{str(obj)!r}: {told}")

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        self.note_saved(request, obj, form, change)

    @transaction.atomic
    def response_action(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:  # type: ignore[override]  # the stubs tell no type of it
        return super().response_action(request, queryset)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int)


class StateFilter(admin.SimpleListFilter):
    """Begins with the rows that an operator looks for, in `usual` states; `usual_words` is what they are called."""

    title = "state"
    parameter_name = "state"
    usual: tuple[str, ...]
    usual_words: str
    choices_of_states: list[tuple[str, str]]

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        others = [choice for choice in self.choices_of_states if (choice[0],) != tuple(self.usual)]
        return [("all", "all, the history too"), *others]

    def choices(self, changelist: ChangeList) -> Iterator[Any]:
        yield {
            "selected": self.value() is None,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": self.usual_words,
        }
        for value, text in self.lookup_choices:
            yield {
                "selected": self.value() == value,
                "query_string": changelist.get_query_string({self.parameter_name: value}),
                "display": text,
            }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "all":
            return queryset
        return queryset.filter(state__in=[self.value()] if self.value() else self.usual)


def short(text: str) -> str:
    """A key or an id for lists: its ends, the whole on hover."""
    if not text:
        return "–"
    # The colour of links, where it is one.
    style = "white-space:nowrap; color:inherit"
    return format_html('<code title="{}" style="{}">{}…{}</code>', text, style, text[:8], text[-4:])


class When:
    """Times for lists: to the second, in UTC."""

    @admin.display(description="time (UTC)", ordering="created_at")
    def when(self, row: Any) -> str:
        return in_two_lines(row.created_at)
