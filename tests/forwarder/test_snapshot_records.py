"""From a page of Stripe's API to the records in Kafka: token for token, with what is said of it."""

from __future__ import annotations

import json

from relay.core.scan import Position
from relay.snapshotter.objects import events_of
from relay.store import inbox
from relay.store.ranges import Range
from relay.stripe import Page
from relay.stripe.answer import read_answer
from tests.forwarder.world import World, header

REFUND = b'{"id":"re_1","object":"refund","amount":5.00}'
CHARGE = (
    b'{"id":"ch_1","object":"charge","created":1780000000,"amount":1.10,"big":1234567890123456789'
    b'01234567890,"tiny":-0.0E-7,"text":"\\u00e9\\/\\ud83d\\ude00\xc3\xa9 \\u0000","a":1,"a":2,'
    b'"livemode":true,"refunds":{"object":"list","data":[' + REFUND + b'],"has_more":true}}'
)
AT = 1_780_000_123
DATE = "Thu, 28 May 2026 20:28:43 GMT"


def _range() -> Range:
    return Range(
        id=1,
        snapshot_id="abc",
        source_id=1,
        resource="charge",
        pass_=0,
        at=Position(),
        api_version="2026-08-26.dahlia",
        livemode=False,
        created_after=None,
        created_before=None,
        failures=0,
        parents=None,
        parents_done=False,
        child_cursor=None,
        last_error=None,
        readers=1,
    )


async def test_the_records_of_an_object(world: World) -> None:
    source = await world.add_source(resources=("charge",), fan_out=("charge.refunds",))
    spaced = CHARGE.replace(b'":', b'" :\n  ').replace(b',"', b' ,\t"')
    body = b'{"object":"list","data":[ ' + spaced + b' ],"has_more":false,"url":"/v1/charges"}'
    page = read_answer(200, {"date": DATE}, body, url="/v1/charges", seconds=0.1)
    assert isinstance(page, Page)
    [listed] = page.objects
    [made] = events_of(_range(), [listed], page.date, source)
    async with world.database.driver() as pg, pg.transaction():
        assert await inbox.put(pg, [made]) == [True]
    await world.process().drain()

    [record] = await world.topic("charge", at_least=1)
    value = record.value()
    assert value is not None
    assert value.startswith(CHARGE[:-1] + b",")
    assert value.endswith(
        b'"__changeType":"SNAPSHOT","_event_id":"snap_abc_ch_1","_event_type":"charge.snapshot",'
        b'"_event_created":%d,"_api_version":"2026-08-26.dahlia","_livemode":false,'
        b'"_previous_attributes":null}' % AT
    )
    assert record.key() == b'{"id":"ch_1"}'
    told = {name: header(record, name) for name, _ in record.headers() or []}
    assert told.pop("_inbox_id").isdigit()
    assert told == {"__op": "r", "_event_id": "snap_abc_ch_1", "_source": "main"}

    [child] = await world.topic("charge_refunds", at_least=1)
    assert child.key() == b'{"id":"ch_1","item_id":"re_1"}'
    value = child.value()
    assert value is not None
    assert value.startswith(REFUND[:-1] + b",")
    assert json.loads(value)["_ctx_event_id"] == "snap_abc_ch_1"
    assert header(child, "__op") == "r"
    assert header(child, "__list_truncated") == "true"
