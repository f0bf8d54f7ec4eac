"""A redaction counts as proof where its bytes are gone, and nothing else does."""

from __future__ import annotations

from relay.store import redactions
from tests.audit.conftest import Inbox, Named
from tests.store.rows import OPERATOR, new_event, store


async def redact(inbox: Inbox, object_id: str) -> None:
    async with inbox.database.begin() as connection:
        what = await redactions.extent(connection, object_id, None)
        assert what.events
        await redactions.redact_some(connection, what, OPERATOR, after=0)


async def object_of(inbox: Inbox, inbox_id: int) -> str:
    found: str = await inbox.pg.fetchval(
        "SELECT object_id FROM relay.inbox WHERE id = $1", inbox_id
    )
    return found


async def test_redacted_bodies_are_accounted_for_and_sealed_as_before(inbox: Inbox) -> None:
    # Of one object in every state.
    await redact(inbox, await object_of(inbox, inbox.ids["delivered"]))
    assert (await inbox.audit()).violations == ()
    (late,) = await store(inbox.pg, new_event(inbox.source_id, "evt_late"))
    await redact(inbox, await object_of(inbox, late))
    await inbox.seal()
    report = await inbox.audit()
    assert report.violations == ()


async def test_an_empty_body_without_a_redaction_is_named(inbox: Inbox, named: Named) -> None:
    gone = inbox.ids["delivered"]
    await inbox.damage("UPDATE relay.inbox SET body = '' WHERE id = $1", gone)
    assert named(await inbox.audit()) == {("bodies", gone)}


async def test_a_redaction_is_no_leave_to_write_something_else(inbox: Inbox, named: Named) -> None:
    changed = inbox.ids["delivered"]
    await redact(inbox, await object_of(inbox, changed))
    await inbox.damage("UPDATE relay.inbox SET body = '{}' WHERE id = $1", changed)
    assert named(await inbox.audit()) == {("bodies", changed)}
