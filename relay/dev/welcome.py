"""What `relay dev` tells when it is ready: where to send events, and what to try next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Final

import msgspec

from relay.dev import dev_source
from relay.dev.broker import EmbeddedBroker
from relay.dev.dev_source import DevSource
from relay.dev.directory import DataDirectory
from relay.dev.postgres import EmbeddedPostgres
from relay.settings import Settings, hide_password

_USUAL: Final = ".relay"
"""Where other commands look by themselves."""


class Embedded(msgspec.Struct, frozen=True):
    """What is embedded; None where the environment names something to use instead."""

    postgres: EmbeddedPostgres | None
    broker: EmbeddedBroker | None


def webhook_url(settings: Settings, source: DevSource) -> str:
    """With the key."""
    return f"{settings.public_url}/webhooks/{source.public_id}?api_key={source.key}"


def variables(settings: Settings, source: DevSource) -> dict[str, str]:
    """What a shell, and the next start, read in relay.env beside the settings."""
    values = {"DEV_WEBHOOK_URL": webhook_url(settings, source), dev_source.KEY: source.key}
    if source.signing_secret is not None:
        values[dev_source.SIGNING_SECRET] = source.signing_secret
    return values


class Welcome(msgspec.Struct, frozen=True):
    """All of it, with secrets: for whoever started it."""

    settings: Settings
    source: DevSource
    directory: DataDirectory
    embedded: Embedded
    admin_url: str

    def text(self) -> str:
        """For people."""
        url = webhook_url(self.settings, self.source)
        sections = [
            [
                f"PostgreSQL      {_database(self.settings, self.directory, self.embedded)}",
                f"Kafka           {_kafka(self.settings, self.embedded)}",
                f"Stripe API      {_stripe_api(self.settings, self.source, self.directory)}",
                f"Dashboard       {self.admin_url}",
            ],
            [
                f"Webhook URL     {url}",
                f"Key             {self.source.key}",
                *_signing(self.source),
            ],
            _stripe_cli(self.source, url, self.directory),
            _second_terminal(self.directory),
        ]
        return "\n".join(["", *("\n".join([*section, ""]) for section in sections)])

    def json(self) -> str:
        """One object on one line, ASCII only."""
        return json.dumps(
            {
                "source": {"id": self.source.public_id, "name": dev_source.NAME},
                "webhook_url": webhook_url(self.settings, self.source),
                "api_key": self.source.key,
                "signing_secret": self.source.signing_secret,
                "insecure": self.source.insecure,
                "admin_url": self.admin_url,
                "database_url": hide_password(self.settings.require_database_url()),
                "kafka_bootstrap_servers": self.settings.require_kafka(),
                "env_file": str(self.directory.env_file),
            }
        )


def _database(settings: Settings, directory: DataDirectory, embedded: Embedded) -> str:
    if embedded.postgres is None:
        return f"{hide_password(settings.require_database_url())}, from the environment"
    return f"127.0.0.1:{embedded.postgres.port}, embedded; the inbox stays in {directory.path}"


def _kafka(settings: Settings, embedded: Embedded) -> str:
    servers = settings.require_kafka()
    if embedded.broker is None:
        return f"{servers}, from the environment"
    return f"{servers}, embedded and in memory: its topics are empty after every start"


def _stripe_api(settings: Settings, source: DevSource, directory: DataDirectory) -> str:
    if not source.reads_fake:
        return f"{settings.stripe_api_base}, for snapshots"
    option = _data_dir(directory)
    return (
        f"{settings.stripe_api_base}, a fake with some objects for snapshots; for your own:\n"
        f"                relay source update dev --stripe-api-key rk_test_…{option} and a restart"
    )


def _signing(source: DevSource) -> list[str]:
    if source.insecure:
        return [
            "Signing secret  none. WARNING: signatures are not verified, whoever has the URL can",
            "                forge events (`relay source update dev --signing-secret whsec_…`)",
        ]
    lines = []
    if source.signing_secret is not None:
        lines.append(f"Signing secret  {source.signing_secret}, for events that you sign yourself")
    if source.unopenable:
        lines.append("                new: the former ones were lost with their encryption key")
    if source.added_secrets:
        beside = "                and " if lines else "Signing secret  "
        lines.append(f"{beside}{source.added_secrets} that you have set, such as `stripe listen`'s")
    return lines


def _stripe_cli(source: DevSource, url: str, directory: DataDirectory) -> list[str]:
    listen = f"  stripe listen --all-snapshot --forward-to {shlex.quote(url)}"
    if source.insecure or source.added_secrets:
        return ["Events of your Stripe account, with the Stripe CLI:", listen]
    update = f"relay source update dev --add-signing-secret -{_data_dir(directory)}"
    return [
        "Events of your Stripe account, with the Stripe CLI. Once, for it has a signing secret of",
        "its own that stays the same:",
        f"  stripe listen --print-secret | {update}",
        "and then:",
        listen,
    ]


def _second_terminal(directory: DataDirectory) -> list[str]:
    option = _data_dir(directory)
    env_file = directory.env_file if option else f"{_USUAL}/{directory.env_file.name}"
    return [
        "In a second terminal" + (":" if option else ", in this directory:"),
        f"  relay status{option}",
        f"  relay events list{option}",
        f"  relay tail customer --from-beginning{option}",
        f"  relay snapshot start dev --watch{option}",
        f'  (. {shlex.quote(str(env_file))}; psql "$RELAY_DATABASE_URL")',
    ]


def _data_dir(directory: DataDirectory) -> str:
    """The option that other commands need; none where they find the directory by themselves."""
    if directory.path == Path.cwd() / _USUAL:
        return ""
    return f" --data-dir {shlex.quote(str(directory.path))}"
