"""Run in a namespace: `serve ADDRESS PORT` echoes UDP and TCP; `udp` and `tcp ADDRESS PORT SECONDS` tell by their exit
code whether an echo came; `flow ADDRESS PORT` sends numbered datagrams until its input ends, and tells when they are
many, and the lost.
"""

import select
import socket
import sys
import threading
import time

# Beyond the system's bound, for root; the socket module has no name for it.
SO_RCVBUFFORCE = 33
INTERVAL_SECONDS = 0.02
MANY = 51
# So that nothing is lost of what waits for a process that does not run.
BUFFER_BYTES = 4 * 2**20


def open_socket(address: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    return sock


def serve(address: str, port: int) -> int:
    datagrams, listener = open_socket(address, socket.SOCK_DGRAM), open_socket(address, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for sock in (datagrams, listener):
        sock.bind((address, port))
    listener.listen()
    print("ready", flush=True)
    threading.Thread(target=serve_tcp, args=[listener], daemon=True).start()
    while True:
        content, sender = datagrams.recvfrom(2048)
        datagrams.sendto(content, sender)


def serve_tcp(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(connection.recv(2048))


def udp(address: str, port: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    with open_socket(address, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        while time.monotonic() < end:
            try:
                sock.sendto(b"probe", (address, port))
                if sock.recv(2048) == b"probe":
                    return 0
            except OSError:
                time.sleep(0.05)
    return 1


def tcp(address: str, port: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.create_connection((address, port), timeout=1) as connection:
                connection.sendall(b"probe")
                if connection.recv(2048) == b"probe":
                    return 0
        except OSError:
            time.sleep(0.05)
    return 1


def flow(address: str, port: int) -> int:
    sent, echoed = 0, set()
    with open_socket(address, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.setblocking(False)
        print("flowing", flush=True)
        while not select.select([sys.stdin], [], [], INTERVAL_SECONDS)[0]:
            sock.send(str(sent).encode())
            sent += 1
            if sent == MANY:
                print("many are sent", flush=True)
            take(sock, echoed)
        end = time.monotonic() + 120
        while len(echoed) < sent and time.monotonic() < end:
            take(sock, echoed)
            time.sleep(0.01)
    print(sent, sent - len(echoed))
    return 0


def take(sock: socket.socket, echoed: set[int]) -> None:
    try:
        while True:
            echoed.add(int(sock.recv(2048)))
    except BlockingIOError:
        pass


if __name__ == "__main__":
    task, address, port, *rest = sys.argv[1:]
    sys.exit(globals()[task](address, int(port), *map(float, rest)))
