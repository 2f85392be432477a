"""Facts about the servers of an installation, which `ringside doctor` examines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

TOPIC_SETTINGS = ("message.timestamp.type", "retention.ms", "retention.bytes", "cleanup.policy")


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """policy: what is thrown away when memory is full; saves: whether a restart finds the data again;
    ahead_s: its clock less ours."""

    version: str
    ping_ms: float
    eviction_policy: str
    max_bytes: int
    persistent: bool
    clock_ahead_s: float


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """`partitions` 0: there is no such topic. `configs`: TOPIC_SETTINGS, as far as the broker tells."""

    partitions: int
    configs: Mapping[str, str]


class Diagnostics(Protocol):
    """Facts as the servers report them."""

    def redis(self) -> RedisFacts:
        """Facts about Redis. Raises UnavailableError."""

    def topics(self) -> Mapping[str, TopicFacts]:
        """Facts about every topic of Ringside. Raises UnavailableError."""

    def newest_records(self, topic: str) -> Sequence[tuple[int, bytes]]:
        """(append time in ms, value) of the newest record of each partition that has one. Raises
        UnavailableError."""

    def registered_views(self) -> Sequence[str] | None:
        """Feature views in Feast's registry; None: there is no registry."""

    def required_views(self) -> Sequence[str]:
        """Feature views that processes read."""
