"""Who may log in to the admin: Django's accounts and groups, with what is done to them in the audit log."""

from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.db import transaction

from messaging.admin_base import Noted


class NotedAccounts(Noted):
    noted_as = "accounts"

    def delete_model(self, request, obj) -> None:
        self.note(request, "delete", detail=repr(str(obj)))
        super().delete_model(request, obj)

    def delete_queryset(self, request, queryset) -> None:
        for obj in queryset:
            self.note(request, "delete", detail=repr(str(obj)))
        super().delete_queryset(request, queryset)


class AccountAdmin(NotedAccounts, UserAdmin):
    @transaction.atomic
    def user_change_password(self, request, id, form_url=""):
        return super().user_change_password(request, id, form_url)

    def log_change(self, request, obj, message):
        """A password alone is changed by a page of its own, which saves by itself."""
        if any(
            "password" in part.get("changed", {}).get("fields", [])
            for part in message
            if isinstance(part, dict)
        ):
            self.note(request, "change", detail=f"{str(obj)!r}: password")
        return super().log_change(request, obj, message)


class AccountGroupAdmin(NotedAccounts, GroupAdmin):
    pass
