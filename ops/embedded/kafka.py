"""Apache Kafka, one KRaft node on loopback, as a child process."""

import asyncio
import base64
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient

from ops.embedded.java import Java
from ops.embedded.spec import ChildSpec, launch
from ops.embedded.state import Home
from ops.errors import Refused
from ops.settings import EmbeddedSettings

__all__ = ["Kafka"]

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
log.retention.hours={retention_hours}
num.network.threads=2
num.io.threads=4
# A broker killed with -9 serves again only when its old registration has expired.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""

_LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c{1})%n%throwable
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server
logger.server.level = info
logger.config.name = org.apache.kafka.common.config.AbstractConfig
logger.config.level = warn
"""


@dataclass(frozen=True)
class Kafka:
    """One embedded broker: its place, its ports, its Java and class path, more options of Java."""

    home: Home
    port: int
    controller_port: int
    java: Java
    class_path: str
    settings: EmbeddedSettings
    options: tuple[str, ...] = ()

    @property
    def bootstrap_servers(self) -> str:
        """Where clients begin."""
        return f"127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The broker's data folder."""
        return self.home.kafka / "data"

    def spec(self) -> ChildSpec:
        """Return how to run it."""
        heap = self.settings.kafka_heap_mb
        memory = [f"-Xms{heap // 2}m", f"-Xmx{heap}m", "-XX:+ExitOnOutOfMemoryError"]
        java = self._java(*memory, "-XX:+UseG1GC", *self.options)
        return ChildSpec(
            name="kafka",
            argv=[*java, "kafka.Kafka", str(self._properties)],
            ready=self.answers,
            env=self._environment(),
            cwd=self.home.kafka,
            prepare=self.prepare,
            port=self.port,
        )

    async def answers(self) -> None:
        """Raise unless the broker is registered and says so to a client."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.close()  # it listens: only now ask, since aiokafka logs every failure as an error
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.bootstrap_servers, request_timeout_ms=5000
        )
        try:
            await admin.start()
            if not (await admin.describe_cluster())["brokers"]:
                raise ConnectionError("the broker is not registered yet")
        finally:
            await admin.close()

    async def prepare(self) -> None:
        """Write the configuration, and format the data folder if there is none."""
        await asyncio.to_thread(self.set_up)

    def wipe(self) -> None:
        """Delete everything that the broker holds; it must be down."""
        if self.data.exists():
            doomed = self.data.rename(self.home.kafka / f"doomed-{uuid.uuid4().hex}")
            shutil.rmtree(doomed)

    @property
    def _properties(self) -> Path:
        return self.home.kafka / "server.properties"

    def set_up(self) -> None:
        """Do what `prepare` does, in this thread."""
        self._configure(self._properties, self.data)
        (self.home.kafka / "log4j2.properties").write_text(_LOG4J)
        (self.home.kafka / "tmp").mkdir(exist_ok=True)
        if not self.data.exists():
            self._format()

    def _configure(self, path: Path, data: Path) -> None:
        text = _PROPERTIES.format(
            port=self.port,
            controller_port=self.controller_port,
            data=data,
            retention_hours=self.settings.kafka_retention_hours,
        )
        path.write_text(text)

    def _format(self) -> None:
        """Format a folder beside the data's place and move it there: a kill leaves none or all."""
        draft, properties = self.home.kafka / "draft", self.home.kafka / "draft.properties"
        shutil.rmtree(draft, ignore_errors=True)
        self._configure(properties, draft)
        cluster = base64.urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        command = [
            *self._java("-Xmx128m", "-XX:TieredStopAtLevel=1"),
            *("kafka.tools.StorageTool", "format", "--standalone"),
            *("-t", cluster, "-c", str(properties)),
        ]
        done = subprocess.run(
            launch(command, None),
            capture_output=True,
            text=True,
            check=False,
            env=self.spec().environment(),
        )
        if done.returncode != 0:
            raise Refused(
                f"Kafka cannot format {self.data}: {(done.stderr or done.stdout).strip()[-600:]}",
                "Is the disk full or read-only?",
            )
        draft.rename(self.data)

    def _java(self, *options: str) -> list[str]:
        native = ["--enable-native-access=ALL-UNNAMED"] if self.java.major > 17 else []  # noqa: PLR2004
        return [
            *(str(self.java.program), *options, *native),
            f"-Dlog4j2.configurationFile={self.home.kafka / 'log4j2.properties'}",
            f"-Djava.io.tmpdir={self.home.kafka / 'tmp'}",
        ]

    def _environment(self) -> dict[str, str]:
        # The class path goes here: 45 paths would hide everything else on the command line.
        return {"CLASSPATH": self.class_path, "LC_ALL": "C"}
