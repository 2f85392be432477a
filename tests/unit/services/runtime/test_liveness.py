"""Health checks from outside: a loop that turns leaves signs of life, one that hangs does not."""

import math
import os
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

from services.runtime.liveness import (
    StopEvent,
    liveness_file,
    set_unhealthy_reason,
    silence_s_by_process,
    unhealthy_reason,
)
from services.settings import Settings


def test_a_loop_that_asks_whether_to_stop_is_alive(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    assert "no sign of life" in unhealthy_reason(settings, "attribution", 30)
    stop = StopEvent(liveness_file(settings, "attribution"))
    assert not stop.is_set()
    assert unhealthy_reason(settings, "attribution", 30) == ""
    assert unhealthy_reason(settings, "decider", 30) != "", "the file of another process does not count"


def test_a_loop_that_turns_in_vain_says_so(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    stop = StopEvent(liveness_file(settings, "decider"))
    assert not stop.is_set()
    set_unhealthy_reason(settings, "decider", "looks fail: a: ValueError: b")
    assert not stop.wait(0)
    assert unhealthy_reason(settings, "decider", 30) == "decider is alive, but looks fail: a: ValueError: b"
    set_unhealthy_reason(settings, "decider", "")
    assert unhealthy_reason(settings, "decider", 30) == ""


def test_a_loop_that_stopped_asking_is_not(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    StopEvent(liveness_file(settings, "lake")).wait(0)
    os.utime(liveness_file(settings, "lake"), (1, 1))
    assert "last sign of life" in unhealthy_reason(settings, "lake", 30)


def test_who_is_told_to_stop_takes_its_sign_away(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    asks, sleeps = (StopEvent(liveness_file(settings, name)) for name in ("attribution", "lake"))
    assert not asks.is_set()
    assert not sleeps.wait(0)
    assert silence_s_by_process(settings).keys() == {"attribution", "lake"}
    for stop in (asks, sleeps):
        threading.Timer(0.05, stop.set).start()
    assert sleeps.wait(20)
    while not asks.is_set():
        asks.wait(0.01)
    assert silence_s_by_process(settings) == {}


def test_a_reused_pid_means_the_noted_process_is_gone(
    settings_for: Callable[..., Settings],
) -> None:
    settings = settings_for()
    (settings.home / "metrics").mkdir(parents=True)
    note = settings.home / "metrics" / f"recommend@{socket.gethostname()}-{os.getpid()}.json"
    note.write_text("[]")
    assert silence_s_by_process(settings) == {"recommend": 0.0}
    os.utime(note, (1, 1))
    assert silence_s_by_process(settings) == {"recommend": math.inf}
    note.rename(note.with_name("recommend@another-host-1.json"))
    assert silence_s_by_process(settings) == {}


def test_a_pulse_that_can_not_be_written_stops_nobody(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    settings.home.write_text("not a folder")
    stop = StopEvent(liveness_file(settings, "attribution"))
    assert not stop.is_set()
    stop.set()
    assert stop.wait(60)


def test_a_process_with_http_is_asked_over_http(settings_for: Callable[..., Settings]) -> None:
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        settings = settings_for(recommend_port=server.server_port)
        assert unhealthy_reason(settings, "recommend", 30) == ""
        assert "503" in unhealthy_reason(settings, "recommend", 30)
        server.shutdown()
    assert asked == ["/health/ready"] * 2
    assert "refused" in unhealthy_reason(settings, "recommend", 30)


def test_files_under_the_old_names_of_processes_are_ignored(settings_for: Callable[..., Settings]) -> None:
    settings = settings_for()
    for name in ("bandit", "trainer", "lake"):
        assert not StopEvent(liveness_file(settings, name)).is_set()
    (settings.home / "metrics").mkdir()
    (settings.home / "metrics" / f"bandit@{socket.gethostname()}-{2**22 + 1}.json").touch()
    assert silence_s_by_process(settings).keys() == {"lake"}
