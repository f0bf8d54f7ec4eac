"""Least privilege: what each role may do is what docs/security.md says, and the rest is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest

from relay.core.errors import ConfigError
from relay.store import roles
from relay.store.engine import Database
from relay.store.schema import BUILD_REVISION
from tests.support.logins import as_login

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("receiver", "forwarder", "snapshotter", "admin", "auditor")

# By object, group and privilege: the columns that it is for, or True where there are no columns.
Rights = dict[tuple[str, str, str], frozenset[str] | bool]

_ITEM = re.compile(r"(?P<privilege>[a-z]+)( (?P<but>but )?\((?P<columns>[a-z0-9_, ]+)\))?")


def documented(columns: Mapping[str, frozenset[str]]) -> Rights:
    """The table of docs/security.md. Raises AssertionError for what cannot be read."""
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    (table,) = re.findall(r"^\| in schema `relay` \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rights: Rights = {}
    for line in table.splitlines():
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        name = name.strip("`")
        assert len(cells) == len(GROUPS), line
        for group, cell in zip(GROUPS, cells, strict=True):
            for item in filter(None, cell.split("; ")):
                match = _ITEM.fullmatch(item)
                assert match, item
                rights[name, group, match["privilege"]] = _columns(match, columns.get(name))
    return rights


def _columns(match: re.Match[str], every: frozenset[str] | None) -> frozenset[str] | bool:
    if every is None or match["privilege"] == "delete":
        return True
    named = frozenset((match["columns"] or "").split(", ")) - {""}
    assert named <= every, named - every
    if match["but"] or not named:
        return every - named
    return named


# What a login can do in the end: by grants to it, to its groups and to PUBLIC.
_TABLES = """
SELECT c.relname AS name, lower(p) AS privilege,
       CASE WHEN p IN ('DELETE', 'TRUNCATE', 'TRIGGER')
            THEN ARRAY(SELECT '' WHERE has_table_privilege($1, c.oid, p))
            ELSE ARRAY(SELECT a.attname::text FROM pg_attribute a
                       WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                         AND has_column_privilege($1, c.oid, a.attnum, p)) END AS columns
FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'REFERENCES', 'DELETE', 'TRUNCATE',
                              'TRIGGER']) AS p
WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_SEQUENCES = """
SELECT c.relname AS name, lower(p) AS privilege FROM pg_class c,
    unnest(ARRAY['USAGE', 'SELECT', 'UPDATE']) AS p
WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind = 'S'
  AND has_sequence_privilege($1, c.oid, p)
"""
_FUNCTIONS = """
SELECT p.proname || '()' AS name, 'execute' AS privilege FROM pg_proc p
WHERE p.pronamespace = 'relay'::regnamespace AND has_function_privilege($1, p.oid, 'EXECUTE')
"""


async def effective(pg: asyncpg.Connection, group: str) -> Rights:
    login = f"relay_test_{group}"
    rights: Rights = {}
    for row in await pg.fetch(_TABLES, login):
        if row["columns"]:
            columns = row["columns"]
            rights[row["name"], group, row["privilege"]] = columns == [""] or frozenset(columns)
    for row in [*await pg.fetch(_SEQUENCES, login), *await pg.fetch(_FUNCTIONS, login)]:
        rights[row["name"], group, row["privilege"]] = True
    return rights


async def columns_of(pg: asyncpg.Connection) -> dict[str, frozenset[str]]:
    rows = await pg.fetch(
        """
        SELECT c.relname, array_agg(a.attname::text) AS columns
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'relay'::regnamespace AND c.relkind IN ('r', 'p', 'v') GROUP BY 1
        """
    )
    return {row["relname"]: frozenset(row["columns"]) for row in rows}


async def test_every_right_is_documented_and_every_documented_right_is_there(
    database: Database,
) -> None:
    async with database.driver() as pg:
        expected = documented(await columns_of(pg))
        found: Rights = {}
        for group in GROUPS:
            found |= await effective(pg, group)
            may_create = "SELECT has_schema_privilege($1, 'relay', 'CREATE')"
            assert not await pg.fetchval(may_create, f"relay_test_{group}")
    assert len(expected) > 60
    assert found == expected


async def test_a_right_too_many_would_be_seen(database: Database) -> None:
    """So the test above can fail: for tables, columns, partitions, PUBLIC and functions."""
    async with database.driver() as pg:
        expected = documented(await columns_of(pg))
        partition = await pg.fetchval(
            "SELECT inhrelid::regclass::text FROM pg_inherits"
            " WHERE inhparent = 'relay.inbox'::regclass LIMIT 1"
        )
        for grant in (
            "DELETE ON relay.inbox TO relay_receiver",
            "SELECT (body) ON relay.inbox TO relay_receiver",
            f"SELECT ON {partition} TO relay_receiver",
            "SELECT ON relay.api_key TO PUBLIC",
            "EXECUTE ON FUNCTION relay.body(bigint) TO PUBLIC",
            "USAGE ON SEQUENCE relay.source_id_seq TO relay_receiver",
        ):
            transaction = pg.transaction()
            await transaction.start()
            await pg.execute(f"GRANT {grant}")
            assert (await effective(pg, "receiver")).items() - expected.items()
            await transaction.rollback()


REFUSED = {
    "receiver": [
        "SELECT body FROM relay.inbox",
        "SELECT relay.body(1)",
        "SELECT relay.body_text(1)",
        "SELECT relay.altered_bodies('{1}', now(), now())",
        "SELECT leaves FROM relay.seal",
        "SELECT * FROM relay.events",
        "SELECT stripe_api_key FROM relay.source",
        "SELECT event_id FROM relay.event_key",
        "UPDATE relay.inbox SET body = ''",
        "DELETE FROM relay.event_key",
        "DELETE FROM relay.queue",
        "TRUNCATE relay.queue",
        "INSERT INTO relay.receipt DEFAULT VALUES",
        "INSERT INTO relay.api_key (source_id, sha256) VALUES (1, sha256('x'))",
        "UPDATE relay.source SET insecure = true",
        "COPY relay.inbox TO STDOUT",
        "SELECT setval('relay.arrival', 1)",
        "SELECT relay.redact(ARRAY[1::bigint], ARRAY[now()], 'no', 'body')",
        "SELECT relay.redact_samples('cus_1', ARRAY[1])",
    ],
    "forwarder": [
        "SELECT signing_secrets FROM relay.source",
        "SELECT * FROM relay.source",
        "SELECT sha256 FROM relay.api_key",
        "INSERT INTO relay.inbox DEFAULT VALUES",
        "UPDATE relay.receipt SET topic = ''",
        "UPDATE relay.seal SET day = day",
        "DELETE FROM relay.seal",
        "DELETE FROM relay.dead_letter",
        "UPDATE relay.source SET topic_prefix = 'x'",
        "UPDATE relay.lane SET source_id = 1",
        "INSERT INTO relay.operator_log (who, action, target) VALUES ('', '', '')",
        "SELECT relay.redact(ARRAY[1::bigint], ARRAY[now()], 'no', 'body')",
    ],
    "admin": [
        "UPDATE relay.operator_log SET who = 'nobody'",
        "DELETE FROM relay.operator_log",
        "INSERT INTO relay.inbox DEFAULT VALUES",
        "UPDATE relay.inbox SET body = ''",
        "INSERT INTO relay.redaction DEFAULT VALUES",
        "UPDATE relay.redaction SET reason = 'another'",
        "DELETE FROM relay.redaction",
        "DELETE FROM relay.receipt",
        "DELETE FROM relay.source",
        "UPDATE relay.api_key SET sha256 = sha256('mine')",
        "UPDATE relay.compatibility SET revision = 9",
        "ALTER TABLE relay.inbox DISABLE TRIGGER ALL",
    ],
    "auditor": [
        "SELECT body FROM relay.inbox",
        "SELECT signature_header FROM relay.inbox",
        "SELECT last_error FROM relay.queue",
        "DELETE FROM relay.seal",
        "SELECT signing_secrets FROM relay.source",
        "SELECT sha256 FROM relay.api_key",
        "SELECT refused_body FROM relay.dead_letter",
        "INSERT INTO relay.operator_log (who, action, target) VALUES ('', '', '')",
        "SELECT nextval('relay.arrival')",
        "SELECT relay.make_partition(now(), now() + interval '1 day')",
        "SELECT relay.redact(ARRAY[1::bigint], ARRAY[now()], 'no', 'body')",
        "SELECT relay.redact_samples('cus_1', ARRAY[1])",
    ],
}


@pytest.mark.parametrize("group", REFUSED)
async def test_what_is_refused(database_url: str, group: str) -> None:
    pg = await asyncpg.connect(as_login(database_url, group))
    try:
        for statement in (
            *REFUSED[group],
            "CREATE TABLE relay.mine ()",
            "DROP TABLE relay.queue",
            "SET ROLE relay_migrator",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await pg.execute(statement)
    finally:
        await pg.close()


async def test_the_auditor_reads_what_there_is_to_see(
    database: Database, database_url: str
) -> None:
    views = """
        SELECT relname FROM pg_class WHERE relnamespace = 'relay'::regnamespace AND relkind = 'v'
    """
    async with database.driver() as pg:
        await pg.execute(
            """
            INSERT INTO relay.source (public_id, name, resources, unselected, default_topic,
                metadata, fan_out, dlq, dlq_topic, topic_prefix, route_by, tombstones, tolerance,
                mode, insecure, signing_secrets)
            VALUES ('src_1', 'shop', '{*}', 'SKIP', '', true, '{}', true, '', '', 'object', false,
                1, 'any', true, '{}');
            INSERT INTO relay.event_key VALUES ('evt_1', 1, 1, now());
            INSERT INTO relay.inbox (id, received_at, source_id, event_id, origin, body,
                body_sha256)
            VALUES (1, now(), 1, 'evt_1', 'webhook', 'the body', sha256('x'));
            INSERT INTO relay.dead_letter (source_id, inbox_id, received_at, event_id, error_code,
                error, attempts)
            SELECT source_id, id, received_at, event_id, 'no_route', '', 0 FROM relay.inbox
            """
        )
        names = [row["relname"] for row in await pg.fetch(views)]
    auditor = await asyncpg.connect(as_login(database_url, "auditor"))
    try:
        for name in names:
            await auditor.fetch(f"SELECT * FROM relay.{name}")
        assert await auditor.fetchval("SELECT relay.body(1)") == b"the body"
        assert await auditor.fetchval("SELECT relay.body_text(1)") == "the body"
        assert await auditor.fetchval("SELECT body_text FROM relay.dead_letters") == "the body"
        assert await auditor.fetchval("SELECT state FROM relay.events") == "dead"
    finally:
        await auditor.close()


def test_the_grants_are_for_the_schema_of_this_build() -> None:
    assert f"IF present < {BUILD_REVISION} " in roles.script()
    assert f"IF present > {BUILD_REVISION} " in roles.script()


async def test_a_schema_of_a_later_revision_is_refused(database: Database) -> None:
    async with database.driver() as pg:
        await pg.execute("UPDATE relay.compatibility SET revision = revision + 1")
    told = f"at revision {BUILD_REVISION + 1}, and these grants are for revision {BUILD_REVISION}"
    with pytest.raises(ConfigError, match=told):
        await roles.apply(database.dsn)
