"""The headless demo: the story happens, on embedded parts, within its time."""

import os
from pathlib import Path

import psutil
import pytest
from support.played_demo import DemoResult

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]  # `make test-demo`


def test_the_story_happened(demo: DemoResult) -> None:
    failed = [check for check in demo.report["checks"] if not check["holds"]]
    assert (demo.code, demo.report["failure"], failed) == (0, None, []), demo.printed


def test_traffic_moved_stepwise_within_the_cap(demo: DemoResult) -> None:
    """The product's rules hold in the demo too: ramp, cap 20 points, champion at least 20 %."""
    ramp = [
        shares["als"] for at in demo.report["weights"] if 0 < (shares := at["shares"]).get("als", 0) <= 0.25
    ]
    assert ramp[:3] == [0.05, 0.10, 0.25]
    for at in demo.report["weights"]:
        assert sum(at["shares"].values()) == pytest.approx(1.0)
        assert at["shares"]["popularity"] >= 0.20 - 1e-9


def test_the_rollback_can_be_read_back_from_its_record(demo: DemoResult) -> None:
    removal = demo.report["rollback"]
    [race] = [race for race in removal["evidence"]["races"] if race["arm"] == "broken"]
    assert race["log_e"] >= race["log_threshold"] > 0
    assert race["index"] == 2
    assert race["alpha"] == pytest.approx(0.05 * 6 / (3.141592653589793**2 * race["index"] ** 2))
    assert race["s_against"] > race["s_arm"]
    assert removal["author"] == "decider"
    assert removal["detail"]["version_out"].startswith("reversed_popularity-")
    assert removal["detail"]["version_in"].startswith("popularity-")
    assert removal["confirmed_by"] == ["recommend-1", "recommend-2"]
    assert len(removal["positions"]) == 8  # four partitions of exposures and of events


def test_what_shoppers_saw_is_reported(demo: DemoResult) -> None:
    requests, delays = demo.report["requests"], demo.report["click_to_slate"]
    assert requests["recommend"]["sent"] > 1_000
    assert requests["events"]["sent"] > 1_000
    assert delays["p50_ms"] <= delays["p99_ms"]
    assert demo.report["errors"] == {}


def test_everything_it_started_is_gone(demo: DemoResult) -> None:
    home = str(demo.home)
    left = [
        process
        for process in psutil.process_iter(["pid"])
        if process.pid != os.getpid() and _home_of(process) == home
    ]
    assert not left


def test_every_process_wrote_its_log_and_none_a_traceback(demo: DemoResult) -> None:
    logs = {
        path.stem: path.read_text(errors="replace") for path in Path(demo.home, "demo", "logs").glob("*.log")
    }
    assert {
        "recommend-1",
        "recommend-2",
        "attribution",
        "decider",
        "activity",
        "lake",
        "shop",
        "console",
    } <= logs.keys()
    assert not [name for name, text in logs.items() if "Traceback (most recent call last)" in text]


def _home_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("RINGSIDE_HOME", "").removesuffix("/demo") or None
    except (psutil.Error, OSError):
        return None
