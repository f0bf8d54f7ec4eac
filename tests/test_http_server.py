"""Where the small servers beside the receiver's listen."""

from __future__ import annotations

import socket

import httpx
import pytest

from relay.admin import AdminServer
from relay.dev.process import free_port


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::", "::1"])
async def test_the_admin_port_takes_ipv6(host: str) -> None:
    server = AdminServer([])
    port = free_port()
    await server.start(host, port)
    try:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://[::1]:{port}/")).status_code == 404
            if host == "::":
                assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 404
    finally:
        await server.stop()
