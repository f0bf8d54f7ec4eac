"""Logging: structlog for our own lines, and everybody else's through the same formatter to stderr.

Nothing secret may reach a line (a webhook's key is part of its URL), so what looks like a secret
is removed from every value, tracebacks included, just before a line is rendered.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from relay.display import HIDDEN, printable, redact

_SECRET_NAME = re.compile(
    r"(?i)(^|[_-])(password|secrets?|token|api_?keys?|authorization|signature)$"
)
# httpx logs each URL at the level info, alembic what it thinks of the database; uvicorn's access
# log repeats the query string.
_QUIET = dict.fromkeys(
    ("httpx", "httpcore", "asyncio", "alembic", "uvicorn.error"), logging.WARNING
)
_SILENT = ("uvicorn.access",)
_ROUTED = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "litestar", "alembic")


class _Stderr(logging.Handler):
    """Writes to whatever ``sys.stderr`` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            # Whoever read our errors is gone; that must not stop the work.
            return


class Redactor:
    """The processor that hides secrets; ``secrets`` are values to hide wherever they occur."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        # The longest first: one secret may hold another, as a URL holds its password.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        for name, value in event.items():
            if not name.startswith("_"):
                event[name] = self._clean(name, value)
        return event

    def _clean(self, name: str, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        if _SECRET_NAME.search(name):
            return HIDDEN
        if isinstance(value, dict):
            return {self._text(str(k)): self._clean(str(k), v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(name, item) for item in value]
        text = value if isinstance(value, str) else repr(value)
        return self._text(text, keep="\n\t" if name in ("exception", "stack") else "")

    def _text(self, text: str, keep: str = "") -> str:
        return printable(redact(text, self._secrets), keep)


def configure(
    log_format: Literal["console", "json"] | None = None,
    level: str = "info",
    secrets: Sequence[str] = (),
) -> None:
    """Send all logging to stderr: for people (``console``) or one JSON object per line.

    Without a format it is ``console`` on a terminal and ``json`` elsewhere. May be called again.
    """
    console = (log_format or ("console" if sys.stderr.isatty() else "json")) == "console"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        # As text, before the redaction; the console's own formatter would show local variables.
        structlog.processors.format_exc_info,
        Redactor(secrets),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if console
        else structlog.processors.JSONRenderer()
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    _install(handler, level)


def _install(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, _Stderr):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _ROUTED:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _SILENT:
        logging.getLogger(name).disabled = True
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(least)


def log_uncaught() -> None:
    """Let exceptions that nobody caught, in any thread, leave through the log as well."""
    report: Callable[..., Any] = structlog.get_logger("relay").critical

    def in_main(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        report("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(hook: threading.ExceptHookArgs) -> None:
        if hook.exc_value is not None:
            trace = (hook.exc_type, hook.exc_value, hook.exc_traceback)
            name = hook.thread.name if hook.thread else None
            report("uncaught exception", thread=name, exc_info=trace)

    sys.excepthook = in_main
    threading.excepthook = in_thread
