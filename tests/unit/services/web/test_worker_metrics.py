"""Counts of several workers add up, and no total falls when one of them ends."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import mark_process_dead

from services.web import worker_metrics


def count(folder: Path, pid: int, answers: float) -> None:
    """Files as a worker writes them."""
    for kind, name, value in (("counter", "answers_total", answers), ("gauge_liveall", "memory", 1.0)):
        file = MmapedDict(str(folder / f"{kind}_{pid}.db"))
        file.write_value(mmap_key(name.removesuffix("_total"), name, [], [], "Help."), value, 0.0)
        file.close()


def samples(registry: CollectorRegistry) -> dict[str, list[float]]:
    """Values by name."""
    return {metric.name: [sample.value for sample in metric.samples] for metric in registry.collect()}


def test_a_dead_worker_leaves_its_counts_and_takes_its_gauges(tmp_path: Path) -> None:
    registry = worker_metrics.merged(tmp_path)
    for pid in (100, 101):
        count(tmp_path, pid, float(pid))
    assert samples(registry) == {"answers": [201.0], "memory": [1.0, 1.0]}
    mark_process_dead(100, str(tmp_path))
    assert samples(registry) == {"answers": [201.0], "memory": [1.0]}


def test_a_scrape_after_the_supervisors_end_is_empty(tmp_path: Path) -> None:
    (folder := tmp_path / "metrics").mkdir()
    registry = worker_metrics.merged(folder)
    folder.rmdir()
    assert samples(registry) == {}
    with pytest.raises(ValueError, match="not a directory"):
        worker_metrics.merged(folder)
