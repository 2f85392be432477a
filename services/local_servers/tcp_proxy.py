"""A TCP proxy that gives a broker a fixed address.

It forwards bytes, and replaces the broker's address in answers by the fixed one, so that clients keep using
it and reach the next broker there.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

CHUNK = 1 << 16
_Address = tuple[str, int]


@contextlib.contextmanager
def forwarding(listening: socket.socket, broker: _Address) -> Iterator[None]:
    """Forward connections to `listening` (bound) to `broker` while the block runs; both are on one host."""
    listening.listen()
    threading.Thread(target=_accept, args=(listening, broker), daemon=True).start()
    try:
        yield
    finally:
        listening.close()


def _accept(listening: socket.socket, broker: _Address) -> None:
    names = _name(broker), _name(listening.getsockname())
    while True:
        try:
            to_client, _ = listening.accept()
        except OSError:  # closed, because the block ended
            return
        try:
            to_broker = socket.create_connection(broker)
        except OSError:
            to_client.close()
            continue
        threading.Thread(target=_forward_requests, args=(to_client, to_broker), daemon=True).start()
        threading.Thread(target=_forward_answers, args=(to_broker, to_client, *names), daemon=True).start()


def _name(address: _Address) -> bytes:
    """A broker's name in an answer of the protocol: host, then port in four bytes."""
    host, port = address
    return host.encode() + struct.pack(">i", port)


def _forward_requests(to_client: socket.socket, to_broker: socket.socket) -> None:
    with _shut_down_together(to_client, to_broker):
        while chunk := to_client.recv(CHUNK):
            to_broker.sendall(chunk)


def _forward_answers(
    to_broker: socket.socket, to_client: socket.socket, broker_name: bytes, fixed_name: bytes
) -> None:
    """Forward whole answers (four bytes of length, then the body), because packets may split a name."""
    with _shut_down_together(to_client, to_broker), to_broker.makefile("rb") as answers:
        while head := answers.read(4):
            body = answers.read(int.from_bytes(head, "big"))
            to_client.sendall(head + body.replace(broker_name, fixed_name))


@contextlib.contextmanager
def _shut_down_together(*sides: socket.socket) -> Iterator[None]:
    """Shut down both sides when either ends."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for side in sides:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
