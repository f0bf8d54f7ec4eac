"""Shutting down: nothing that was begun with is lost, and nothing hangs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from relay.receiver import Limits, Receiver
from tests.receiver.client import Client, exchange
from tests.receiver.serving import Serving, event, request


def start_stopping(serving: Serving, seconds: float) -> threading.Thread:
    """`stop` in another thread, begun: not ready any more."""
    stopping = threading.Thread(target=serving.stop, args=(seconds,))
    stopping.start()
    serving.wait_until(lambda: serving.receiver.health.draining)
    return stopping


def test_requests_in_hand_are_finished(serve: Callable[..., Serving]) -> None:
    serving = serve()
    source = serving.add_source()
    whole = request(source, event("evt_1"))
    with Client(serving.port) as busy, Client(serving.port) as half_way:
        busy.send(whole[:-5])
        half_way.send(whole[:20])
        serving.wait_until(lambda: serving.receiver.budget.in_flight > 0)
        stopping = start_stopping(serving, 10.0)
        serving.wait_until(lambda: _refuses(serving.port))
        busy.send(whole[-5:])
        answer = busy.read_answer()
        assert (answer.status, answer.closes) == (200, True)
        half_way.send(whole[20:])
        answer = half_way.read_answer()
        assert (answer.status, answer.closes) == (200, True)
        assert busy.is_closed()
        assert half_way.is_closed()
    stopping.join()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_request_on_its_way_over_an_idle_connection_is_served(
    serve: Callable[..., Serving],
) -> None:
    serving = serve(limits=Limits(drain_idle_seconds=20.0))
    source = serving.add_source()
    with Client(serving.port) as client:
        client.send(request(source, event("evt_1")))
        assert not client.read_answer().closes
        stopping = start_stopping(serving, 30.0)
        serving.wait_until(lambda: _refuses(serving.port))
        client.send(request(source, event("evt_2")))
        answer = client.read_answer()
        assert (answer.status, answer.closes) == (200, True)
        assert client.is_closed()
    stopping.join()


def test_an_idle_connection_does_not_hold_up_the_end(serve: Callable[..., Serving]) -> None:
    serving = serve(limits=Limits(drain_idle_seconds=0.1))
    with Client(serving.port) as client:
        client.send(b"GET /livez HTTP/1.1\r\n\r\n")
        assert client.read_answer().status == 200
        serving.stop(3600.0)
        assert client.is_closed()


def test_while_draining_it_is_not_ready(serve: Callable[..., Serving]) -> None:
    serving = serve()
    with Client(serving.port) as client:
        client.send(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert client.read_answer().status == 200
        stopping = start_stopping(serving, 10.0)
        client.send(b"GET /readyz HTTP/1.1\r\n\r\n")
        answer = client.read_answer()
        assert answer.status == 503
        assert "shutting down" in str(answer.json)
    stopping.join()


@pytest.mark.parametrize(
    "part", ["", "POST / HT", "POST {} HTTP/1.1\r\ncontent-length: 9\r\n\r\na"]
)
def test_who_keeps_sending_is_cut_off_in_the_end(serve: Callable[..., Serving], part: str) -> None:
    serving = serve()
    source = serving.add_source()
    with Client(serving.port) as client:
        client.send(part.format(source.target).encode())
        serving.wait_until(lambda: serving.receiver.counters.connections > 0)
        serving.stop(1.0)
        assert client.is_closed()


def test_stopping_twice_and_before_the_start_is_nothing(serve: Callable[..., Serving]) -> None:
    serving = serve()
    serving.run(serving.receiver.stop(1.0))
    serving.run(serving.receiver.stop(1.0))


def test_two_receivers_behind_one_port(serve: Callable[..., Serving]) -> None:
    listeners = []
    port = 0
    for _ in range(2):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        port = listener.getsockname()[1]
        listeners.append(listener)
    servings = [serve(listener=listener) for listener in listeners]
    for _ in range(64):
        assert exchange(port, b"GET /livez HTTP/1.1\r\n\r\n").status == 200
    assert [serving.port for serving in servings] == [port, port]


def test_a_port_that_is_taken_is_an_error_of_the_system(serving: Serving) -> None:
    other = Receiver(serving.database, serving._seal)
    with pytest.raises(OSError, match="in use"):
        serving.run(other.start("127.0.0.1", serving.port))
    serving.run(other.stop(1.0))
