"""An Apache Kafka that asks for TLS, for a login, or for a certificate."""

from __future__ import annotations

import asyncio
import ssl
from functools import cached_property
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.support.certificates import Authority, Pair
from tests.support.kafka import ApacheKafka
from tests.support.processes import eventually

USER, PASSWORD = "relay", "correct horse"
# Everybody else may do everything.
LESSER = "lesser"
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule"


class SecureKafka:
    """One broker: `LOGIN` wants a user and a password over TLS, `MUTUAL` a client certificate."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self._directory = directory
        self.authority = authority
        self.certificate = authority.issue("broker")
        self.broker = ApacheKafka(
            directory / "kafka",
            listeners={"LOGIN": "SASL_SSL", "MUTUAL": "SSL"},
            settings={
                "ssl.keystore.type": "PEM",
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(authority.certificate),
                "ssl.keystore.location": str(self._keystore(self.certificate)),
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.login.plain.sasl.jaas.config": (
                    f'{_PLAIN} required user_{USER}="{PASSWORD}" user_{LESSER}="{PASSWORD}";'
                ),
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
                "listener.name.login.scram-sha-512.sasl.jaas.config": f"{_SCRAM} required;",
                # The certificate may change to one for another name.
                "ssl.allow.dn.changes": "true",
                "ssl.allow.san.changes": "true",
                # Each thread takes a new certificate over in its own time.
                "num.network.threads": "1",
                # A wrong password is answered at once.
                "connection.failed.authentication.delay.ms": "0",
            },
        )

    def servers(self, listener: str) -> str:
        return self.broker.servers(listener)

    async def set_password(self, password: str = PASSWORD) -> None:
        """The user's password by SCRAM from now on."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = UserScramCredentialUpsertion(USER, info, password.encode())
        for future in self._admin.alter_user_scram_credentials([wanted]).values():
            await asyncio.to_thread(future.result)

    async def allow(self, prefix: str, *operations: AclOperation) -> None:
        """Let the lesser user do this with the topics of a prefix."""
        where = (ResourceType.TOPIC, prefix, ResourcePatternType.PREFIXED, f"User:{LESSER}", "*")
        rules = [AclBinding(*where, each, AclPermissionType.ALLOW) for each in operations]
        for future in self._admin.create_acls(rules).values():
            await asyncio.to_thread(future.result)

    async def present(self, pair: Pair) -> None:
        """From now on both listeners show this certificate."""
        changes = [
            ConfigEntry(
                f"listener.name.{name}.ssl.keystore.location",
                str(self._keystore(pair)),
                incremental_operation=AlterConfigOpType.SET,
            )
            for name in ("login", "mutual")
        ]
        resource = ConfigResource(ResourceType.BROKER, "0", incremental_configs=changes)
        for future in self._admin.incremental_alter_configs([resource]).values():
            await asyncio.to_thread(future.result)
        wanted = pair.certificate.read_text()
        await eventually(lambda: self._shown() == wanted)

    def _shown(self) -> str:
        host, port = self.servers("LOGIN").split(":")
        return ssl.get_server_certificate((host, int(port)))

    @cached_property
    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.bootstrap_servers})

    def _keystore(self, pair: Pair) -> Path:
        """Key and certificate in one file, as Kafka wants it."""
        path = pair.certificate.with_suffix(".keystore")
        path.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
        return path
