"""Metrics of several worker processes as one: prometheus_client keeps files for each process, and a scrape
adds them up.

The files of workers that ended stay until the supervisor ends, so that no total falls; a scrape takes half a
millisecond longer for each (infra/adr/0014).
"""

from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"  # read by prometheus_client when it is first imported


def merged(folder: Path) -> CollectorRegistry:
    """Registry of the counts of all workers that share `folder`; each scrape reads the files again."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]
    return registry
