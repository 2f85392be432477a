"""The embedded broker: librdkafka's own mock cluster, from the confluent-kafka wheel, in a child process.

It speaks the real protocol over TCP and keeps everything in memory: about 5 MB a partition, then the oldest
records vanish; no topic settings, no look-up by time, one member a group. For windows of seconds: the first
minute, the demo, tests without Java. A topic named `ringside-log-<uuid>` is its identity, so a restarted
broker is known to be another log.
"""

import sys

from services.adapters.server import Server
from services.errors import ConfigurationError, UnavailableError
from services.settings import Settings

LONGEST_WAIT_S = 60.0


def check_embedded_window(settings: Settings) -> None:
    """Raises ConfigurationError, saying what to do, when the embedded broker can't keep a whole window."""
    wait_s = settings.window_s + settings.lateness_s
    if settings.kafka_mode != "embedded" or wait_s <= LONGEST_WAIT_S:
        return
    raise ConfigurationError(
        f"window_s + lateness_s = {wait_s:g} s, but the embedded broker keeps about 5 MB a partition in "
        f"memory: exposures may be gone before they mature. Start Apache Kafka (`ringside kafka`, or `docker "
        f"compose up`) and set RINGSIDE_KAFKA_MODE=kafka and RINGSIDE_KAFKA_BOOTSTRAP; or, to try things "
        f"out, choose RINGSIDE_WINDOW_S and RINGSIDE_LATENESS_S with a sum of at most {LONGEST_WAIT_S:g} s."
    )


class EmbeddedBroker:
    """A running embedded broker; `bootstrap` is its address, for `Settings.kafka_bootstrap`. With `port`
    clients find it there, and after a restart there again (as another, empty log)."""

    def __init__(self, partitions: int = 4, port: int | None = None):
        self.partitions = partitions
        fixed = [] if port is None else ["--port", str(port)]
        self.server = Server(
            [sys.executable, "-m", "services.adapters.mock_cluster", str(partitions), *fixed]
        )
        self.bootstrap = self.server.read_line()
        if not self.bootstrap:
            self.server.stop()
            raise UnavailableError("embedded broker", "it did not start; its reason is on stderr")

    def stop(self) -> None:
        """Stop; idempotent."""
        self.server.stop()

    def __enter__(self) -> "EmbeddedBroker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
