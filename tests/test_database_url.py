"""What the URL of the database may say: it works, or it is refused by name and with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.settings import postgres
from relay.settings.postgres import Liveness, route, secrets_of


def read(url: str, **environ: str) -> postgres.Route:
    return route(url, environ)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h/d", (("h", None),)),
        ("postgresql://u:p@h:5433/d", (("h", 5433),)),
        ("postgresql://h1:1,h2,[::1]:3/d", (("h1", 1), ("h2", None), ("::1", 3))),
        ("postgresql://[fe80::1]/d", (("fe80::1", None),)),
        ("postgresql:///d?host=a,b&port=1,2", (("a", 1), ("b", 2))),
        ("postgresql://a,b/d?port=7", (("a", 7), ("b", 7))),
        ("postgresql://%2Frun%2Fpg/d", (("/run/pg", None),)),
        ("postgres:///d?host=/run/pg&port=5433", (("/run/pg", 5433),)),
        ("postgresql://u@/d", ()),
        ("postgresql://u,u:p,p@a/d?host=b", (("a", None),)),
    ],
)
def test_the_hosts(url: str, hosts: object) -> None:
    assert read(url).hosts == hosts
    assert read(url).has_several_hosts is (len(read(url).hosts) > 1)


def test_the_hosts_of_the_environment_count() -> None:
    assert read("postgresql://u@/d", PGHOST="a,b").has_several_hosts
    assert not read("postgresql://u@c/d", PGHOST="a,b").has_several_hosts


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("postgresql://a,b/d", "read-write"),
        ("postgresql://a,b/d?target_session_attrs=primary", "primary"),
        ("postgresql://a/d", "any"),
        ("postgresql://a/d?target_session_attrs=read-write", "read-write"),
    ],
)
def test_relay_goes_where_it_can_write(url: str, target: str) -> None:
    assert f"target_session_attrs={target}" in read(url, PGTARGETSESSIONATTRS="standby").url


def test_a_host_of_several_has_less_time() -> None:
    assert read("postgresql://a/d").connect_seconds == 5
    assert read("postgresql://a,b/d").connect_seconds == 2
    assert read("postgresql://a,b/d?connect_timeout=9").connect_seconds == 9
    assert read("postgresql://a/d?connect_timeout=0").connect_seconds == 5


def test_when_a_silent_peer_is_given_up() -> None:
    assert read("postgresql://a/d").liveness == Liveness()
    url = "postgresql://a/d?keepalives_idle=30&keepalives_interval=10&keepalives_count=2"
    assert read(url + "&tcp_user_timeout=1000").liveness == Liveness(True, 30, 10, 2, 1000)
    assert not read("postgresql://a/d?keepalives=0").liveness.keepalive


@pytest.mark.parametrize(
    "harmless",
    [
        "channel_binding=prefer",
        "gssencmode=disable",
        "client_encoding=UTF8",
        "load_balance_hosts=disable",
        "sslsni=1",
        "sslcompression=0",
    ],
)
def test_what_is_done_anyway_is_accepted_and_not_sent_to_the_server(harmless: str) -> None:
    assert harmless.partition("=")[0] not in read(f"postgresql://a/d?{harmless}").url


def test_the_options_of_the_server_are_handed_over() -> None:
    url = read("postgresql://a/d?options=-c%20work_mem%3D8MB%20-c%20a.b%3D1").url
    assert "options=-c%20work_mem%3D8MB%20-c%20a.b%3D1" in url


def test_the_word_system_means_the_cas_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "cas.pem"
    bundle.touch()
    monkeypatch.setattr(postgres, "_SYSTEM_CAS", (str(bundle),))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    url = read("postgresql://a/d?sslrootcert=system").url
    assert "sslmode=verify-full" in url
    assert "cas.pem" in url
    with pytest.raises(ValueError, match="verify-full with sslrootcert=system"):
        read("postgresql://a/d?sslrootcert=system&sslmode=require")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("channel_binding=require", "channel_binding='require': the driver has no channel binding"),
        ("gssencmode=require", "use TLS"),
        ("load_balance_hosts=random", "the one host that takes writes"),
        ("client_encoding=latin1", "UTF-8 only"),
        ("application_name=x", "application_name: relay names its connections"),
        ("hostaddr=10.0.0.1", "hostaddr: give the address as the host"),
        ("require_auth=scram-sha-256", "require_auth"),
        ("service=prod", "service: .*write them in the URL"),
        ("sslcrldir=/x", "use sslcrl"),
        ("replication=database", "replication"),
        ("sslmod=require", "'sslmod', .*did you mean sslmode"),
        ("statement_timeout=5000", r"options=-c%20name%3Dvalue"),
        ("pgbouncer=true", "'pgbouncer', which libpq does not know"),
        ("sslmode=verify_full", "nearest: verify-full"),
        ("sslmode=yes", "sslmode that is none of disable"),
        ("target_session_attrs=standby", "relay has to write"),
        ("target_session_attrs=prefer-standby", "relay has to write"),
        ("connect_timeout=soon", "whole number of 0 or more for connect_timeout"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "sslrootcert='/nowhere.pem'.*No such"),
        ("sslmode=verify-full&sslkey=/dev/null", "sslkey without sslcert"),
        ("sslcert=/dev/null", "may do without TLS"),
        ("sslnegotiation=direct", "sslmode=require or a stricter one"),
        ("port=1,2", "another number of ports"),
        ("port=x", "no number from 1 to 65535"),
        ("a", "malformed part"),
    ],
)
def test_what_cannot_be_done_is_refused(query: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(f"postgresql://a/d?{query}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://a,b/d?target_session_attrs=any", "relay has to write"),
        ("postgresql://a,,b/d", "empty host"),
        ("postgresql://u:p@q@a/d", "@ in its password"),
        ("postgresql:///d?port=5", "port, but no host"),
    ],
)
def test_so_are_hosts_that_make_no_sense(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read(url)


def test_the_mode_of_the_environment_counts() -> None:
    read("postgresql://a/d?sslcert=/dev/null&sslkey=/dev/null", PGSSLMODE="verify-full")
    with pytest.raises(ValueError, match="sslmode that is none of"):
        read("postgresql://a/d", PGSSLMODE="yes")


def test_every_password_in_it_is_a_secret() -> None:
    url = "postgresql://u:hun%2Fter@h/d?password=swordfish&sslpassword=open%20sesame&user=x"
    assert set(secrets_of(url)) == {
        *("hun%2Fter", "hun/ter", "swordfish", "open%20sesame", "open sesame"),
    }
    assert secrets_of("postgresql://u@[::1/d") == ()


def test_how_far_tls_goes_is_what_the_driver_will_do() -> None:
    assert postgres.tls_mode("postgresql://a/d", {}) == "prefer"
    assert postgres.tls_mode("postgresql://a/d", {"PGSSLMODE": "require"}) == "require"
    given = "postgresql://a/d?sslmode=verify-full"
    assert postgres.tls_mode(given, {"PGSSLMODE": "require"}) == "verify-full"
