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
            caller, _ = listening.accept()
        except OSError:  # closed, because the block ended
            return
        try:
            answerer = socket.create_connection(broker)
        except OSError:
            caller.close()
            continue
        threading.Thread(target=_ask, args=(caller, answerer), daemon=True).start()
        threading.Thread(target=_answer, args=(answerer, caller, *names), daemon=True).start()


def _name(address: _Address) -> bytes:
    """A broker's name in an answer of the protocol: host, then port in four bytes."""
    host, port = address
    return host.encode() + struct.pack(">i", port)


def _ask(caller: socket.socket, answerer: socket.socket) -> None:
    with _both_end(caller, answerer):
        while chunk := caller.recv(CHUNK):
            answerer.sendall(chunk)


def _answer(answerer: socket.socket, caller: socket.socket, theirs: bytes, ours: bytes) -> None:
    """Forward whole answers (four bytes of length, then the body), because packets may split a name."""
    with _both_end(caller, answerer), answerer.makefile("rb") as answers:
        while head := answers.read(4):
            body = answers.read(int.from_bytes(head, "big"))
            caller.sendall(head + body.replace(theirs, ours))


@contextlib.contextmanager
def _both_end(*sides: socket.socket) -> Iterator[None]:
    """Shut down both sides when either ends."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for side in sides:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
