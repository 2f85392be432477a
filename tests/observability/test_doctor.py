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
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Rules
from models.algorithms.popularity import Popularity
from services import bootstrap
from services.adapters.diagnostics import LiveDiagnostics
from services.adapters.feast.schemas import SCHEMAS
from services.doctor import app
from services.doctor.app import installation
from services.doctor.check_result import CheckResult
from services.doctor.checks import files, processes, stores
from services.doctor.checks import settings as settings_checks
from services.errors import UnavailableError
from services.messages.events import DECISIONS, EXPOSURES
from services.messages.topics import TOPICS, topic_configuration, topic_partitions
from services.ports.diagnostics import RedisFacts, TopicFacts
from services.ports.state import Heartbeat
from services.runtime.liveness import liveness_file, set_unhealthy_reason
from services.runtime.process import stop_on_signal
from services.settings import Settings

STRONG = {
    "keys": ",".join(pair for _, pair in KEYS.values()),
    "signing_key": "k3Jd9sLq0xZ7vB2nM5cW8yT1rF4gH6pA",
}


def levels(results: Iterable[CheckResult], check: str | None = None) -> set[str]:
    """Levels of the results (of one check)."""
    return {result.level for result in results if check in (None, result.check)}


def complaint(results: Iterable[CheckResult], level: str = "fail") -> CheckResult:
    """The one result of this level, which says what to do."""
    [bad] = [result for result in results if result.level == level]
    assert bad.action
    return bad


def test_a_line_separates_problem_and_remedy_by_one_stop() -> None:
    refused = UnavailableError("Redis", "Connection refused.")
    assert str(refused) == "Redis is unavailable: Connection refused"
    assert CheckResult("fail", "window", "a sum of at most 60 s.", "set it").line().endswith("60 s; set it")
    assert CheckResult("fail", "keys", "none; run `x` and set it", "run `x`").line().count("run `x`") == 1


# ---- settings ----------------------------------------------------------------------------------------------


def test_an_unknown_variable_is_reported_with_a_suggestion() -> None:
    environ = {"RINGSIDE_REDSI_URL": "x", "RINGSIDE_FEAST_HOME": "x", "RINGSIDE_HOST": "x", "PATH": "x"}
    found = complaint(settings_checks.variables(environ), "warn")
    assert "RINGSIDE_REDSI_URL" in found.message
    assert found.action == "did you mean RINGSIDE_REDIS_URL?"
    assert list(settings_checks.variables({"RINGSIDE_HOST": "x"})) == []
    assert "unset it" in complaint(settings_checks.variables({"RINGSIDE_QQQQ": ""}), "warn").action


def test_an_invalid_value_is_named_and_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGSIDE_RECOMMEND_PORT", "s3cret")
    settings, found = settings_checks.read(os.environ)
    assert settings is None
    assert "RINGSIDE_RECOMMEND_PORT" in complaint(found).message
    assert "s3cret" not in str(found)
    monkeypatch.delenv("RINGSIDE_RECOMMEND_PORT")
    assert levels(settings_checks.read(os.environ)[1]) == {"ok"}


@pytest.mark.parametrize(
    "url", ["nonsense", "redis://host:s3cret/0", "redis://:s3cret@host/zero", "http://h"]
)
def test_an_invalid_redis_address_is_reported_and_breaks_nothing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGSIDE_REDIS_URL", url)
    found = list(app.check_all(os.environ))
    bad = complaint(found)
    assert "RINGSIDE_REDIS_URL" in bad.message
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
    assert levels(settings_checks.read(os.environ)[1]) == {"ok"}


def test_a_window_beyond_the_embedded_brokers_retention_fails() -> None:
    assert complaint(settings_checks.window(installation(Settings())))
    assert complaint(settings_checks.window(installation(Settings(window_s=5, lateness_s=5))), "warn")
    assert levels(settings_checks.window(installation(Settings(kafka_mode="kafka")))) == {"ok"}


def test_secrets_that_are_missing_or_weak_are_told() -> None:
    assert levels(settings_checks.secrets(installation(Settings(**STRONG)))) == {"ok"}
    assert [row.level for row in settings_checks.secrets(installation(Settings()))] == ["fail", "fail"]
    weak = complaint(
        settings_checks.secrets(installation(Settings(**{**STRONG, "signing_key": "a" * 40}))), "warn"
    )
    assert "aaaa" not in weak.line()
    assert complaint(
        settings_checks.secrets(installation(Settings(**{**STRONG, "signing_key": SIGNING}))), "warn"
    )
    assert complaint(settings_checks.secrets(installation(Settings(**{**STRONG, "signing_key": "short"}))))
    only = {**STRONG, "keys": KEYS["analyst"][1]}
    assert (
        "storefront or admin"
        in complaint(settings_checks.secrets(installation(Settings(**only))), "warn").message
    )
    stranger = complaint(
        settings_checks.secrets(installation(Settings(**STRONG, storefront_key="rs_pub_unknown")))
    )
    assert stranger.check == "shop's key"


def test_ports_that_are_taken_or_wanted_twice_are_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = {"console_port": _free(), "shop_port": _free()}
        bad = complaint(settings_checks.ports(installation(Settings(recommend_port=port, **free))))
        assert str(port) in bad.message
        assert "RINGSIDE_RECOMMEND_PORT" in bad.action
    assert levels(settings_checks.ports(installation(Settings(recommend_port=port, **free)))) == {"ok"}
    twice = Settings(recommend_port=port, console_port=port, shop_port=free["shop_port"])
    assert "RINGSIDE_CONSOLE_PORT" in complaint(settings_checks.ports(installation(twice))).action


def test_a_port_that_ringside_has_is_fine(tmp_path: Path) -> None:
    with bootstrap.metered(Settings(home=tmp_path), "lake", loops=False):
        [file] = (tmp_path / "metrics").glob("*.json")
        port = int(json.loads(file.read_text())[0]["targets"][0].rpartition(":")[2])
        settings = Settings(recommend_port=port, console_port=_free(), shop_port=_free())
        assert levels(settings_checks.ports(installation(settings))) == {"ok"}


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- Redis, broker, clocks ---------------------------------------------------------------------------------

GOOD_REDIS = RedisFacts("7.2.1", 0.2, "noeviction", 0, True, 0.0)


def of_redis(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[CheckResult]:
    facts = RedisFacts(**{**{name: getattr(GOOD_REDIS, name) for name in GOOD_REDIS.__slots__}, **changes})
    monkeypatch.setattr(LiveDiagnostics, "redis", lambda _: facts)
    return list(stores.redis(installation(Settings())))


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({"version": "6.0.16"}, "fail", "6.0.16"),
        ({"ping_ms": 30.0}, "warn", "30.0 ms"),
        ({"eviction_policy": "allkeys-lru"}, "warn", "allkeys-lru"),
        ({"eviction_policy": "allkeys-lru", "max_bytes": 10**9}, "fail", "allkeys-lru"),
        ({"persistent": False}, "warn", "loses all data"),
        ({"clock_ahead_s": 1.0}, "warn", "1.00 s ahead"),
        ({"clock_ahead_s": -9.0}, "fail", "9.00 s behind"),
    ],
)
def test_what_is_wrong_with_redis_is_told(
    changes: dict[str, Any], level: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert levels(of_redis(monkeypatch)) == {"ok"}
    assert told in complaint(of_redis(monkeypatch, **changes), level).message


def test_a_real_redis_is_examined(redis_server: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server)
    found = list(stores.redis(installation(settings)))
    assert levels(found, "clock") == {"ok"}
    assert "fail" not in levels(found)
    dead = Settings(redis_url="redis://:s3cret@127.0.0.1:1")
    assert "s3cret" not in complaint(stores.redis(installation(dead))).line()


def of_broker(
    monkeypatch: pytest.MonkeyPatch, newest: list[tuple[int, bytes]], **changes: Any
) -> list[CheckResult]:
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
    return list(stores.broker(installation(settings)))


@pytest.mark.parametrize(
    ("topic", "change", "level", "told"),
    [
        (EXPOSURES, {"partitions": 0}, "fail", "do not exist"),
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
    assert told in complaint(of_broker(monkeypatch, [], **{topic: change}), level).message


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
    assert levels(stores.broker(installation(settings))) == {"ok"}
    value = b'{"received_at": 1}'  # long ago: the broker's stamp is decades later
    producer = bootstrap.producer(settings)
    producer.send(EXPOSURES, "ada", value).result(20)
    producer.close()
    assert complaint(stores.broker(installation(settings))).check == "clock"
    wrong = settings_for(broker=kafka_broker, kafka_partitions=7)
    assert (
        "4 partitions, not 7"
        in next(row for row in stores.broker(installation(wrong)) if row.level == "fail").message
    )


def test_a_dead_embedded_broker_is_reported(embedded_broker: Any, settings_for: Any) -> None:
    assert levels(stores.broker(installation(settings_for(broker=embedded_broker)))) == {"ok"}
    dead = Settings(kafka_bootstrap="127.0.0.1:1", broker_ack_deadline_ms=200)
    assert complaint(stores.broker(installation(dead))).check == "broker"


# ---- files -------------------------------------------------------------------------------------------------


def test_a_disk_that_is_full_or_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    for free, level in ((5e9, "ok"), (1e9, "warn"), (1e8, "fail")):
        monkeypatch.setattr(files, "free_bytes", lambda home, free=free: int(free))
        assert levels(files.disk(installation(settings))) == {level}
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "can't be written" in complaint(files.disk(installation(Settings(home=blocked / "home")))).message


def test_missing_data_is_told(tmp_path: Path) -> None:
    assert complaint(files.data(installation(Settings(home=tmp_path)))).check == "data"


def test_views_that_are_not_registered_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    assert "does not exist" in complaint(files.features(installation(settings))).message
    (tmp_path / "feast.sqlite").write_bytes(b"rubbish, not a database at all")
    assert "user_activity" in complaint(files.features(installation(settings))).message
    monkeypatch.setattr(LiveDiagnostics, "registered_views", lambda _: list(SCHEMAS))
    assert levels(files.features(installation(settings))) == {"ok"}


def test_models_of_live_arms_are_verified(redis_server: Any, embedded_broker: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server, broker=embedded_broker)
    assert "never started" in complaint(files.models(installation(settings)), "warn").message
    store = bootstrap.model_store(settings)
    made = Popularity.fit(interactions(), catalogue(), now_s=1_800_000_000.0)
    saved = store.save(made, data_version="d1", window=(0.0, 1.0), metrics={}, now_ms=1_800_000_000_000)
    arm = commands.Deployed("first", saved.model_version)
    log = bootstrap.decision_log(settings)
    log.append(commands.start("storefront", arm, Rules(window_s=5), "salt", commands.Provenance("t", 1)))
    assert levels(files.models(installation(settings))) == {"ok"}
    [array, *_] = [
        file for file in (settings.models_path / saved.model_version).iterdir() if file.name in saved.files
    ]
    array.write_bytes(array.read_bytes()[:-1] + b"!")
    bad = complaint(files.models(installation(settings)))
    assert array.name in bad.message
    assert "first" in bad.message


# ---- processes ---------------------------------------------------------------------------------------------


def test_a_process_that_died_or_hangs_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert list(processes.processes(installation(settings))) == []
    for process, age_s in {"attribution": 45, "decider": 1, "training": 600}.items():
        file = liveness_file(settings, process)
        file.parent.mkdir(exist_ok=True)
        file.touch()
        os.utime(file, (time.time() - age_s,) * 2)
    (tmp_path / "alive" / "lake@another-host").touch()
    os.utime(tmp_path / "alive" / "lake@another-host", (1, 1))
    found = list(processes.processes(installation(settings)))
    assert [row.message.partition(" ")[0] for row in found] == ["attribution:", "decider", "training"]
    dead = complaint(found)
    assert dead.message.startswith("attribution: no sign of life for 4")
    assert str(tmp_path / "alive") in dead.action


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
    with living(tmp_path, "recommend") as first, living(tmp_path, "attribution") as second:
        first.kill()
        first.wait()
        dead = complaint(processes.processes(installation(settings)))
        assert dead.message == "recommend: it no longer runs, but it was not stopped cleanly"
        assert str(tmp_path / "metrics") in dead.action
        second.send_signal(signal.SIGINT)
        second.wait()
    found = list(processes.processes(installation(settings)))
    assert [row.message.partition(":")[0] for row in found] == ["recommend"]
    [note] = (tmp_path / "metrics").glob("*.json")
    note.unlink()
    assert list(processes.processes(installation(settings))) == []


def test_a_killed_replica_is_reported_by_its_number(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    pulse = liveness_file(settings, "attribution")
    pulse.parent.mkdir()
    pulse.touch()
    with living(tmp_path, "attribution") as first, living(tmp_path, "attribution") as second:
        first.kill()
        first.wait()
        found = list(processes.processes(installation(settings)))
        second.kill()
    assert levels(row for row in found if row.message == "attribution is alive") == {"ok"}
    assert complaint(found).message.startswith(f"attribution {first.pid}: it no longer runs")


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
        wrong = complaint(processes.processes(installation(settings)))
        server.shutdown()
    assert wrong.message.startswith("recommend: http://127.0.0.1:")
    assert wrong.message.endswith("/health/ready: 503 Service Unavailable, loading")


def test_a_decider_whose_looks_fail_is_told(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    stop_on_signal(settings, "decider").is_set()
    assert levels(processes.processes(installation(settings))) == {"ok"}
    set_unhealthy_reason(settings, "decider", "every look fails")
    assert (
        complaint(processes.processes(installation(settings))).message
        == "decider is alive, but every look fails"
    )


def test_replicas_that_are_gone_or_do_not_follow_are_told(redis_server: Any, settings_for: Any) -> None:
    settings = settings_for(redis=redis_server)
    assert list(processes.replicas(installation(settings))) == []
    cache = bootstrap.state_cache(settings)
    origin = commands.Provenance("t", 1_000)
    state = apply(None, commands.start("storefront", commands.Deployed("a", "a-1"), Rules(), "s", origin))
    cache.put(state)
    assert "storefront is not served" in complaint(processes.replicas(installation(settings))).message
    cache.put_heartbeat(Heartbeat("one", state.revision, "a", ("a-1",), 1_000), 60)
    assert levels(processes.replicas(installation(settings))) == {"ok"}
    cache.put_heartbeat(Heartbeat("two", state.revision - 1, "a", ("a-1",), 1_000), 60)
    assert complaint(processes.replicas(installation(settings)), "warn").message.startswith(
        "two serves revision 0"
    )
    assert list(processes.replicas(installation(Settings(redis_url="redis://127.0.0.1:1")))) == []


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
    monkeypatch.setattr(app, "CHECKS", {})
    assert app.run(as_json=False, out=io.StringIO()) == 0

    def broken(_: object) -> list[CheckResult]:
        raise ZeroDivisionError("by zero")

    def gone(_: object) -> list[CheckResult]:
        raise UnavailableError("Redis", "gone")

    monkeypatch.setattr(app, "CHECKS", {"one": broken, "two": gone})
    found = [finding for finding in app.check_all({}) if finding.check != "settings"]
    assert [(row.check, row.level) for row in found] == [("one", "fail"), ("two", "fail")]
