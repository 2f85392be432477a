"""What a process writes to stderr: one line an event, in either format, and never a secret."""

import contextvars
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services import bootstrap
from services.runtime.log_context import RECOMMENDATION
from services.runtime.log_format import JsonFormatter, RepeatFilter, TextFormatter
from services.settings import Settings
from services.web.api_keys import new_key, new_signing_key

SIGNING = new_signing_key()
KEY = new_key("storefront")[0]


@pytest.fixture(autouse=True)
def _own_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


def settings(home: Path, **values: Any) -> Settings:
    secret = {"signing_key": f"{SIGNING},an older secret", "storefront_key": KEY}
    return Settings(home=home, redis_url="redis://ada:pa%2Fss-word@redis:6379/0", **{**secret, **values})


def logged(home: Path, capsys: pytest.CaptureFixture[str], log_format: str) -> logging.Logger:
    bootstrap.configure_logging(settings(home, log_format=log_format, replica="r-7"), "recommend")
    capsys.readouterr()
    return logging.getLogger("services.recommend.answer")


def test_a_json_line_says_who_what_and_about_which_slate(tmp_path: Path, capsys: Any) -> None:
    log = logged(tmp_path, capsys, "json")

    def answer() -> None:
        RECOMMENDATION.set("0af7")
        log.warning("model %s is late", "als", extra={"arm": "als"})

    contextvars.copy_context().run(answer)
    log.info("two\nlines", extra={"event": "two-lines"})
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("at").endswith("+00:00")
    assert first == {
        "level": "WARNING",
        "process": "recommend",
        "replica": "r-7",
        "logger": "services.recommend.answer",
        "event": "model %s is late",
        "message": "model als is late",
        "recommendation_id": "0af7",
        "arm": "als",
    }
    assert (second["event"], second["message"]) == ("two-lines", "two\nlines")
    assert "recommendation_id" not in second


def test_a_text_line_says_the_same(tmp_path: Path, capsys: Any) -> None:
    logged(tmp_path, capsys, "text").warning("late", extra={"trace_id": "ab"})
    line = capsys.readouterr().err
    assert line.endswith(" recommend WARNING services.recommend.answer: late trace_id=ab\n")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_error_keeps_its_traceback(log_format: str, tmp_path: Path, capsys: Any) -> None:
    log = logged(tmp_path, capsys, log_format)
    try:
        raise ValueError("no such arm")
    except ValueError:
        log.exception("a look failed")
    told = capsys.readouterr().err
    assert "ValueError: no such arm" in told
    assert "Traceback" in told
    assert len(told.splitlines()) == 1 or log_format == "text"


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "secret",
    [SIGNING, "an older secret", KEY, new_key("admin")[0], "pa%2Fss-word", "pa/ss-word"],
    ids=["signing", "older signing", "storefront", "admin", "encoded password", "password"],
)
def test_no_secret_is_written(secret: str, log_format: str, tmp_path: Path, capsys: Any) -> None:
    log = logged(tmp_path, capsys, log_format)
    log.error("GET /events?key=%s", secret, extra={"sent": f"X-API-Key: {secret}"})
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        log.exception("failed")
    told = capsys.readouterr().err
    assert secret not in told
    assert told.count("hidden") >= 3


def test_a_password_of_any_address_is_hidden(tmp_path: Path) -> None:
    for made in (TextFormatter, JsonFormatter):
        lines = made(settings(tmp_path), "lake", "r")
        assert (
            lines.redact("postgresql://mlflow:s3cret@db/mlflow") == "postgresql://mlflow:[hidden]@db/mlflow"
        )
        assert lines.redact("http://127.0.0.1:8080/docs") == "http://127.0.0.1:8080/docs"


def test_what_strangers_cause_is_told_seldom(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = logging.getLogger("uvicorn.error")
    for name in ("uvicorn", "uvicorn.error"):  # as a new process has them; other tests made servers
        fresh = {"filters": [], "handlers": [], "propagate": True, "level": logging.NOTSET}
        for attribute, value in fresh.items():
            monkeypatch.setattr(logging.getLogger(name), attribute, value)
    server.manager._clear_cache()
    logged(tmp_path, capsys, "text")
    for _ in range(100):
        server.warning("Invalid HTTP request received.")
        server.error("something else")
    told = capsys.readouterr().err
    assert told.count("Invalid HTTP request") == 1
    assert told.count("something else") == 100


def test_retries_are_logged_on_change_and_once_a_minute() -> None:
    seldom = RepeatFilter()

    def passes(problem: str, at_s: float, name: str = "services.lake.app") -> bool:
        made = {"name": name, "msg": "%s; trying again", "args": (problem,), "created": at_s}
        return seldom.filter(logging.makeLogRecord(made))

    assert passes("no broker for 1.0 s", 100.0)
    assert not any(passes(f"no broker for {second}.0 s", 100.0 + second) for second in range(1, 60))
    assert passes("no broker for 61.0 s", 161.0)
    assert passes("no Redis", 162.0)
    assert passes("no Redis", 163.0, "services.bandit.decider.app")
    assert all(seldom.filter(logging.makeLogRecord({"msg": "something else"})) for _ in range(3))
