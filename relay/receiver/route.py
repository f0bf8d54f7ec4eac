"""The webhook route: its checks in the order of the HTTP contract, each before the next costs."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import TYPE_CHECKING, Final

import structlog

from relay.core.errors import SignatureError
from relay.receiver import answers
from relay.receiver.addresses import SourceAddresses
from relay.receiver.answers import Answer
from relay.receiver.budget import Budget, Lease
from relay.receiver.commit import CannotStoreError, GroupCommit, UnstorableRowError
from relay.receiver.counters import Counters
from relay.receiver.intake import dead, examine
from relay.receiver.refused import RefusedSamples
from relay.receiver.sources import Sources
from relay.store.admission import Admitted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.types import HTTPScope, Receive, Send

log: Final = structlog.get_logger("relay.receiver")

PREFIX: Final = "/webhooks/"

_LARGE: Final = 262_144
"""Bytes from which a body is examined in a thread: its hashes would hold up everybody else."""


_REPORT_SECONDS: Final = 60.0


class _Gone(Exception):  # noqa: N818 - not an error
    """The client left before its body was complete: there is nobody to answer."""


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    """An answer that ends a request early."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class WebhookRoute:
    """The ASGI application of `POST /webhooks/{source_id}?api_key=KEY`."""

    def __init__(
        self,
        sources: Sources,
        commit: GroupCommit,
        refused: RefusedSamples,
        budget: Budget,
        counters: Counters,
        *,
        addresses: SourceAddresses,
        max_body_bytes: int,
    ) -> None:
        self._addresses = addresses
        self._sources = sources
        self._commit = commit
        self._refused = refused
        self._budget = budget
        self._counters = counters
        self._max_body_bytes = max_body_bytes
        self._addresses_quiet_until = 0.0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="relay-examine")

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        lease = Lease(self._budget)
        try:
            answer = await self._handle(scope, receive, lease)
        except _Refusal as refusal:
            answer = refusal.answer
        except (CannotStoreError, UnstorableRowError):
            answer = answers.UNAVAILABLE
        except _Gone:
            return
        finally:
            lease.release()
        self._counters.answers[answer.status, answer.word] += 1
        await answer.send(send)

    async def _handle(self, scope: HTTPScope, receive: Receive, lease: Lease) -> Answer:
        if scope["method"] != "POST":
            return answers.METHOD_NOT_ALLOWED
        if not self._addresses.is_off and not self._is_from_stripe(scope):
            return answers.SOURCE_ADDRESS
        source = await self._sources.admit(scope["path"][len(PREFIX) :], scope["query_string"])
        if source is None:
            return answers.UNAUTHORIZED
        if source.signing_secrets is None:
            log.error("receiver.secret_unopenable", source=source.config.public_id)
            return answers.UNAVAILABLE
        signature, length = self._check_headers(scope["headers"])
        if self._commit.is_behind(asyncio.get_running_loop().time()):
            return answers.OVERLOADED
        if not lease.cover(length):
            return answers.OVERLOADED
        body = await self._read_body(receive, lease)
        return await self._store(body, signature, source)

    def _is_from_stripe(self, scope: HTTPScope) -> bool:
        peer = scope["client"][0] if scope["client"] else None
        if self._addresses.admit(peer, scope["headers"]):
            return True
        now = asyncio.get_running_loop().time()
        if now >= self._addresses_quiet_until:  # the answers are counted; the first of many is told
            self._addresses_quiet_until = now + _REPORT_SECONDS
            origin = self._addresses.origin(peer, scope["headers"])
            log.warning("receiver.source_address_refused", address=str(origin), peer=peer)
        return False

    def _check_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, int]:
        """The signature and the declared length, 0 when there is none. Raises _Refusal."""
        signatures: list[str] = []
        length = 0
        for name, value in headers:
            if name == b"stripe-signature":
                signatures.append(value.decode("latin-1"))
            elif name == b"content-length":
                length = int(value)
            elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise _Refusal(answers.CONTENT_ENCODING)
        if length > self._max_body_bytes:
            raise _Refusal(answers.TOO_LARGE)
        return ",".join(signatures) if signatures else None, length

    async def _read_body(self, receive: Receive, lease: Lease) -> bytes:
        """The whole body, within the time that the connection allows. Raises _Refusal and _Gone."""
        buffer: BytesIO | None = None
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Gone
            size += len(message["body"])
            if size > self._max_body_bytes:
                raise _Refusal(answers.TOO_LARGE)
            if not lease.cover(size):
                raise _Refusal(answers.OVERLOADED)
            if not message["more_body"]:
                self._counters.body_bytes += size
                if buffer is None:
                    return message["body"]  # the usual case: it came with the head
            if buffer is None:
                buffer = BytesIO()
            buffer.write(message["body"])
            if not message["more_body"]:
                # Not a copy: a BytesIO hands out the very bytes that it has collected.
                return buffer.getvalue()

    async def _store(self, body: bytes, signature: str | None, source: Admitted) -> Answer:
        now = self._sources.now()
        try:
            if len(body) < _LARGE:
                event = examine(body, signature, source, now)
            else:
                event = await asyncio.get_running_loop().run_in_executor(
                    self._threads, examine, body, signature, source, now
                )
        except SignatureError as error:
            self._refused.offer(source.config, error, body)
            return answers.bad_signature(error.code)
        try:
            fresh = await self._commit.put(event)
        except UnstorableRowError as error:
            # Genuine bytes are kept whatever is in them; what was read from them is left out.
            event = dead(body, None, source.config, error.code, error.message)
            fresh = await self._commit.put(event)
        if not fresh:
            return answers.DUPLICATE
        if event.dead_code is None:
            return answers.STORED
        self._counters.dead[event.dead_code] += 1
        return answers.dead_letter(event.dead_code)
