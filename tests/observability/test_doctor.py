"""`ringside doctor`: every check is seen content, and seen complaining."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.small_shop import KEYS, SIGNING, catalogue, interactions

from experiments.lifecycle import commands
from experiments.lifecycle.fold import Rules, apply
from models.algorithms.popularity import Popularity
from services import bootstrap
from services.adapters.diagnostics import LiveDiagnostics
from services.adapters.feast.schemas import SCHEMAS
from services.doctor import app, on_files, on_processes, on_settings, on_stores
from services.doctor.findings import Finding
from services.errors import ConfigurationError, UnavailableError
from services.messages.events import DECISIONS, EXPOSURES
from services.messages.topics import TOPICS, topic_configuration, topic_partitions
from services.ports.diagnostics import RedisFacts, TopicFacts
from services.ports.state import Heartbeat
from services.runtime.liveness import complain, pulse_file
from services.runtime.process import stop_on_signal
from services.settings import Settings
from services.web.access import parse_rates

STRONG = {
    "keys": ",".join(pair for _, pair in KEYS.values()),
    "signing_key": "k3Jd9sLq0xZ7vB2nM5cW8yT1rF4gH6pA",
}


def levels(found: Iterable[Finding] | Finding, check: str | None = None) -> set[str]:
    """Levels of the findings (of one check)."""
    rows = [found] if isinstance(found, Finding) else list(found)
    return {row.level for row in rows if check in (None, row.check)}


def complaint(found: Iterable[Finding] | Finding, level: str = "fail") -> Finding:
    """The one finding of this level, which says what to do."""
    rows = [found] if isinstance(found, Finding) else list(found)
    [bad] = [row for row in rows if row.level == level]
    assert bad.todo
    return bad


def test_a_line_separates_problem_and_remedy_by_one_stop() -> None:
    refused = UnavailableError("Redis", "Connection refused.")
    assert str(refused) == "Redis is unavailable: Connection refused"
    assert Finding("fail", "window", "a sum of at most 60 s.", "set it").line().endswith("60 s; set it")
    assert Finding("fail", "keys", "none; run `x` and set it", "run `x`").line().count("run `x`") == 1


# ---- settings ----------------------------------------------------------------------------------------------


def test_an_unknown_variable_is_reported_with_a_suggestion() -> None:
    environ = {"RINGSIDE_REDSI_URL": "x", "RINGSIDE_FEAST_HOME": "x", "RINGSIDE_HOST": "x", "PATH": "x"}
    found = complaint(on_settings.variables(environ), "warn")
    assert "RINGSIDE_REDSI_URL" in found.said
    assert found.todo == "did you mean RINGSIDE_REDIS_URL?"
    assert list(on_settings.variables({"RINGSIDE_HOST": "x"})) == []
    assert "unset it" in complaint(on_settings.variables({"RINGSIDE_QQQQ": ""}), "warn").todo


def test_an_invalid_value_is_named_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGSIDE_RECOMMEND_PORT", "s3cret")
    settings, found = on_settings.read(os.environ)
    assert settings is None
    assert "RINGSIDE_RECOMMEND_PORT" in complaint(found).said
    assert "s3cret" not in str(found)
    monkeypatch.delenv("RINGSIDE_RECOMMEND_PORT")
    assert levels(on_settings.read(os.environ)[1]) == {"ok"}


@pytest.mark.parametrize(
    "url", ["nonsense", "redis://host:s3cret/0", "redis://:s3cret@host/zero", "http://h"]
)
def test_an_invalid_redis_address_is_reported_and_breaks_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGSIDE_REDIS_URL", url)
    found = list(app.examined(os.environ))
    bad = complaint(found)
    assert "RINGSIDE_REDIS_URL" in bad.said
    assert "this check broke" not in str(found)
    assert "s3cret" not in str(found)


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://u:p@h:6380/3",
        "unix:///tmp/redis.sock?db=1",
        "redis://[::1]:6379/",
        "redis://:p@ss@h:1",
    ],
)
def test_an_address_that_redis_py_reads_is_fine(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGSIDE_REDIS_URL", url)
    assert levels(on_settings.read(os.environ)[1]) == {"ok"}


@pytest.mark.parametrize(
    "rates",
    [
        "x=nan",
        "client=-1",
        "analyst=20,client",
        "client=nan",
        "client =1",
        "admin=1e9",
        "",
        " analyst=20, client=0.5",
    ],
)
def test_rates_are_told_exactly_when_recommend_refuses_them(
    rates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGSIDE_RATES", rates)
    found = on_settings.read(os.environ)[1]
    try:
        parse_rates(rates)
    except ConfigurationError:
        assert "RINGSIDE_RATES" in complaint(found).said
    else:
        assert levels(found) == {"ok"}


def test_a_window_beyond_the_embedded_brokers_retention_fails() -> None:
    assert complaint(on_settings.window(Settings()))
    assert complaint(on_settings.window(Settings(window_s=5, lateness_s=5)), "warn")
    assert levels(on_settings.window(Settings(kafka_mode="kafka"))) == {"ok"}


def test_secrets_that_are_missing_or_weak_are_told() -> None:
    assert levels(on_settings.secrets(Settings(**STRONG))) == {"ok"}
    assert [row.level for row in on_settings.secrets(Settings())] == ["fail", "fail"]
    weak = complaint(on_settings.secrets(Settings(**{**STRONG, "signing_key": "a" * 40})), "warn")
    assert "aaaa" not in weak.line()
    assert complaint(on_settings.secrets(Settings(**{**STRONG, "signing_key": SIGNING})), "warn")
    assert complaint(on_settings.secrets(Settings(**{**STRONG, "signing_key": "short"})))
    only = {**STRONG, "keys": KEYS["analyst"][1]}
    assert "storefront or admin" in complaint(on_settings.secrets(Settings(**only)), "warn").said
    stranger = complaint(on_settings.secrets(Settings(**STRONG, storefront_key="rs_pub_unknown")))
    assert stranger.check == "shop's key"


def test_ports_that_are_taken_or_wanted_twice_are_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = {"console_port": _free(), "shop_port": _free()}
        bad = complaint(on_settings.ports(Settings(recommend_port=port, **free)))
        assert str(port) in bad.said
        assert "RINGSIDE_RECOMMEND_PORT" in bad.todo
    assert levels(on_settings.ports(Settings(recommend_port=port, **free))) == {"ok"}
    twice = Settings(recommend_port=port, console_port=port, shop_port=free["shop_port"])
    assert "RINGSIDE_CONSOLE_PORT" in complaint(on_settings.ports(twice)).todo


def test_a_port_that_ringside_has_is_fine(tmp_path: Path) -> None:
    with bootstrap.metered(Settings(home=tmp_path), "lake", loops=False):
        [file] = (tmp_path / "metrics").glob("*.json")
        port = int(json.loads(file.read_text())[0]["targets"][0].rpartition(":")[2])
        settings = Settings(recommend_port=port, console_port=_free(), shop_port=_free())
        assert levels(on_settings.ports(settings)) == {"ok"}


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- Redis, broker, clocks ---------------------------------------------------------------------------------

GOOD_REDIS = RedisFacts("7.2.1", 0.2, "noeviction", 0, True, 0.0)


def of_redis(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[Finding]:
    facts = RedisFacts(**{**{name: getattr(GOOD_REDIS, name) for name in GOOD_REDIS.__slots__}, **changes})
    monkeypatch.setattr(LiveDiagnostics, "redis", lambda _: facts)
    return list(on_stores.redis(Settings()))


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({"version": "6.0.16"}, "fail", "6.0.16"),
        ({"ping_ms": 30.0}, "warn", "30.0 ms"),
        ({"policy": "allkeys-lru"}, "warn", "allkeys-lru"),
        ({"policy": "allkeys-lru", "max_bytes": 10**9}, "fail", "allkeys-lru"),
        ({"saves": False}, "warn", "forgets"),
        ({"ahead_s": 1.0}, "warn", "1.00 s ahead"),
        ({"ahead_s": -9.0}, "fail", "9.00 s behind"),
    ],
)
def test_what_is_wrong_with_redis_is_told(
    changes: dict[str, Any], level: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(of_redis(monkeypatch)) == {"ok"}
    assert told in complaint(of_redis(monkeypatch, **changes), level).said


def test_a_real_redis_is_examined(redis_server: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server)
    found = list(on_stores.redis(settings))
    assert levels(found, "clock") == {"ok"}
    assert "fail" not in levels(found)
    dead = Settings(redis_url="redis://:s3cret@127.0.0.1:1")
    assert "s3cret" not in complaint(on_stores.redis(dead)).line()


def of_broker(
    monkeypatch: pytest.MonkeyPatch, newest: list[tuple[int, bytes]], **changes: Any
) -> list[Finding]:
    settings = Settings(kafka_mode="kafka", kafka_partitions=8)
    given = {"retention.bytes": "-1", "cleanup.policy": "delete"}
    facts = {
        topic: TopicFacts(topic_partitions(topic, 8), {**given, **topic_configuration(topic)})
        for topic in TOPICS
    }
    for topic, change in changes.items():
        partitions = change.pop("partitions", facts[topic].partitions)
        facts[topic] = TopicFacts(partitions, {**facts[topic].configs, **change} if partitions else {})
    monkeypatch.setattr(LiveDiagnostics, "topics", lambda _: facts)
    monkeypatch.setattr(LiveDiagnostics, "newest_records", lambda _, topic: newest)
    return list(on_stores.broker(settings))


@pytest.mark.parametrize(
    ("topic", "change", "level", "told"),
    [
        (EXPOSURES, {"partitions": 0}, "fail", "there is none"),
        (EXPOSURES, {"partitions": 4}, "fail", "4 partitions, not 8"),
        (EXPOSURES, {"message.timestamp.type": "CreateTime"}, "fail", "sender's time"),
        (EXPOSURES, {"retention.ms": "600000"}, "fail", "kept 600 s"),
        (EXPOSURES, {"retention.ms": "7200000"}, "warn", "2.0 h"),
        (EXPOSURES, {"cleanup.policy": "compact"}, "fail", "compact"),
        (DECISIONS, {"retention.ms": "604800000"}, "fail", "forgets"),
    ],
)
def test_what_is_wrong_with_topics_is_told(
    topic: str, change: dict[str, Any], level: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(of_broker(monkeypatch, [])) == {"ok"}
    assert told in complaint(of_broker(monkeypatch, [], **{topic: change}), level).said


@pytest.mark.parametrize(
    ("apart_ms", "level"), [(40, "ok"), (-700, "ok"), (-5_000, "fail"), (600_000, "fail")]
)
def test_a_clock_of_the_broker_that_differs_is_told(
    apart_ms: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = [(1_000_000 + apart_ms, b'{"received_at": 1000000}'), (1, b"rubbish")]
    assert levels(of_broker(monkeypatch, newest), "clock") == {level}


def test_a_real_kafka_is_examined(kafka_broker: Any, settings_for: Any) -> None:
    settings = settings_for(broker=kafka_broker)
    assert levels(on_stores.broker(settings)) == {"ok"}
    value = b'{"received_at": 1}'  # long ago: the broker's stamp is decades later
    producer = bootstrap.producer(settings)
    producer.send(EXPOSURES, "ada", value).result(20)
    producer.close()
    assert complaint(on_stores.broker(settings)).check == "clock"
    wrong = settings_for(broker=kafka_broker, kafka_partitions=7)
    assert "4 partitions, not 7" in next(row for row in on_stores.broker(wrong) if row.level == "fail").said


def test_a_dead_embedded_broker_is_reported(embedded_broker: Any, settings_for: Any) -> None:
    assert levels(on_stores.broker(settings_for(broker=embedded_broker))) == {"ok"}
    dead = Settings(kafka_bootstrap="127.0.0.1:1", broker_ack_deadline_ms=200)
    assert complaint(on_stores.broker(dead)).check == "broker"


# ---- files -------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_or_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    for free, level in ((5e9, "ok"), (1e9, "warn"), (1e8, "fail")):
        monkeypatch.setattr(on_files, "free_bytes", lambda home, free=free: int(free))
        assert levels(on_files.disk(settings)) == {level}
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "can't be written" in complaint(on_files.disk(Settings(home=blocked / "home"))).said


def test_missing_data_is_told(tmp_path: Path) -> None:
    assert complaint(on_files.data(Settings(home=tmp_path))).check == "data"


def test_views_that_are_not_registered_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    assert "not there" in complaint(on_files.features(settings)).said
    (tmp_path / "feast.sqlite").write_bytes(b"rubbish, not a database at all")
    assert "user_activity" in complaint(on_files.features(settings)).said
    monkeypatch.setattr(LiveDiagnostics, "registered_views", lambda _: list(SCHEMAS))
    assert levels(on_files.features(settings)) == {"ok"}


def test_models_of_live_arms_are_verified(redis_server: Any, embedded_broker: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server, broker=embedded_broker)
    assert "never started" in complaint(on_files.models(settings), "warn").said
    store = bootstrap.model_store(settings)
    made = Popularity.fit(interactions(), catalogue(), now_s=1_800_000_000.0)
    saved = store.save(made, data_version="d1", window=(0.0, 1.0), metrics={}, now_ms=1_800_000_000_000)
    arm = {"name": "first", "model_version": saved.model_version}
    log = bootstrap.decision_log(settings)
    log.append(commands.start("storefront", arm, Rules(window_s=5), "salt", commands.Origin("t", 1)))
    assert levels(on_files.models(settings)) == {"ok"}
    [array, *_] = [
        file for file in (settings.models_path / saved.model_version).iterdir() if file.name in saved.files
    ]
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    bad = complaint(on_files.models(settings))
    assert array.name in bad.said
    assert "first" in bad.said


# ---- processes ---------------------------------------------------------------------------------------------


def test_a_process_that_died_or_hangs_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert list(on_processes.processes(settings)) == []
    for process, age_s in {"bandit": 45, "decider": 1, "trainer": 600}.items():
        file = pulse_file(settings, process)
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    (tmp_path / "alive" / "lake@another-host").touch()
    os.utime(tmp_path / "alive" / "lake@another-host", (1, 1))
    found = list(on_processes.processes(settings))
    assert [row.said.partition(" ")[0] for row in found] == ["bandit:", "decider", "trainer"]
    dead = complaint(found)
    assert dead.said.startswith("bandit: silent for 4")
    assert str(tmp_path / "alive") in dead.todo


def living(home: Path, process: str) -> subprocess.Popen[str]:
    """A process that is scraped, like ours that have no loop."""
    code = (
        "import sys, time; from services import bootstrap; from services.settings import Settings\n"
        "with bootstrap.metered(Settings(), sys.argv[1], loops=False):\n"
        "    print('on', flush=True); time.sleep(60)"
    )
    environ = os.environ | {"RINGSIDE_HOME": str(home)}
    line = [sys.executable, "-c", code, process]
    started = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "on\n"
    return started


def test_a_killed_process_is_reported_a_stopped_one_is_not(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with living(tmp_path, "recommend") as first, living(tmp_path, "bandit") as second:
        first.kill()
        first.wait()
        dead = complaint(on_processes.processes(settings))
        assert dead.said == "recommend: gone, and nobody told it to stop"
        assert str(tmp_path / "metrics") in dead.todo
        second.send_signal(signal.SIGINT)
        second.wait()
    found = list(on_processes.processes(settings))
    assert [row.said.partition(":")[0] for row in found] == ["recommend"]
    [note] = (tmp_path / "metrics").glob("*.json")
    note.unlink()
    assert list(on_processes.processes(settings)) == []


def test_a_killed_replica_is_reported_by_its_number(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    pulse = pulse_file(settings, "bandit")
    pulse.parent.mkdir()
    pulse.touch()
    with living(tmp_path, "bandit") as first, living(tmp_path, "bandit") as second:
        first.kill()
        first.wait()
        found = list(on_processes.processes(settings))
        second.kill()
    assert levels(row for row in found if row.said == "bandit is alive") == {"ok"}
    assert complaint(found).said.startswith(f"bandit {first.pid}: gone")


def test_a_process_that_answers_and_is_not_ready_is_told(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/live" else 503)
            self.end_headers()
            self.wfile.write(b'{"status": "loading"}')

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        ports = {"console_port": _free(), "shop_port": _free()}
        settings = Settings(home=tmp_path, recommend_port=server.server_port, **ports)
        wrong = complaint(on_processes.processes(settings))
        server.shutdown()
    assert wrong.said.startswith("recommend: http://127.0.0.1:")
    assert wrong.said.endswith("/health/ready: 503 Service Unavailable, loading")


def test_a_decider_whose_looks_fail_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stop_on_signal(settings, "decider").is_set()
    assert levels(on_processes.processes(settings)) == {"ok"}
    complain(settings, "decider", "every look fails")
    assert complaint(on_processes.processes(settings)).said == "decider is alive, but every look fails"


def test_replicas_that_are_gone_or_do_not_follow_are_told(redis_server: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server)
    assert list(on_processes.replicas(settings)) == []
    cache = bootstrap.state_cache(settings)
    origin = commands.Origin("t", 1_000)
    state = apply(
        None, commands.start("storefront", {"name": "a", "model_version": "a-1"}, Rules(), "s", origin)
    )
    cache.put(state)
    assert "nobody serves storefront" in complaint(on_processes.replicas(settings)).said
    cache.beat(Heartbeat("one", state.revision, "a", ("a-1",), 1_000), 60)
    assert levels(on_processes.replicas(settings)) == {"ok"}
    cache.beat(Heartbeat("two", state.revision - 1, "a", ("a-1",), 1_000), 60)
    assert complaint(on_processes.replicas(settings), "warn").said.startswith("two serves revision 0")
    assert list(on_processes.replicas(Settings(redis_url="redis://127.0.0.1:1"))) == []


# ---- the whole ---------------------------------------------------------------------------------------------


def test_results_are_lines_or_json_with_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"HOME": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1", "KAFKA_BOOTSTRAP": "127.0.0.1:1"}
    values |= {"BROKER_ACK_DEADLINE_MS": "200"}
    for name, value in values.items():
        monkeypatch.setenv(f"RINGSIDE_{name}", value)
    out = io.StringIO()
    assert app.run(as_json=False, out=out) == 1
    lines = out.getvalue().splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn", "fail"}
    out = io.StringIO()
    assert app.run(as_json=True, out=out) == 1
    told = json.loads(out.getvalue())
    assert len(told) == len(lines)
    assert {row["check"] for row in told} >= {"settings", "window", "redis", "broker", "features", "disk"}
    assert all(row["todo"] for row in told if row["level"] != "ok")


def test_no_problem_exits_0_and_a_broken_check_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "CHECKS", ())
    assert app.run(as_json=False, out=io.StringIO()) == 0

    def broken(settings: Settings) -> Finding:
        raise ZeroDivisionError("by zero")

    def gone(settings: Settings) -> Finding:
        raise UnavailableError("Redis", "gone")

    monkeypatch.setattr(app, "CHECKS", (("one", broken), ("two", gone)))
    found = [finding for finding in app.examined({}) if finding.check != "settings"]
    assert [(row.check, row.level) for row in found] == [("one", "fail"), ("two", "fail")]
