"""The fake as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import httpx
import pytest

from relay.dev.stripe_api import FakeStripe

PROGRAM = [sys.executable, "-m", "relay.dev.stripe_api"]


def test_it_serves_the_same_objects_as_here_until_it_is_told_to_end() -> None:
    counts = {"customer": 4, "charge": 2}
    objects = ",".join(f"{name}={count}" for name, count in counts.items())
    with subprocess.Popen(
        [*PROGRAM, "--objects", objects, "--seed", "7", "--endpoint-limit", "1000"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url, key = process.stdout.readline().split()
            answer = httpx.get(f"{url}/v1/customers", headers={"Authorization": f"Bearer {key}"})
            here = FakeStripe(counts, seed=7).resource("customer")
            assert [one["id"] for one in answer.json()["data"]] == here.ids()
            assert all(here.render(row) in answer.content for row in here.rows())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("objects", ["mandate=3", "customer=many", "customer", "-1"])
def test_a_wrong_number_of_objects_is_named(objects: str) -> None:
    ended = subprocess.run([*PROGRAM, "--objects", objects], capture_output=True, text=True)
    assert ended.returncode == 2
    assert f"{objects!r} is not RESOURCE=NUMBER" in ended.stderr
