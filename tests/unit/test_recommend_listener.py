"""The port of the recommend service: shared only knowingly."""

import logging
import socket

import pytest

from services.recommend.workers import listener


def test_a_port_that_somebody_serves_already_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with caplog.at_level(logging.WARNING), listener("127.0.0.1", port):
            assert caplog.messages == []  # bound, but not serving yet
        first.listen()
        with caplog.at_level(logging.WARNING), listener("127.0.0.1", port) as second:
            assert second.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert len(caplog.messages) == 1
    assert f"127.0.0.1:{port} already" in caplog.messages[0]
