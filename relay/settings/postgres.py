"""The libpq URL of the database: what it may say, and what becomes of it.

The driver (asyncpg) does not know all of libpq's parameters, and what it does not know it sends to
the server as a setting, which then refuses the connection for a reason that nobody understands. So
each parameter either works here, or is refused by name with the reason.
"""

from __future__ import annotations

import difflib
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, parse_qsl, quote, unquote, urlsplit, urlunsplit

import msgspec

CONNECT_SECONDS: Final = 5.0
"""Long enough for a busy server, short enough that a black hole is noticed while a client waits."""
CONNECT_SECONDS_PER_HOST: Final = 2.0
"""With several hosts: a dead one must not use up the time in which the next would have answered."""

# The driver understands them as libpq does.
_DRIVER: Final = {
    *("host", "port", "user", "password", "passfile", "dbname", "database", "options"),
    *("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert", "sslcrl", "sslnegotiation"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version", "target_session_attrs"),
    *("krbsrvname", "gsslib"),
}
# The values that say what is done anyway; every other one is refused with the reason.
_ONLY: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "channel_binding": (
        frozenset({"prefer", "disable"}),
        "the driver has no channel binding: take it out, and let sslmode=verify-full make sure of"
        " the server",
    ),
    "client_encoding": (frozenset({"utf8", "utf-8", "auto"}), "relay speaks UTF-8 only"),
    "gssencmode": (
        frozenset({"disable", "prefer"}),
        "the driver has no encryption by GSSAPI: use TLS (sslmode)",
    ),
    "gssdelegation": (frozenset({"0"}), "the driver does not delegate credentials"),
    "load_balance_hosts": (
        frozenset({"disable"}),
        "relay needs the one host that takes writes",
    ),
    "sslcertmode": (
        frozenset({"allow"}),
        "the driver sends the client certificate that sslcert names, and none without it",
    ),
    "sslcompression": (frozenset({"0"}), "TLS compression is unsafe and no longer exists"),
    "sslsni": (frozenset({"1"}), "the driver always sends the server's name"),
}
_REFUSED: Final[Mapping[str, str]] = {
    "application_name": "relay names its connections itself (relay-receiver, relay-cli …)",
    "fallback_application_name": "relay names its connections itself (relay-receiver, relay-cli …)",
    "hostaddr": "give the address as the host",
    "replication": "relay is no replication client",
    "require_auth": "the driver cannot choose; let pg_hba.conf on the server do so",
    "requirepeer": "the driver cannot check the owner of a Unix socket",
    "scram_client_key": "the driver logs in with a password or a certificate",
    "scram_server_key": "the driver logs in with a password or a certificate",
    "service": "the driver would not tell how many hosts that is: write them in the URL",
    "servicefile": "the driver would not tell how many hosts that is: write them in the URL",
    "sslcrldir": "the driver takes one file: use sslcrl",
    "sslkeylogfile": "it would write down the keys of the session",
}
_FIGURES: Final = {
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval"),
    *("keepalives_count", "tcp_user_timeout"),
}
_KNOWN: Final = (*_DRIVER, *_ONLY, *_REFUSED, *_FIGURES)
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_WRITING: Final = ("read-write", "primary")
# Where systems keep the CAs that everybody trusts, when OpenSSL's own place is empty.
_SYSTEM_CAS: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


class Liveness(msgspec.Struct, frozen=True):
    """When the kernel gives a silent peer up; seconds, but milliseconds as libpq has them.

    Dead after about 15 s by default, whether we wait for an answer or for the peer to take bytes.
    """

    keepalive: bool = True
    idle_seconds: int = 5
    interval_seconds: int = 3
    count: int = 3
    user_timeout_ms: int = 15_000


class Route(msgspec.Struct, frozen=True):
    """How to reach the database.

    ``url`` is for the driver, which tries one of ``hosts`` at a time; when there are none it looks
    for a Unix socket.
    """

    url: str
    hosts: tuple[tuple[str, int | None], ...]
    connect_seconds: float
    liveness: Liveness

    @property
    def has_several_hosts(self) -> bool:
        """Whether a failover is foreseen."""
        return len(self.hosts) > 1


def route(url: str, environ: Mapping[str, str] = os.environ) -> Route:
    """Read a libpq URL. Raises ValueError, whose text fits behind ``RELAY_DATABASE_URL``.

    The text never holds a value of the URL. Of ``environ`` the driver takes what libpq takes:
    PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLMODE and so on.
    """
    parts = urlsplit(url)
    if parts.netloc.count("@") > 1:
        raise ValueError("has an @ in its password: write it as %40")
    query = _parameters(parts.query)
    hosts = _hosts(parts.netloc.rpartition("@")[2], query, environ)
    # The hosts are handed over one by one.
    passed = {k: v for k, v in query.items() if k in _DRIVER - {"host", "port"}}
    passed |= _target(passed.get("target_session_attrs"), len(hosts))
    _check_tls(passed, environ)
    several = len(hosts) > 1
    seconds = _figure(query, "connect_timeout", least=0)
    rest = "&".join(f"{name}={quote(value, safe='')}" for name, value in passed.items())
    return Route(
        url=urlunsplit(parts._replace(query=rest)),
        hosts=hosts,
        connect_seconds=float(
            seconds or (CONNECT_SECONDS_PER_HOST if several else CONNECT_SECONDS)
        ),
        liveness=_liveness(query),
    )


def tls_mode(url: str, environ: Mapping[str, str] = os.environ) -> str:
    """The sslmode in force, in libpq's words."""
    query = parse_qs(urlsplit(route(url, environ).url).query)
    return query.get("sslmode", [environ.get("PGSSLMODE", "prefer")])[-1]


def secrets_of(url: str) -> tuple[str, ...]:
    """The passwords in a URL, as they are written there and as they are meant."""
    try:
        parts = urlsplit(url)
        found = [parts.netloc.rpartition("@")[0].partition(":")[2]]
        for pair in parts.query.split("&"):
            name, _, value = pair.partition("=")
            if "password" in name.lower():
                found.append(value)
    except ValueError:
        return ()
    return tuple(dict.fromkeys(text for each in found for text in (each, unquote(each)) if text))


def _parameters(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True) if text else []
    except ValueError:
        raise ValueError("has a malformed part behind its '?': write name=value&…") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        # The JDBC spelling that libpq accepts as well.
        name, value = ("sslmode", "require") if (name, value) == ("ssl", "true") else (name, value)
        if name in _REFUSED:
            raise ValueError(f"cannot have {name}: {_REFUSED[name]}")
        if name not in _KNOWN:
            raise ValueError(f"has the parameter {name!r}, which libpq does not know{_near(name)}")
        if name in _ONLY and value.lower() not in _ONLY[name][0]:
            raise ValueError(f"cannot have {name}={value!r}: {_ONLY[name][1]}")
        query[name] = value
    return query


def _near(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), _KNOWN, 1, 0.75)
    if near:
        return f": did you mean {near[0]}?"
    return " (a setting of the server goes into options=-c%20name%3Dvalue)"


def _hosts(
    netloc: str, query: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[tuple[str, int | None], ...]:
    hosts = unquote(netloc) or query.get("host") or environ.get("PGHOST", "")
    names: list[tuple[str, int | None]] = []
    for each in hosts.split(",") if hosts else ():
        bracketed = each.startswith("[")
        host, colon, port = (each[1:].replace("]", "", 1) if bracketed else each).rpartition(":")
        if each.startswith("/") or not colon or (bracketed and each.endswith("]")):
            host, port = each.strip("[]"), ""
        if not host:
            raise ValueError("has an empty host among several: take the extra comma out")
        names.append((host, int(port) if port else None))
    ports = [_port(text) for text in query["port"].split(",")] if query.get("port") else []
    if len(ports) > 1 and len(ports) != len(names):
        raise ValueError("has another number of ports than of hosts")
    if ports:
        ports = ports * len(names) if len(ports) == 1 else ports
        names = [(host, port or given) for (host, port), given in zip(names, ports, strict=True)]
        if not names:
            raise ValueError("has a port, but no host")
    return tuple(names)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise ValueError("has a port that is no number from 1 to 65535")
    return int(text)


def _target(wanted: str | None, hosts: int) -> dict[str, str]:
    """With several hosts the one that takes writes, whatever PGTARGETSESSIONATTRS says."""
    wanted = wanted or ("read-write" if hosts > 1 else "any")
    if wanted in _WRITING or (wanted == "any" and hosts <= 1):
        return {"target_session_attrs": wanted}
    raise ValueError(
        f"cannot have target_session_attrs={wanted!r}: relay has to write; leave it out, which"
        " means read-write with several hosts"
    )


def _check_tls(query: dict[str, str], environ: Mapping[str, str]) -> None:
    """Find out at the start what would otherwise fail with the first connection."""
    modes = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
    root = query.get("sslrootcert", environ.get("PGSSLROOTCERT"))
    if root == "system":
        # As in libpq: trusting everybody's CAs is worth nothing unless the name is checked, too.
        if query.setdefault("sslmode", "verify-full") != "verify-full":
            raise ValueError("needs sslmode=verify-full with sslrootcert=system")
        query["sslrootcert"] = _system_cas()
    mode = query.get("sslmode", environ.get("PGSSLMODE", "prefer"))
    if mode not in modes:
        near = difflib.get_close_matches(mode.replace("_", "-"), modes, 1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ValueError(f"has an sslmode that is none of {', '.join(modes)}{hint}")
    for name in _FILES:
        if name in query:
            _check_file(name, query[name])
    if "sslkey" in query and "sslcert" not in query:
        raise ValueError("has sslkey without sslcert")
    if mode in ("disable", "allow", "prefer") and "sslcert" in query:
        raise ValueError(
            "has sslcert, but an sslmode that may do without TLS: use sslmode=verify-full"
        )
    if query.get("sslnegotiation", "postgres") == "direct" and mode in modes[:3]:
        raise ValueError("needs sslmode=require or a stricter one with sslnegotiation=direct")


def _check_file(name: str, path: str) -> None:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"has {name}={path!r}, which cannot be read: {error.strerror}") from None


def _system_cas() -> str:
    for path in (ssl.get_default_verify_paths().cafile, *_SYSTEM_CAS):
        if path is not None and Path(path).is_file():
            return path
    raise ValueError("has sslrootcert=system, but this system has no CAs: install ca-certificates")


def _figure(query: Mapping[str, str], name: str, *, least: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ValueError(f"needs a whole number of {least} or more for {name}")
    return int(text)


def _liveness(query: Mapping[str, str]) -> Liveness:
    usual = Liveness()
    keepalive = _figure(query, "keepalives", least=0)
    # libpq's 0 is the default of the system; ours is what a failover needs.
    return Liveness(
        keepalive=usual.keepalive if keepalive is None else keepalive != 0,
        idle_seconds=_figure(query, "keepalives_idle", least=0) or usual.idle_seconds,
        interval_seconds=_figure(query, "keepalives_interval", least=0) or usual.interval_seconds,
        count=_figure(query, "keepalives_count", least=0) or usual.count,
        user_timeout_ms=_figure(query, "tcp_user_timeout", least=0) or usual.user_timeout_ms,
    )
