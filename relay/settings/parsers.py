"""How the text of a variable becomes a value.

Each parser raises a ``ValueError`` that says what is wanted and never repeats what was given.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable
from urllib.parse import urlsplit

from relay.settings import postgres
from relay.settings.model import Address, Network


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text) or not least <= int(text) <= most:
            limits = f"of {least} or more" if most == 2**31 - 1 else f"from {least} to {most}"
            raise ValueError(f"must be a whole number {limits}")
        return int(text)

    return parse


def replication_factor(text: str) -> int:
    if text != "-1" and not (text.isascii() and text.isdigit() and 0 < int(text) < 2**15):
        raise ValueError("must be -1 (the broker's default) or a whole number of 1 or more")
    return int(text)


def seconds(least: float, most: float = 86400.0) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or not (
            least <= float(text) <= most
        ):
            raise ValueError(f"must be a number of seconds from {least:g} to {most:g}")
        return float(text)

    return parse


def boolean(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            near = difflib.get_close_matches(text.lower(), words, 1)
            hint = f" (nearest: {near[0]})" if near else ""
            raise ValueError(f"must be one of {', '.join(words)}{hint}")
        return text.lower()

    return parse


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise ValueError("must be a number above 0 and not above 1")
    return value


def address(text: str) -> Address:
    match = re.fullmatch(r"(\[([0-9A-Fa-f:.%]+)\]|[^\[\]:/\s@]+):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("must be HOST:PORT, such as 0.0.0.0:8080 or [::]:8080")
    return Address(match[2] or match[1], int(match[3]))


def networks(text: str) -> tuple[Network, ...]:
    if text.lower() == "off":
        return ()
    found = []
    for word in filter(None, re.split(r"[,\s]+", text)):
        try:
            found.append(ipaddress.ip_network(word))
        except ValueError:
            raise ValueError(
                "must be addresses or networks such as 192.0.2.7,2001:db8::/32 (with no bits set"
                " behind the prefix), or off"
            ) from None
    return tuple(found)


def web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        ok = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        ok = False
    if not ok or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", text):
        raise ValueError("must be a URL such as https://relay.example.com, with no query or login")
    return text.rstrip("/")


def database_url(text: str) -> str:
    wrong = "must be a libpq URL such as postgresql://user@host1,host2:5432/name"
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError(wrong) from None
    if parts.scheme.startswith(("postgresql+", "postgres+")):
        raise ValueError("must begin with postgresql://, without the name of a driver")
    if parts.scheme not in ("postgresql", "postgres") or not text.startswith(f"{parts.scheme}://"):
        raise ValueError(wrong)
    for host in filter(None, parts.netloc.rpartition("@")[2].split(",")):
        port = host.rpartition("]")[2].partition(":")[2]
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            # Not shown: where a slash in a password is not escaped, this is the password.
            raise ValueError("has a port that is no number (write / ? # @ in a password as %2F …)")
    postgres.route(text)
    return text


def bootstrap_servers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        # librdkafka takes an optional protocol in front and 9092 when there is no port.
        if not re.fullmatch(
            r"([A-Za-z_]+://)?(\[[0-9A-Fa-f:.%]+\]|[^\[\]:/\s@]+)(:[0-9]+)?", server
        ):
            raise ValueError("must be HOST:PORT[,HOST:PORT…]")
    return ",".join(servers)


def encryption_keys(text: str) -> tuple[str, ...]:
    keys = tuple(key for key in re.split(r"[,\s]+", text) if key)
    for place, key in enumerate(keys, 1):
        # 32 bytes in URL-safe base 64; the last character before the padding carries 4 bits.
        if not re.fullmatch(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=", key):
            raise ValueError(
                f"has no valid key in place {place}: make one with `relay encryption-key new`"
            )
    if not keys:
        raise ValueError("has no key: make one with `relay encryption-key new`")
    return keys
