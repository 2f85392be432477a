"""The loop that all workers share: it survives what it should, and says so once."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from services.errors import DegradedError, StalePositionError, UnavailableError
from services.runtime import worker_loop
from services.runtime.worker_loop import WorkerLoop

GONE, FULL, RUBBISH = UnavailableError("Redis", "gone"), OSError("no space"), ValueError("rubbish")


def play(outcomes: list[Exception | None], stop: threading.Event) -> Callable[[], None]:
    """A step that ends as listed, and sets `stop` in its last turn."""
    left: Iterator[Exception | None] = iter(outcomes)
    turns = len(outcomes)

    def step() -> None:
        nonlocal turns
        turns -= 1
        if not turns:
            stop.set()
        if (error := next(left)) is not None:
            raise error

    return step


def test_an_error_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    stop = threading.Event()
    outcomes = [RUBBISH, RUBBISH, GONE, GONE, DegradedError("a: b"), GONE, RUBBISH, None, RUBBISH]
    WorkerLoop("counting", play(outcomes, stop), retry_s=0, retried=(Exception,)).run(stop)
    rubbish, gone = "counting: ValueError: rubbish; trying again", f"counting: {GONE}; trying again"
    lines = [record for record in caplog.records if record.name == worker_loop.__name__]
    assert [line.getMessage() for line in lines] == [rubbish, gone, gone, rubbish, rubbish]
    assert [bool(line.exc_info) for line in lines] == [True, False, False, True, True]


def test_a_complaint_changes_with_its_reason_and_survives_outages() -> None:
    stop, complaints = threading.Event(), list[str]()
    outcomes = [RUBBISH, RUBBISH, GONE, DegradedError("a: b"), GONE, FULL, None, None]
    step = play(outcomes, stop)
    WorkerLoop("deciding", step, retry_s=0, retried=(Exception,), complain=complaints.append).run(stop)
    assert complaints == ["ValueError: rubbish", "a: b", "no space", ""]


def test_a_first_success_clears_what_an_earlier_process_complained_of() -> None:
    stop, complaints = threading.Event(), list[str]()
    WorkerLoop("deciding", play([None], stop), complain=complaints.append).run(stop)
    assert complaints == [""]


@pytest.mark.parametrize("error", [GONE, StalePositionError("begun already"), TimeoutError(), FULL])
def test_only_errors_of_the_named_kinds_are_retried(error: Exception) -> None:
    stop = threading.Event()
    WorkerLoop("x", play([error, None], stop), retry_s=0, retried=(type(error),)).run(stop)
    with pytest.raises(type(error)):
        WorkerLoop("x", play([error, None], threading.Event()), retried=(KeyError,)).run(threading.Event())


def test_steps_begin_every_s_apart_and_failures_wait_retry_s() -> None:
    stop, begun = threading.Event(), list[float]()
    inner = play([None, GONE, None], stop)

    def step() -> None:
        begun.append(time.monotonic())
        inner()

    WorkerLoop("x", step, every_s=0.2, retry_s=0.05).run(stop)
    assert begun[1] - begun[0] >= 0.2
    assert 0.05 <= begun[2] - begun[1] < 0.2


def test_gauges_and_reports_follow_failed_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_loop, "REPORT_S", 0.0)
    stop, observed, reported = threading.Event(), list[int](), list[int]()
    WorkerLoop(
        "x",
        play([GONE, None], stop),
        retry_s=0,
        observe=lambda: observed.append(1),
        report=lambda: reported.append(1),
    ).run(stop)
    assert (len(observed), len(reported)) == (2, 2)


def test_a_stop_ends_a_long_sleep() -> None:
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    WorkerLoop("x", lambda: None, every_s=600).run(stop)
    assert time.monotonic() - began < 10
