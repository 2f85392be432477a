"""What a bandit worker says of its partitions, after each turn of its loop."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.bandit.attribution.worker import Worker


class BanditMetrics:
    """Gauges of one worker. The age of a watermark is `time() - ringside_watermark_timestamp_seconds`, so it
    grows even when the worker hangs."""

    def __init__(self, registry: CollectorRegistry):
        self._watermark = Gauge(
            "ringside_watermark_timestamp_seconds",
            "Everything before is counted.",
            ["partition"],
            registry=registry,
        )
        self._behind = Gauge(
            "ringside_partition_lag_records", "Records known to be unread.", ["partition"], registry=registry
        )
        self._stopped = Gauge(
            "ringside_partitions_stopped", "Not counted because of a data loss.", registry=registry
        )
        self._overtaken = Counter(
            "ringside_records_overtaken", "Records later than the watermark promised.", registry=registry
        )
        self._left_out = Counter(
            "ringside_records_left_out",
            "Readable exposures and events that count nowhere, by why.",
            ["reason"],
            registry=registry,
        )
        self._told_out: dict[str, int] = {}
        self._told: dict[int, int] = {}  # partition -> overtaken, of those that are ours

    def look(self, worker: Worker, now_ms: int) -> None:
        """Tell what the worker holds now; on its own thread."""
        for gone in self._told.keys() - worker.partitions.keys():
            self._watermark.remove(str(gone))
            self._behind.remove(str(gone))
            del self._told[gone]
        for index, partition in worker.partitions.items():
            self._watermark.labels(str(index)).set(partition.watermark(now_ms) / 1_000)
            self._behind.labels(str(index)).set(partition.lag)
            before = self._told.get(index, 0)
            self._overtaken.inc(max(0, partition.overtaken - before))
            self._told[index] = partition.overtaken
        self._stopped.set(len(worker.lost))
        for reason, count in worker.left_out.items():
            self._left_out.labels(reason).inc(count - self._told_out.get(reason, 0))
            self._told_out[reason] = count
