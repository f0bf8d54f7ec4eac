"""The optional check of Stripe's addresses: whose word on one counts, and the file of them."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from relay.core.errors import ConfigError
from relay.receiver import SourceAddresses
from relay.receiver.addresses import Network, parse, read
from tests.receiver.client import exchange
from tests.receiver.serving import Serving, event, request


def nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


STRIPE = nets("3.18.12.63", "2001:db8:5::/48")
PROXIES = nets("10.0.0.0/8", "fd00::/8", "127.0.0.1")


def admitted(peer: str | None, *forwarded: str, proxies: tuple[Network, ...] = PROXIES) -> bool:
    headers = [(b"host", b"relay"), *((b"x-forwarded-for", f.encode("latin-1")) for f in forwarded)]
    return SourceAddresses(STRIPE, proxies=proxies).admit(peer, headers)


@pytest.mark.parametrize(
    ("peer", "forwarded"),
    [
        ("3.18.12.63", []),
        ("::ffff:3.18.12.63", []),
        ("2001:db8:5::1", []),
        # Nobody asks who else is named when it comes from there itself.
        ("3.18.12.63", ["203.0.113.9"]),
        ("10.1.2.3", ["3.18.12.63"]),
        ("::ffff:10.1.2.3", ["3.18.12.63"]),
        ("fd00::1", ["2001:db8:5::1"]),
        ("10.1.2.3", ["3.18.12.63:443"]),
        ("10.1.2.3", ["[2001:db8:5::1]:443"]),
        ("10.1.2.3", ["[2001:db8:5::1]"]),
        ("10.1.2.3", ["::ffff:3.18.12.63"]),
        ("10.1.2.3", [" 3.18.12.63 ,\t10.9.9.9 "]),
        ("10.1.2.3", ["3.18.12.63", "10.9.9.9"]),
        # What the sender claims stands before what our proxy has seen.
        ("10.1.2.3", ["garbage, 203.0.113.9, 3.18.12.63"]),
    ],
)
def test_stripe_comes_in(peer: str, forwarded: list[str]) -> None:
    assert admitted(peer, *forwarded)


@pytest.mark.parametrize(
    ("peer", "forwarded"),
    [
        ("203.0.113.9", []),
        # From anybody but a proxy of ours the header is not believed.
        ("203.0.113.9", ["3.18.12.63"]),
        ("3.18.12.64", []),
        ("2001:db8:6::1", []),
        ("10.1.2.3", []),
        ("10.1.2.3", ["203.0.113.9"]),
        # The nearest that is not ours counts; what stands before it is a claim of its own.
        ("10.1.2.3", ["3.18.12.63, 203.0.113.9"]),
        ("10.1.2.3", ["3.18.12.63", "203.0.113.9"]),
        ("10.1.2.3", ["3.18.12.63, 203.0.113.9, 10.9.9.9"]),
        ("10.1.2.3", ["3.18.12.63, unknown"]),
        ("10.1.2.3", ["3.18.12.63,"]),
        ("10.1.2.3", [""]),
        ("10.1.2.3", ["10.9.9.9"]),
        ("10.1.2.3", ["3.18.12.63" + ", 10.9.9.9" * 1000]),
        ("10.1.2.3", ["3.18.12.63:99999"]),
        ("10.1.2.3", ["3.18.12.63:"]),
        ("10.1.2.3", ["3.18.12.63\u00b2"]),
        ("10.1.2.3", ["[3.18.12.63"]),
        ("10.1.2.3", ["[2001:db8:5::1]x"]),
        ("10.1.2.3", ["003.018.012.063"]),
        ("10.1.2.3", ["51511359"]),
        (None, []),
        (None, ["3.18.12.63"]),
        ("", ["3.18.12.63"]),
    ],
)
def test_nobody_else_does(peer: str | None, forwarded: list[str]) -> None:
    assert not admitted(peer, *forwarded)


def test_without_proxies_the_header_means_nothing() -> None:
    assert not admitted("10.1.2.3", "3.18.12.63", proxies=())
    assert admitted("3.18.12.63", "10.1.2.3", proxies=())


def test_off_lets_everybody_try() -> None:
    assert SourceAddresses(proxies=PROXIES).admit(None, [])
    assert SourceAddresses().is_off


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "a.b.c.d", "1.2.3.4:5:6", "::1]:2", "1.2.3.4/8"]
)
def test_no_address(text: str) -> None:
    assert parse(text) is None


# The file


def test_the_file_is_lines_or_the_json_of_stripe(tmp_path: Path) -> None:
    file = tmp_path / "ips"
    file.write_text("# Stripe's\r\n3.18.12.63\r\n\r\n2001:db8:5::/48 # more\r\n")
    assert read(file) == STRIPE
    for content in (
        {"WEBHOOKS": ["3.18.12.63", "2001:db8:5::/48"]},
        ["3.18.12.63", "2001:db8:5::/48"],
    ):
        file.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
        assert read(file) == STRIPE


BAD = {
    "empty": (b"", "there is no address in it"),
    "only comments": (b"# 3.18.12.63\n", "there is no address in it"),
    "no lists": (b"{}", "there is no address in it"),
    "an error page": (b"<html>503</html>", "'<html>503</html>' is no address and no network"),
    "half written": (b'{"WEBHOOKS": ["3.18', "it is not JSON with lists of addresses"),
    "something else": (b'{"WEBHOOKS": [{"ip": "3.18.12.63"}]}', "it is not JSON with lists"),
    "bits behind the prefix": (b"3.18.12.63/8", "is no address and no network"),
    "not text": (b"\xff\xfe3", "it is not UTF-8 text"),
    "huge": (b"3.18.12.63\n" * 200_000, "it is larger than 1 MiB"),
}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_bad_file_stops_the_start(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "ips"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        SourceAddresses(file=file)
    assert "RELAY_STRIPE_SOURCE_ADDRESSES_FILE: " in raised.value.message
    assert reason in raised.value.message


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        SourceAddresses(file=tmp_path / "ips")


@pytest.mark.parametrize("content", [*(content for content, _ in BAD.values()), None])
def test_later_a_bad_one_changes_nothing_and_is_told_once(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ips"
    file.write_text("3.18.12.63")
    addresses = SourceAddresses(file=file)
    if content is None:
        file.unlink()
    else:
        replace(file, content)
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            addresses.refresh()
    assert [line["event"] for line in logged] == ["receiver.source_addresses_unusable"]
    assert addresses.admit("3.18.12.63", [])
    assert not addresses.admit("203.0.113.9", [])

    replace(file, b"203.0.113.9")
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            addresses.refresh()
    assert [line["event"] for line in logged] == ["receiver.source_addresses_read"]
    assert not addresses.admit("3.18.12.63", [])
    assert addresses.admit("203.0.113.9", [])


def replace(file: Path, content: bytes) -> None:
    """As it is done in order: written beside it and renamed."""
    beside = file.with_name("new")
    beside.write_bytes(content)
    os.replace(beside, file)


# Over HTTP


def test_strangers_are_answered_403_before_anything_else(serve: Callable[..., Serving]) -> None:
    serving = serve(addresses=SourceAddresses(nets("192.0.2.1")))
    source = serving.add_source()
    with structlog.testing.capture_logs() as logged:
        for target in (source.target, "/webhooks/src_unknown?api_key=wrong"):
            answer = exchange(serving.port, request(source, event("evt_1"), target=target))
            assert (answer.status, answer.json) == (403, {"error": "source_address"})
            assert answer.headers["connection"] == "close"
    assert [(line["event"], line["address"]) for line in logged] == [
        ("receiver.source_address_refused", "127.0.0.1")
    ]
    assert serving.receiver.counters.answers[403, "source_address"] == 2
    assert serving.fetch("SELECT FROM relay.inbox") == []
    # The body is not waited for, and health is for everybody.
    head = request(source, b"", "content-length: 1000000")
    assert exchange(serving.port, head).status == 403
    for path in (b"/livez", b"/readyz"):
        assert exchange(serving.port, b"GET %s HTTP/1.1\r\n\r\n" % path).status == 200


def test_behind_a_proxy_that_is_trusted(serve: Callable[..., Serving]) -> None:
    serving = serve(addresses=SourceAddresses(STRIPE, proxies=PROXIES))
    source = serving.add_source()
    genuine = request(source, event("evt_1"), "x-forwarded-for: 203.0.113.9, 3.18.12.63")
    assert exchange(serving.port, genuine).status == 200
    forged = request(source, event("evt_2"), "x-forwarded-for: 3.18.12.63, 203.0.113.9")
    assert exchange(serving.port, forged).status == 403


def test_the_file_is_read_again(serve: Callable[..., Serving], tmp_path: Path) -> None:
    file = tmp_path / "ips"
    file.write_text("192.0.2.1")
    serving = serve(addresses=SourceAddresses(file=file))
    source = serving.add_source()
    assert serving.post(source, event("evt_1")).status == 403
    replace(file, b'{"WEBHOOKS": ["127.0.0.1"]}')
    serving.run(serving.receiver.run_once())
    assert serving.post(source, event("evt_1")).status == 200
