"""The audit log: each call that sends, pays or changes, once, without a word of what was sent; bounded against floods."""

import json
import time

import pytest

from tests.support.admin import ACCOUNT, AdminPages
from tests.support.databases import execute
from tests.support.keys import audit_rows, bearer, keys_command, store_key
from tests.support.nodes import Node
from tests.support.streams import b64

pytestmark = pytest.mark.sql

CONFIGURED = "configured-key-of-enough-characters"
WRONG = "wrong-key-of-enough-characters"
BODY = "a body that is nobody's business"
BEARER = bearer(CONFIGURED)
REFUSALS_A_MINUTE = 60


@pytest.fixture(scope="module")
def carol(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("audited")
    with Node(
        network.nodes["carol"],
        directory,
        extra={"sqlite3": ACCOUNT, "logging": {"parts": {"audit": "debug"}}},
        environ={"IMPD_SERVER__API_KEY": CONFIGURED},
    ) as node:
        yield node


def lines(node: Node, **wanted: str) -> list[dict]:
    """The log's lines of the audit that have these fields."""
    told = [json.loads(line) for line in node.log.splitlines() if '"part": "audit"' in line]
    return [line for line in told if all(line.get(name) == value for name, value in wanted.items())]


def outcomes(node: Node, where: str, count: int) -> list[str]:
    """What is not written with a message is written behind the call."""
    node.wait_until(lambda: len(audit_rows(node, where)) >= count)
    return [row[4] for row in audit_rows(node, where)]


def test_a_message_and_its_repetition(carol, bob):
    body = {"msg": b64(BODY.encode()), "pubkey": bob.pubkey, "amount": 3}
    headers = BEARER | {"Idempotency-Key": "a secret of its own"}
    message_id = carol.post("/v1/message/send", body, headers).json["id"]
    assert carol.post("/v1/message/send", body, headers).json["id"] == message_id
    identity = (
        f"message_id = '{message_id if 'postgres' in carol.database_url else message_id.replace('-', '')}'"
    )
    assert outcomes(carol, identity, 2) == ["accepted", "repeated"]
    row = audit_rows(carol, identity)[0]
    assert row[:4] == ("messaging.Messaging/SendMessage", "default", bob.pubkey, 3000)
    assert row[5] == "127.0.0.1"
    (line, _) = lines(carol, message_id=message_id)
    assert line["key"] == "default"
    assert line["peer"] == bob.pubkey
    assert line["amount_msat"] == 3000
    assert (line["outcome"], line["client"]) == ("accepted", "127.0.0.1")


def test_payments_and_what_was_refused(carol, bob):
    def pay(invoice: str):
        return carol.post("/v1/lightning/payinvoice", {"invoice": invoice}, BEARER)

    invoice = bob.post("/v1/lightning/generateinvoice", {"amount": 7, "memo": "tea"}).json["invoice"]
    assert pay(invoice).status == 200
    assert pay("lnsb1nonsense").status == 400
    where = "operation = 'lightning.Lightning/PayInvoice'"
    assert outcomes(carol, where, 2) == ["paid", "InvalidArgument"]
    assert audit_rows(carol, where)[0][2:4] == (bob.pubkey, 7000)


def test_other_calls_are_there_and_reading_is_not(carol):
    for path in ("/v1/socket/start", "/v1/socket/stop"):
        assert carol.post(path, {}, BEARER).status == 200
    carol.post("/v1/sign", {"msg": BODY}, BEARER)
    carol.get("/v1/node", BEARER)
    assert (
        outcomes(carol, "operation IN ('socket.Socket/StartSocket', 'signing.Signing/SignMessage')", 2)
        == ["done"] * 2
    )
    assert not audit_rows(carol, "operation = 'node.Node/GetInfo'")


def test_a_broadcast_has_a_row_for_each_member(carol, bob):
    ((last,),) = execute(carol.database_url, "SELECT COALESCE(MAX(id), 0) FROM nodeapi_auditentry")
    broadcasts = f"operation = 'messaging.Messaging/Broadcast' AND id > {last}"
    assert carol.post("/v1/message/broadcast", {"msg": "aGVsbG8="}, BEARER).status == 400
    assert outcomes(carol, broadcasts, 1) == ["FailedPrecondition"]
    assert carol.post("/v1/federate/request", {"pubkey": bob.pubkey}, BEARER).status == 200
    carol.wait_until(lambda: carol.get("/v1/federate", BEARER).json["federations"])
    sent = carol.post("/v1/message/broadcast", {"msg": "aGVsbG8=", "amount": 2}, BEARER).json["messages"]
    assert carol.post("/v1/federate/leave", {"pubkey": bob.pubkey}, BEARER).status == 200
    assert [row[2:5] for row in audit_rows(carol, broadcasts)[1:]] == [(bob.pubkey, 2000, "accepted")] * len(
        sent
    )
    federate = f"operation LIKE 'federate.Federate/%' AND id > {last}"
    assert outcomes(carol, federate, 2) == ["accepted"] * 2


def test_floods_are_bounded(carol, bob):
    """Without a key no rows, and few lines; with one, few rows too. What was left out is counted."""
    started = time.monotonic()
    for _ in range(3 * REFUSALS_A_MINUTE):
        carol.post("/v1/message/send", {}, bearer(WRONG))
    refused = lines(carol, outcome="Unauthenticated")
    assert REFUSALS_A_MINUTE <= len(refused) <= most_refusals(started)
    assert refused[0]["client"] == "127.0.0.1"
    store_key(carol, "reader", ["read"])
    key, started = store_key(carol, "clumsy", ["send"]), time.monotonic()
    for _ in range(3 * REFUSALS_A_MINUTE):
        assert carol.post("/v1/message/send", {"pubkey": "02"}, bearer(key)).status == 400
    rows = outcomes(carol, "caller = 'clumsy'", REFUSALS_A_MINUTE)
    assert len(rows) <= most_refusals(started)
    assert set(rows) == {"InvalidArgument"}


def most_refusals(started: float) -> int:
    """Told since then: so many in each minute that was begun. Usually that is one, or two."""
    return REFUSALS_A_MINUTE * (int(time.monotonic() - started) // 60 + 2)


def test_keys_are_made_and_revoked_in_the_admin(carol):
    pages = AdminPages(carol)
    token = pages.token("nodeapi/apikey/add/")
    form = {
        "name": "by hand",
        "scopes": "read",
        "expires_at_0": "",
        "expires_at_1": "",
        "budget_sat": "5",
        "calls_per_minute": "",
        "csrfmiddlewaretoken": token,
        "_save": "Save",
    }
    assert "This field is required" in pages.page("nodeapi/apikey/add/", **(form | {"name": ""}))
    assert "is the name of a key in server.api_keys" in pages.page(
        "nodeapi/apikey/add/", **(form | {"name": "default"})
    )
    made = pages.page("nodeapi/apikey/add/", **form)
    key = made.partition('id="key" value="')[2].partition('"')[0]
    carol.wait_until(lambda: carol.get("/v1/node", bearer(key)).status == 200)
    assert "is the name of another key" in pages.page("nodeapi/apikey/add/", **form)
    ((number,),) = execute(carol.database_url, "SELECT id FROM nodeapi_apikey WHERE name = 'by hand'")
    assert key not in pages.page("nodeapi/apikey/") + pages.page(f"nodeapi/apikey/{number}/change/")
    chosen = {"action": "revoke", "_selected_action": str(number), "csrfmiddlewaretoken": token}
    assert "cannot be undone" in pages.page("nodeapi/apikey/", **chosen)
    assert "Revoked: by hand." in pages.page("nodeapi/apikey/", **chosen, confirmed="yes")
    carol.wait_until(lambda: carol.get("/v1/node", bearer(key)).status == 401)
    by_hand = "caller = 'operator in the admin' AND operation LIKE 'keys %'"
    assert outcomes(carol, by_hand, 2) == ["done"] * 2
    assert [row[0] for row in audit_rows(carol, by_hand)] == ["keys make", "keys revoke"]
    assert [line["change"] for line in lines(carol, key="by hand")] == ["made", "revoked"]
    # Nowhere in the database either: not in a session, nor in the admin's own history.
    for table in ("django_session", "django_admin_log", "nodeapi_auditentry", "nodeapi_apikey"):
        assert key not in str(execute(carol.database_url, f"SELECT * FROM {table}"))


def by_hand(node: Node, operation: str) -> list[tuple]:
    """(peer, outcome, address, detail) of what the operator did in the admin."""
    where = f"caller = 'operator in the admin' AND operation = '{operation}'"
    return execute(
        node.database_url,
        f"SELECT peer, outcome, address, detail FROM nodeapi_auditentry WHERE {where} ORDER BY id",
    )


def test_whom_the_operator_lets_write(carol):
    pages = AdminPages(carol)
    token = pages.token("messaging/peer/add/")
    pubkey = "02" + "17" * 32
    form = {"csrfmiddlewaretoken": token, "_save": "Save"}
    pages.page("messaging/peer/add/", **form, pubkey=pubkey, label=BODY, marked="on")
    for action in ("block", "unblock"):
        pages.page("messaging/peer/", csrfmiddlewaretoken=token, action=action, _selected_action=pubkey)
    pages.page(f"messaging/peer/{pubkey}/change/", **form, label=BODY, blocked="on")
    assert by_hand(carol, "peers make") == [
        (pubkey, "done", "127.0.0.1", "pubkey, label, marked: True, blocked: False")
    ]
    assert [by_hand(carol, f"peers {what}")[0][:2] for what in ("block", "unblock")] == [(pubkey, "done")] * 2
    assert by_hand(carol, "peers change")[0][::3] == (pubkey, "marked: False, blocked: True")
    pages.page("messaging/inboundpolicy/sign/change/", **form, min_amount_sat="5", only_known="unknown")
    assert [row[3] for row in by_hand(carol, "inbound change")] == ["'sign': min_amount_sat: 5"]
    assert lines(carol, operation="peers block", peer=pubkey, key="operator in the admin", client="127.0.0.1")


def test_what_the_operator_asks_the_node_to_do(carol, bob):
    assert carol.post("/v1/federate/request", {"pubkey": bob.pubkey}, BEARER).status == 200
    known = f"SELECT 1 FROM federation_federation WHERE pubkey = '{bob.pubkey}'"
    carol.wait_until(lambda: execute(carol.database_url, known))
    pages = AdminPages(carol)
    chosen = {
        "csrfmiddlewaretoken": pages.token("federation/federation/?state=all"),
        "_selected_action": bob.pubkey,
    }
    pages.page("federation/federation/?state=all", action="leave", **chosen)
    assert by_hand(carol, "federation leave")[-1][:3] == (bob.pubkey, "accepted", "127.0.0.1")
    # Members would get the broadcasts of other tests.
    carol.wait_until(lambda: not carol.get("/v1/federate", BEARER).json["federations"])


LEASE = {
    "contract_id": "'5fedffdcc8834aaf95bc358d7a79b7db'",
    "buyer": "'02" + "18" * 32 + "'",
    "nonce": "'n'",
    "wg_key": "''",
    "addresses": "''",
    "price_sat": "1",
    "state": "'freed'",
    "cause": "''",
    "holds_key": "false",
    "created_at": "'2026-01-01 00:00:00'",
    "changed_at": "'2026-01-01 00:00:00'",
    "received_bytes": "0",
    "sent_bytes": "0",
    "seen_received_bytes": "0",
    "seen_sent_bytes": "0",
}


def test_what_the_operator_does_with_leases(carol):
    execute(
        carol.database_url, f"INSERT INTO vpn_lease ({', '.join(LEASE)}) VALUES ({', '.join(LEASE.values())})"
    )
    ((number,),) = execute(carol.database_url, "SELECT id FROM vpn_lease WHERE nonce = 'n'")
    pages = AdminPages(carol)
    chosen = {"csrfmiddlewaretoken": pages.token("vpn/lease/?state=all"), "_selected_action": str(number)}
    pages.page("vpn/lease/?state=all", action="extend_by_an_hour", **chosen)
    told = "lease 5fedffdc-c883-4aaf-95bc-358d7a79b7db by 3600 s"
    assert by_hand(carol, "leases extend") == [("02" + "18" * 32, "accepted", "127.0.0.1", told)]


def test_accounts_of_the_admin(carol):
    pages = AdminPages(carol)
    form = {"csrfmiddlewaretoken": pages.token("auth/user/add/"), "_save": "Save"}
    passwords = {"usable_password": "true", "password1": BODY, "password2": BODY}
    pages.page("auth/user/add/", **form, username="helper", **passwords)
    ((number,),) = execute(carol.database_url, "SELECT id FROM auth_user WHERE username = 'helper'")
    joined = {"date_joined_0": "2026-01-01", "date_joined_1": "00:00:00"}
    pages.page(
        f"auth/user/{number}/change/", **form, username="helper", is_active="on", is_staff="on", **joined
    )
    pages.page(f"auth/user/{number}/password/", **form, **passwords)
    pages.page(f"auth/user/{number}/delete/", csrfmiddlewaretoken=form["csrfmiddlewaretoken"], post="yes")
    assert by_hand(carol, "accounts make")[0][3].startswith("'helper': username")
    changes = [row[3] for row in by_hand(carol, "accounts change")]
    assert "is_staff: True" in changes[0]
    assert changes[1:] == ["'helper': password"]
    assert [row[3] for row in by_hand(carol, "accounts delete")] == ["'helper'"]


def test_the_page_is_searchable_and_cannot_be_edited(carol, bob):
    message_id = carol.post(
        "/v1/message/send", {"msg": b64(BODY.encode()), "pubkey": bob.pubkey}, BEARER
    ).json["id"]
    carol.post("/v1/message/send", {"msg": "aGVsbG8=", "pubkey": "none"}, BEARER)
    outcomes(carol, "outcome = 'InvalidArgument'", 1)
    pages = AdminPages(carol)
    found = pages.page(f"nodeapi/auditentry/?q={message_id}")
    assert "1 audit entry" in found
    assert message_id in found
    assert "0 audit log" in pages.page("nodeapi/auditentry/?q=nobody-of-this-name")
    assert "InvalidArgument" not in pages.page("nodeapi/auditentry/?outcome=accepted")
    assert "InvalidArgument" in pages.page("nodeapi/auditentry/?outcome=refused")
    assert message_id not in pages.page("nodeapi/auditentry/?operation=keys")
    assert 'name="_save"' not in found
    assert "Add audit entry" not in found


def test_no_secret_and_no_body_is_in_the_log_or_the_rows(carol):
    made = keys_command(carol, "make", "--name", "by command", "--scopes", "read")
    key = made.stdout.strip()
    assert made.returncode == 0
    assert len(key) >= 40
    carol.wait_until(lambda: lines(carol, key="by command"))
    misplaced = carol.post("/v1/message/send", {"msg": "aGVsbG8=", "amount": f" {BODY}"}, BEARER)
    assert misplaced.json["message"].startswith("amount: ")
    outcomes(carol, "detail LIKE 'amount: %'", 1)
    rows = str(execute(carol.database_url, "SELECT * FROM nodeapi_auditentry"))
    assert "by command" in rows
    for secret in (key, CONFIGURED, WRONG, BODY, b64(BODY.encode()), "a secret of its own"):
        assert secret not in carol.log
        assert secret not in rows
