"""PostgreSQL over TLS: what connects, what is refused, and what is said then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import text

from relay.health import Health
from relay.store.engine import Database
from relay.store.failures import is_outage
from relay.store.trouble import explain
from tests.acceptance.fleet import Serving, command, environment, get
from tests.support.certificates import Authority
from tests.tls.servers import PASSWORD, TlsServer


@pytest.fixture
def ca(authority: Authority) -> Path:
    return authority.certificate


@pytest_asyncio.fixture
async def disguised(tls_server: TlsServer) -> AsyncIterator[TlsServer]:
    """The server, which has its proper certificate again afterwards."""
    yield tls_server
    await tls_server.present(tls_server.certificate)


async def transport(url: str) -> tuple[bool, str | None]:
    """Whether the connection is encrypted, and whom the server takes our certificate to name."""
    database = Database(url)
    try:
        async with database.begin() as connection:
            row = (
                await connection.execute(
                    text("SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
                )
            ).one()
            return bool(row.ssl), row.client_dn
    finally:
        await database.close()


async def refusal(url: str) -> str:
    """Why there is no connection."""
    database = Database(url)
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - its kind is OpenSSL's affair
            async with database.begin():
                pass
    finally:
        await database.close()
    reason = explain(caught.value)
    assert reason is not None, repr(caught.value)
    return reason


@pytest.mark.parametrize(
    ("mode", "trusts", "host"),
    [
        ("prefer", False, "127.0.0.1"),
        ("require", False, "127.0.0.1"),
        ("require", True, "127.0.0.1"),
        ("verify-ca", True, "127.0.0.1"),
        ("verify-full", True, "127.0.0.1"),
        ("verify-full", True, "localhost"),
    ],
)
async def test_the_line_is_encrypted(
    tls_server: TlsServer, ca: Path, mode: str, trusts: bool, host: str
) -> None:
    given = {"sslrootcert": ca} if trusts else {}
    assert await transport(tls_server.url(host=host, sslmode=mode, **given)) == (True, None)


async def test_a_client_certificate_logs_in_without_a_password(
    tls_server: TlsServer, authority: Authority, ca: Path
) -> None:
    pair = authority.issue("by_certificate", ())
    url = tls_server.url(
        "by_certificate",
        sslmode="verify-full",
        sslrootcert=ca,
        sslcert=pair.certificate,
        sslkey=pair.key,
    )
    assert await transport(url) == (True, "/CN=by_certificate")


async def test_a_key_with_a_passphrase(
    tls_server: TlsServer, authority: Authority, ca: Path
) -> None:
    pair = authority.issue("anybody", (), passphrase="open sesame")
    given = {"sslmode": "verify-full", "sslrootcert": ca, "sslcert": pair.certificate}
    url = tls_server.url("by_both", **given, sslkey=pair.key, sslpassword="open sesame")
    assert await transport(url) == (True, "/CN=anybody")
    wrong = tls_server.url("by_both", **given, sslkey=pair.key, sslpassword="open barley")
    assert "sslpassword is not the passphrase" in await refusal(wrong)
    none = tls_server.url("by_both", **given, sslkey=pair.key)
    assert "sslpassword" in await refusal(none)


async def test_the_cas_of_the_system(
    tls_server: TlsServer, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    assert await transport(tls_server.url(sslrootcert="system")) == (True, None)


async def test_a_server_that_nobody_vouches_for(
    disguised: TlsServer, stranger: Authority, authority: Authority, ca: Path
) -> None:
    verifying = disguised.url(sslmode="verify-full", sslrootcert=ca)
    await disguised.present(stranger.issue("server"))
    assert "sslrootcert in RELAY_DATABASE_URL" in await refusal(verifying)
    await disguised.present(authority.issue("server", ("db.example.com",)))
    assert "for another name" in await refusal(verifying)
    by_name = disguised.url(sslmode="verify-full", sslrootcert=ca, host="localhost")
    assert "for another name" in await refusal(by_name)
    assert await transport(disguised.url(sslmode="verify-ca", sslrootcert=ca)) == (True, None)
    await disguised.present(authority.issue("server", lifetime=timedelta(days=-1)))
    assert "has expired" in await refusal(verifying)


async def test_a_certificate_that_was_revoked(
    tls_server: TlsServer, authority: Authority, ca: Path
) -> None:
    revoked = authority.revoke(tls_server.certificate)
    url = tls_server.url(sslmode="verify-full", sslrootcert=ca, sslcrl=revoked)
    assert "has been revoked" in await refusal(url)


async def test_a_client_that_nobody_vouches_for(
    tls_server: TlsServer, authority: Authority, stranger: Authority, ca: Path
) -> None:
    given = {"sslmode": "verify-full", "sslrootcert": ca}
    assert "client certificate" in await refusal(tls_server.url("by_both", **given))
    assert "client certificate" in await refusal(tls_server.url("by_certificate", **given))
    foreign = stranger.issue("by_certificate", ())
    expired = authority.issue("by_certificate", (), lifetime=timedelta(days=-1))
    other = authority.issue("somebody", ())
    # With TLS 1.3 the reason is lost when the end of the connection overtakes it.
    early = "ended the connection before the login"
    for pair, told in (
        (foreign, ("does not trust our client certificate", early)),
        (expired, ("our client certificate has expired", early)),
        (other, ("our certificate is for another user",)),
    ):
        files = {"sslcert": pair.certificate, "sslkey": pair.key}
        reason = await refusal(tls_server.url("by_certificate", **given, **files))
        assert any(words in reason for words in told), reason
        assert "check sslcert and sslkey in RELAY_DATABASE_URL" in reason
    mixed = {"sslcert": other.certificate, "sslkey": foreign.key}
    assert "not that of the certificate" in await refusal(tls_server.url(**given, **mixed))


async def test_a_file_that_is_no_certificate(tls_server: TlsServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("this is no certificate\n")
    url = tls_server.url(sslmode="verify-full", sslrootcert=tmp_path / "ca.pem")
    assert "holds no certificate in PEM" in await refusal(url)


async def test_a_server_that_takes_tls_only_and_one_that_has_none(
    tls_server: TlsServer, postgres: object, database_url: str
) -> None:
    assert "TLS only" in await refusal(tls_server.url(sslmode="disable"))
    assert "does not speak it" in await refusal(f"{database_url}?sslmode=require")


async def test_a_wrong_password(tls_server: TlsServer) -> None:
    url = tls_server.url(sslmode="require").replace(PASSWORD, "wrong")
    assert await refusal(url) == "wrong user or password: check RELAY_DATABASE_URL"


async def test_readiness_tells_what_to_do_and_goes_on_by_itself(
    disguised: TlsServer, stranger: Authority, ca: Path
) -> None:
    """A certificate that the client does not trust is an outage like any other."""
    database = Database(disguised.url(sslmode="verify-full", sslrootcert=ca))
    health = Health(database)
    await disguised.present(stranger.issue("server"))
    found = (await health.check()).checks["database"]
    assert found.reason is not None
    assert "sslrootcert in RELAY_DATABASE_URL" in found.reason
    assert "127.0.0.1" not in found.reason
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED") as caught:
        async with database.begin():
            pass
    assert is_outage(caught.value)
    await disguised.present(disguised.certificate)
    health._checked_at = -float("inf")
    assert (await health.check()).checks["database"].ok
    await database.close()


@pytest.mark.slow
async def test_every_command_goes_the_same_way(
    disguised: TlsServer, authority: Authority, stranger: Authority, ca: Path, tmp_path: Path
) -> None:
    pair = authority.issue("by_certificate", ())
    url = disguised.url(
        "by_certificate",
        sslmode="verify-full",
        sslrootcert=ca,
        sslcert=pair.certificate,
        sslkey=pair.key,
    )
    settings = environment(RELAY_DATABASE_URL=url)
    for arguments in (("migrate",), ("source", "list"), ("status",)):
        status, _, errors = await command(*arguments, environment=settings)
        assert status == 0, errors
    process = Serving("receiver", settings, tmp_path / "log")
    try:
        await process.ready()
        assert await process.stop() == 0
    finally:
        await process.kill()
    await disguised.present(stranger.issue("server"))
    for arguments in (("migrate",), ("status",)):
        status, _, errors = await command(*arguments, environment=settings)
        assert status == 1
        assert "sslrootcert in RELAY_DATABASE_URL" in errors
        assert "Traceback" not in errors
    process = Serving("receiver", settings, tmp_path / "log2")
    try:
        await process.started()
        assert b"sslrootcert" in (await get(process.admin_port, "/readyz")).body
        told = process.lines("app.database_away") + process.lines("receiver.sources_unavailable")
        assert any("sslrootcert" in str(line["reason"]) for line in told)
        await disguised.present(disguised.certificate)
        await process.ready()
    finally:
        await process.kill()
