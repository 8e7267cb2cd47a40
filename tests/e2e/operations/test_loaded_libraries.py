"""What a node has in memory, by the shared libraries that its process maps."""

from pathlib import Path

from tests.support.databases import only_on_sqlite


@only_on_sqlite
def test_a_node_on_sqlite_does_without_the_client_of_postgresql(alice):
    mapped = Path(f"/proc/{alice.process.pid}/maps").read_text()
    assert "/grpc/_cython/" in mapped
    assert "/psycopg" not in mapped
