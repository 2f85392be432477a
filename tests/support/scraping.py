"""Reading what processes expose: samples by name and labels."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Samples = Mapping[tuple[str, Labels], float]


def parse_samples(text: str) -> Samples:
    """Samples of an exposition."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def registry_samples(registry: CollectorRegistry) -> Samples:
    """Samples of a registry."""
    return parse_samples(generate_latest(registry).decode())


def sample_value(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples of `name` with these labels. Raises KeyError if there are none."""
    rows = [
        number for key, number in found.items() if key[0] == name and labels.items() <= dict(key[1]).items()
    ]
    if not rows:
        raise KeyError(f"{name}{labels} is not among {sorted(metric_names(found.keys()))}")
    return sum(rows)


def metric_names(keys: Iterable[tuple[str, Labels]]) -> set[str]:
    """Metric names of samples."""
    return {name for name, _ in keys}
