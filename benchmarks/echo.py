"""What the HTTP server alone can do: an ASGI application that reads the body and answers.

python -m benchmarks.echo PORT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"17")],
}
_BODY = {"type": "http.response.body", "body": b'{"received":true}'}


async def app(
    _scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    while (await receive()).get("more_body"):
        pass
    await send(_START)
    await send(_BODY)


if __name__ == "__main__":
    options = {"log_level": "error", "access_log": False, "lifespan": "off", "http": "httptools"}
    uvicorn.run(app, port=int(sys.argv[1]), **options)
