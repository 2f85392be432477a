"""A replica that leaves says so to who watches it over a kept connection."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from support.small_shop import SmallShop

from services.recommend.http_app import create_app, fast_path
from services.web.graceful_server import DrainingServer
from services.web.worker_supervisor import listener


class Held:
    """A context that knows whether it is held."""

    def __init__(self) -> None:
        self.now = False

    def __enter__(self) -> None:
        self.now = True

    def __exit__(self, *_: object) -> None:
        self.now = False


@contextmanager
def serving(home: Path, held: Held) -> Iterator[tuple[DrainingServer, int, threading.Thread]]:
    """(server, port, its thread) of a replica that drains for as long as the test may last."""
    app = create_app(SmallShop(home).deps())
    config = uvicorn.Config(fast_path(app), ws="none", log_level="critical", timeout_keep_alive=600)
    server = DrainingServer(config, 600.0, app.state.parts.leaving, meanwhile=held)
    with listener("127.0.0.1", 0) as open_at:
        port = open_at.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([open_at],))
        thread.start()
        while not (server.started and held.now):
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield server, port, thread
        server.should_exit = server.force_exit = True
        thread.join()


def asked(connection: http.client.HTTPConnection) -> tuple[int, Any, str | None]:
    """Status, body and `Connection` of /health/ready."""
    connection.request("GET", "/health/ready")
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.getheader("connection")


def test_health_reports_draining_then_closes_a_kept_connection(tmp_path: Path) -> None:
    held = Held()
    with serving(tmp_path, held) as (server, port, thread):
        watching = http.client.HTTPConnection("127.0.0.1", port)
        other = http.client.HTTPConnection("127.0.0.1", port)
        for connection in (watching, other):
            assert asked(connection) == (200, {"status": "ready"}, None)
        server.should_exit = True
        while (found := asked(watching)) == (200, {"status": "ready"}, None):
            pass
        assert found == (503, {"status": "draining"}, "close")
        assert held.now  # the other connection is not answered yet
        assert asked(other)[0] == 503
        thread.join()
    assert not held.now
