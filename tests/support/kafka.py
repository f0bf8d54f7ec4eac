"""Apache Kafka in KRaft mode, on the jars that Maven brings: one broker or a few.

The embedded broker refuses nothing; whatever Kafka refuses is tested on this one. By hand:

    python -m tests.support.kafka fetch
    python -m tests.support.kafka run --brokers 3
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from relay.dev.process import Process, Service, StartError, free_port, last_lines

POM = Path(__file__).with_name("apache-kafka.xml")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "kafka"

START_SECONDS = 120.0
_STOP_WITH = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0))
# Small heaps and a quick start: three of them share two cores with everything else.
_JAVA = ("-Xms128m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
_LOGGING = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


class ApacheKafka(Service):
    """A cluster of `brokers` brokers below `directory`; each is a controller as well.

    It does not make topics by itself, and with three brokers a record needs two replicas
    (`min.insync.replicas`). `settings` are further server settings. `listeners` are listeners
    beside the plain one, by name, and the security protocol of each (`{"LOGIN": "SASL_SSL"}`).
    `java` are the options of the virtual machine.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        brokers: int = 1,
        settings: dict[str, str] | None = None,
        listeners: dict[str, str] | None = None,
        java: Sequence[str] = _JAVA,
    ) -> None:
        self.directory = Path(directory).absolute()
        self._settings = settings or {}
        self._listeners = listeners or {}
        self._java = java
        self._advertised: dict[str, Sequence[int]] = {}
        self._cluster = base64.urlsafe_b64encode(b"relay" + uuid.uuid4().bytes[5:]).decode()[:22]
        ports: set[int] = set()
        while len(ports) < 2 * brokers:
            ports.add(free_port())
        self._ports = [(ports.pop(), ports.pop()) for _ in range(brokers)]
        self._further = [{name: free_port() for name in self._listeners} for _ in range(brokers)]
        self._processes: dict[int, Process] = {}

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(f"127.0.0.1:{port}" for port, _ in self._ports)

    def further_ports(self, listener: str) -> list[int]:
        """Where the brokers really listen by one of the further listeners."""
        return [ports[listener] for ports in self._further]

    def advertise(self, listener: str, ports: Sequence[int]) -> None:
        """Before the start: where clients of a further listener are sent, one port per broker.

        For proxies, which lead to `further_ports`.
        """
        self._advertised[listener] = ports

    def servers(self, listener: str) -> str:
        """The same by one of the further listeners."""
        return ",".join(f"127.0.0.1:{ports[listener]}" for ports in self._further)

    def pid(self, broker: int = 0) -> int:
        """The process id of a broker, counted from 0; to freeze it, for example."""
        return self._processes[broker].pid

    def start(self) -> None:
        fetch()
        try:
            for broker in range(len(self._ports)):
                self._format(broker)
            for broker in range(len(self._ports)):
                self._launch(broker)
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all brokers: the last one cannot hand over its partitions and is not waited for."""
        for broker in list(self._processes):
            self.kill_broker(broker)

    def start_broker(self, broker: int = 0) -> None:
        """Start one again that was stopped or killed, and wait until the cluster is whole."""
        self._launch(broker)
        self.wait_until_ready()

    def start_all(self) -> None:
        """Start every broker that does not run, all at once, and wait until they are a cluster."""
        for broker in set(range(len(self._ports))) - self._processes.keys():
            self._launch(broker)
        self.wait_until_ready()

    def stop_broker(self, broker: int = 0) -> None:
        """Stop one in order: its partitions move to the others first."""
        self._processes.pop(broker).stop()

    def kill_broker(self, broker: int = 0) -> None:
        """SIGKILL, as in a crash."""
        self._processes.pop(broker).kill()

    def wait_until_ready(self) -> None:
        """Wait until every broker that should run is seen by the cluster."""
        deadline = time.monotonic() + START_SECONDS
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        while True:
            for broker, process in self._processes.items():
                if process.exit_status is not None:
                    raise StartError(
                        f"broker {broker} ended with {process.exit_status}; its last lines:\n"
                        f"{last_lines(self._log(broker))}"
                    )
            try:
                metadata = admin.list_topics(timeout=1.0)
                if len(metadata.brokers) == len(self._processes):
                    assert metadata.cluster_id == self._cluster, "another cluster has our port"
                    return
            except KafkaException:
                pass
            if time.monotonic() >= deadline:
                raise StartError(f"Apache Kafka is not ready after {START_SECONDS} s")
            time.sleep(0.05)

    def _home(self, broker: int) -> Path:
        return self.directory / f"broker-{broker}"

    def _log(self, broker: int) -> Path:
        return self._home(broker) / "server.log"

    def _format(self, broker: int) -> None:
        home = self._home(broker)
        home.mkdir(parents=True, exist_ok=True)
        properties = home / "server.properties"
        settings = self._properties(broker)
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if (home / "data" / "meta.properties").exists():
            return
        arguments = ["format", "-t", self._cluster, "-c", str(properties)]
        done = subprocess.run(
            _command(self._java, "kafka.tools.StorageTool", *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"cannot format the storage of broker {broker}:\n{done.stdout}")

    def _properties(self, broker: int) -> dict[str, str]:
        port, controller_port = self._ports[broker]
        voters = ",".join(f"{n}@127.0.0.1:{p}" for n, (_, p) in enumerate(self._ports))
        count = len(self._ports)
        replicas, in_sync = str(count), str(max(1, count - 1))
        listeners = {"PLAINTEXT": port, "CONTROLLER": controller_port} | self._further[broker]
        advertised = {"PLAINTEXT": port} | {
            name: self._advertised[name][broker] if name in self._advertised else at
            for name, at in self._further[broker].items()
        }
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"} | self._listeners
        return {
            "process.roles": "broker,controller",
            "node.id": str(broker),
            "controller.quorum.voters": voters,
            "listeners": _addresses(listeners),
            "advertised.listeners": _addresses(advertised),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(map(":".join, protocols.items())),
            "log.dirs": str(self._home(broker) / "data"),
            "auto.create.topics.enable": "false",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
            "group.initial.rebalance.delay.ms": "0",
            # Every test leaves its topics behind: keep what each of them costs small.
            "log.index.size.max.bytes": str(64 * 1024),
            **self._settings,
        }

    def _launch(self, broker: int) -> None:
        properties = self._home(broker) / "server.properties"
        with self._log(broker).open("ab") as log:
            self._processes[broker] = Process(
                _command(self._java, "kafka.Kafka", str(properties)),
                log=log,
                stop_with=_STOP_WITH,
            )


def _addresses(ports: Mapping[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def fetch() -> Path:
    """The directory with Kafka's jars; Maven brings them when they are not there yet."""
    version = ElementTree.parse(POM).getroot().findtext("{*}version")
    jars = CACHE / f"{version}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if jars.is_dir():
            return jars
        maven = shutil.which("mvn")
        if maven is None:
            raise StartError("Apache Kafka comes by Maven: install it (Debian: `maven`)")
        unfinished = CACHE / f"{version}.new"
        command = [maven, "--quiet", "--batch-mode", "--file", str(POM)]
        command += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        command += [f"-DoutputDirectory={unfinished}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise StartError(f"Maven could not bring Apache Kafka {version}:\n{done.stdout}")
        unfinished.rename(jars)
    return jars


def _command(options: Sequence[str], main_class: str, *arguments: str) -> Sequence[str]:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise StartError("Apache Kafka needs Java 17 or later (Debian: `default-jre-headless`)")
    return [java, *options, _LOGGING, "-cp", f"{fetch()}/*", main_class, *arguments]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.kafka", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="bring the jars")
    run = commands.add_parser("run", help="run a cluster until Ctrl-C")
    run.add_argument("--brokers", type=int, default=1, metavar="N")
    options = parser.parse_args()
    if options.command == "fetch":
        print(fetch())
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="relay-kafka-") as directory,
        ApacheKafka(directory, brokers=options.brokers) as cluster,
    ):
        print(cluster.bootstrap_servers, flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
