"""Attack relay, and judge it afterwards.

    python -m tests.faults [--long] [--seed N] [--only FAULT …] [--plan]

The same seed gives the same faults at the same seconds with the same choices; processes, servers
and the clock stay as random as they are.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import rig
from tests.faults.attacks import ATTACKS
from tests.faults.lanes import BRIEF, LONG, SHORT
from tests.faults.schedule import TRACKS, plan


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="real time-outs")
    parser.add_argument("--seed", type=int, default=None, metavar="N")
    parser.add_argument("--only", action="append", choices=sorted(ATTACKS), metavar="FAULT")
    parser.add_argument("--seconds", type=float, help="of the attack, instead of the lane's")
    parser.add_argument("--plan", action="store_true", help="print the schedule and end")
    parser.add_argument("--all", action="store_true", help="tell every violation, not 40")
    parser.add_argument("--mutant", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    lane = BRIEF if options.mutant else LONG if options.long else SHORT
    tracks = TRACKS
    if options.only:
        tracks = {name: [f for f in faults if f in options.only] for name, faults in TRACKS.items()}
        tracks = {name: faults for name, faults in tracks.items() if faults}
    seconds = options.seconds or lane.attack_seconds
    planned = plan(seed, seconds, lane.seconds_per_fault, tracks)
    print(f"SEED={seed} lane={lane.name} faults={len(planned)}", flush=True)
    for each in planned:
        print(f"  {each.at:7.1f} s  {each.track:10}  {each.fault}")
    if options.plan:
        return
    # Whoever ends it, also in the background: disks are taken out again.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="relay-faults-"))
    began = time.monotonic()
    violations = asyncio.run(
        rig.attack(lane, seed, planned, seconds, directory, mutant=options.mutant)
    )
    print(f"SEED={seed}: {len(violations)} violations in {time.monotonic() - began:.0f} s")
    for line in violations if options.all else violations[:40]:
        print(f"  {line}")
    if violations:
        print(f"The logs are in {directory}.")
        sys.exit(1)
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
