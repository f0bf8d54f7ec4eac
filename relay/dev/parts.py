"""What the demo and `relay dev` have in common: starting parts, and ending on a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Final

import uvloop

from relay.dev.process import Service

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(main: Coroutine[None, None, int], *, on_signal: Callable[[], bool] | None = None) -> int:
    """Run a command to its exit status; a signal cancels it, and it ends with 1.

    ``on_signal`` may deal with a signal itself; it returns false when it does not.
    """
    return uvloop.run(_until_signal(main, on_signal))


async def _until_signal(
    main: Coroutine[None, None, int], on_signal: Callable[[], bool] | None
) -> int:
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(main)

    def handle() -> None:
        if on_signal is None or not on_signal():
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, handle)
    try:
        return await task
    except asyncio.CancelledError:
        print("relay: stopped by a signal", file=sys.stderr, flush=True)
        return 1


async def start_together(stack: AsyncExitStack, *services: Service) -> None:
    """Start them side by side; ``stack`` stops all that did start. Raises StartError."""
    outcomes = await asyncio.gather(
        *[stack.enter_async_context(service) for service in services], return_exceptions=True
    )
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
