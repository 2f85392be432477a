"""What several workers count, added up: nothing changes when one of them ends and is buried."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.samples import Sample

from services.web import worker_metrics

ROUTES = ["/recommend", "/similar/{item_id}", "/ä — events"]
PIDS = range(100, 112)


def count(folder: Path, pid: int, rng: random.Random) -> None:
    """Files as a worker writes them, with random counts and times in parts of 2^-20 s."""
    answers, times, memory = (
        MmapedDict(str(folder / f"{kind}_{pid}.db")) for kind in ("counter", "histogram", "gauge_liveall")
    )
    for route in rng.sample(ROUTES, 2):
        key = mmap_key("answers", "answers_total", ["route"], [route], "Told.")
        answers.write_value(key, float(rng.randrange(1_000)), 0.0)
        for name, le, value in (
            ("seconds_sum", None, rng.randrange(2**40) / 2**20),
            ("seconds_bucket", "0.1", rng.randrange(50)),
            ("seconds_bucket", "+Inf", rng.randrange(50)),
        ):
            labels = {"route": route} | ({"le": le} if le else {})
            key = mmap_key("seconds", name, list(labels), list(labels.values()), "Told.")
            times.write_value(key, float(value), 0.0)
    memory.write_value(mmap_key("memory", "memory", [], [], "Told."), 1.0, 0.0)
    for file in (answers, times, memory):
        file.close()


def told(registry: CollectorRegistry) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample but those of gauges."""
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in _samples(registry)}


def _samples(registry: CollectorRegistry) -> Iterator[Sample]:
    for metric in registry.collect():
        if metric.type != "gauge":
            yield from metric.samples


@pytest.mark.parametrize("seed", range(5))
def test_totals_are_bit_identical_after_workers_are_merged(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for pid in PIDS:
        count(tmp_path, pid, rng)
    registry = worker_metrics.merged(tmp_path)
    before, living = told(registry), list(PIDS)
    rng.shuffle(living)
    while living:
        living.pop()
        worker_metrics.dead_letter(tmp_path, living)
        assert told(registry) == before
        assert len(list(tmp_path.iterdir())) == 3 * len(living) + 2
    assert {file.name for file in tmp_path.iterdir()} == {"counter_ended.db", "histogram_ended.db"}


def test_no_scrape_sees_a_count_twice_or_not_at_all(tmp_path: Path) -> None:
    for pid in PIDS:
        count(tmp_path, pid, random.Random(pid))
    registry, ended, strange = worker_metrics.merged(tmp_path), threading.Event(), []
    before = told(registry)

    def scrape() -> None:
        while not ended.is_set():
            if (found := told(registry)) != before:
                strange.append(found)

    scraping = threading.Thread(target=scrape)
    scraping.start()
    for gone in range(1, len(PIDS) + 1):
        worker_metrics.dead_letter(tmp_path, PIDS[gone:])
    ended.set()
    scraping.join()
    assert strange == []


def test_the_archive_is_a_file_as_the_library_writes_it(tmp_path: Path) -> None:
    count(tmp_path, 1, random.Random(1))
    kept = {file: MmapedDict(str(file), read_mode=True) for file in tmp_path.glob("[ch]*.db")}
    values = [sorted(found.read_all_values()) for found in kept.values()]
    worker_metrics.dead_letter(tmp_path, [])
    archives = [file.with_stem(file.stem.replace("_1", "_ended")) for file in kept]
    assert [sorted(MmapedDict(str(file), read_mode=True).read_all_values()) for file in archives] == values
    worker_metrics.dead_letter(tmp_path, [])  # again: nothing to do
    assert [sorted(MmapedDict(str(file), read_mode=True).read_all_values()) for file in archives] == values


def test_a_half_made_worker_file_stops_no_scrape(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "histogram_1.db").write_bytes(b"\xff\xff\x00\x00" * 4)
    count(tmp_path, 2, random.Random(2))
    assert worker_metrics.merged(tmp_path / "gone").collect() is not None
    worker_metrics.dead_letter(tmp_path, [2])
    assert "is damaged" in caplog.text
    assert told(worker_metrics.merged(tmp_path))
    assert not list(tmp_path.glob("*_1.db"))


def test_a_full_disk_leaves_the_counts_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    count(tmp_path, 1, random.Random(1))
    registry = worker_metrics.merged(tmp_path)
    before = told(registry)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        worker_metrics.dead_letter(tmp_path, [])
    assert told(registry) == before
    assert (tmp_path / "counter_1.db").exists()
    worker_metrics.dead_letter(tmp_path, [])  # there is room again
    assert told(registry) == before
    assert not (tmp_path / "counter_1.db").exists()
