"""What processes of the recommend service share: a port, knowingly; a home folder, without harm."""

import logging
import os
import socket
from pathlib import Path

import pytest

from services.adapters.server import free_port
from services.recommend.metrics import MULTIPROCESS_DIR
from services.recommend.workers import Supervisor, listener
from services.settings import Settings


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


def test_supervisors_in_one_home_keep_each_others_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, supervisors = [], []
    for _ in range(2):
        monkeypatch.setenv(MULTIPROCESS_DIR, "")
        supervisors.append(Supervisor(Settings(home=tmp_path, recommend_port=free_port()), lambda *_: None))
        folders.append(Path(os.environ[MULTIPROCESS_DIR]))
        (folders[-1] / "counter_1.db").touch()
    assert [(folder / "counter_1.db").exists() for folder in folders] == [True, True]
    for supervisor in supervisors:
        supervisor.end()
    assert not any(folder.exists() for folder in folders)
