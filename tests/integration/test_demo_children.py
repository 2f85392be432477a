"""Supervision of real processes: awaited, started again after crashes, stopped, never outliving us."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.demo.installation import MARKER, DemoInstallation, empty_home
from services.demo.supervisor import ProcessSpec, Supervisor, last_line, run_command
from services.errors import ConfigurationError, UnavailableError
from services.runtime.liveness import StopEvent, liveness_file
from services.settings import Settings

FOREVER = "import time; print('up', flush=True); time.sleep(600)"
NEVER_STOP = threading.Event()


def spec(
    folder: Path, program: str, name: str = "child", ready: Callable[[], bool] | None = None
) -> ProcessSpec:
    extra = {} if ready is None else {"ready": ready}
    return ProcessSpec(
        name, [sys.executable, "-c", program], dict(os.environ), folder / f"{name}.log", **extra
    )


def eventually(happened: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def supervisor(notices: list[str]):
    family = Supervisor(notify=notices.append)
    yield family
    family.stop_all()


def test_a_worker_is_ready_when_its_loop_turns(tmp_path: Path) -> None:
    env = {"RINGSIDE_HOME": str(tmp_path)}
    spec = DemoInstallation(tmp_path, env, "127.0.0.1", (1,), 2, 3, {}).worker("activity")
    assert not spec.ready()
    StopEvent(liveness_file(Settings(home=tmp_path), "attribution")).is_set()
    assert not spec.ready()
    StopEvent(liveness_file(Settings(home=tmp_path), "activity")).is_set()
    assert spec.ready()


def test_a_child_is_awaited_and_stopped(supervisor: Supervisor, tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    supervisor.add(spec(tmp_path, FOREVER, ready=lambda: "up" in last_line(log)))
    supervisor.await_ready("child", 10.0, NEVER_STOP)
    server = supervisor.running["child"].server
    supervisor.stop("child")
    assert not server.alive()
    assert not supervisor.running


def test_a_crashed_child_starts_again_after_a_growing_pause(tmp_path: Path, notices: list[str]) -> None:
    now = [0.0]
    supervisor = Supervisor(notify=notices.append, clock=lambda: now[0])
    supervisor.add(spec(tmp_path, "raise SystemExit(3)"))
    for crash in (1, 2, 3):
        eventually(lambda: not supervisor.running["child"].server.alive())
        supervisor.check()
        pause_s = 0.5 * 2 ** (crash - 1)
        assert notices[-1] == f"child exited with code 3; restarting in {pause_s:g} s"
        now[0] += pause_s - 0.01
        supervisor.check()
        assert notices.count("child was restarted") == crash - 1
        now[0] += 0.02
        supervisor.check()
        assert notices.count("child was restarted") == crash
    supervisor.stop_all()


def test_a_child_that_lived_long_has_its_crashes_forgiven(tmp_path: Path, notices: list[str]) -> None:
    now = [0.0]
    supervisor = Supervisor(notify=notices.append, clock=lambda: now[0])
    supervisor.add(spec(tmp_path, "raise SystemExit(1)"))
    for _ in range(10):  # more often than would be borne in a row
        eventually(lambda: not supervisor.running["child"].server.alive())
        now[0] += 60.0
        supervisor.check()
        assert notices[-1].endswith("restarting in 0.5 s")
        now[0] += 1.0
        supervisor.check()
    supervisor.stop_all()


def test_a_child_that_never_recovers_is_reported_with_its_log(tmp_path: Path, notices: list[str]) -> None:
    now = [0.0]
    supervisor = Supervisor(notify=notices.append, clock=lambda: now[0])
    supervisor.add(spec(tmp_path, "raise SystemExit('no such port')"))

    def crash_again() -> None:
        eventually(lambda: not supervisor.running["child"].server.alive())
        supervisor.check()
        now[0] += 11.0
        supervisor.check()

    for _ in range(6):
        crash_again()
        supervisor.running["child"].started_s = now[0]
    complaint = r"child is unavailable: it crashed 7 times in a row(.|\n)*no such port"
    with pytest.raises(UnavailableError, match=complaint):
        crash_again()


def test_a_child_not_ready_in_time_is_named_with_log(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.add(spec(tmp_path, "print('still loading', flush=True); " + FOREVER, ready=lambda: False))
    eventually(lambda: last_line(tmp_path / "child.log"))
    with pytest.raises(UnavailableError, match=r"child is unavailable: not ready(.|\n)*still loading"):
        supervisor.await_ready("child", 0.2, NEVER_STOP)


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    log = str(tmp_path / "child.log")
    program = f"""
import os, sys, time
from pathlib import Path
from services.demo.supervisor import ProcessSpec, Supervisor
supervisor = Supervisor(notify=print)
supervisor.add(ProcessSpec("child", [sys.executable, "-c", {FOREVER!r}], dict(os.environ), Path({log!r})))
print(supervisor.running["child"].server.pid, flush=True)
time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    pid = int(supervisor.stdout.readline())
    assert _runs(pid)
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    eventually(lambda: not _runs(pid))


def test_a_step_tells_its_progress_and_its_failure(tmp_path: Path) -> None:
    lines: list[str] = []
    run_command(
        spec(tmp_path, "import time; print('half', flush=True); time.sleep(0.5)"), NEVER_STOP, lines.append
    )
    assert lines == ["half"]
    with pytest.raises(
        UnavailableError, match=r"bad is unavailable: it exited with code 2(.|\n)*column 'price'"
    ):
        run_command(spec(tmp_path, "print('column \\'price\\''); raise SystemExit(2)", "bad"), NEVER_STOP)


def test_a_step_is_left_when_the_demo_stops(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    run_command(spec(tmp_path, FOREVER), stop)


def test_only_folders_that_a_demo_made_are_emptied(tmp_path: Path) -> None:
    home = empty_home(tmp_path / "demo")
    (home / "data").mkdir()
    (home / "embeddings").mkdir()
    (home / "champion-only").write_text("on")
    assert empty_home(home) == home
    assert {entry.name for entry in home.iterdir()} == {MARKER, "logs", "embeddings"}
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigurationError, match="holds files that no demo made"):
        empty_home(precious)
    assert (precious / "thesis.txt").exists()


def _runs(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
            if Path("/proc").exists()
            else not os.kill(pid, 0)
        )
    except OSError:
        return False
