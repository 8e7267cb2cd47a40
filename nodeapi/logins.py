"""Logins of the admin: who fails too often waits. Each try is a row of the audit log, written before the password is
looked at, so that tries at the same time count too; by these rows all processes of the node know.
"""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from messaging.required import required
from nodeapi.addresses import ip_of, site_of
from nodeapi.models import AuditEntry
from nodeapi.operators import Actor, named_in_admin, note, tell

LOGIN, FAILED = "admin login", "Unauthenticated"
WINDOW = timedelta(minutes=15)
# From one address (IPv6: one /64), and in all. Beyond the latter whoever has logged in from there before may still try,
# so that many strangers do not lock the operator out.
MOST_FAILURES, MOST_IN_ALL = 10, 200
_lock = threading.Lock()


class LoginForm(AdminAuthenticationForm):
    def clean(self):
        if not (self.cleaned_data.get("username") and self.cleaned_data.get("password")):
            return super().clean()
        row = _begin(required(self.request).META.get("REMOTE_ADDR") or "")
        cleaned = super().clean()
        row.caller = named_in_admin(self.user_cache)[:100]
        row.outcome, row.detail = AuditEntry.Outcome.DONE, ""
        with transaction.atomic():
            row.save(update_fields=["caller", "outcome", "detail"])
            tell(row)
        return cleaned


def _begin(address: str) -> AuditEntry:
    """A try, which has failed unless it is said otherwise. ValidationError when there were too many."""
    with _lock, transaction.atomic():
        since = timezone.now() - WINDOW
        failed = AuditEntry.objects.filter(caller="", operation=LOGIN, outcome=FAILED, created_at__gte=since)
        tries = list(failed.order_by("created_at").values_list("address", "created_at"))
        of_this_site = [moment for where, moment in tries if site_of(where) == site_of(address)]
        _refuse_beyond(of_this_site, MOST_FAILURES)
        if not _has_logged_in_from(address):
            _refuse_beyond([moment for _, moment in tries], MOST_IN_ALL)
        row = note(LOGIN, Actor(name="", address=address), detail="wrong name or password", outcome=FAILED)
        if len(of_this_site) + 1 == MOST_FAILURES:
            # The log has one line of them: when this address begins to wait.
            tell(row)
        return row


def _refuse_beyond(tries: Sequence[datetime], most: int) -> None:
    if len(tries) >= most:
        seconds = (tries[-most] + WINDOW - timezone.now()).total_seconds()
        minutes = max(1, -int(-seconds // 60))
        raise ValidationError(f"Too many logins have failed. Try again in {minutes} min.", code="too_many")


def _has_logged_in_from(address: str) -> bool:
    ip = ip_of(address)
    if ip is None or ip.is_loopback:
        return True
    return AuditEntry.objects.filter(
        operation=LOGIN, outcome=AuditEntry.Outcome.DONE, address=address
    ).exists()
