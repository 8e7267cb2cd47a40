"""API keys in the database: what is made, listed, changed, revoked and forgotten, and how it is noted."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone

from nodeapi.errors import StartError
from nodeapi.keys import (
    MAX_BUDGET_SAT,
    KeyProblem,
    StoredKeys,
    check_name,
    hash_of,
    key_change,
    key_make,
    key_revoke,
    keys_forget,
    limits_of,
    read_keys,
    require_credentials,
    state_of,
)
from nodeapi.models import ApiKey, AuditEntry
from nodeapi.operators import Actor
from nodeapi.rates import MAX_CALLS_PER_MINUTE

pytestmark = pytest.mark.usefixtures("tables")

OPERATOR = Actor(name="operator at the command line", address="127.0.0.1")
NOW = datetime(2026, 7, 8, 9, 10, 11, tzinfo=UTC)
NO_LIMITS = {"expires_at": None, "budget_sat": None, "calls_per_minute": None}


def make(name: str = "app", **fields) -> tuple[ApiKey, str]:
    return key_make(name=name, by=OPERATOR, **({"scopes": ["read"]} | fields))


def end(name: str, **moments: datetime) -> None:
    """As if time had passed."""
    assert ApiKey.objects.filter(name=name).update(**moments) == 1


def noted() -> list[tuple]:
    return list(AuditEntry.objects.order_by("pk").values_list("operation", "caller", "address", "detail"))


def test_key_is_told_once_and_its_hash_is_kept():
    key, secret = make()
    _, other = make("other")
    assert secret.startswith("impd_")
    assert len(secret) == 48
    assert secret != other
    stored = ApiKey.objects.values().get(name="app")
    assert bytes(stored["hash"]) == hash_of(secret)
    assert secret not in str(stored)
    assert secret.removeprefix("impd_") not in str(noted())
    assert key.pk == stored["id"]


def test_what_a_key_may_is_stored_and_noted():
    expires_at = timezone.now().replace(microsecond=0) + timedelta(days=1)
    make(scopes=["pay", "read", "pay"], expires_at=expires_at, budget_sat=0, calls_per_minute=7)
    (stored,) = read_keys().keys
    assert (stored.name, stored.scopes) == ("app", ("read", "pay"))
    assert (stored.budget_sat, stored.calls_per_minute, stored.expires_at) == (0, 7, expires_at)
    limits = f"read pay, 0 sat in 24 h, 7 calls a minute, until {expires_at:%Y-%m-%d %H:%M:%S} UTC"
    assert noted() == [("keys make", OPERATOR.name, "127.0.0.1", f"key 'app': {limits}")]


@pytest.mark.parametrize(
    ("fields", "problem", "text"),
    [
        ({"name": ""}, "name", "must be 1 to 64 printable characters"),
        ({"name": "x" * 65}, "name", "must be 1 to 64 printable characters"),
        ({"name": "a\nb"}, "name", "must be 1 to 64 printable characters"),
        ({"name": " app"}, "name", "must be 1 to 64 printable characters"),
        (
            {"name": "configured"},
            "name",
            "'configured' is the name of a key in server.api_keys; take another",
        ),
        ({"scopes": []}, "scopes", "is empty; must be a list out of read, send, pay, admin"),
        (
            {"scopes": ["read", "write"]},
            "scopes",
            "'write' is no scope; must be a list out of read, send, pay, admin",
        ),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "expires", "is in the past"),
        ({"budget_sat": -1}, "budget-sat", f"must be 0 to {MAX_BUDGET_SAT}"),
        ({"budget_sat": MAX_BUDGET_SAT + 1}, "budget-sat", f"must be 0 to {MAX_BUDGET_SAT}"),
        ({"calls_per_minute": 0}, "calls-per-minute", f"must be 1 to {MAX_CALLS_PER_MINUTE}"),
        (
            {"calls_per_minute": MAX_CALLS_PER_MINUTE + 1},
            "calls-per-minute",
            f"must be 1 to {MAX_CALLS_PER_MINUTE}",
        ),
    ],
)
def test_what_is_refused_is_not_stored(fields, problem, text):
    with pytest.raises(KeyProblem) as error:
        make(**({"name": "app", "taken": ["configured"]} | fields))
    assert (error.value.field, str(error.value)) == (problem, text)
    assert not ApiKey.objects.exists()
    assert not noted()


@pytest.mark.parametrize(
    "limits",
    [
        {"budget_sat": 0, "calls_per_minute": 1},
        {"budget_sat": MAX_BUDGET_SAT, "calls_per_minute": MAX_CALLS_PER_MINUTE},
        NO_LIMITS,
    ],
)
def test_limits_at_their_ends(limits):
    key, _ = make(**limits)
    key.refresh_from_db()
    assert {name: getattr(key, name) for name in limits} == limits


def test_name_is_free_again_after_revocation():
    make()
    with pytest.raises(KeyProblem, match="'app' is the name of another key"):
        make()
    key_revoke("app", by=OPERATOR)
    _, secret = make()
    assert [key.hash for key in read_keys().keys] == [hash_of(secret)]
    assert ApiKey.objects.filter(name="app").count() == 2


def test_name_that_another_process_has_taken_meanwhile(monkeypatch):
    make()
    monkeypatch.setattr("nodeapi.keys.check_name", lambda name, taken: None)
    with pytest.raises(KeyProblem, match="'app' is the name of another key") as error:
        make()
    assert error.value.field == "name"
    assert ApiKey.objects.count() == len(noted()) == 1


def test_check_of_a_name_stores_nothing():
    check_name("app", [])
    assert not ApiKey.objects.exists()


def test_change():
    key, _ = make(budget_sat=5)
    key_change(key, scopes=["send"], by=OPERATOR, **(NO_LIMITS | {"calls_per_minute": 3}))
    (stored,) = read_keys().keys
    assert (stored.scopes, stored.budget_sat, stored.calls_per_minute) == (("send",), None, 3)
    assert noted()[1][::3] == ("keys change", "key 'app': send, 3 calls a minute")


def test_change_that_is_refused():
    key, _ = make(budget_sat=5)
    with pytest.raises(KeyProblem):
        key_change(key, scopes=["read"], by=OPERATOR, **(NO_LIMITS | {"budget_sat": -1}))
    assert read_keys().keys[0].budget_sat == 5
    assert len(noted()) == 1


def test_revocation_is_for_good():
    _, secret = make()
    key_revoke("app", by=OPERATOR)
    assert read_keys() == StoredKeys(keys=(), any_ever=True)
    assert read_keys().revoked == {hash_of(secret): "app"}
    assert noted()[1] == ("keys revoke", OPERATOR.name, "127.0.0.1", "key 'app'")
    for name in ("app", "nobody"):
        with pytest.raises(KeyProblem, match=f"no key '{name}' is there to be revoked") as error:
            key_revoke(name, by=OPERATOR)
        assert error.value.field == "name"
    assert len(noted()) == 2


def test_forgetting_takes_what_is_over():
    for name in ("valid", "revoked", "expired", "expires"):
        make(name)
    key_revoke("revoked", by=OPERATOR)
    end("expired", expires_at=timezone.now() - timedelta(seconds=1))
    end("expires", expires_at=timezone.now() + timedelta(days=1))
    assert keys_forget(by=OPERATOR) == 2
    assert [key.name for key in read_keys().keys] == ["valid", "expires"]
    assert [row[::3] for row in noted()[5:]] == [
        ("keys forget", "key 'revoked'"),
        ("keys forget", "key 'expired'"),
    ]
    assert keys_forget(by=OPERATOR) == 0


def test_node_is_open_again_when_the_last_key_is_forgotten():
    assert read_keys() == StoredKeys(keys=(), any_ever=False)
    make()
    key_revoke("app", by=OPERATOR)
    assert read_keys().any_ever
    keys_forget(by=OPERATOR)
    assert read_keys() == StoredKeys(keys=(), any_ever=False)


def test_expired_keys_are_read_with_their_end():
    make()
    end("app", expires_at=NOW)
    (stored,) = read_keys().keys
    assert stored.expires_at == NOW


@pytest.mark.parametrize(
    ("moments", "state"),
    [
        ({}, "valid"),
        ({"expires_at": NOW + timedelta(seconds=1)}, "valid"),
        ({"expires_at": NOW}, "expired"),
        ({"revoked_at": NOW}, "revoked"),
        ({"revoked_at": NOW, "expires_at": NOW}, "revoked"),
    ],
)
def test_state(moments, state):
    assert state_of(ApiKey(name="app", **moments), NOW) == state


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({}, "read send"),
        ({"budget_sat": 0}, "read send, 0 sat in 24 h"),
        (
            {"budget_sat": 5, "calls_per_minute": 6, "expires_at": NOW},
            "read send, 5 sat in 24 h, 6 calls a minute, until 2026-07-08 09:10:11 UTC",
        ),
    ],
)
def test_limits_in_words(limits, text):
    assert limits_of(ApiKey(name="app", scopes=["read", "send"], **limits)) == text


# where the node listens beyond loopback


def config(*, exposed: bool = True, configured: bool = False):
    server = SimpleNamespace(
        exposed={"http_addr": "is reached from elsewhere", "grpc_addr": "too"} if exposed else {},
        api_keys=["key"] if configured else [],
    )
    return SimpleNamespace(server=server)


@pytest.mark.parametrize("where", [config(exposed=False), config(configured=True)])
def test_no_key_is_needed(where):
    assert require_credentials(where) == ""


def test_node_that_was_never_given_a_key_does_not_start():
    with pytest.raises(StartError) as error:
        require_credentials(config())
    assert str(error.value) == "server.http_addr: is reached from elsewhere\nserver.grpc_addr: too"


def test_key_of_the_database_will_do():
    make(expires_at=timezone.now() + timedelta(days=1))
    assert require_credentials(config()) == ""


@pytest.mark.parametrize("end_of", ["revoked_at", "expires_at"])
def test_keys_that_are_over_are_warned_of(end_of):
    make()
    end("app", **{end_of: timezone.now()})
    assert require_credentials(config()).startswith("no API key is valid: every call is refused")
