"""What the node prints for the person who started it."""

from types import SimpleNamespace

from impervious_site.config_values import Address
from nodeapi.welcome import started


def config(**server) -> SimpleNamespace:
    defaults = {
        "enabled": True,
        "scheme": "http",
        "tls_cert": None,
        "grpc_addr": Address("127.0.0.1", 8881),
        "http_addr": Address("0.0.0.0", 8882),
    }
    return SimpleNamespace(path="config.yml", server=SimpleNamespace(**defaults | server))


def test_where_it_listens():
    text = started(config(), "02ab", simulation=None)
    assert "This node: 02ab\ngRPC 127.0.0.1:8881, HTTP and websocket 0.0.0.0:8882\n" in text
    # An address at which a browser finds it.
    assert "Admin: http://127.0.0.1:8882/admin/" in text


def test_http_of_other_processes():
    text = started(config(tls_cert="server.cert"), "02ab", with_http=False, simulation=None)
    assert "gRPC 127.0.0.1:8881, HTTP and websocket by daphnes, all over TLS" in text
    assert "/admin/" not in text
