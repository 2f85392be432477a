"""Apache Kafka 4 as one process (KRaft: broker and controller), for durable local runs and for tests.

It needs Java 17. Maven fetches the jars the first time (43 MB, `infra/kafka/pom.xml`).
"""

import base64
import shutil
import subprocess
import uuid
from pathlib import Path

from services import bootstrap
from services.errors import ConfigurationError
from services.local_servers.directory_lock import DirectoryLock
from services.local_servers.process import Server, Stoppable, answers, free_port
from services.settings import Settings

HOST = "127.0.0.1"
POM = Path(__file__).resolve().parents[2] / "infra" / "kafka" / "pom.xml"
START_S = 60.0
JVM = ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
QUIET = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]


def kafka_jars(pom: Path = POM) -> Path:
    """Folder with Kafka's jars; Maven fetches them the first time. Raises ConfigurationError."""
    jars = pom.parent / "target" / "dependency"
    if any(jars.glob("kafka_*.jar")):
        return jars
    if not pom.exists():
        raise ConfigurationError(f"{pom}: not found; run from a checkout, or use a running Kafka instead")
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigurationError(
            "mvn: not on PATH; install Maven and Java 17, or use a running Kafka instead"
        )
    command = [maven, "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigurationError(
            f"Maven could not resolve Kafka's jars: {done.stdout[-2_000:]}{done.stderr[-500:]}"
        )
    return jars


class LocalKafka(Stoppable):
    """A running Kafka that keeps its log in `directory`. `bootstrap` is its address."""

    def __init__(self, directory: Path, partitions: int = 32, port: int | None = None):
        self.directory = directory.resolve()
        self.partitions = partitions
        self.port = port or free_port(HOST)
        self._jars = kafka_jars()
        self._lock = DirectoryLock(self.directory, "Kafka")
        try:
            self._format()
            self.server = self._start()
        except BaseException:
            self._lock.release()
            raise

    @property
    def bootstrap(self) -> str:
        """For `Settings.kafka_bootstrap`."""
        return f"{HOST}:{self.port}"

    @property
    def settings(self) -> Settings:
        """Settings of this broker, and defaults."""
        return Settings(kafka_bootstrap=self.bootstrap, kafka_mode="kafka", kafka_partitions=self.partitions)

    def create_topics(self) -> list[str]:
        """Create the topics that are missing; return their names."""
        return bootstrap.log_admin(self.settings).create_topics(self.partitions)

    def restart(self) -> None:
        """Start again on the same port and log after `server.kill()` or `server.stop()`."""
        self.server.stop()
        self.server = self._start()

    def stop(self) -> None:
        """Stop; the log stays in `directory`. Idempotent."""
        self.server.stop()
        self._lock.release()

    def _format(self) -> None:
        properties = self.directory / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if (self.directory / "log" / "meta.properties").exists():
            return
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        # with `=`, because one id in 64 begins with a dash and would be taken for an option
        format_log = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(properties)]
        done = subprocess.run(self._java(*format_log), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ConfigurationError(
                f"{self.directory}: can't be formatted for Kafka: {done.stdout}{done.stderr}"
            )

    def _start(self) -> Server:
        command = self._java("kafka.Kafka", str(self.directory / "server.properties"))
        server = Server(command, log=self.directory / "kafka.log", lock=self._lock)
        server.wait_until(lambda: answers(HOST, self.port), START_S, "Apache Kafka")
        return server

    def _java(self, *arguments: str) -> list[str]:
        java = shutil.which("java")
        if java is None:
            raise ConfigurationError("java: not on PATH; install Java 17, or use a running Kafka instead")
        return [java, *JVM, *QUIET, "-cp", f"{self._jars}/*", *arguments]

    def _properties(self) -> dict[str, object]:
        controller = free_port(HOST)
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{controller}",
            "log.dirs": self.directory / "log",
            "auto.create.topics.enable": "false",
            "delete.topic.enable": "true",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker registers again once its old session is over, at 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 s
            # after its start: back in 4 s with a session of 2 s, 11 s with 3 s, 12 s with the default of 9 s.
            "broker.session.timeout.ms": 2_000,
            "broker.heartbeat.interval.ms": 500,
        }
