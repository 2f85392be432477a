"""What processes of the recommend service share: a port, knowingly; a home folder, without harm. One that
hangs is killed."""

import logging
import os
import socket
from pathlib import Path

import pytest

from services.local_servers.process import free_port
from services.settings import Settings
from services.web.worker_metrics import MULTIPROCESS_DIR
from services.web.worker_supervisor import Supervisor, Worker, listener


def test_a_port_that_somebody_serves_already_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with listener("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with caplog.at_level(logging.WARNING), listener("127.0.0.1", port):
            assert caplog.messages == []  # bound, but not serving yet
        first.listen()
        with caplog.at_level(logging.WARNING), listener("127.0.0.1", port) as second:
            assert second.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    assert len(caplog.messages) == 1
    assert f"127.0.0.1:{port} is already in use" in caplog.messages[0]


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


class Hanging:
    """A process and its pipe: it neither speaks nor ends."""

    name = "replica-0"

    def __init__(self) -> None:
        self.asked = self.killed = False

    def poll(self) -> bool:
        return False

    def terminate(self) -> None:
        self.asked = True

    def kill(self) -> None:
        self.killed = True


@pytest.mark.parametrize("within_s", [-1.0, 3_600.0])
def test_a_worker_that_does_not_end_in_time_is_killed(within_s: float) -> None:
    hanging = Hanging()
    worker = Worker(hanging, hanging, ready=True)  # type: ignore[arg-type]
    worker.poll()
    worker.leave(within_s)
    assert (hanging.asked, hanging.killed) == (True, False)
    worker.poll()
    assert hanging.killed == (within_s < 0)


def test_a_worker_that_never_gets_ready_is_killed() -> None:
    hanging = Hanging()
    worker = Worker(hanging, hanging, kill_at_s=0.0)  # type: ignore[arg-type]
    worker.poll()
    assert hanging.killed
