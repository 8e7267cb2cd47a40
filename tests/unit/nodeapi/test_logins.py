"""Logins of the admin: how many may fail, from one place and in all, and what is noted of each try."""

import logging
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import RequestFactory, override_settings
from django.utils import timezone

from nodeapi import logins
from nodeapi.logins import FAILED, LOGIN, MOST_FAILURES, MOST_IN_ALL, WINDOW, LoginForm
from nodeapi.models import AuditEntry

PASSWORD = "correct horse battery staple"
ELSEWHERE = "203.0.113.5"
FAST_HASH = override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"])


@pytest.fixture(autouse=True)
def operator(tables):
    with FAST_HASH:
        user = User.objects.create_user("operator", password=PASSWORD, is_staff=True)
        yield user
        user.delete()


def log_in(address: str, username: str = "operator", password: str = PASSWORD) -> str:
    """The error that is told; nothing when the login is good."""
    request = RequestFactory().post("/admin/login/", REMOTE_ADDR=address)
    form = LoginForm(request, data={"username": username, "password": password})
    if form.is_valid():
        return ""
    return " ".join(str(text) for texts in form.errors.values() for text in texts)


def put(count: int, address: str, *, outcome: str = FAILED, age: timedelta = timedelta()) -> None:
    """Tries that were made before."""
    created_at = timezone.now() - age
    AuditEntry.objects.bulk_create(
        AuditEntry(operation=LOGIN, outcome=outcome, address=address, created_at=created_at)
        for _ in range(count)
    )


def tries(address: str) -> list[tuple]:
    found = AuditEntry.objects.filter(address=address).order_by("pk")
    return list(found.values_list("caller", "operation", "outcome", "detail"))


def test_good_login():
    assert log_in(ELSEWHERE) == ""
    assert tries(ELSEWHERE) == [("operator in the admin", LOGIN, "done", "")]


@pytest.mark.parametrize(("username", "password"), [("operator", "wrong"), ("nobody", PASSWORD)])
def test_failed_login_does_not_say_what_was_wrong(username, password):
    assert "Please enter the correct username and password" in log_in(ELSEWHERE, username, password)
    assert tries(ELSEWHERE) == [("", LOGIN, FAILED, "wrong name or password")]


def test_who_is_no_operator(operator):
    operator.is_staff = False
    operator.save()
    assert log_in(ELSEWHERE) != ""
    assert tries(ELSEWHERE)[0][2] == FAILED


@pytest.mark.parametrize(("username", "password"), [("", PASSWORD), ("operator", "")])
def test_form_that_is_not_filled_in_is_no_try(username, password):
    assert "This field is required" in log_in(ELSEWHERE, username, password)
    assert tries(ELSEWHERE) == []


def test_what_was_typed_is_not_kept(caplog):
    caplog.set_level(logging.INFO)
    for _ in range(MOST_FAILURES):
        log_in(ELSEWHERE, "password in the wrong field", "also secret")
    everything = str(list(AuditEntry.objects.values())) + caplog.text
    assert "password in the wrong field" not in everything
    assert "also secret" not in everything


def test_who_fails_too_often_waits():
    for _ in range(MOST_FAILURES):
        assert "correct username" in log_in(ELSEWHERE, password="wrong")
    # With the right password too; and what is refused unseen is no try.
    assert log_in(ELSEWHERE) == "Too many logins have failed. Try again in 15 min."
    assert len(tries(ELSEWHERE)) == MOST_FAILURES
    assert log_in("203.0.113.6") == ""


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(minutes=4, seconds=30), "Try again in 11 min."),
        (WINDOW - timedelta(seconds=30), "Try again in 1 min."),
        (WINDOW, ""),
    ],
)
def test_wait_ends(age, text):
    put(MOST_FAILURES, ELSEWHERE, age=age)
    answer = log_in(ELSEWHERE)
    assert answer.endswith(text)
    assert bool(answer) is bool(text)


def test_wait_ends_when_the_oldest_of_the_last_failures_does():
    put(3, ELSEWHERE, age=timedelta(minutes=14))
    put(MOST_FAILURES - 1, ELSEWHERE, age=timedelta(minutes=10))
    put(1, ELSEWHERE, age=timedelta(minutes=1))
    assert log_in(ELSEWHERE).endswith("Try again in 5 min.")


@pytest.mark.parametrize(
    ("failed_from", "comes_from", "waits"),
    [
        (ELSEWHERE, ELSEWHERE, True),
        (ELSEWHERE, "203.0.113.6", False),
        ("2001:db8::1", "2001:db8::ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.5", ELSEWHERE, True),
        # A socket of this machine has no address.
        ("", "", True),
    ],
)
def test_what_is_one_place(failed_from, comes_from, waits):
    put(MOST_FAILURES, failed_from)
    assert bool(log_in(comes_from)) is waits


@pytest.mark.parametrize(
    ("address", "was_there_before", "waits"),
    [
        (ELSEWHERE, False, True),
        (ELSEWHERE, True, False),
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("", False, False),
    ],
)
def test_many_strangers(monkeypatch, address, was_there_before, waits):
    """They are refused, and do not lock out who has logged in from there before."""
    monkeypatch.setattr(logins, "MOST_IN_ALL", 20)
    for number in range(20):
        put(1, f"192.0.2.{number}")
    if was_there_before:
        put(1, address, outcome="done", age=timedelta(days=300))
    assert bool(log_in(address)) is waits


def test_one_below_the_most_in_all(monkeypatch):
    monkeypatch.setattr(logins, "MOST_IN_ALL", 20)
    for number in range(19):
        put(1, f"192.0.2.{number}")
    assert log_in(ELSEWHERE) == ""
    assert MOST_IN_ALL > 10 * MOST_FAILURES


def test_log_has_a_line_of_the_login_and_one_when_a_place_begins_to_wait(caplog):
    caplog.set_level(logging.INFO)
    for _ in range(MOST_FAILURES + 3):
        log_in(ELSEWHERE, password="wrong")
    log_in("203.0.113.6")
    lines = [
        (record.client, record.outcome, record.key) for record in caplog.records if record.name == "audit"
    ]
    assert lines == [(ELSEWHERE, FAILED, ""), ("203.0.113.6", "done", "operator in the admin")]
