"""The composition root: the only place that picks adapters. They are imported when asked for, not before."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from services import ports
from services.addresses import strangers
from services.errors import ConfigurationError, UnavailableError
from services.recounting import Recounting
from services.settings import Settings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from services.adapters.embedded import EmbeddedBroker, EmbeddedRedis
    from services.adapters.examining import RedisFacts, TopicFacts
    from services.adapters.local_kafka import LocalKafka
    from services.adapters.meters import Meters
    from services.adapters.server import Server
    from services.adapters.tracing import Tracing


def stop_on_signal(settings: Settings | None = None, process: str = "") -> threading.Event:
    """An event that SIGTERM and SIGINT set; every process loops until it is set, then leaves tidily.

    With settings and the name of the process, looking at it is a sign of life for `ringside health`.
    """
    stop = threading.Event() if settings is None else _pulse(settings, process)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop


def _pulse(settings: Settings, process: str) -> threading.Event:
    from services.adapters.pulse import Stop, pulse_file

    return Stop(pulse_file(settings, process))


def complaint(settings: Settings, process: str, within_s: float) -> str:
    """Why a process of this host is not healthy; empty if it is."""
    from services.adapters import pulse

    return pulse.complaint(settings, process, within_s)


def complain(settings: Settings, process: str, why: str) -> None:
    """Let `complaint` tell what goes wrong though the loop of `process` turns; empty: nothing any more."""
    from services.adapters import pulse

    pulse.complain(settings, process, why)


def silent_s(settings: Settings) -> dict[str, float]:
    """How long ago each process of this host that was not told to stop gave its last sign of life, s."""
    from services.adapters import pulse

    return pulse.silent_s(settings)


def configure_logging(settings: Settings, process: str) -> None:
    """One line an event on stderr, as `log_format` says, without secrets, with the trace if there is one."""
    from services.adapters import log_lines

    ids = log_lines.no_trace
    if settings.trace_to:
        from services.adapters.tracing import ids
    log_lines.configure(settings, process, replica_name(settings), ids)


def tracing(settings: Settings, process: str) -> "Tracing | None":
    """Where this process's spans go; None: nowhere, which costs nothing. Raises ConfigurationError without
    the packages of `ringside[tracing]`."""
    if not settings.trace_to:
        return None
    try:
        from services.adapters.tracing import to_collector

        return to_collector(settings, process, replica_name(settings))
    except ImportError as error:
        raise ConfigurationError(f"RINGSIDE_TRACE_TO: pip install 'ringside[tracing]' ({error})") from error


def replica_name(settings: Settings) -> str:
    """Name under which this process reports itself."""
    return settings.replica or f"{socket.gethostname()}-{os.getpid()}"


def metered(
    settings: Settings, process: str, *, loops: bool = True, silent_s: float = 30.0
) -> "AbstractContextManager[Meters]":
    """What a process reports about itself, scraped at `metrics_port` while the block runs. `loops`: it leaves
    signs of life, see stop_on_signal; after `silent_s` without one its health endpoint says so."""
    from services.adapters.meters import metered as meters

    told = tracing(settings, process)
    return meters(settings, process, replica_name(settings), loops=loops, silent_s=silent_s, tracing=told)


def scraped(settings: Settings, process: str, registry: "CollectorRegistry") -> AbstractContextManager[None]:
    """A registry that a process made itself, scraped at `metrics_port` while the block runs."""
    from services.adapters.metrics_endpoint import age_of, scraped

    return scraped(settings, process, replica_name(settings), registry, age_of(None, 0.0))


def answers_as_ours(host: str, port: int) -> bool:
    """Whether a process of Ringside answers at this port."""
    from services.adapters.pulse import answers_as_ours as ours

    return ours(host, port)


def redis_facts(settings: Settings) -> "RedisFacts":
    """What Redis says of itself. Raises UnavailableError."""
    from services.adapters import examining

    return examining.redis_facts(settings)


def topic_facts(settings: Settings) -> "dict[str, TopicFacts]":
    """What the broker says of every topic of ours. Raises UnavailableError."""
    from services.adapters import examining
    from services.adapters.topics import TOPICS

    return examining.topic_facts(settings, TOPICS)


def newest_records(settings: Settings, topic: str) -> list[tuple[int, bytes]]:
    """(append time in ms, value) of the newest record of each partition. Raises UnavailableError."""
    from services.adapters import examining

    return examining.newest_records(settings, topic)


def registered_views(settings: Settings) -> list[str] | None:
    """Feature views that are registered; None: there is no registry."""
    from services.adapters import examining

    return examining.registered_views(settings)


def wanted_views() -> tuple[str, ...]:
    """Feature views that processes read."""
    from services.adapters.feast_schemas import SCHEMAS

    return tuple(SCHEMAS)


def partitions_wanted(settings: Settings, topic: str) -> int:
    """How many partitions a topic must have."""
    from services.adapters.topics import topic_partitions

    return topic_partitions(topic, settings.kafka_partitions)


def embedded_broker(partitions: int, port: int | None = None) -> "EmbeddedBroker":
    """Start the broker in the confluent-kafka wheel; it forgets everything when stopped."""
    from services.adapters.embedded import EmbeddedBroker

    return EmbeddedBroker(partitions, port)


def embedded_redis(directory: Path | None = None, port: int | None = None) -> "EmbeddedRedis":
    """Start a Redis; with a directory it is durable."""
    from services.adapters.embedded import EmbeddedRedis

    return EmbeddedRedis(directory, port)


def local_kafka(directory: Path, partitions: int, port: int | None = None) -> "LocalKafka":
    """Start Apache Kafka as one process (Java 17; its jars come from Maven) and create the topics."""
    from services.adapters.local_kafka import LocalKafka

    running = LocalKafka(directory, partitions, port)
    running.create_topics()
    return running


def require_free(port: int | None) -> None:
    """Raises ConfigurationError if something listens on `port` of this machine."""
    from services.adapters import server

    server.require_free(port)


def hold(server: "Server", stop: threading.Event) -> None:
    """Let a server run until `stop` is set. Raises UnavailableError when it ends by itself."""
    while not stop.wait(0.2):
        if not server.alive():
            raise UnavailableError("the server", f"it ended by itself with code {server.exit_code()}")


def many_connections(most: int = 65_536) -> None:
    """Let this process have as many open files as the system lets it: many systems begin with 1,024, which
    one client with as many idle connections would use up."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def http_protocol(
    settings: Settings, *kinds: type, refused: Callable[[], None] = lambda: None, **limits: float | None
) -> type[asyncio.Protocol]:
    """How our servers speak HTTP: no client may send or wait for ever, or take all connections; `refused` is
    called for each that isn't had. `kinds`: what else the protocol is; `limits`: see BoundedHttp."""
    from services.adapters.bounded_http import Crowd, bounded_http

    crowd = Crowd(strangers(settings.own_networks), settings.client_connections, refused)
    return bounded_http(*kinds, crowd=crowd, **limits)


def check_window(settings: Settings) -> None:
    """Raises ConfigurationError if the broker forgets exposures before they mature."""
    from services.adapters.embedded import check_embedded_window

    check_embedded_window(settings)


def check_partitions(settings: Settings) -> None:
    """Raises ConfigurationError if the topics have another number of partitions than `settings` says;
    UnavailableError if no broker tells."""
    from services.adapters.kafka_admin import KafkaLogAdmin

    KafkaLogAdmin(settings).check_partitions()


def producer(settings: Settings) -> ports.EventProducer:
    """Producer to the configured broker; starts without one."""
    from services.adapters.kafka import KafkaEventProducer

    return KafkaEventProducer(settings)


def consumer(settings: Settings) -> ports.EventConsumer:
    """Consumer of chosen partitions."""
    from services.adapters.kafka import KafkaEventConsumer

    return KafkaEventConsumer(settings)


def group_consumer(settings: Settings, group: str, topics: tuple[str, ...]) -> ports.GroupConsumer:
    """Member of a group (Apache Kafka), or the owner of all partitions (embedded broker)."""
    from services.adapters.kafka import KafkaGroupConsumer

    return KafkaGroupConsumer(settings, group, topics)


def log_admin(settings: Settings) -> ports.LogAdmin:
    """Topics and identity of the log."""
    from services.adapters.kafka import KafkaLogAdmin

    return KafkaLogAdmin(settings)


def tally_store(settings: Settings) -> ports.TallyStore:
    """Sums and positions of the bandit workers."""
    from services.adapters.redis_state import RedisTallyStore

    return RedisTallyStore(settings)


def recounting(settings: Settings) -> Recounting:
    """What counting anew needs: the sums, and a log to look into."""
    return Recounting(tally_store(settings), lambda: consumer(settings), settings.kafka_partitions)


def state_cache(settings: Settings) -> ports.StateCache:
    """Cached experiment state, heartbeats, leases."""
    from services.adapters.redis_state import RedisStateCache

    return RedisStateCache(settings)


def decision_log(settings: Settings, history: bool = True) -> ports.DecisionLog:
    """The log of decisions with its cache. `history`: whether this process ever asks for its records."""
    from services.adapters.decision_log import KafkaDecisionLog

    return KafkaDecisionLog(settings, producer(settings), consumer(settings), state_cache(settings), history)


def online_reader(settings: Settings) -> ports.OnlineReader:
    """Online features and pins (asyncio)."""
    from services.adapters.feast_online import FeastOnlineReader

    return FeastOnlineReader(settings)


def pin_store(settings: Settings) -> ports.PinStore:
    """Pins, for putting them back."""
    from services.adapters.pins import RedisPinStore

    return RedisPinStore(settings)


def activity_store(settings: Settings) -> ports.ActivityStore:
    """Online rows of recent activity; imports Feast at once."""
    from services.adapters.feast_push import FeastActivityStore

    return FeastActivityStore(settings)


def lake_files(settings: Settings) -> ports.LakeFiles:
    """Parquet files of the topics."""
    from services.adapters.lake_files import LakeFiles

    return LakeFiles(settings.lake_path)


def feature_store(settings: Settings) -> ports.FeatureStore:
    """Feast off the hot path; imports it at first use."""
    from services.adapters.feast_store import FeastFeatureStore

    return FeastFeatureStore(settings)


def feast_environment(settings: Settings) -> dict[str, str]:
    """Variables that feature_repo reads."""
    from services.adapters.feast_store import environment

    return environment(settings)


def item_overlay(settings: Settings) -> ports.ItemOverlay:
    """Changes of the live catalogue."""
    from services.adapters.item_overlay import RedisItemOverlay

    return RedisItemOverlay(settings)


def data_store(settings: Settings) -> ports.DataStore:
    """Imported data versions."""
    from services.adapters.data_store import ParquetDataStore

    return ParquetDataStore(settings.data_path)


def model_store(settings: Settings) -> ports.ModelStore:
    """Model artifacts."""
    from services.adapters.model_store import FolderModelStore

    return FolderModelStore(settings.models_path)


def model_registry(settings: Settings) -> ports.ModelRegistry:
    """MLflow."""
    from services.adapters.registry import MlflowRegistry

    return MlflowRegistry(settings)


def text_encoder(settings: Settings) -> ports.TextEncoder:
    """Text embeddings, cached on disk."""
    from services.adapters.text_encoder import text_encoder as make

    return make(settings)


def event_history(settings: Settings) -> ports.EventHistory:
    """What shoppers did, from the lake."""
    from services.adapters.lake_events import LakeEventHistory

    return LakeEventHistory(settings.lake_path)
