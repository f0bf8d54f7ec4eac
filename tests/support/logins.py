"""Logins with the least rights: what the product's processes run as in tests.

The tests themselves look at the database as its owner.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import asyncpg

from relay.store.roles import ROLES

LOGINS = {
    "receiver": ["relay_receiver"],
    "forwarder": ["relay_forwarder"],
    "snapshotter": ["relay_snapshotter"],
    "admin": ["relay_admin"],
    "migrator": ["relay_migrator"],
    "auditor": ["relay_auditor"],
    # A process of several roles.
    "services": ["relay_receiver", "relay_forwarder", "relay_snapshotter", "relay_admin"],
}
_PASSWORD = "for-tests-only"

_owners: set[str] = set()
"""The credentials that ``as_login`` takes out of URLs."""


async def make_logins(dsn: str) -> None:
    """Make the groups and the logins on the server, as the superuser of ``dsn``.

    Those that are there already stay: roles are of the whole server, and runs may share one.
    """
    _owners.add(_credentials(dsn))
    pg = await asyncpg.connect(dsn)
    try:
        for group in ROLES:
            await _make(pg, f"CREATE ROLE {group} NOLOGIN")
        for name, groups in LOGINS.items():
            login = f"CREATE ROLE {_login(name)} LOGIN PASSWORD '{_PASSWORD}'"
            await _make(pg, f"{login} IN ROLE {', '.join(groups)}")
    finally:
        await pg.close()


async def _make(pg: asyncpg.Connection, statement: str) -> None:
    try:
        await pg.execute(statement)
    except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
        return


def as_login(url: str, name: str) -> str:
    """The same database as one of the logins; a URL that is not the owner's stays as it is."""
    if _credentials(url) not in _owners:
        return url
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{_login(name)}:{_PASSWORD}@{place}").geturl()


def login_of(roles: str) -> str:
    """Which login a process with these roles has; ``roles`` as for `relay serve --roles`."""
    return roles if roles in LOGINS else "services"


def _login(name: str) -> str:
    return f"relay_test_{name}"


def _credentials(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[0]
