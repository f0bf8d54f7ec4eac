"""One call of a command: where its settings come from, its database, and how it is written out."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from relay.cli import failures
from relay.cli.output import warn
from relay.core.errors import ConfigError

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.store.engine import Database
    from relay.store.events import Operator
    from relay.store.schema import RevisionStatus

P = ParamSpec("P")
T = TypeVar("T")

DATA_DIR = ".relay"
ENV_FILE = "relay.env"


class Call:
    """What every command is given first. ``json`` asks for machine-readable stdout."""

    def __init__(self, *, json: bool, data_dir: Path | None) -> None:
        self.json = json
        self._data_dir = data_dir

    @cached_property
    def _env_file(self) -> Path | None:
        """The file that `relay dev` left, if this call is to use it."""
        if "RELAY_DATABASE_URL" in os.environ or "RELAY_DATABASE_URL_FILE" in os.environ:
            return None
        path = (self._data_dir or Path(DATA_DIR)) / ENV_FILE
        if path.is_file():
            return path
        if self._data_dir is not None:
            raise ConfigError(f"--data-dir: there is no {path}; `relay dev` writes it")
        return None

    @cached_property
    def settings(self) -> Settings:
        """The configuration, from the environment and from what a running `relay dev` left."""
        return configured(self.environ)

    @cached_property
    def environ(self) -> dict[str, str]:
        """What the configuration is read from."""
        from relay.settings import envfile

        left = envfile.read(self._env_file) if self._env_file else {}
        return {**left, **os.environ}

    @property
    def is_of_dev(self) -> bool:
        """Whether it is about what `relay dev` left."""
        return self._env_file is not None

    @property
    def database_place(self) -> str:
        """Where the address of the database came from, for messages."""
        if self._env_file:
            return f"{self._env_file} (is `relay dev` running?)"
        return "RELAY_DATABASE_URL"

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """The database, at a schema revision that this build can work with."""
        from relay.store.engine import Database
        from relay.store.schema import revision_status

        database = Database(
            self.settings.require_database_url(), pool_size=2, application_name="relay-cli"
        )
        async with self.database_errors():
            try:
                async with database.begin() as connection:
                    status = await revision_status(connection)
                if not status.runs:
                    raise ConfigError(status.reason)
                if status.reason is not None:
                    warn(status.reason)
                yield database
            finally:
                await database.close()

    async def revision_status(self) -> RevisionStatus:
        """How the schema is, also where it is none that this build can work with."""
        from relay.store import schema
        from relay.store.engine import Database

        url = self.settings.require_database_url()
        database = Database(url, pool_size=1, application_name="relay-cli")
        try:
            async with database.begin() as connection:
                return await schema.revision_status(connection)
        finally:
            await database.close()

    @asynccontextmanager
    async def database_errors(self) -> AsyncIterator[None]:
        """Tell errors of PostgreSQL, and of the way to it, in one line."""
        try:
            yield
        except (BrokenPipeError, click.ClickException):
            raise  # the reader of our output is gone; or it is a line already
        except Exception as error:
            line = failures.of_database(error, self.database_place)
            if line is None:
                raise
            raise line from error

    def operator(self, reason: str | None) -> Operator:
        """Who is at the keyboard, for the operator log."""
        from relay.store.events import Operator

        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user need not have a name
            user = f"uid {os.getuid()}"
        return Operator(f"{user}@{socket.gethostname()} (command line)", reason)


def configured(environ: dict[str, str]) -> Settings:
    """Load the settings and set the logs up by them."""
    from relay import logs
    from relay.settings import load

    settings = load(environ)
    logs.configure(settings.log_format, settings.log_level, settings.secrets())
    return settings


def common(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--json` and `--data-dir`, and a ``Call`` made of them."""

    @click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
    @click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help=f"Where `relay dev` keeps its data; {DATA_DIR} unless given."
        " Used when RELAY_DATABASE_URL is not set.",
    )
    @wraps(command)
    def wrapper(*args: Any, as_json: bool, data_dir: Path | None, **kwargs: Any) -> T:
        return command(Call(json=as_json, data_dir=data_dir), *args, **kwargs)

    return wrapper


def coroutine(command: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a command that is a coroutine."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return asyncio.run(command(*args, **kwargs))

    return wrapper
