"""Whether a request comes from one of Stripe's addresses: an optional check beside the signature.

Stripe publishes them at https://stripe.com/files/ips/ips_webhooks.txt and, as JSON, at
https://stripe.com/files/ips/ips_webhooks.json. They change now and then, so the file is read again
when it changes, and a bad one leaves the last good one in force.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import msgspec
import structlog

from relay.core.errors import ConfigError

log: Final = structlog.get_logger("relay.receiver")

Network = IPv4Network | IPv6Network
FILE_SETTING: Final = "RELAY_STRIPE_SOURCE_ADDRESSES_FILE"

_MAX_FILE_BYTES: Final = 1_048_576
_MAX_HOPS: Final = 32
"""Addresses of one request that are looked at; more are nobody's proxies."""


class SourceAddresses:
    """The networks that webhooks may come from; nothing is refused when none were given.

    ``file`` holds them one a line or as Stripe's JSON. Behind a proxy the address is the last one
    in X-Forwarded-For that is none of ``proxies``; from anybody else the header is not believed.
    Raises ConfigError when the file cannot be used at the start.
    """

    def __init__(
        self,
        networks: Sequence[Network] = (),
        *,
        file: Path | None = None,
        proxies: Sequence[Network] = (),
    ) -> None:
        self._networks = tuple(networks)
        self._file = file
        self._proxies = tuple(proxies)
        self._seen: tuple[int, ...] | None = None
        if file is not None:
            try:
                self._seen = _stamp(file)
                self._networks = read(file)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"{FILE_SETTING}: {file}: {_reason(error)}", setting=FILE_SETTING
                ) from None

    @property
    def is_off(self) -> bool:
        return not self._networks

    def refresh(self) -> None:
        """Read the file again if it has changed. A bad one is told once and changes nothing."""
        if self._file is None:
            return
        try:
            stamp = _stamp(self._file)
        except OSError:
            stamp = ()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._networks = read(self._file)
        except (OSError, ValueError) as error:
            log.warning(
                "receiver.source_addresses_unusable",
                file=str(self._file),
                error=_reason(error),
                kept=len(self._networks),
            )
        else:
            log.info("receiver.source_addresses_read", networks=len(self._networks))

    def admit(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request may come in; ``peer`` is the other end of its connection."""
        if not self._networks:
            return True
        address = self.origin(peer, headers)
        return address is not None and _is_in(address, self._networks)

    def origin(
        self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]
    ) -> IPv4Address | IPv6Address | None:
        """Who sent it: the first address that is no proxy of ours, from the near end.

        None when a proxy says something that is no address.
        """
        address = parse(peer or "")
        if address is None or not self._proxies or not _is_in(address, self._proxies):
            return address
        lines = [value for name, value in headers if name == b"x-forwarded-for"]
        hops = b",".join(lines).decode("latin-1").split(",")
        for hop in reversed(hops[-_MAX_HOPS:]):
            address = parse(hop)
            if address is None or not _is_in(address, self._proxies):
                return address
        return address


def parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address as proxies write it, with or without a port; None for anything else."""
    text = text.strip()
    if text.startswith("["):
        inner, bracket, port = text[1:].partition("]")
        if not bracket or not (port == "" or _is_port(port[:1], port[1:])):
            return None
        text = inner
    elif text.count(":") == 1:
        text, colon, port = text.partition(":")
        if not _is_port(colon, port):
            return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A socket that takes both families writes IPv4 like this.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_port(colon: str, text: str) -> bool:
    return colon == ":" and text.isascii() and text.isdigit() and int(text) < 65536


def _is_in(address: IPv4Address | IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def read(file: Path) -> tuple[Network, ...]:
    """The networks in a file: JSON with lists of them, or lines, in which # begins a comment.

    Raises OSError, and ValueError with the reason when there is no network or something else.
    """
    with file.open("rb") as stream:
        content = stream.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES:
        raise ValueError("it is larger than 1 MiB")
    text = content.decode("utf-8-sig")
    words = _words_of_json(text) if text.lstrip()[:1] in ("{", "[") else _words_of_lines(text)
    networks = tuple(_network(word) for word in words)
    if not networks:
        raise ValueError("there is no address in it")
    return networks


def _words_of_lines(text: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _words_of_json(text: str) -> list[str]:
    try:
        found = msgspec.json.decode(text, type=dict[str, list[str]] | list[str])
    except msgspec.DecodeError as error:
        raise ValueError(f"it is not JSON with lists of addresses: {error}") from None
    return found if isinstance(found, list) else [word for each in found.values() for word in each]


def _network(word: str) -> Network:
    try:
        return ipaddress.ip_network(word)
    except ValueError:
        raise ValueError(f"{word[:60]!r} is no address and no network") from None


def _stamp(file: Path) -> tuple[int, ...]:
    """What is another one when the file was written or replaced."""
    told = file.stat()
    return told.st_mtime_ns, told.st_size, told.st_ino, told.st_dev


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return (isinstance(error, OSError) and error.strerror) or str(error)
