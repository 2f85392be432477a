"""Facts about the servers of an installation, which `ringside doctor` examines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

TOPIC_SETTINGS = ("message.timestamp.type", "retention.ms", "retention.bytes", "cleanup.policy")


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """Facts about a Redis server.

    eviction_policy: `maxmemory-policy`; max_bytes: `maxmemory` (0: no limit); persistent: data survive a
    restart; clock_ahead_s: its clock minus that of this host.
    """

    version: str
    ping_ms: float
    eviction_policy: str
    max_bytes: int
    persistent: bool
    clock_ahead_s: float


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """Number of partitions (0: the topic does not exist), and those of TOPIC_SETTINGS that the broker
    reports."""

    partitions: int
    configs: Mapping[str, str]


class Diagnostics(Protocol):
    """Facts that the servers report about themselves."""

    def redis(self) -> RedisFacts:
        """Facts about Redis. Raises UnavailableError."""

    def topics(self) -> Mapping[str, TopicFacts]:
        """Facts about every topic of Ringside. Raises UnavailableError."""

    def newest_records(self, topic: str) -> Sequence[tuple[int, bytes]]:
        """(append time in ms, value) of the newest record of each partition that has one. Raises
        UnavailableError."""

    def registered_views(self) -> Sequence[str] | None:
        """Feature views in Feast's registry; None if there is no registry."""

    def required_views(self) -> Sequence[str]:
        """Feature views that Ringside's processes read."""
