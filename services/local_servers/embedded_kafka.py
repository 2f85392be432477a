"""The embedded broker: librdkafka's own mock cluster, from the confluent-kafka wheel, in a child process.

It speaks the real protocol over TCP and keeps about 5 MB a partition in memory; then the oldest records
vanish. It has no topic settings and no search by time, and a group has one member. It suits attribution
windows of seconds: the first minute, the demo, tests without Java. A topic named `ringside-log-<uuid>` is its
identity, so that a restarted broker is recognised as another log.
"""

import sys

from services.errors import UnavailableError
from services.local_servers.process import Server, Stoppable


class EmbeddedBroker(Stoppable):
    """A running embedded broker; `bootstrap` is its address, for `Settings.kafka_bootstrap`.

    With `port` a restarted broker has the same address, but another, empty log.
    """

    def __init__(self, partitions: int = 4, port: int | None = None):
        self.partitions = partitions
        fixed = [] if port is None else ["--port", str(port)]
        self.server = Server(
            [sys.executable, "-m", "services.local_servers.mock_kafka", str(partitions), *fixed]
        )
        self.bootstrap = self.server.read_line()
        if not self.bootstrap:
            self.server.stop()
            raise UnavailableError("embedded broker", "it did not start; the reason is on stderr")

    def stop(self) -> None:
        """Stop; idempotent."""
        self.server.stop()
