"""UDP clients for tests."""

import socket

GUARD_SECONDS = 600


class UdpClient:
    """One client that speaks to one port, over a real socket. `hear` waits for the next datagram."""

    def __init__(self, port: int, host: str = "127.0.0.1"):
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        self.socket.settimeout(GUARD_SECONDS)
        self.socket.connect((host, port))

    @property
    def port(self) -> int:
        return self.socket.getsockname()[1]

    def say(self, datagram: bytes = b"") -> None:
        self.socket.send(datagram)

    def hear(self) -> bytes:
        return self.socket.recv(65_536)

    def waiting(self) -> list[bytes]:
        """What is there already."""
        heard = []
        self.socket.setblocking(False)
        try:
            while True:
                heard.append(self.hear())
        except BlockingIOError:
            return heard
        finally:
            self.socket.settimeout(GUARD_SECONDS)

    def __enter__(self) -> "UdpClient":
        return self

    def __exit__(self, *_) -> None:
        self.socket.close()


def introduce(first: UdpClient, second: UdpClient) -> None:
    """Both have spoken and are remembered, and nothing is on its way any more."""
    second.socket.settimeout(0.1)
    try:
        first.say(b"first words")
        while True:
            second.say(b"first words")
            first.say(b"heard?")
            try:
                while second.hear() != b"heard?":
                    pass
                break
            except TimeoutError:
                continue
    finally:
        second.socket.settimeout(GUARD_SECONDS)
    for speaker, listener in ((first, second), (second, first)):
        speaker.say(b"the last of it")
        while listener.hear() != b"the last of it":
            pass
