"""A client that can be as rude as the test wants: bytes out, answers in."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

SECONDS = 20.0
"""How long anything may take before the test is lost; nothing is measured against it."""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> object:
        return msgspec.json.decode(self.body)

    @property
    def error(self) -> str:
        content = self.json
        assert isinstance(content, dict)
        return str(content["error"])

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_until_cut_off(self, data: bytes) -> None:
        """Sends `data` again and again; raises OSError when the server has closed for good."""
        while True:
            self.send(data)

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def read_answer(self) -> Answer:
        """The next answer; fails when the connection ends before one is complete."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        assert len(headers) == len(lines), "a header came twice"
        length = int(headers.get("content-length", "0"))
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return Answer(int(status), headers, body)

    def read_to_end(self) -> bytes:
        """Everything until the server closes."""
        while True:
            try:
                data = self.socket.recv(65_536)
            except ConnectionResetError:
                data = b""
            if not data:
                received, self._received = self._received, b""
                return received
            self._received += data

    def is_closed(self) -> bool:
        """Waits for the end of the connection; false when something else comes first."""
        return self.read_to_end() == b""

    def _receive(self) -> None:
        data = self.socket.recv(65_536)
        assert data, f"the server closed after {self._received!r}"
        self._received += data


def exchange(port: int, request: bytes) -> Answer:
    """One request on a connection of its own."""
    with Client(port) as client:
        client.send(request)
        return client.read_answer()
