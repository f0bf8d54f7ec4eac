"""The servers of the rig: a primary with its synchronous standby, and three brokers with a login.

What relay's processes are told to connect to are proxies; the rig itself takes the direct way.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from relay.dev.postgres import EmbeddedPostgres
from tests.faults.proxy import Proxies
from tests.support.kafka import ApacheKafka
from tests.support.processes import running
from tests.support.replicas import execute, follow

HOSTS: Final = ("one", "two")
DISK_MEGABYTES: Final = 2_000
CONNECTIONS: Final = 90
_SETTINGS: Final = {
    "max_connections": str(CONNECTIONS),
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "min_wal_size": "64MB",
    # The standby finds what it has not read yet when the primary comes up after a crash: without
    # it, or a slot, the recovery may remove it, and no commit is ever acknowledged again.
    "wal_keep_size": "256MB",
    "wal_receiver_status_interval": "1",
    "wal_retrieve_retry_interval": "500ms",
    "autovacuum_naptime": "5s",
}


class Postgres:
    """Two hosts, one of which takes writes; each on a small disk of its own where that can be had.

    `by` names who connects: ``by="receiver"`` has ways of its own, ``receiver>one`` and
    ``receiver>two``. The way ``bouncer>primary`` follows whoever is the primary, as a virtual
    address would.
    """

    def __init__(self, directory: Path, proxies: Proxies) -> None:
        self._directory = directory
        self._proxies = proxies
        self._made = 0
        self._servers: dict[str, EmbeddedPostgres] = {}
        self._disks: list[Path] = []
        self._callers: list[str] = []
        self.leader: str = HOSTS[0]
        self.has_disks = True

    @property
    def server(self) -> EmbeddedPostgres:
        """The primary."""
        return self._servers[self.leader]

    @property
    def follower(self) -> str:
        return HOSTS[1 - HOSTS.index(self.leader)]

    @property
    def standby(self) -> EmbeddedPostgres:
        return self._servers[self.follower]

    async def start(self) -> None:
        for host in HOSTS:
            self.sockets(host).mkdir()
            self.sockets(host).chmod(0o777)
        self._new(self.leader)
        await asyncio.to_thread(self.server.start)
        await self.follow()
        for host in HOSTS:
            self._link(host)
        await self._proxies.open("bouncer>primary", self.server.port)

    def stop(self) -> None:
        for server in self._servers.values():
            server.stop()
            self._keep_log(server)
        for disk in self._disks:
            subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)

    async def url(self, by: str) -> str:
        """Of both hosts through the ways of a caller; the primary of the start comes last."""
        if by not in self._callers:
            self._callers.append(by)
            for host in HOSTS:
                await self._proxies.open(f"{by}>{host}", self._servers[host].port)
        ports = [self._proxies.ports[f"{by}>{host}"] for host in reversed(HOSTS)]
        parts = urlsplit(self.server.dsn)
        login = parts.netloc.rpartition("@")[0]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return parts._replace(netloc=f"{login}@{hosts}").geturl()

    def url_by_socket(self) -> str:
        """Of both hosts by their Unix sockets."""
        parts = urlsplit(self.server.dsn)
        login = parts.netloc.rpartition("@")[0]
        hosts = ",".join(str(self.sockets(host)) for host in reversed(HOSTS))
        return f"postgresql://{login}@{parts.path}?host={hosts}&port=5432"

    def sockets(self, host: str) -> Path:
        return self._directory / f"socket-{host}"

    async def crash(self) -> None:
        """The primary ends at once, as with `pg_ctl stop -m immediate`; `recover` starts it."""
        os.kill(self.server.pid, signal.SIGQUIT)
        await asyncio.to_thread(self.server.stop)

    async def recover(self) -> None:
        await asyncio.to_thread(self.server.start)
        await self._lead_ways()

    async def fail_over(self) -> None:
        """The primary crashes and the standby takes its place; `follow` makes it whole again."""
        await self.crash()
        await execute(self.standby, "SELECT pg_promote()")
        self.leader = self.follower
        await self._lead_ways()

    async def follow(self) -> None:
        """Make a new synchronous standby of the primary, in the place of what was there."""
        await follow(self.server, self._new(self.follower))
        await self._lead_ways()

    async def connect(self) -> asyncpg.Connection:
        """To the primary, as its superuser."""
        return await asyncpg.connect(self.server.dsn, timeout=5.0)

    def fill_disk(self) -> None:
        """Not a byte is left for the primary; `free_disk` gives it back."""
        with suppress(OSError), self._filler.open("wb") as filler:
            while True:
                filler.write(b"\0" * 65_536)
                filler.flush()

    def free_disk(self) -> None:
        self._filler.unlink(missing_ok=True)

    @property
    def is_running(self) -> bool:
        """Whether the primary has not ended by itself."""
        return running(self.server.pid)

    @property
    def _filler(self) -> Path:
        return self.server.data_dir.parent / "filler"

    def _new(self, host: str) -> EmbeddedPostgres:
        if host in self._servers:
            old = self._servers[host].data_dir
            self._servers[host].stop()
            self._keep_log(self._servers[host])
            shutil.rmtree(old)
            disk = old.parent
        else:
            disk = self._directory / f"disk-{host}"
            disk.mkdir(mode=0o755)
            self._mount(disk)
        self._made += 1
        settings = _SETTINGS | {"unix_socket_directories": str(self.sockets(host))}
        server = EmbeddedPostgres(disk / f"pg{self._made}", settings=settings)
        self._servers[host] = server
        return server

    def _keep_log(self, server: EmbeddedPostgres) -> None:
        """Beside those of the other processes: the disk that it is on is taken away."""
        shutil.copyfile(server.log, self._directory / f"postgres-{server.data_dir.name}.log")

    def _mount(self, disk: Path) -> None:
        size = f"size={DISK_MEGABYTES}m,mode=755"
        mounting: list[str | Path] = ["mount", "-t", "tmpfs", "-o", size, "relay-faults", disk]
        if subprocess.run(mounting, check=False, capture_output=True).returncode == 0:
            self._disks.append(disk)
        else:
            self.has_disks = False

    async def _lead_ways(self) -> None:
        for host, server in self._servers.items():
            self._link(host)
            for by in self._callers:
                await self._proxies.lead(f"{by}>{host}", server.port)
        if "bouncer>primary" in self._proxies.ports:
            await self._proxies.lead("bouncer>primary", self.server.port)

    def _link(self, host: str) -> None:
        """Whatever its port is, the socket of a host has one name."""
        link = self.sockets(host) / ".s.PGSQL.5432"
        link.unlink(missing_ok=True)
        link.symlink_to(f".s.PGSQL.{self._servers[host].port}")


USER, PASSWORD = "relay", "correct horse"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"


class Kafka:
    """Three brokers. relay logs in by proxies, ``forwarder>broker-0`` and so on."""

    def __init__(self, directory: Path, proxies: Proxies) -> None:
        self._proxies = proxies
        self.cluster = ApacheKafka(
            directory,
            brokers=3,
            listeners={"CLIENTS": "SASL_PLAINTEXT"},
            settings={
                "listener.name.clients.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.clients.plain.sasl.jaas.config": (
                    f'{_PLAIN} required user_{USER}="{PASSWORD}";'
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
                "allow.everyone.if.no.acl.found": "true",
                # The clock of the records is the brokers', who all have the one of the rig.
                "log.message.timestamp.type": "LogAppendTime",
                # A dead broker is noticed in seconds.
                "broker.session.timeout.ms": "2000",
                "broker.heartbeat.interval.ms": "500",
                "replica.lag.time.max.ms": "3000",
                "controller.quorum.election.timeout.ms": "500",
                "controller.quorum.fetch.timeout.ms": "1000",
                "connection.failed.authentication.delay.ms": "0",
                "delete.topic.enable": "true",
            },
        )

    async def start(self) -> None:
        ports = []
        for broker, port in enumerate(self.cluster.further_ports("CLIENTS")):
            ports.append(await self._proxies.open(f"forwarder>broker-{broker}", port))
        self.cluster.advertise("CLIENTS", ports)
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port in ports)
        await asyncio.to_thread(self.cluster.start)

    def stop(self) -> None:
        self.cluster.stop()

    @property
    def settings(self) -> dict[str, str]:
        """What relay has to know."""
        return {
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "RELAY_KAFKA_SASL_MECHANISM": "PLAIN",
            "RELAY_KAFKA_SASL_USERNAME": USER,
            "RELAY_KAFKA_SASL_PASSWORD": PASSWORD,
        }

    @cached_property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.cluster.bootstrap_servers, "log_level": 0})

    def has_topic(self, name: str) -> bool:
        """Blocks."""
        return name in self.admin.list_topics(timeout=5).topics

    async def make_topic(self, name: str) -> None:
        await _done(self.admin.create_topics([NewTopic(name, 6, 3)]))

    async def delete_topic(self, name: str) -> None:
        await _done(self.admin.delete_topics([name]))

    async def limit_topic(self, name: str, max_bytes: int | None) -> None:
        """The largest record that a topic takes; None for what the brokers say."""
        operation = AlterConfigOpType.DELETE if max_bytes is None else AlterConfigOpType.SET
        entry = ConfigEntry(
            "max.message.bytes", str(max_bytes or ""), incremental_operation=operation
        )
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])
        await _done(self.admin.incremental_alter_configs([resource]))

    async def forbid(self, topic: str) -> None:
        """relay may not write to a topic; `allow` takes that back."""
        where = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{USER}", "*")
        await _done(
            self.admin.create_acls([AclBinding(*where, AclOperation.WRITE, AclPermissionType.DENY)])
        )

    async def allow(self, topic: str) -> None:
        where = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{USER}", "*")
        every = AclBindingFilter(*where, AclOperation.ANY, AclPermissionType.ANY)
        await _done(self.admin.delete_acls([every]))


async def _done(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        await asyncio.to_thread(future.result, 30)
