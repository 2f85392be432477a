"""The crash run in small: a kill of every kind of process, a zombie and an emptied Redis, on a real Apache
Kafka and a real Redis. `make test-crash` is the same at length."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.schedule import FULL, KINDS, SHORT, schedule

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)  # 60 s on two quiet cores
def test_six_kills_lose_and_double_nothing(kafka_broker: Any, redis_server: Any, tmp_path: Path) -> None:
    servers = ["--kafka", kafka_broker.bootstrap, "--redis", redis_server.url, "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "tests.crash", "--short", *servers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-3_000:]


def test_the_schedule_is_seeded_and_kills_everybody_often() -> None:
    assert schedule(SHORT) == schedule(SHORT)
    assert sum(SHORT.kills.values()) == 6
    assert sum(sum(scenario.kills.values()) for scenario in FULL) >= 200
    for scenario in FULL:
        faults = schedule(scenario)
        assert {fault.kind for fault in faults if fault.what == "kill"} == set(KINDS)
        assert any(fault.instant is not None for fault in faults)
        assert {(s.unit, s.partitions) for s in FULL} == {
            (unit, count) for unit in ("request", "session", "user_day") for count in (4, 32)
        }
