"""The composition root: the only module that picks adapters. Each is imported when it is first needed."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from services.control.recount import RecountService
from services.errors import ConfigurationError
from services.ports import catalogue, event_log, features, lake, pins, state, training
from services.ports.diagnostics import Diagnostics
from services.runtime import log_format
from services.runtime.process import replica_name
from services.settings import Settings

if TYPE_CHECKING:
    from services.adapters.instrumented.meters import Meters as Meters
    from services.adapters.instrumented.tracing import Tracing


def configure_logging(settings: Settings, process: str) -> None:
    """Make this process log to stderr in the format `log_format`, without secrets, and with trace ids."""
    ids = log_format.no_trace
    if settings.trace_to:
        from services.adapters.instrumented.tracing import ids
    log_format.configure(settings, process, replica_name(settings), ids)


def tracing(settings: Settings, process: str) -> "Tracing | None":
    """The tracing of this process; None without `trace_to`. Raises ConfigurationError without the packages of
    `ringside[tracing]`."""
    if not settings.trace_to:
        return None
    try:
        from services.adapters.instrumented.tracing import to_collector

        return to_collector(settings, process, replica_name(settings))
    except ImportError as error:
        raise ConfigurationError(f"RINGSIDE_TRACE_TO: pip install 'ringside[tracing]' ({error})") from error


def metered(
    settings: Settings, process: str, *, loops: bool = True, silent_s: float = 30.0
) -> "AbstractContextManager[Meters]":
    """Meters of a process, served at `metrics_port` while the block runs.

    loops: the process has a loop that gives signs of life (see stop_on_signal). Its /health/live answers 503
    after `silent_s` seconds without one.
    """
    from services.adapters.instrumented.meters import metered as meters

    traces = tracing(settings, process)
    return meters(settings, process, replica_name(settings), loops=loops, silent_s=silent_s, tracing=traces)


def check_window(settings: Settings) -> None:
    """Raise ConfigurationError if the broker forgets exposures before they mature."""
    from services.adapters.kafka.admin import check_embedded_window

    check_embedded_window(settings)


def check_partitions(settings: Settings) -> None:
    """Raise ConfigurationError if the topics have another number of partitions than `kafka_partitions`, and
    UnavailableError without a broker."""
    from services.adapters.kafka.admin import KafkaLogAdmin

    KafkaLogAdmin(settings).check_partitions()


def producer(settings: Settings) -> event_log.EventProducer:
    """Producer to the configured broker; starts without one."""
    from services.adapters.kafka.producer import KafkaEventProducer

    return KafkaEventProducer(settings)


def consumer(settings: Settings) -> event_log.EventConsumer:
    """Consumer of partitions that the caller chooses."""
    from services.adapters.kafka.consumer import KafkaEventConsumer

    return KafkaEventConsumer(settings)


def group_consumer(settings: Settings, group: str, topics: tuple[str, ...]) -> event_log.GroupConsumer:
    """Member of a group (Apache Kafka), or the owner of all partitions (embedded broker)."""
    from services.adapters.kafka.consumer import KafkaGroupConsumer

    return KafkaGroupConsumer(settings, group, topics)


def log_admin(settings: Settings) -> event_log.LogAdmin:
    """Topics and identity of the log."""
    from services.adapters.kafka.admin import KafkaLogAdmin

    return KafkaLogAdmin(settings)


def sum_store(settings: Settings) -> state.SumStore:
    """Sums and positions of the attribution workers."""
    from services.adapters.redis.sum_store import RedisSumStore

    return RedisSumStore(settings)


def recounting(settings: Settings) -> RecountService:
    """Ports of a recount: the sums, and consumers of the log."""
    return RecountService(sum_store(settings), lambda: consumer(settings), settings.kafka_partitions)


def state_cache(settings: Settings) -> state.StateCache:
    """Cache of experiment state, heartbeats and leases."""
    from services.adapters.redis.state_cache import RedisStateCache

    return RedisStateCache(settings)


def decision_log(settings: Settings, history: bool = True) -> state.DecisionLog:
    """The log of decisions with its cache. Without `history` its records can't be read, only the states."""
    from services.adapters.kafka.decision_log import KafkaDecisionLog

    return KafkaDecisionLog(settings, producer(settings), consumer(settings), state_cache(settings), history)


def online_reader(settings: Settings) -> features.OnlineReader:
    """Online features and pins (asyncio)."""
    from services.adapters.feast.online_reader import FeastOnlineReader

    return FeastOnlineReader(settings)


def pin_store(settings: Settings) -> pins.PinStore:
    """Write access to pins, used to restore them."""
    from services.adapters.redis.pin_store import RedisPinStore

    return RedisPinStore(settings)


def activity_store(settings: Settings) -> features.ActivityStore:
    """Online rows of recent activity. Imports Feast at once."""
    from services.adapters.feast.activity_store import FeastActivityStore

    return FeastActivityStore(settings)


def lake_files(settings: Settings) -> lake.LakeFiles:
    """Parquet files of the topics."""
    from services.adapters.files.lake_files import LakeFiles

    return LakeFiles(settings.lake_path)


def feature_store(settings: Settings) -> features.FeatureStore:
    """Feast, for all processes except the recommend service. Imports Feast at first use."""
    from services.adapters.feast.feature_store import FeastFeatureStore

    return FeastFeatureStore(settings)


def feast_environment(settings: Settings) -> dict[str, str]:
    """Variables that feature_repo reads."""
    from services.adapters.feast.feature_store import environment

    return environment(settings)


def item_overlay(settings: Settings) -> catalogue.ItemOverlay:
    """Changes of the live catalogue."""
    from services.adapters.redis.item_overlay import RedisItemOverlay

    return RedisItemOverlay(settings)


def data_store(settings: Settings) -> training.DataStore:
    """Imported data versions."""
    from services.adapters.files.data_store import ParquetDataStore

    return ParquetDataStore(settings.data_path)


def model_store(settings: Settings) -> training.ModelStore:
    """Model artifacts."""
    from services.adapters.files.model_store import FolderModelStore

    return FolderModelStore(settings.models_path)


def model_registry(settings: Settings) -> training.ModelRegistry:
    """MLflow."""
    from services.adapters.mlflow_registry import MlflowRegistry

    return MlflowRegistry(settings)


def text_encoder(settings: Settings) -> training.TextEncoder:
    """Text embeddings, cached on disk."""
    from services.adapters.text_encoder import text_encoder as make

    return make(settings)


def event_history(settings: Settings) -> lake.EventHistory:
    """Actions of shoppers, from the lake."""
    from services.adapters.files.lake_history import LakeEventHistory

    return LakeEventHistory(settings.lake_path)


def diagnostics(settings: Settings) -> Diagnostics:
    """Facts about Redis, the broker and Feast's registry."""
    from services.adapters.diagnostics import LiveDiagnostics

    return LiveDiagnostics(settings)
