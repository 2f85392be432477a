"""Metrics of the attribution worker's partitions, updated after each step."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.bandit.attribution.worker import Worker


class AttributionMetrics:
    """Metrics of one worker. The age of a watermark is `time() - ringside_watermark_timestamp_seconds`, which
    grows even when the worker hangs."""

    def __init__(self, registry: CollectorRegistry):
        self._watermark = Gauge(
            "ringside_watermark_timestamp_seconds",
            "Time up to which both topics have been read completely.",
            ["partition"],
            registry=registry,
        )
        self._lag = Gauge(
            "ringside_partition_lag_records", "Records known to be unread.", ["partition"], registry=registry
        )
        self._stopped = Gauge(
            "ringside_partitions_stopped",
            "Partitions not counted because of a data loss that is not accepted.",
            registry=registry,
        )
        self._overtaken = Counter(
            "ringside_records_overtaken",
            "Records appended before a watermark and read after it.",
            registry=registry,
        )
        self._left_out = Counter(
            "ringside_records_left_out",
            "Decodable exposures and events excluded from the counts, by reason.",
            ["reason"],
            registry=registry,
        )
        self._counted_left_out: dict[str, int] = {}  # what the counters already include
        self._counted_overtaken: dict[int, int] = {}  # by partition of this worker

    def update(self, worker: Worker, now_ms: int) -> None:
        """Set the metrics to the worker's state; call it on the worker's thread."""
        for gone in self._counted_overtaken.keys() - worker.partitions.keys():
            self._watermark.remove(str(gone))
            self._lag.remove(str(gone))
            del self._counted_overtaken[gone]
        for index, partition in worker.partitions.items():
            self._watermark.labels(str(index)).set(partition.watermark(now_ms) / 1_000)
            self._lag.labels(str(index)).set(partition.lag)
            before = self._counted_overtaken.get(index, 0)
            self._overtaken.inc(max(0, partition.overtaken - before))  # a reloaded partition starts at 0
            self._counted_overtaken[index] = partition.overtaken
        self._stopped.set(len(worker.lost))
        for reason, count in worker.left_out.items():
            self._left_out.labels(reason).inc(count - self._counted_left_out.get(reason, 0))
            self._counted_left_out[reason] = count
