"""Metrics of the console: the age of its view, and which sources cannot be read."""

from prometheus_client import CollectorRegistry, Gauge

from services.console.log_follower import LogFollower


def watch(follower: LogFollower, registry: CollectorRegistry) -> None:
    """Register gauges that read the follower's view at each scrape."""
    read = Gauge(
        "ringside_console_view_timestamp_seconds", "When the log was last read; 0: never.", registry=registry
    )
    read.set_function(lambda: (follower.view.sources.read_at_ms or 0) / 1_000)
    failing = Gauge(
        "ringside_console_source_failing", "1 while a source can't be read.", ["source"], registry=registry
    )
    failing.labels("log").set_function(lambda: float(follower.view.sources.log_error is not None))
    failing.labels("cache").set_function(lambda: float(follower.view.sources.cache_error is not None))
