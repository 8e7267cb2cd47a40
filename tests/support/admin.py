"""The admin as a browser sees it, over TLS where the node has it. The node's configuration needs ACCOUNT as its `sqlite3`
section.
"""

import http.cookiejar
import re
import urllib.parse
import urllib.request
from html import unescape

from tests.support.nodes import GUARD_SECONDS, Node

ACCOUNT = {"username": "operator", "password": "a password for tests"}

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="(\w+)"')
_FIELD = re.compile(r'<label>([^<]*?):?</label>\s*<div class="readonly">(.*?)</div>', re.DOTALL)


class AdminPages:
    def __init__(self, node: Node):
        origin = f"{'https' if node.tls else 'http'}://{node.http}"
        self._base = f"{origin}/admin/"
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=node.tls),
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )
        self._opener.addheaders = [("Origin", origin)]
        self.page("login/", **ACCOUNT, next="/admin/", csrfmiddlewaretoken=self.token("login/"))

    def token(self, path: str) -> str:
        """What a form on this page has to be sent with."""
        return _TOKEN.search(self.page(path))[1]

    def page(self, path: str, **form: str) -> str:
        data = urllib.parse.urlencode(form).encode() if form else None
        with self._opener.open(self._base + path, data, timeout=GUARD_SECONDS) as answer:
            return answer.read().decode()

    def fields(self, path: str) -> dict[str, str]:
        """What the page of one row shows, by its labels."""
        found = _FIELD.findall(self.page(path))
        return {label.strip(): unescape(re.sub("<[^>]*>", "", value)).strip() for label, value in found}
