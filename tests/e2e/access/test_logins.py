"""Logins of the admin: passwords cannot be tried without end, and who logs in is in the audit log. The node is behind a
proxy that is trusted, so that clients of any address can come.
"""

import http.client
import math
import re
import threading
import time
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from tests.support.admin import ACCOUNT
from tests.support.databases import execute
from tests.support.keys import audit_rows
from tests.support.nodes import GUARD_SECONDS, Node

MOST_FAILURES, MOST_IN_ALL = 10, 200
WINDOW_SECONDS = 15 * 60
TOO_MANY = "Too many logins have failed"
TYPED = "a password in the wrong field"


@pytest.fixture(scope="module")
def carol(network, tmp_path_factory):
    server = {"trusted_proxies": ["127.0.0.1"]}
    with Node(
        network.nodes["carol"],
        tmp_path_factory.mktemp("logins"),
        extra={"sqlite3": ACCOUNT, "server": server},
    ) as node:
        yield node


def log_in(node: Node, address: str, **given: str) -> tuple[int, str]:
    """Status and page of a login by a client with this address; 302 where it is let in."""
    connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=GUARD_SECONDS)
    headers = {"X-Forwarded-For": address}
    connection.request("GET", "/admin/login/", headers=headers)
    answer = connection.getresponse()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', answer.read().decode())[1]
    headers |= {"Cookie": answer.getheader("set-cookie"), "Content-Type": "application/x-www-form-urlencoded"}
    form = ACCOUNT | {"csrfmiddlewaretoken": token, "next": "/admin/"} | given
    connection.request("POST", "/admin/login/", urlencode(form), headers)
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    return answer.status, page


def tries(node: Node, address: str) -> list[tuple[str, str]]:
    return [
        (row[1], row[4]) for row in audit_rows(node, f"operation = 'admin login' AND address = '{address}'")
    ]


def test_a_login_is_in_the_audit_log(carol):
    assert log_in(carol, "203.0.113.1", password="wrong")[0] == 200
    assert log_in(carol, "203.0.113.1")[0] == 302
    assert tries(carol, "203.0.113.1") == [
        ("", "Unauthenticated"),
        (f"{ACCOUNT['username']} in the admin", "done"),
    ]
    carol.wait_until(lambda: '"operation": "admin login"' in carol.log)


def test_who_fails_too_often_waits(carol):
    """Tries at the same time too; and from the same /64, which is one client's."""
    pages, began = [], time.monotonic()
    wrong = [
        threading.Thread(
            target=lambda: pages.append(log_in(carol, "2001:db8::1", username=TYPED, password="wrong")[1])
        )
        for _ in range(MOST_FAILURES + 5)
    ]
    for thread in wrong:
        thread.start()
    for thread in wrong:
        thread.join()
    assert len(pages) == len(wrong)
    assert sum(TOO_MANY in page for page in pages) == 5
    status, page = log_in(carol, "2001:db8::ffff")
    assert status == 200
    assert TOO_MANY in page
    least = math.ceil((WINDOW_SECONDS - (time.monotonic() - began)) / 60)
    assert least <= int(re.search(r"Try again in (\d+) min", page)[1]) <= 15
    assert tries(carol, "2001:db8::1") == [("", "Unauthenticated")] * MOST_FAILURES
    assert not tries(carol, "2001:db8::ffff")
    assert log_in(carol, "2001:db8:0:1::1")[0] == 302
    assert TYPED not in carol.log
    assert TYPED not in str(execute(carol.database_url, "SELECT * FROM nodeapi_auditentry"))


def test_after_a_while_the_next_is_let_in(carol):
    put_failures(carol, "198.51.100.1", MOST_FAILURES)
    assert TOO_MANY in log_in(carol, "198.51.100.1")[1]
    move = "UPDATE nodeapi_auditentry SET created_at = '2020-01-01 00:00:00' WHERE address = '198.51.100.1'"
    execute(carol.database_url, move)
    assert log_in(carol, "198.51.100.1")[0] == 302


def test_many_strangers_do_not_try_more_and_do_not_lock_the_operator_out(carol):
    assert log_in(carol, "198.51.100.2")[0] == 302
    for number in range(MOST_IN_ALL):
        put_failures(carol, f"192.0.2.{number}", 1)
    try:
        assert TOO_MANY in log_in(carol, "198.51.100.3")[1]
        assert [log_in(carol, address)[0] for address in ("198.51.100.2", "127.0.0.1")] == [302, 302]
    finally:
        execute(carol.database_url, "DELETE FROM nodeapi_auditentry WHERE address LIKE '192.0.2.%'")


def put_failures(node: Node, address: str, count: int) -> None:
    row = f"('{datetime.now(UTC)}', '', 'admin login', '', 'Unauthenticated', '', '{address}', false)"
    columns = "created_at, caller, operation, peer, outcome, detail, address, spends"
    execute(
        node.database_url, f"INSERT INTO nodeapi_auditentry ({columns}) VALUES {', '.join([row] * count)}"
    )
