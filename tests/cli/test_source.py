"""`relay source`, on a real database."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from relay.store import admission, sources
from relay.store.engine import Database
from relay.store.sealing import Seal, new_key
from tests.cli.conftest import KEY, Receive, Relay, event, output

DEFAULTS = {
    "state": "forwarding",
    "schema": ["customer", "payment_intent", "charge", "invoice"],
    "unselected": "DEFAULT_TOPIC",
    "default_topic": "unknown",
    "metadata": True,
    "fan_out": [],
    "dlq": True,
    "dlq_topic": "dead_letter",
    "topic_prefix": "",
    "route_by": "event_type",
    "tombstones": False,
    "tolerance": 300,
    "mode": "any",
    "insecure": False,
}


async def secrets_of(database: Database, name: str, key: str = KEY) -> tuple[str, ...]:
    """The signing secrets as the receiver would read them."""
    async with database.begin() as connection:
        found = await sources.find(connection, name)
        return sources.open_secrets(found.sealed_secrets, Seal([key]))


async def stripe_key_of(database: Database, name: str) -> str | None:
    async with database.begin() as connection:
        sealed = (await sources.find(connection, name)).sealed_stripe_key
    return None if sealed is None else Seal([KEY]).open(sealed).decode()


async def keys_of(database: Database) -> list[tuple[bytes, datetime | None]]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT sha256, expires_at FROM relay.api_key ORDER BY id")
    return [tuple(row) for row in rows]


async def actions(database: Database) -> list[tuple[str, str]]:
    async with database.driver() as pg:
        rows = await pg.fetch("SELECT action, target FROM relay.operator_log ORDER BY id")
    return [tuple(row) for row in rows]


# --- create ---------------------------------------------------------------------------------


async def test_create_prints_the_url_and_stores_only_the_hash(
    relay: Relay, database: Database
) -> None:
    made = output(await relay("source", "create", "acme", "--signing-secret", "whsec_a", "--json"))
    assert made["name"] == "acme"
    assert made["id"].startswith("src_")
    key = made["api_key"]
    assert made["webhook_url"] == (f"https://relay.example.com/webhooks/{made['id']}?api_key={key}")
    assert made.items() >= DEFAULTS.items()
    assert made["warnings"] == []
    assert await keys_of(database) == [(hashlib.sha256(key.encode()).digest(), None)]
    assert await secrets_of(database, "acme") == ("whsec_a",)
    async with database.driver() as pg:
        stored = await pg.fetchval("SELECT source::text FROM relay.source")
    assert "whsec_a" not in stored
    assert b"whsec_a".hex() not in stored
    assert await actions(database) == [("source.create", made["id"])]


async def test_create_says_that_the_key_is_shown_once(relay: Relay) -> None:
    text = (await relay("source", "create", "acme me", "--insecure")).stdout
    assert "shown only now" in text
    assert "relay source rotate-key 'acme me'" in text
    assert "stripe listen --all-snapshot --forward-to 'https://relay.example.com/webhooks/" in text


async def test_create_takes_every_setting(relay: Relay) -> None:
    flags = {
        "schema": ("--schema", "customer, invoice"),
        "unselected": ("--unselected", "skip"),
        "default_topic": ("--default-topic", "rest"),
        "metadata": ("--no-metadata",),
        "fan_out": ("--fan-out", "invoice.lines,charge.refunds"),
        "dlq": ("--no-dlq",),
        "dlq_topic": ("--dlq-topic", ""),
        "topic_prefix": ("--topic-prefix", "stripe."),
        "route_by": ("--route-by", "object"),
        "tombstones": ("--tombstones",),
        "tolerance": ("--tolerance", "60"),
        "mode": ("--mode", "live"),
        "insecure": ("--insecure",),
    }
    args = [word for words in flags.values() for word in words]
    made = output(await relay("source", "create", "acme", *args, "--json"))
    assert {name: made[name] for name in flags} == {
        "schema": ["customer", "invoice"],
        "unselected": "SKIP",
        "default_topic": "rest",
        "metadata": False,
        "fan_out": ["invoice.lines", "charge.refunds"],
        "dlq": False,
        "dlq_topic": "",
        "topic_prefix": "stripe.",
        "route_by": "object",
        "tombstones": True,
        "tolerance": 60,
        "mode": "live",
        "insecure": True,
    }
    assert flags.keys() == DEFAULTS.keys() - {"state"}, "every setting has its flag"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "--signing-secret is missing"),
        (("--signing-secret", ""), "--signing-secret is blank"),
        (("--signing-secret", "whsec_a", "--signing-secret", " "), "--signing-secret is blank"),
        (("--signing-secret", "sk_live_abc"), "that is an API key"),
        (("--signing-secret", "whsec_ä"), "has a character that no secret has"),
        (("--insecure", "--signing-secret", "whsec_a"), "--insecure is for a source without"),
        (("--insecure", "--stripe-api-key", "pk_live_abc"), "publishable key"),
        (("--insecure", "--stripe-api-key", "whsec_abc"), "signing secret"),
        (("--insecure", "--stripe-api-key", " "), "--stripe-api-key is blank"),
        (("--insecure", "--schema", "custommer,Invoice"), "--schema: 'Invoice' is no resource"),
        (("--insecure", "--schema", ""), "--schema"),
        (("--insecure", "--schema", "*,customer"), "'*' alone is every resource"),
        (("--insecure", "--fan-out", "invoice.line"), "did you mean 'invoice.lines'"),
        (("--insecure", "--unselected", "DROP"), "--unselected"),
        (("--insecure", "--default-topic", "a b"), "--default-topic"),
        (("--insecure", "--default-topic", ""), "--default-topic"),
        (("--insecure", "--dlq-topic", "customer"), "--dlq-topic"),
        (("--insecure", "--topic-prefix", "ä"), "--topic-prefix"),
        (("--insecure", "--tolerance", "0"), "--tolerance"),
        (("--insecure", "--tolerance", "soon"), "--tolerance"),
        (("--insecure", "--mode", "both"), "--mode"),
        (("--insecure", "--route-by", "topic"), "--route-by"),
        (("--insecure", "--stripe-api-key", "sk_a", "--stripe-api-key-file", "x"), "not both"),
        (("--signing-secret", "-", "--stripe-api-key", "-"), "can be '-'"),
        (("--signing-secret-file", "missing"), "cannot read 'missing': No such file"),
        (("--insecure", "--stripe-api-key-file", "missing"), "cannot read 'missing'"),
    ],
)
async def test_create_refuses_by_flag_and_stores_nothing(
    relay: Relay, database: Database, args: tuple[str, ...], said: str
) -> None:
    result = await relay("source", "create", "acme", *args, exits=2)
    assert said in result.stderr
    assert result.stdout == ""
    assert "whsec_a" not in result.stderr
    assert "sk_live_abc" not in result.stderr
    async with database.begin() as connection:
        assert await sources.list_all(connection) == []


@pytest.mark.parametrize("name", ["", " a", "src_1", "a\x1b[31m", "x" * 101])
async def test_create_refuses_a_bad_name(relay: Relay, name: str) -> None:
    result = await relay("source", "create", name, "--insecure", exits=2)
    assert "NAME: " in result.stderr
    assert "\x1b" not in result.stderr


async def test_a_name_can_be_taken_once(relay: Relay) -> None:
    await relay("source", "create", "acme", "--insecure")
    result = await relay("source", "create", "acme", "--insecure", exits=2)
    assert "a source named 'acme' exists already" in result.stderr


async def test_secrets_need_not_be_on_the_command_line(
    relay: Relay, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "secrets").write_text("whsec_b\n\nwhsec_c\n", encoding="utf-8")
    (tmp_path / "key").write_text("rk_test_1\n", encoding="utf-8")
    files = ("--signing-secret-file", "secrets", "--stripe-api-key-file", "key")
    await relay(
        "source", "create", "acme", "--signing-secret", "-", *files, stdin="whsec_a\nwhsec_b\n"
    )
    assert await secrets_of(database, "acme") == ("whsec_a", "whsec_b", "whsec_c")
    assert await stripe_key_of(database, "acme") == "rk_test_1"


async def test_an_empty_stdin_is_no_secret(relay: Relay) -> None:
    args = ("source", "create", "acme", "--signing-secret", "-")
    assert "there is no secret" in (await relay(*args, stdin="\n", exits=2)).stderr


async def test_a_secret_needs_a_key_to_be_stored_under(database_url: str, relay: Relay) -> None:
    from tests.cli.conftest import invoke

    environ = {"RELAY_DATABASE_URL": database_url}
    args = ("source", "create", "acme", "--signing-secret", "whsec_a")
    result = await invoke(*args, environ=environ, exits=2)
    assert "RELAY_ENCRYPTION_KEYS is not set" in result.stderr
    result = await invoke("source", "create", "acme", "--insecure", environ=environ)
    assert "http://127.0.0.1:8080/webhooks/src_" in result.stdout
    assert "RELAY_PUBLIC_URL is not set" in result.stderr


# --- list and show --------------------------------------------------------------------------


async def test_an_insecure_source_is_warned_about_everywhere(relay: Relay) -> None:
    made = await relay("source", "create", "acme", "--insecure", "--json")
    warning = "source acme does not verify signatures: whoever has its URL can forge events"
    assert output(made)["warnings"] == [warning]
    assert f"warning: {warning}" in made.stderr
    for args in (("list",), ("show", "acme"), ("update", "acme", "--tolerance", "60")):
        assert f"warning: {warning}" in (await relay("source", *args)).stderr
    assert output(await relay("source", "show", "acme", "--json"))["warnings"] == [warning]
    assert "acme does not verify signatures" in (await relay("status")).stderr


async def test_list_and_show_agree_and_hold_no_secret(relay: Relay) -> None:
    await relay("source", "create", "b", "--signing-secret", "whsec_canary")
    await relay("source", "create", "a", "--insecure", "--stripe-api-key", "sk_live_canary")
    listed = await relay("source", "list", "--json")
    assert [each["name"] for each in output(listed)] == ["b", "a"]
    for each in output(listed):
        for name in (each["name"], each["id"]):
            shown = await relay("source", "show", name, "--json")
            assert output(shown).items() >= each.items()
            assert "canary" not in shown.output
    text = await relay("source", "list")
    for each in output(listed):
        assert each["id"] in text.stdout, "ids are never cut"
    assert "canary" not in listed.output + text.output
    assert output(listed)[1]["stripe_api_key"] is True


async def test_show_lists_the_topics_with_the_schema(relay: Relay) -> None:
    settings = (
        "--schema", "customer,invoice", "--fan-out", "invoice.lines", "--topic-prefix", "s.",
    )  # fmt: skip
    await relay("source", "create", "acme", "--insecure", *settings)
    shown = output(await relay("source", "show", "acme", "--json"))
    assert [each["topic"] for each in shown["topics"]] == [
        "s.customer", "s.invoice", "s.invoice_lines", "s.unknown", "s.dead_letter",
    ]  # fmt: skip
    assert shown["schema"] == ["customer", "invoice"]
    await relay("source", "update", "acme", "--schema", "*", "--dlq-topic", "", "--fan-out", "")
    shown = output(await relay("source", "show", "acme", "--json"))
    assert [each["topic"] for each in shown["topics"]] == ["s.<resource>"]


async def test_an_unknown_source_names_those_that_there_are(relay: Relay) -> None:
    assert "there are none yet" in (await relay("source", "show", "x", exits=2)).stderr
    await relay("source", "create", "acme", "--insecure")
    for command in ("show", "pause", "resume", "delete", "rotate-key"):
        stderr = (await relay("source", command, "acm", exits=2)).stderr
        assert "no source named 'acm'; known sources: acme" in stderr


async def test_no_sources_is_an_empty_list(relay: Relay) -> None:
    assert output(await relay("source", "list", "--json")) == []
    assert "no sources" in (await relay("source", "list")).stdout


# --- update ---------------------------------------------------------------------------------


async def test_update_changes_what_is_named_and_nothing_else(
    relay: Relay, database: Database
) -> None:
    created = ("--signing-secret", "whsec_a", "--stripe-api-key", "sk_test_1", "--tolerance", "9")
    before = output(await relay("source", "create", "acme", *created, "--json"))
    await relay("source", "update", "acme", "--name", "better", "--mode", "test", "--no-metadata")
    after = output(await relay("source", "show", "better", "--json"))
    changed = {name for name in DEFAULTS if after[name] != before[name]}
    assert changed == {"mode", "metadata"}
    assert after["id"] == before["id"]
    assert await secrets_of(database, "better") == ("whsec_a",)
    assert await stripe_key_of(database, "better") == "sk_test_1"


async def test_update_without_a_change_is_refused(relay: Relay) -> None:
    await relay("source", "create", "acme", "--insecure")
    assert "nothing to change" in (await relay("source", "update", "acme", exits=2)).stderr


async def test_secrets_can_be_added_removed_and_replaced(relay: Relay, database: Database) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_old1")
    await relay("source", "update", "acme", "--add-signing-secret", "whsec_new2")
    assert await secrets_of(database, "acme") == ("whsec_old1", "whsec_new2")
    await relay("source", "update", "acme", "--add-signing-secret", "whsec_new2")
    assert await secrets_of(database, "acme") == ("whsec_old1", "whsec_new2")
    await relay("source", "update", "acme", "--remove-signing-secret", "old1")
    assert await secrets_of(database, "acme") == ("whsec_new2",)
    await relay("source", "update", "acme", "--signing-secret", "whsec_3")
    assert await secrets_of(database, "acme") == ("whsec_3",)
    await relay("source", "update", "acme", "--add-signing-secret", "-", stdin="whsec_4\n")
    assert await secrets_of(database, "acme") == ("whsec_3", "whsec_4")


@pytest.mark.parametrize("end", ["ret1", "zzzz", "1", "", "secret1"])
async def test_a_secret_to_remove_must_be_one(relay: Relay, database: Database, end: str) -> None:
    args = ("--signing-secret", "whsec_a_secret1", "--signing-secret", "whsec_b_secret1")
    await relay("source", "create", "acme", *args)
    result = await relay("source", "update", "acme", "--remove-signing-secret", end, exits=2)
    assert "--remove-signing-secret: " in result.stderr
    assert len(await secrets_of(database, "acme")) == 2


async def test_the_last_secret_goes_only_with_insecure(relay: Relay, database: Database) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_secret")
    remove = ("source", "update", "acme", "--remove-signing-secret", "secret")
    assert "--signing-secret is missing" in (await relay(*remove, exits=2)).stderr
    assert await secrets_of(database, "acme") == ("whsec_secret",)
    await relay(*remove, "--insecure")
    assert await secrets_of(database, "acme") == ()


async def test_a_secret_makes_an_insecure_source_secure(relay: Relay) -> None:
    await relay("source", "create", "acme", "--insecure")
    updated = await relay("source", "update", "acme", "--add-signing-secret", "whsec_a", "--json")
    assert output(updated)["insecure"] is False
    assert output(updated)["warnings"] == []
    assert updated.stderr == ""
    again = await relay("source", "update", "acme", "--insecure", exits=2)
    assert "--insecure is for a source without" in again.stderr


async def test_the_stripe_key_can_be_set_and_forgotten(relay: Relay, database: Database) -> None:
    await relay("source", "create", "acme", "--insecure")
    await relay("source", "update", "acme", "--stripe-api-key", "rk_test_1")
    assert await stripe_key_of(database, "acme") == "rk_test_1"
    await relay("source", "update", "acme", "--no-stripe-api-key")
    assert await stripe_key_of(database, "acme") is None
    both = ("--no-stripe-api-key", "--stripe-api-key", "rk_test_1")
    await relay("source", "update", "acme", *both, exits=2)


async def test_update_refuses_what_create_refuses(relay: Relay) -> None:
    before = output(await relay("source", "create", "acme", "--insecure", "--json"))
    for flag, value in (("--tolerance", "0"), ("--schema", "A"), ("--default-topic", "")):
        assert flag in (await relay("source", "update", "acme", flag, value, exits=2)).stderr
    after = output(await relay("source", "show", "acme", "--json"))
    assert {name: after[name] for name in DEFAULTS} == {name: before[name] for name in DEFAULTS}


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--mode", "test"), {"changed": ["mode"]}),
        (("--mode", "any", "--tolerance", "300"), {"changed": []}),
        (("--name", "b", "--schema", "invoice"), {"changed": ["name", "resources"]}),
        (
            ("--add-signing-secret", "whsec_next"),
            {"changed": ["signing_secrets"], "secrets_added": 1, "secrets_removed": 0},
        ),
        (("--add-signing-secret", "whsec_canary"), {"changed": []}),
        (("--signing-secret", "whsec_canary"), {"changed": []}),
        (
            ("--signing-secret", "whsec_next", "--signing-secret", "whsec_canary"),
            {"changed": ["signing_secrets"], "secrets_added": 1, "secrets_removed": 0},
        ),
        (
            ("--signing-secret", "whsec_next"),
            {"changed": ["signing_secrets"], "secrets_added": 1, "secrets_removed": 1},
        ),
        (
            ("--remove-signing-secret", "canary", "--insecure"),
            {"changed": ["insecure", "signing_secrets"], "secrets_added": 0, "secrets_removed": 1},
        ),
        (("--stripe-api-key", "sk_test_canary"), {"changed": []}),
        (("--stripe-api-key", "sk_test_next"), {"changed": ["stripe_api_key"]}),
        (("--no-stripe-api-key",), {"changed": ["stripe_api_key"]}),
    ],
)
async def test_the_operator_log_tells_what_an_update_changed(
    relay: Relay, database: Database, args: tuple[str, ...], told: dict[str, object]
) -> None:
    created = ("--signing-secret", "whsec_canary", "--stripe-api-key", "sk_test_canary")
    await relay("source", "create", "acme", *created)
    await relay("source", "update", "acme", *args)
    async with database.driver() as pg:
        details = await pg.fetchval("SELECT details FROM relay.operator_log ORDER BY id DESC")
        whole = await pg.fetchval("SELECT string_agg(l::text, '') FROM relay.operator_log l")
    assert details == told
    assert "canary" not in whole
    assert "next" not in whole


async def test_secrets_of_a_lost_key_are_set_anew(relay: Relay, database: Database) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_a")
    new = new_key()
    lost = {"RELAY_ENCRYPTION_KEYS": new}
    await relay("source", "update", "acme", "--signing-secret", "whsec_a", **lost)
    assert await secrets_of(database, "acme", new) == ("whsec_a",)
    async with database.driver() as pg:
        details = await pg.fetchval("SELECT details FROM relay.operator_log ORDER BY id DESC")
    told = {"changed": ["signing_secrets"], "secrets_added": 1, "secrets_removed": 1}
    assert details == told


# --- keys -----------------------------------------------------------------------------------


async def test_rotating_makes_a_key_and_ends_the_old_one_later(
    relay: Relay, database: Database
) -> None:
    made = output(await relay("source", "create", "acme", "--insecure", "--json"))
    args = ("source", "rotate-key", "acme", "--grace", "2h", "--json")
    rotated = output(await relay(*args))
    assert rotated["api_key"] != made["api_key"]
    assert rotated["webhook_url"].endswith(f"/webhooks/{made['id']}?api_key={rotated['api_key']}")
    (old, ends), (new, never) = await keys_of(database)
    assert old == hashlib.sha256(made["api_key"].encode()).digest()
    assert new == hashlib.sha256(rotated["api_key"].encode()).digest()
    assert never is None
    assert ends is not None
    assert 7000 < (ends - datetime.now(UTC)).total_seconds() < 7300


async def test_without_grace_the_old_key_ends_at_once(relay: Relay, database: Database) -> None:
    await relay("source", "create", "acme", "--insecure")
    await relay("source", "rotate-key", "acme", "--grace", "0")
    async with database.begin() as connection:
        good = await admission.load(connection, Seal([]))
    assert [len(each.key_sha256s) for each in good.sources.values()] == [1]


async def test_a_bad_grace_is_refused(relay: Relay) -> None:
    await relay("source", "create", "acme", "--insecure")
    result = await relay("source", "rotate-key", "acme", "--grace", "tomorrow", exits=2)
    assert "write 90s, 30m, 2h or 3d" in result.stderr


# --- pause, resume, delete ------------------------------------------------------------------


async def test_pause_and_resume(relay: Relay) -> None:
    await relay("source", "create", "acme", "--insecure")
    assert "acme is paused" in (await relay("source", "pause", "acme")).stdout
    assert output(await relay("source", "show", "acme", "--json"))["paused_at"] is not None
    assert output(await relay("status", "--json"))["sources"][0]["state"] == "paused"
    assert "acme is forwarding" in (await relay("source", "resume", "acme")).stdout
    assert output(await relay("source", "show", "acme", "--json"))["paused_at"] is None


async def test_a_halted_source_is_shown_and_resumed(
    relay: Relay, database: Database, receive: Receive
) -> None:
    await relay("source", "create", "acme", "--insecure", "--no-dlq")
    (inbox_id,) = await receive("acme", event("evt_1"))
    async with database.driver() as pg:
        await pg.execute(
            "UPDATE relay.source SET halted_at = now(), halted_code = 'invalid_topic',"
            " halted_error = 'no \x1b[31mgood', halted_number = $1",
            inbox_id,
        )
    shown = await relay("source", "show", "acme")
    assert "halted (invalid_topic: no \\x1b[31mgood)" in shown.stderr
    assert "\x1b" not in shown.output
    status = await relay("status")
    assert "halted" in status.stdout
    assert "halted (invalid_topic" in status.stderr
    assert output(await relay("source", "resume", "acme", "--json"))["state"] == "forwarding"


async def test_delete_refuses_while_events_are_unfinished(relay: Relay, receive: Receive) -> None:
    await relay("source", "create", "acme", "--insecure")
    await receive("acme", event("evt_1"), event("evt_2"))
    await receive("acme", event("evt_3"), dead="too_large")
    result = await relay("source", "delete", "acme", exits=1)
    assert "2 waiting events and 1 dead letters" in result.stderr
    deleted = output(await relay("source", "delete", "acme", "--discard-pending", "--json"))
    assert (deleted["discarded_events"], deleted["discarded_dead_letters"]) == (2, 1)
    assert output(await relay("source", "list", "--json")) == []
    events = output(await relay("events", "list", "--source", "acme", "--json"))
    assert {each["state"] for each in events} == {"skipped"}, "the evidence stays"
    assert {each["skip_reason"] for each in events} == {"discarded"}


async def test_a_deleted_source_frees_its_name(relay: Relay) -> None:
    first = output(await relay("source", "create", "acme", "--insecure", "--json"))
    await relay("source", "delete", "acme")
    await relay("source", "show", first["id"], exits=2)
    second = output(await relay("source", "create", "acme", "--insecure", "--json"))
    assert second["id"] != first["id"]


# --- encryption keys ------------------------------------------------------------------------


async def test_rotating_the_encryption_key_seals_everything_anew(
    relay: Relay, database: Database
) -> None:
    created = ("--signing-secret", "whsec_a", "--signing-secret", "whsec_b")
    await relay("source", "create", "acme", *created, "--stripe-api-key", "sk_test_1")
    await relay("source", "create", "beta", "--insecure")
    new = new_key()
    keys = {"RELAY_ENCRYPTION_KEYS": f"{new},{KEY}"}
    assert output(await relay("encryption-key", "rotate", "--json", **keys)) == {"renewed": 3}
    assert await secrets_of(database, "acme", new) == ("whsec_a", "whsec_b")
    only_new = {"RELAY_ENCRYPTION_KEYS": new}
    await relay("source", "update", "acme", "--add-signing-secret", "whsec_c", **only_new)
    result = await relay("source", "update", "acme", "--add-signing-secret", "whsec_d", exits=2)
    assert "cannot be opened with any key in RELAY_ENCRYPTION_KEYS" in result.stderr


async def test_rotating_without_the_old_key_changes_nothing(
    relay: Relay, database: Database
) -> None:
    await relay("source", "create", "acme", "--signing-secret", "whsec_a")
    wrong = {"RELAY_ENCRYPTION_KEYS": new_key()}
    result = await relay("encryption-key", "rotate", exits=2, **wrong)
    assert "RELAY_ENCRYPTION_KEYS: add the key" in result.stderr
    assert await secrets_of(database, "acme") == ("whsec_a",)
