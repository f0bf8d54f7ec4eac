"""The page of what the database offers, told by the database itself."""

from __future__ import annotations

import asyncpg

from website.markdown import code, prose, table

FUNCTIONS = ("body", "body_text")
"""Those of the schema that are for people."""

_INTRO = """# Views

The views of the schema `relay` are the API of the database: columns are added and never change their meaning. The database
says the same (`\\d+ relay.events` in psql). The role `relay_auditor` may read all of it ([security](../security.md#database-roles)),
and the [cookbook](../cookbook.md) has questions and their queries.
"""
_RELATIONS = """
SELECT c.oid, c.relname AS name, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c
WHERE c.relnamespace = 'relay'::regnamespace AND (c.relkind = 'v' OR c.relname = 'operator_log')
  AND c.relkind <> 'i'
ORDER BY c.relkind DESC, array_position(ARRAY['events', 'pending_events', 'failed_events',
    'deliveries', 'dead_letters', 'lag']::name[], c.relname), c.relname
"""
_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       col_description(a.attrelid, a.attnum) AS comment
FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_FUNCTION = """
SELECT pg_get_function_arguments(oid) AS arguments, pg_get_function_result(oid) AS result,
       obj_description(oid, 'pg_proc') AS comment
FROM pg_proc WHERE pronamespace = 'relay'::regnamespace AND proname = $1
"""


async def page(dsn: str) -> str:
    parts = [_INTRO]
    connection = await asyncpg.connect(dsn)
    try:
        for relation in await connection.fetch(_RELATIONS):
            columns = await connection.fetch(_COLUMNS, relation["oid"])
            parts.append(f"## relay.{relation['name']}\n\n{prose(relation['comment'])}\n")
            if relation["name"] in ("pending_events", "failed_events"):
                parts.append("The columns are those of [relay.events](#relayevents).\n")
                continue
            rows = [(code(c["name"]), c["type"], prose(c["comment"] or "")) for c in columns]
            parts.append(table(("column", "type", "what it is"), rows))
        for name in FUNCTIONS:
            told = await connection.fetchrow(_FUNCTION, name)
            assert told is not None
            parts.append(
                f"## relay.{name}({told['arguments']}) → {told['result']}\n\n"
                f"{prose(told['comment'])}\n"
            )
    finally:
        await connection.close()
    return "\n".join(parts)
