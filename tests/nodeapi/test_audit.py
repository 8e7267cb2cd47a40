"""The audit log: each call that sends, pays or changes, once, without a word of what was sent; bounded against floods."""

import json
import time

import pytest

from tests.nodeapi.streams import b64
from tests.support.admin import ACCOUNT, AdminPages
from tests.support.databases import execute
from tests.support.keys import audit_rows, bearer, keys_command, store_key
from tests.support.nodes import Node

CONFIGURED = "configured-key-of-enough-characters"
WRONG = "wrong-key-of-enough-characters"
BODY = "a body that is nobody's business"
BEARER = bearer(CONFIGURED)
REFUSALS_A_MINUTE = 60


@pytest.fixture(scope="module")
def carol(network, tmp_path_factory):
    directory = tmp_path_factory.mktemp("audited")
    with Node(
        network.nodes["carol"], directory, extra={"sqlite3": ACCOUNT}, environ={"IMPD_SERVER__API_KEY": CONFIGURED}
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
    identity = f"message_id = '{message_id if 'postgres' in carol.database_url else message_id.replace('-', '')}'"
    assert outcomes(carol, identity, 2) == ["accepted", "repeated"]
    row = audit_rows(carol, identity)[0]
    assert row[:4] == ("messaging.Messaging/SendMessage", "default", bob.pubkey, 3000) and row[5] == "127.0.0.1"
    (line, _) = lines(carol, message_id=message_id)
    assert line["key"] == "default" and line["peer"] == bob.pubkey and line["amount_msat"] == 3000
    assert (line["outcome"], line["client"]) == ("accepted", "127.0.0.1")


def test_payments_and_what_was_refused(carol, bob):
    def pay(invoice: str):
        return carol.post("/v1/lightning/payinvoice", {"invoice": invoice}, BEARER)

    invoice = bob.post("/v1/lightning/generateinvoice", {"amount": 7, "memo": "tea"}).json["invoice"]
    assert pay(invoice).status == 200 and pay("lnsb1nonsense").status == 400
    where = "operation = 'lightning.Lightning/PayInvoice'"
    assert outcomes(carol, where, 2) == ["paid", "InvalidArgument"]
    assert audit_rows(carol, where)[0][2:4] == (bob.pubkey, 7000)


def test_other_calls_are_there_and_reading_is_not(carol):
    for path in ("/v1/socket/start", "/v1/socket/stop"):
        assert carol.post(path, {}, BEARER).status == 200
    carol.post("/v1/sign", {"msg": BODY}, BEARER)
    carol.get("/v1/node", BEARER)
    assert outcomes(carol, "operation IN ('socket.Socket/StartSocket', 'signing.Signing/SignMessage')", 2) == ["done"] * 2
    assert not audit_rows(carol, "operation = 'node.Node/GetInfo'")


def test_a_broadcast_has_a_row_for_each_member(carol, bob):
    broadcasts = "operation = 'messaging.Messaging/Broadcast'"
    assert carol.post("/v1/message/broadcast", {"msg": "aGVsbG8="}, BEARER).status == 400
    assert outcomes(carol, broadcasts, 1) == ["FailedPrecondition"]
    assert carol.post("/v1/federate/request", {"pubkey": bob.pubkey}, BEARER).status == 200
    carol.wait_until(lambda: carol.get("/v1/federate", BEARER).json["federations"])
    sent = carol.post("/v1/message/broadcast", {"msg": "aGVsbG8=", "amount": 2}, BEARER).json["messages"]
    assert carol.post("/v1/federate/leave", {"pubkey": bob.pubkey}, BEARER).status == 200
    assert [row[2:5] for row in audit_rows(carol, broadcasts)[1:]] == [(bob.pubkey, 2000, "accepted")] * len(sent)
    assert outcomes(carol, "operation LIKE 'federate.Federate/%'", 2) == ["accepted"] * 2


def test_floods_are_bounded(carol, bob):
    """Without a key no rows, and few lines; with one, few rows too. What was left out is counted."""
    before, started = len(audit_rows(carol, "1 = 1")), time.monotonic()
    for _ in range(3 * REFUSALS_A_MINUTE):
        carol.post("/v1/message/send", {}, bearer(WRONG))
    assert len(audit_rows(carol, "1 = 1")) == before
    refused = lines(carol, outcome="Unauthenticated")
    assert REFUSALS_A_MINUTE <= len(refused) <= most_refusals(started) and refused[0]["client"] == "127.0.0.1"
    store_key(carol, "reader", ["read"])
    key, started = store_key(carol, "clumsy", ["send"]), time.monotonic()
    for _ in range(3 * REFUSALS_A_MINUTE):
        assert carol.post("/v1/message/send", {"pubkey": "02"}, bearer(key)).status == 400
    rows = outcomes(carol, "caller = 'clumsy'", REFUSALS_A_MINUTE)
    assert len(rows) <= most_refusals(started) and set(rows) == {"InvalidArgument"}


def most_refusals(started: float) -> int:
    """Told since then: so many in each minute that was begun. Usually that is one, or two."""
    return REFUSALS_A_MINUTE * (int(time.monotonic() - started) // 60 + 2)


def test_keys_are_made_and_revoked_in_the_admin(carol):
    pages = AdminPages(carol)
    token = pages.token("nodeapi/apikey/add/")
    form = {"name": "by hand", "scopes": "read", "expires_at_0": "", "expires_at_1": "", "budget_sat": "5",
            "calls_per_minute": "", "csrfmiddlewaretoken": token, "_save": "Save"}  # fmt: skip
    assert "This field is required" in pages.page("nodeapi/apikey/add/", **(form | {"name": ""}))
    assert "is the name of a key in server.api_keys" in pages.page("nodeapi/apikey/add/", **(form | {"name": "default"}))
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
    assert outcomes(carol, "caller = 'operator in the admin'", 2) == ["done"] * 2
    assert [row[0] for row in audit_rows(carol, "caller = 'operator in the admin'")] == ["keys make", "keys revoke"]
    assert [line["change"] for line in lines(carol, key="by hand")] == ["made", "revoked"]
    # Nowhere in the database either: not in a session, nor in the admin's own history.
    for table in ("django_session", "django_admin_log", "nodeapi_auditentry", "nodeapi_apikey"):
        assert key not in str(execute(carol.database_url, f"SELECT * FROM {table}"))


def test_the_page_is_searchable_and_cannot_be_edited(carol, bob):
    message_id = carol.post("/v1/message/send", {"msg": b64(BODY.encode()), "pubkey": bob.pubkey}, BEARER).json["id"]
    carol.post("/v1/message/send", {"msg": "aGVsbG8=", "pubkey": "none"}, BEARER)
    outcomes(carol, "outcome = 'InvalidArgument'", 1)
    pages = AdminPages(carol)
    found = pages.page(f"nodeapi/auditentry/?q={message_id}")
    assert "1 audit entry" in found and message_id in found
    assert "0 audit log" in pages.page("nodeapi/auditentry/?q=nobody-of-this-name")
    assert "InvalidArgument" not in pages.page("nodeapi/auditentry/?outcome=accepted")
    assert "InvalidArgument" in pages.page("nodeapi/auditentry/?outcome=refused")
    assert message_id not in pages.page("nodeapi/auditentry/?operation=keys")
    assert 'name="_save"' not in found and "Add audit entry" not in found


def test_no_secret_and_no_body_is_in_the_log_or_the_rows(carol):
    made = keys_command(carol, "make", "--name", "by command", "--scopes", "read")
    key = made.stdout.strip()
    assert made.returncode == 0 and len(key) >= 40
    carol.wait_until(lambda: lines(carol, key="by command"))
    rows = str(execute(carol.database_url, "SELECT * FROM nodeapi_auditentry"))
    assert "by command" in rows
    for secret in (key, CONFIGURED, WRONG, BODY, b64(BODY.encode()), "a secret of its own"):
        assert secret not in carol.log and secret not in rows
