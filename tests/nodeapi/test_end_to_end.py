from tests.nodeapi.streams import WebsocketStream, nothing_told, send, is_end, data_of


def test_first(alice, bob):
    with nothing_told(alice, bob):
        pass
