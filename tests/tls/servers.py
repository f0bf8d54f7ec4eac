"""A PostgreSQL server that speaks TLS, and changes its mind about certificates when told to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import quote

import asyncpg

from relay.dev.postgres import EmbeddedPostgres, run_as
from tests.support.certificates import Authority, Pair

PASSWORD = "swordfish-99"
# What the server asks of each role; only the superuser may come without TLS.
HBA = """
hostssl all by_password    127.0.0.1/32 scram-sha-256
hostssl all by_certificate 127.0.0.1/32 cert
hostssl all by_both        127.0.0.1/32 scram-sha-256 clientcert=verify-ca
host    all postgres       127.0.0.1/32 scram-sha-256
"""


class TlsServer:
    """`server` with a certificate of `authority`; roles as in `HBA`, each may do everything."""

    def __init__(self, server: EmbeddedPostgres, authority: Authority) -> None:
        self.server = server
        self.authority = authority
        self.certificate = authority.issue("server")

    async def set_up(self) -> None:
        (self.server.cluster / "pg_hba.conf").write_text(HBA)
        authority = self._place(self.authority.certificate)
        await self._execute(f"ALTER SYSTEM SET ssl_ca_file = '{authority}'")
        await self.present(self.certificate)
        for role in ("by_password", "by_certificate", "by_both"):
            await self._execute(f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")

    async def present(self, pair: Pair) -> None:
        """From now on the server shows this certificate."""
        certificate, key = self._place(pair.certificate), self._place(pair.key)
        await self._execute(f"ALTER SYSTEM SET ssl_cert_file = '{certificate}'")
        await self._execute(f"ALTER SYSTEM SET ssl_key_file = '{key}'")
        await self._execute("ALTER SYSTEM SET ssl = on")
        await self._execute("SELECT pg_reload_conf()")

    def url(self, role: str = "by_password", *, host: str = "127.0.0.1", **query: object) -> str:
        """A URL for the role, with the password where it has to give one."""
        login = role if role == "by_certificate" else f"{role}:{PASSWORD}"
        rest = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in query.items())
        return f"postgresql://{login}@{host}:{self.server.port}/postgres?{rest}"

    def _place(self, file: Path) -> Path:
        """A copy that the server may read."""
        copy = self.server.cluster / file.name
        shutil.copyfile(file, copy)
        copy.chmod(0o600)
        owner = run_as(self.server.cluster)
        if owner is not None:
            os.chown(copy, *owner)
        return copy

    async def _execute(self, statement: str) -> None:
        pg = await asyncpg.connect(self.server.dsn)
        try:
            await pg.execute(statement)
        finally:
            await pg.close()
