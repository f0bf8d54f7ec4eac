"""The configuration: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import ctypes
import shlex
import stat
import subprocess
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from relay.core.errors import ConfigError
from relay.settings import (
    VARIABLES,
    Address,
    Settings,
    effective,
    envfile,
    hide_password,
    librdkafka,
    load,
)

KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
OTHER_KEY = "_____________________________________-____8="


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = load({})
    assert settings == Settings()
    assert (str(settings.bind), str(settings.admin_bind)) == ("127.0.0.1:8080", "127.0.0.1:8081")
    assert settings.stripe_api_base == "https://api.stripe.com"
    assert (settings.topic_auto_create, settings.topic_partitions) == (True, 6)
    assert (settings.topic_replication_factor, settings.retention_days) == (-1, 0)
    assert settings.max_body_bytes == 52428800
    assert settings.delivery_timeout_seconds == 10
    assert (settings.frozen_after_seconds, settings.drain_seconds) == (30, 25)
    assert (settings.probe_seconds, settings.body_timeout_seconds) == (60, 30)


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p@h/d", "database_url", "postgresql://u:p@h/d"),
        (
            "DATABASE_URL",
            "postgres:///d?host=/run/pg",
            "database_url",
            "postgres:///d?host=/run/pg",
        ),
        (
            "DATABASE_URL",
            "postgresql://u@h1:5432,[::1]:5433,h3/d?target_session_attrs=read-write",
            "database_url",
            "postgresql://u@h1:5432,[::1]:5433,h3/d?target_session_attrs=read-write",
        ),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:9092, b:9093", "kafka_bootstrap_servers", "a:9092,b:9093"),
        ("KAFKA_BOOTSTRAP_SERVERS", "[::1]:9092", "kafka_bootstrap_servers", "[::1]:9092"),
        ("ENCRYPTION_KEYS", f"{KEY},{OTHER_KEY}", "encryption_keys", (KEY, OTHER_KEY)),
        ("ENCRYPTION_KEYS", f"{KEY}\n{OTHER_KEY}\n", "encryption_keys", (KEY, OTHER_KEY)),
        ("PUBLIC_URL", "https://r.example.com/hooks/", "public_url", "https://r.example.com/hooks"),
        ("BIND", "[::1]:0", "bind", Address("::1", 0)),
        ("BIND", "0.0.0.0:80", "bind", Address("0.0.0.0", 80)),
        ("ADMIN_BIND", "localhost:9", "admin_bind", Address("localhost", 9)),
        ("ADMIN_HIDE_BODIES", "true", "admin_hide_bodies", True),
        ("STRIPE_SOURCE_ADDRESSES", "off", "stripe_source_addresses", ()),
        (
            "STRIPE_SOURCE_ADDRESSES",
            "192.0.2.7, 2001:db8::/32",
            "stripe_source_addresses",
            (IPv4Network("192.0.2.7"), IPv6Network("2001:db8::/32")),
        ),
        (
            "STRIPE_SOURCE_ADDRESSES_FILE",
            "/etc/relay/ips_webhooks.txt",
            "stripe_source_addresses_file",
            Path("/etc/relay/ips_webhooks.txt"),
        ),
        ("TRUSTED_PROXIES", "10.0.0.0/8", "trusted_proxies", (IPv4Network("10.0.0.0/8"),)),
        ("TOPIC_AUTO_CREATE", "False", "topic_auto_create", False),
        ("TOPIC_AUTO_CREATE", "1", "topic_auto_create", True),
        ("TOPIC_REPLICATION_FACTOR", "-1", "topic_replication_factor", -1),
        ("TOPIC_REPLICATION_FACTOR", "3", "topic_replication_factor", 3),
        ("MAX_BODY_BYTES", " 1024 ", "max_body_bytes", 1024),
        ("BACKOFF_BASE_SECONDS", "0.5", "backoff_base_seconds", 0.5),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
    ],
)
def test_a_value_is_read(name: str, text: str, field: str, value: object) -> None:
    assert getattr(load({f"RELAY_{name}": text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("DATABASE_URL", "host=h dbname=d", "libpq URL"),
        ("DATABASE_URL", "mysql://h/d", "libpq URL"),
        ("DATABASE_URL", "postgresql:h/d", "libpq URL"),
        ("DATABASE_URL", "postgresql+asyncpg://h/d", "without the name of a driver"),
        ("DATABASE_URL", "postgresql://u@h:0/d", "port"),
        ("DATABASE_URL", "postgresql://u@h1:5432,h2:54321x/d", "port"),
        ("DATABASE_URL", "postgresql://[::1/d", "libpq URL"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:9092,", "HOST:PORT"),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:x", "HOST:PORT"),
        ("PUBLIC_URL", "relay.example.com", "must be a URL"),
        ("PUBLIC_URL", "https://relay.example.com/?a=1", "must be a URL"),
        ("PUBLIC_URL", "ftp://relay.example.com", "must be a URL"),
        ("PUBLIC_URL", "https://h:99999", "must be a URL"),
        ("BIND", "8080", "HOST:PORT"),
        ("BIND", ":8080", "HOST:PORT"),
        ("BIND", "h:70000", "HOST:PORT"),
        ("BIND", "::1:8080", "HOST:PORT"),
        ("STRIPE_SOURCE_ADDRESSES", "/etc/relay/ips_webhooks.txt", "must be addresses"),
        ("STRIPE_SOURCE_ADDRESSES", "hooks.stripe.com", "must be addresses"),
        ("TRUSTED_PROXIES", "10.0.0.1/8", "no bits set"),
        ("TOPIC_AUTO_CREATE", "maybe", "true or false"),
        ("TOPIC_PARTITIONS", "0", "from 1 to 10000"),
        ("TOPIC_PARTITIONS", "1.5", "whole number"),
        ("TOPIC_PARTITIONS", "١", "whole number"),
        ("TOPIC_REPLICATION_FACTOR", "0", "-1"),
        ("RETENTION_DAYS", "-1", "whole number"),
        ("RETENTION_DAYS", "1_0", "whole number"),
        ("DRAIN_SECONDS", "nan", "seconds"),
        ("DRAIN_SECONDS", "inf", "seconds"),
        ("DRAIN_SECONDS", "1e3", "seconds"),
        ("PROBE_SECONDS", "0", "from 0.1"),
        ("LOG_FORMAT", "jsn", "nearest: json"),
        ("LOG_LEVEL", "warn", "nearest: warning"),
        ("ENCRYPTION_KEYS", ",", "no key"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, text: str, wanted: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({f"RELAY_{name}": text})
    assert caught.value.setting == f"RELAY_{name}"
    assert caught.value.message.startswith(f"RELAY_{name} ")
    assert wanted in caught.value.message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ENCRYPTION_KEYS", f"{KEY},hunter2"),
        ("ENCRYPTION_KEYS", KEY[:-2] + "B="),
        ("DATABASE_URL", "postgresql://u:hunter2/x@h/d"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("DATABASE_URL", "postgresql://u:hunter2]@h/d"),
    ],
)
def test_a_refusal_never_repeats_a_secret(name: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({f"RELAY_{name}": text})
    assert "hunter2" not in caught.value.message
    assert KEY[:-2] not in caught.value.message
    assert caught.value.__suppress_context__, "a traceback would show the parser's own error"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("RELAY_DATABSE_URL", "RELAY_DATABASE_URL"),
        ("RELAY_ADMINBIND", "RELAY_ADMIN_BIND"),
        ("RELAY_ENCRYPTION_KEY", "RELAY_ENCRYPTION_KEYS"),
        ("RELAY_PUBLIC_URL_FILE", "RELAY_PUBLIC_URL"),
        ("RELAY_PORT", "RELAY_BIND"),
        ("RELAY_RETENTION", "RELAY_RETENTION_DAYS"),
        ("RELAY_MAX_BODY_SIZE", "RELAY_MAX_BODY_BYTES"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is not a setting.*did you mean {nearest}\?"):
        load({name: "1"})


def test_an_unknown_name_that_resembles_nothing_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"RELAY_ZZZZ is not a setting of relay$"):
        load({"RELAY_ZZZZ": "1"})


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_blank_is_not_a_value(text: str) -> None:
    for variable in VARIABLES:
        with pytest.raises(ConfigError, match=f"{variable.name} is set but blank"):
            load({variable.name: text})


def test_other_variables_are_nobody_s_business() -> None:
    assert load({"PATH": "/bin", "_RELAY_COMPLETE": "bash_source", "relay_bind": "x"}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_SERVICE_PORT", "80"),
        ("RELAY_SERVICE_PORT_HTTP", "80"),
        ("RELAY_PORT", "tcp://10.0.0.1:80"),
        ("RELAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("RELAY_PORT_8080_TCP_PROTO", "tcp"),
        ("RELAY_PORT_8080_TCP_PORT", "8080"),
        ("RELAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("RELAY_RECEIVER_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_RECEIVER_SERVICE_PORT_WEB_HOOKS", "80"),
        ("RELAY_RECEIVER_PORT", "udp://10.0.0.1:80"),
        ("RELAY_KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_KAFKA_SERVICE_PORT", "9092"),
        ("RELAY_KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("RELAY_KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_kubernetes_service_links_are_ignored(name: str, value: str) -> None:
    assert load({name: value}) == Settings()


@pytest.mark.parametrize("name", ["RELAY_SERVICE_HOSTS", "RELAY_PORT_X_TCP", "RELAY_ADMIN_PORT"])
def test_what_only_resembles_a_service_link_is_not_ignored(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load({name: "8080"})


# --- secrets from files ---------------------------------------------------------------------


def test_every_secret_can_come_from_a_file(tmp_path: Path) -> None:
    values = {
        "RELAY_DATABASE_URL": "postgresql://u:p@h/d",
        "RELAY_ENCRYPTION_KEYS": KEY,
        "RELAY_ADMIN_TOKEN": "token",
        "RELAY_ADMIN_VIEWER_TOKEN": "another",
        "RELAY_KAFKA_SASL_PASSWORD": "p w",
    }
    environ = {}
    for name, value in values.items():
        path = tmp_path / name
        path.write_text(f"{value}\n", encoding="utf-8")
        environ[f"{name}_FILE"] = str(path)
    settings = load(environ)
    assert settings == load(values)
    assert settings.kafka_properties == {"sasl.password": "p w"}


@pytest.mark.parametrize("name", ["RELAY_ADMIN_TOKEN", "RELAY_KAFKA_SASL_PASSWORD"])
def test_a_secret_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(ConfigError, match=rf"{name}_FILE: cannot read .*No such file"):
        load({f"{name}_FILE": str(path)})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=rf"{name}_FILE: cannot read .*UTF-8"):
        load({f"{name}_FILE": str(path)})
    path.write_text(" \n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"{name}_FILE: the file .* is blank"):
        load({f"{name}_FILE": str(path)})


@pytest.mark.parametrize("name", ["RELAY_ADMIN_TOKEN", "RELAY_KAFKA_SASL_PASSWORD"])
def test_a_secret_given_twice_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a", encoding="utf-8")
    with pytest.raises(ConfigError, match=f"{name} and {name}_FILE are both set"):
        load({name: "b", f"{name}_FILE": str(tmp_path / "secret")})


# --- Kafka ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("SECURITY_PROTOCOL", "security.protocol"),
        ("SASL_MECHANISMS", "sasl.mechanisms"),
        ("SASL_KERBEROS_SERVICE_NAME", "sasl.kerberos.service.name"),
        ("LINGER_MS", "linger.ms"),
        ("COMPRESSION_TYPE", "compression.type"),
        ("LOG_LEVEL", "log_level"),
        # Paths of librdkafka's own, not our "…_FILE".
        (
            "SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE",
            "sasl.oauthbearer.assertion.private.key.file",
        ),
        ("SASL_OAUTHBEARER_ASSERTION_FILE", "sasl.oauthbearer.assertion.file"),
    ],
)
def test_any_librdkafka_property_passes(name: str, key: str) -> None:
    assert load({f"RELAY_KAFKA_{name}": "/x"}).kafka_properties == {key: "/x"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ACKS", "all replicas"),
        ("REQUEST_REQUIRED_ACKS", "all replicas"),
        ("ENABLE_IDEMPOTENCE", "swap"),
        ("MAX_IN_FLIGHT", "swap"),
        ("MAX_IN_FLIGHT_REQUESTS_PER_CONNECTION", "swap"),
        ("QUEUING_STRATEGY", "swap"),
        ("ENABLE_GAPLESS_GUARANTEE", "stop all others"),
        ("PARTITIONER", "murmur2_random"),
        ("MESSAGE_TIMEOUT_MS", "RELAY_DELIVERY_TIMEOUT_SECONDS"),
        ("DELIVERY_TIMEOUT_MS", "RELAY_DELIVERY_TIMEOUT_SECONDS"),
        ("RETRIES", "retried"),
        ("MESSAGE_SEND_MAX_RETRIES", "retried"),
        ("TRANSACTIONAL_ID", "transactions"),
        ("DELIVERY_REPORT_ONLY_ERROR", "delivery report"),
        ("MESSAGE_MAX_BYTES", "verdict"),
        ("METADATA_BROKER_LIST", "RELAY_KAFKA_BOOTSTRAP_SERVERS"),
        ("TEST_MOCK_NUM_BROKERS", "plays"),
        ("DR_MSG_CB", "callback"),
        ("ERROR_CB", "callback"),
        ("ALLOW_AUTO_CREATE_TOPICS", "RELAY_TOPIC_AUTO_CREATE"),
        ("BROKER_VERSION_FALLBACK", "headers and idempotence"),
        ("PLUGIN_LIBRARY_PATHS", "change what is sent"),
        ("INTERNAL_TERMINATION_SIGNAL", "process"),
        ("GROUP_ID", "no consumer group"),
        ("ENABLE_AUTO_COMMIT", "no consumer group"),
    ],
)
def test_a_harmful_property_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"RELAY_KAFKA_{name} cannot be set: .*{reason}"):
        load({f"RELAY_KAFKA_{name}": "1"})


def every_property(directory: Path) -> set[str]:
    """What the installed librdkafka can be told, by its own list."""
    maps = Path("/proc/self/maps").read_text().split()
    library = ctypes.CDLL(next(word for word in maps if "/librdkafka" in word))
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    table = directory / "properties"
    stream = ctypes.c_void_p(libc.fopen(bytes(table), b"w"))
    library.rd_kafka_conf_properties_show(stream)
    libc.fclose(stream)
    rows = (line.split("|") for line in table.read_text().splitlines())
    return {row[0].strip() for row in rows if len(row) > 5 and row[1].strip() in ("*", "C", "P")}


def test_every_property_of_librdkafka_was_judged(tmp_path: Path) -> None:
    """A new version may bring one that breaks the promise: it is looked at before it passes."""
    found = every_property(tmp_path)
    assert len(found) > 150
    # Underscores are for what only a program can set: callbacks, and pointers.
    settable = {name for name in found if "_" not in name} | {"log_level"}
    accepted, refused = set(librdkafka.ACCEPTED.split()), librdkafka.REFUSED.keys()
    assert accepted.isdisjoint(refused)
    assert settable == accepted | refused | {"bootstrap.servers"}


def test_the_properties_that_are_secrets() -> None:
    secrets = {name for name in librdkafka.ACCEPTED.split() if librdkafka.is_secret(name)}
    assert secrets == {
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.password",
        "sasl.username",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    }


def test_every_secret_property_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("from a file\n", encoding="utf-8")
    for key in filter(librdkafka.is_secret, librdkafka.ACCEPTED.split()):
        name = librdkafka.variable_of(key)
        settings = load({f"{name}_FILE": str(tmp_path / "value")})
        assert settings.kafka_properties == {key: "from a file"}
        assert "from a file" in settings.secrets()
        assert effective(settings)[name] == "(hidden)"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("SASL_MECHANISM", "SASL_MECHANISMS"),
        ("LINGER_MS", "QUEUE_BUFFERING_MAX_MS"),
        ("COMPRESSION_TYPE", "COMPRESSION_CODEC"),
    ],
)
def test_a_property_by_both_of_its_names_is_refused(one: str, other: str) -> None:
    with pytest.raises(ConfigError, match=f"RELAY_KAFKA_{other} and RELAY_KAFKA_{one} are both"):
        load({f"RELAY_KAFKA_{one}": "x", f"RELAY_KAFKA_{other}": "y"})


@pytest.mark.parametrize(
    ("key", "value", "named", "said"),
    [
        ("lingr.ms", "1", "RELAY_KAFKA_LINGR_MS", "did you mean RELAY_KAFKA_LINGER_MS?"),
        ("zzzzz", "1", "RELAY_KAFKA_ZZZZZ", "has no such property"),
        ("security.protocol", "x", "RELAY_KAFKA_SECURITY_PROTOCOL", 'Invalid value "x"'),
        ("batch.num.messages", "0", "RELAY_KAFKA_BATCH_NUM_MESSAGES", "outside allowed range"),
        ("sasl.mechanisms", "FOO", None, "Unsupported SASL mechanism"),
    ],
)
def test_librdkafka_s_refusal_names_the_variable(
    key: str, value: str, named: str | None, said: str
) -> None:
    config = {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "sasl_plaintext"}
    with pytest.raises(KafkaException) as caught:
        Producer({**config, "sasl.mechanisms": "PLAIN", key: value})
    error = librdkafka.explain(caught.value.args[0].str())
    assert error.setting == named
    assert said in error.message
    assert error.message.startswith(named or "RELAY_KAFKA_…: ")


# --- what must agree, and what a command needs ----------------------------------------------


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RELAY_ADMIN_BIND": "0.0.0.0:8081"}, "RELAY_ADMIN_TOKEN"),
        ({"RELAY_ADMIN_BIND": "relay.internal:8081"}, "RELAY_ADMIN_TOKEN"),
        ({"RELAY_ADMIN_VIEWER_TOKEN": "v"}, "RELAY_ADMIN_VIEWER_TOKEN"),
        (
            {"RELAY_ADMIN_TOKEN": "t", "RELAY_ADMIN_VIEWER_TOKEN": "t"},
            "RELAY_ADMIN_VIEWER_TOKEN",
        ),
        ({"RELAY_BYTES_IN_FLIGHT": "52428799"}, "RELAY_BYTES_IN_FLIGHT"),
        ({"RELAY_DELIVERY_TIMEOUT_SECONDS": "21"}, "RELAY_BATCH_TIMEOUT_SECONDS"),
        ({"RELAY_BATCH_TIMEOUT_SECONDS": "30"}, "RELAY_FROZEN_AFTER_SECONDS"),
        ({"RELAY_FENCE_MARGIN_SECONDS": "20.1"}, "RELAY_FROZEN_AFTER_SECONDS"),
        ({"RELAY_BACKOFF_BASE_SECONDS": "601"}, "RELAY_BACKOFF_CAP_SECONDS"),
        (
            {
                "RELAY_STRIPE_SOURCE_ADDRESSES": "192.0.2.7",
                "RELAY_STRIPE_SOURCE_ADDRESSES_FILE": "/etc/relay/ips",
            },
            "RELAY_STRIPE_SOURCE_ADDRESSES",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    environ: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert caught.value.setting == named


@pytest.mark.parametrize(
    "environ",
    [
        {"RELAY_ADMIN_BIND": "0.0.0.0:8081", "RELAY_ADMIN_TOKEN": "t"},
        {"RELAY_ADMIN_TOKEN": "t", "RELAY_ADMIN_VIEWER_TOKEN": "v"},
        {"RELAY_ADMIN_BIND": "127.9.9.9:8081"},
        {"RELAY_ADMIN_BIND": "[::1]:8081"},
        {"RELAY_BYTES_IN_FLIGHT": "52428800"},
        {"RELAY_FENCE_MARGIN_SECONDS": "20"},
    ],
)
def test_settings_at_the_limit_agree(environ: dict[str, str]) -> None:
    load(environ)


def test_a_missing_database_names_the_variable() -> None:
    with pytest.raises(ConfigError, match="RELAY_DATABASE_URL is not set"):
        Settings().require_database_url()
    assert load({"RELAY_DATABASE_URL": "postgresql:///d"}).require_database_url()


def test_a_missing_kafka_names_the_variable_and_its_likely_misspelling() -> None:
    with pytest.raises(ConfigError, match="RELAY_KAFKA_BOOTSTRAP_SERVERS is not set: give"):
        load({"RELAY_KAFKA_LINGER_MS": "5"}).require_kafka()
    with pytest.raises(ConfigError, match=r"\(is RELAY_KAFKA_BOOTSTRAP_SERVER meant"):
        load({"RELAY_KAFKA_BOOTSTRAP_SERVER": "h:1"}).require_kafka()
    assert load({"RELAY_KAFKA_BOOTSTRAP_SERVERS": "h:1"}).require_kafka() == "h:1"


# --- showing it -----------------------------------------------------------------------------


def test_the_effective_configuration_hides_every_secret() -> None:
    environ = {
        "RELAY_DATABASE_URL": "postgresql://u:hunter2@h1,h2/d?sslpassword=hunter2&sslmode=require",
        "RELAY_ENCRYPTION_KEYS": KEY,
        "RELAY_ADMIN_TOKEN": "hunter2",
        "RELAY_ADMIN_VIEWER_TOKEN": "hunter2 of viewers",
        "RELAY_KAFKA_SASL_PASSWORD": "hunter2",
        "RELAY_KAFKA_SASL_USERNAME": "hunter2",
        "RELAY_KAFKA_SSL_KEY_PEM": "hunter2",
        "RELAY_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": "hunter2",
        "RELAY_KAFKA_SSL_CA_PEM": "public",
        "RELAY_KAFKA_SECURITY_PROTOCOL": "ssl",
        "RELAY_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8",
    }
    settings = load(environ)
    shown = effective(settings)
    assert "hunter2" not in repr(shown) + repr(settings)
    assert KEY not in repr(shown) + repr(settings)
    assert shown["RELAY_DATABASE_URL"] == (
        "postgresql://u:(hidden)@h1,h2/d?sslpassword=(hidden)&sslmode=require"
    )
    assert shown["RELAY_KAFKA_SSL_CA_PEM"] == "public"
    assert shown["RELAY_KAFKA_SECURITY_PROTOCOL"] == "ssl"
    assert shown["RELAY_TRUSTED_PROXIES"] == "10.0.0.0/8,fd00::/8"
    assert shown["RELAY_BIND"] == "127.0.0.1:8080"
    assert shown["RELAY_TOPIC_AUTO_CREATE"] == "true"
    assert shown["RELAY_DRAIN_SECONDS"] == "25"
    assert {v.name for v in VARIABLES} <= shown.keys()


def test_all_secrets_are_known_to_the_logs() -> None:
    settings = load(
        {
            "RELAY_DATABASE_URL": "postgresql://u:pass-word@h/d",
            "RELAY_ENCRYPTION_KEYS": KEY,
            "RELAY_ADMIN_TOKEN": "the-token",
            "RELAY_ADMIN_VIEWER_TOKEN": "the-viewers",
            "RELAY_KAFKA_SASL_PASSWORD": "the-password",
        }
    )
    secrets = {"pass-word", KEY, "the-token", "the-viewers", "the-password"}
    assert secrets <= set(settings.secrets())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h/d",
        "postgresql:///d?host=/run/postgresql",
        "postgresql://h1:5432,h2:5433/d?target_session_attrs=read-write",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert hide_password(url) == url


# --- files of variables ---------------------------------------------------------------------


def test_an_environment_file_round_trips_and_is_private(tmp_path: Path) -> None:
    values = {"RELAY_A": "plain", "RELAY_B": "two words 'quoted' \"$HOME\" #x", "RELAY_C": "a=b"}
    path = tmp_path / "relay.env"
    envfile.write(path, values, heading="written by a test")
    assert envfile.read(path) == values
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_environment_file_can_be_sourced_by_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "relay.env"
    envfile.write(path, {"RELAY_B": "two words 'quoted' \"$HOME\" #x"})
    script = f'. {shlex.quote(str(path))}; printf %s "$RELAY_B"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "two words 'quoted' \"$HOME\" #x"


def test_comments_blanks_and_export_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "relay.env"
    path.write_text("# a comment\n\nexport RELAY_A=1 # why\nRELAY_B=\n", encoding="utf-8")
    assert envfile.read(path) == {"RELAY_A": "1", "RELAY_B": ""}


@pytest.mark.parametrize("line", ["RELAY_A", "RELAY_A=a b", "RELAY_A='open", "1A=2", "= x"])
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "relay.env"
    path.write_text(f"RELAY_OK=1\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"relay\.env, line 2: "):
        envfile.read(path)
