"""Every fault by its name: a coroutine that brings it about, lasts as long as it, and ends it.

It is given the world and a source of chance of its own, and must leave the world as it found it,
whatever happens: what a fault needs to be over is in its `finally`. A fault that cannot be had on
this machine raises `NotHereError`, which the report names.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tests.faults.attacks import clients, network, processes, servers
from tests.faults.attacks.common import NotHereError
from tests.faults.world import World

Attack = Callable[[World, random.Random], Awaitable[None]]

ATTACKS: Final[Mapping[str, Attack]] = {
    **processes.ATTACKS,
    **servers.ATTACKS,
    **network.ATTACKS,
    **clients.ATTACKS,
}

__all__ = ["ATTACKS", "Attack", "NotHereError"]
