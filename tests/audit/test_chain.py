"""The seals tell who was changed, removed or slipped in, and which of them was touched."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from relay.audit import Scope
from relay.core import seal as core
from relay.store import partitions
from relay.store.seals import Head, read_head
from tests.audit.conftest import Inbox, Named
from tests.store.days import store_at
from tests.store.rows import deliver, new_event, store


async def rebuild(pg: asyncpg.Connection, first: int) -> None:
    """Make the chain anew from a seal on, out of the rows as they are: what its owner could do."""
    previous = await pg.fetchval("SELECT sha256 FROM relay.seal WHERE number = $1", first - 1)
    previous = previous or core.GENESIS
    for row in await pg.fetch(
        "SELECT number, day, ids FROM relay.seal WHERE number >= $1 ORDER BY number", first
    ):
        found = await pg.fetch(
            "SELECT id, event_id, received_at, body_sha256 FROM relay.inbox"
            " WHERE id = ANY ($1) ORDER BY id",
            row["ids"],
        )
        leaves = b"".join(core.leaf(*each) for each in found)
        digest = core.seal(previous, row["number"], row["day"], leaves)
        async with pg.transaction():
            await pg.execute("SET LOCAL session_replication_role = replica")
            await pg.execute(
                "UPDATE relay.seal SET previous = $2, leaves = $3, sha256 = $4, ids = $5,"
                " count = $6 WHERE number = $1",
                row["number"],
                previous,
                leaves,
                digest,
                [each["id"] for each in found],
                len(found),
            )
        previous = digest


async def seal_of(inbox: Inbox, name: str) -> int:
    number: int = await inbox.pg.fetchval(
        "SELECT number FROM relay.seal WHERE $1 = ANY (ids)", inbox.ids[name]
    )
    return number


CHANGES = {
    "body and its hash": "UPDATE relay.inbox SET body = '{}', body_sha256 = sha256('{}')",
    "the hash": "UPDATE relay.inbox SET body_sha256 = sha256('{}')",
    "the event id": "UPDATE relay.inbox SET event_id = 'evt_mine'",
    "received a moment later": "UPDATE relay.inbox"
    " SET received_at = received_at + interval '1 microsecond'",
    "received on another day": "UPDATE relay.inbox"
    " SET received_at = received_at - interval '1 day'",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_row_that_was_changed(inbox: Inbox, change: str) -> None:
    """With all that the inbox itself says about it in order."""
    await inbox.damage(f"{CHANGES[change]} WHERE id = $1", inbox.ids["day 2"])
    report = await inbox.audit()
    (violation,) = (each for each in report.violations if each.check == "rows")
    assert violation.inbox_id == inbox.ids["day 2"]
    assert violation.seal == await seal_of(inbox, "day 2")
    assert violation.error.startswith("changed")
    assert violation.event_id == (
        "evt_mine" if change == "the event id" else f"old_{inbox.ids['day 2']}"
    )


async def test_a_row_that_was_removed_with_all_that_spoke_of_it(inbox: Inbox, named: Named) -> None:
    gone = inbox.ids["day 1"]
    number = await seal_of(inbox, "day 1")
    for table, column in (("inbox", "id"), ("event_key", "inbox_id"), ("receipt", "inbox_id")):
        await inbox.damage(f"DELETE FROM relay.{table} WHERE {column} = $1", gone)
    report = await inbox.audit()
    assert named(report) == {("rows", gone)}
    assert report.violations[0].error.startswith("removed")
    assert report.violations[0].seal == number


async def slip_in(inbox: Inbox, *, xact_id: str) -> int:
    """An event of the day before yesterday, stored now, with its key and receipt."""
    made = await store_at(
        inbox.pg, inbox.old[3].lower + timedelta(hours=2), source_id=inbox.source_id
    )
    await inbox.damage(f"UPDATE relay.inbox SET xact_id = {xact_id} WHERE id = $1", made)
    return made


@pytest.mark.parametrize("xact_id", ["xact_id", "3", "-7"])
async def test_a_row_that_was_slipped_in(inbox: Inbox, named: Named, xact_id: str) -> None:
    made = await slip_in(inbox, xact_id=xact_id)
    report = await inbox.audit()
    assert named(report) == {("rows", made)}
    assert report.violations[0].error.startswith("slipped in")


async def test_it_is_still_seen_after_it_was_sealed(inbox: Inbox, named: Named) -> None:
    made = await slip_in(inbox, xact_id="xact_id")
    await inbox.seal()
    report = await inbox.audit()
    assert named(report) == {("rows", made)}
    assert report.violations[0].error.startswith("slipped in")


async def test_a_row_of_the_present_with_an_old_transaction_is_slipped_in(
    inbox: Inbox, named: Named
) -> None:
    (made,) = await store(inbox.pg, new_event(inbox.source_id))
    await deliver(inbox.pg, made)
    report = await inbox.audit()
    assert (named(report), report.notes) == (set(), {"rows_not_sealed_yet": 1})
    await inbox.damage("UPDATE relay.inbox SET xact_id = 3 WHERE id = $1", made)
    assert named(await inbox.audit()) == {("rows", made)}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("leaves = set_byte(leaves, 0, get_byte(leaves, 0) # 1)", "not that of what is in it"),
        ("day = day - 1", "not that of what is in it"),
        ("sha256 = sha256('mine')", "not that of what is in it"),
        ("previous = sha256('mine')", "not chained to seal"),
        ("first_id = first_id - 1", "not between its first and its last"),
    ],
)
async def test_a_seal_that_was_rewritten(inbox: Inbox, change: str, error: str) -> None:
    number = await seal_of(inbox, "later")
    await inbox.damage(f"UPDATE relay.seal SET {change} WHERE number = $1", number)
    report = await inbox.audit()
    broken = {each.seal: each.error for each in report.violations if each.check == "seals"}
    assert number in broken
    found = [each.error for each in report.violations if each.seal == number]
    assert any(error in each for each in found)


async def test_a_seal_that_was_taken_out(inbox: Inbox, named: Named) -> None:
    number = await seal_of(inbox, "later")
    await inbox.damage("DELETE FROM relay.seal WHERE number = $1", number)
    report = await inbox.audit()
    assert named(report) == {("seals", None), ("rows", inbox.ids["later"])}
    assert {each.seal for each in report.violations if each.check == "seals"} == {number + 1}


async def test_seals_that_were_taken_from_the_front(inbox: Inbox, named: Named) -> None:
    """As the retention would, but their rows are still there."""
    number = await seal_of(inbox, "day 1")
    await inbox.damage("DELETE FROM relay.seal WHERE number <= $1", number)
    assert named(await inbox.audit()) == {
        ("rows", inbox.ids["day 0"]),
        ("rows", inbox.ids["day 1"]),
    }


async def test_an_id_in_two_seals(inbox: Inbox, named: Named) -> None:
    await inbox.damage(
        "UPDATE relay.seal SET ids = ids || $2::bigint, leaves = leaves || sha256('x'),"
        " count = count + 1, first_id = $2 WHERE number = $1",
        await seal_of(inbox, "last"),
        inbox.ids["later"],
    )
    assert ("rows", inbox.ids["later"]) in named(await inbox.audit())


async def test_a_chain_that_was_made_anew_is_found_by_a_head_that_was_kept(
    inbox: Inbox, named: Named
) -> None:
    kept = await read_head(inbox.pg)
    assert kept is not None
    changed = inbox.ids["day 2"]
    await inbox.damage(f"{CHANGES['body and its hash']} WHERE id = $1", changed)
    await rebuild(inbox.pg, await seal_of(inbox, "day 2"))
    assert (await inbox.audit()).violations == ()  # nothing in the database tells
    report = await inbox.audit(Scope(expected=(kept,)))
    assert [(each.check, each.seal) for each in report.violations] == [("heads", kept.number)]
    assert kept.sha256.hex() in report.violations[0].error


async def test_a_head_of_before_the_change_still_fits(inbox: Inbox) -> None:
    number = await seal_of(inbox, "day 1")
    digest = await inbox.pg.fetchval("SELECT sha256 FROM relay.seal WHERE number = $1", number)
    report = await inbox.audit(Scope(expected=(Head(number, digest),)))
    assert report.violations == ()
    assert next(each for each in report.checks if each.name == "heads").looked_at == 1


async def test_a_chain_that_was_cut_short(inbox: Inbox) -> None:
    kept = await read_head(inbox.pg)
    assert kept is not None
    await inbox.damage("DELETE FROM relay.seal WHERE number = $1", kept.number)
    report = await inbox.audit(Scope(expected=(kept,)))
    assert ("heads", kept.number) in {(each.check, each.seal) for each in report.violations}


async def test_heads_from_before_the_first_kept_seal(inbox: Inbox) -> None:
    first = await inbox.pg.fetchval("SELECT sha256 FROM relay.seal WHERE number = 1")
    drop = inbox.old[:2]
    for each in drop:
        assert await partitions.drop(inbox.pg, each)
    await inbox.damage("DELETE FROM relay.seal WHERE number <= 2")
    second = await inbox.pg.fetchval("SELECT previous FROM relay.seal WHERE number = 3")
    kept = (Head(1, first), Head(2, second))
    report = await inbox.audit(Scope(expected=kept))
    assert report.violations == ()
    assert report.notes["heads_before_the_first_seal"] == 1
    report = await inbox.audit(Scope(expected=(Head(2, first),)))
    assert [(each.check, each.seal) for each in report.violations] == [("heads", 2)]


# What docs/audit.md says


async def test_the_sql_of_the_documentation_sees_the_same(inbox: Inbox) -> None:
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf-8")
    seals, rows = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert await inbox.pg.fetch(seals) == []
    assert await inbox.pg.fetch(rows) == []
    await inbox.damage(f"{CHANGES['the event id']} WHERE id = $1", inbox.ids["day 2"])
    await inbox.damage("DELETE FROM relay.inbox WHERE id = $1", inbox.ids["day 3"])
    found = await inbox.pg.fetch(rows)
    assert {row["id"] for row in found} == {inbox.ids["day 2"], inbox.ids["day 3"]}
    number = await seal_of(inbox, "later")
    await inbox.damage("UPDATE relay.seal SET day = day - 1 WHERE number = $1", number)
    assert [row["number"] for row in await inbox.pg.fetch(seals)] == [number]
    await inbox.damage("DELETE FROM relay.seal WHERE number = $1", number)
    assert [row["number"] for row in await inbox.pg.fetch(seals)] == [number + 1]


# Partitions


async def test_a_partition_that_is_gone_from_the_middle(inbox: Inbox, named: Named) -> None:
    middle = inbox.old[2]
    await inbox.pg.execute(
        f"DROP TABLE relay.inbox_{middle.suffix}; DROP TABLE relay.receipt_{middle.suffix}"
    )
    report = await inbox.audit()
    assert named(report) == {("partitions", None)}
    assert str(middle.lower.date()) in report.violations[0].error


async def test_what_the_retention_has_dropped_it_has_written_down(inbox: Inbox) -> None:
    """It passes over a partition that something unfinished holds, and takes the next one."""
    assert await partitions.drop(inbox.pg, inbox.old[2])
    report = await inbox.audit()
    assert report.violations == ()
    assert report.notes == {"days_dropped_by_the_retention": 1}


async def test_a_drop_that_is_under_way(inbox: Inbox) -> None:
    middle = inbox.old[2]
    mark = f"{partitions._DROP_MARK} {middle.lower.isoformat()} {middle.upper.isoformat()}"
    await inbox.pg.execute(f"COMMENT ON TABLE relay.inbox_{middle.suffix} IS '{mark}'")
    for parent in partitions.PARTITIONED:
        await inbox.pg.execute(
            f"ALTER TABLE relay.{parent} DETACH PARTITION relay.{parent}_{middle.suffix}"
        )
    assert (await inbox.audit()).violations == ()


async def test_the_oldest_partition_taken_by_hand_is_noted(inbox: Inbox) -> None:
    oldest = inbox.old[0]
    for parent in partitions.PARTITIONED:
        await inbox.pg.execute(
            f"ALTER TABLE relay.{parent} DETACH PARTITION relay.{parent}_{oldest.suffix}"
        )
    report = await inbox.audit()
    assert report.violations == ()
    assert report.notes == {"days_before_the_first_partition": 1}


async def test_after_a_restore_elsewhere_nothing_is_wrong(inbox: Inbox) -> None:
    """Before and after the sealing has gone on there."""
    for name in ("new", "newer"):
        (inbox.ids[name],) = await store(inbox.pg, new_event(inbox.source_id, f"evt_{name}"))
        await deliver(inbox.pg, inbox.ids[name])
    await inbox.damage("UPDATE relay.seal SET cluster = cluster + 1, xact_until = 4000000000")
    await inbox.damage("UPDATE relay.inbox SET xact_id = xact_id + 3000000000")
    assert (await inbox.audit()).violations == ()
    await inbox.seal()
    report = await inbox.audit()
    assert report.violations == ()
    assert report.notes == {}
