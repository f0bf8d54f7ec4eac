"""The flags of `source create` and `source update`, and where secrets are read from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from relay.core.errors import ConfigError
from relay.core.stripe_key import key_mode

if TYPE_CHECKING:
    from relay.store.source_changes import Change

STDIN = "-"


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the flags said; None is "not given"."""

    settings: Mapping[str, Any]
    """By the names of ``SourceConfig``, only what was given."""
    signing_secrets: tuple[str, ...] | None
    stripe_api_key: str | None

    def change(
        self,
        *,
        name: str | None = None,
        added: tuple[str, ...] = (),
        removed: tuple[str, ...] = (),
        forget_stripe_key: bool = False,
    ) -> Change:
        """What they ask for, with what only `source update` has."""
        from relay.store.source_changes import Change

        return Change(
            settings=dict(self.settings) | ({"name": name} if name else {}),
            signing_secrets=self.signing_secrets,
            added=added,
            removed=removed,
            stripe_api_key=self.stripe_api_key,
            forget_stripe_key=forget_stripe_key,
        )


_SETTINGS: Mapping[str, Callable[..., Any]] = {
    "resources": click.option(
        "--schema",
        "resources",
        metavar="A,B,C",
        help="Resources with a topic of their own; '*' is every one."
        "  [default: customer,payment_intent,charge,invoice]",
    ),
    "unselected": click.option(
        "--unselected",
        type=click.Choice(["DEFAULT_TOPIC", "SKIP", "FAIL"], case_sensitive=False),
        metavar="[DEFAULT_TOPIC|SKIP|FAIL]",
        help="What happens to the other resources.  [default: DEFAULT_TOPIC]",
    ),
    "default_topic": click.option(
        "--default-topic", metavar="TOPIC", help="Their topic.  [default: unknown]"
    ),
    "metadata": click.option(
        "--metadata/--no-metadata",
        default=None,
        help="Add _event_id, _event_type and so on to values.  [default: metadata]",
    ),
    "fan_out": click.option(
        "--fan-out",
        metavar="A,B",
        help="Lists whose elements become records: invoice.lines, charge.refunds,"
        " subscription.items.  [default: none]",
    ),
    "dlq": click.option(
        "--dlq/--no-dlq",
        default=None,
        help="Events that can never work become dead letters; without, the source halts at them."
        "  [default: dlq]",
    ),
    "dlq_topic": click.option(
        "--dlq-topic",
        metavar="TOPIC",
        help="Topic for copies of dead letters; '' keeps them in the table only."
        "  [default: dead_letter]",
    ),
    "topic_prefix": click.option(
        "--topic-prefix", metavar="PREFIX", help="Before every topic.  [default: none]"
    ),
    "route_by": click.option(
        "--route-by",
        type=click.Choice(["event_type", "object"]),
        help="Topic by the first segment of the event type, or by the type of the object."
        "  [default: event_type]",
    ),
    "tombstones": click.option(
        "--tombstones/--no-tombstones",
        default=None,
        help="A record without a value follows each delete.  [default: no-tombstones]",
    ),
    "tolerance": click.option(
        "--tolerance",
        type=int,
        metavar="SECONDS",
        help="How far from now a signature may be, in both directions.  [default: 300]",
    ),
    "mode": click.option(
        "--mode",
        type=click.Choice(["live", "test", "any"]),
        help="Skip events of the other mode.  [default: any]",
    ),
    "insecure": click.option(
        "--insecure/--no-insecure",
        default=None,
        help="Without a signing secret: take events that prove nothing.",
    ),
}

_SECRETS = (
    click.option(
        "--signing-secret",
        "signing_secrets",
        multiple=True,
        metavar="whsec_…",
        help="Signing secret of the endpoint in Stripe; may be given several times. '-' reads"
        " stdin, one per line, which keeps them out of the list of processes.",
    ),
    click.option(
        "--signing-secret-file",
        "signing_secret_files",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="The same from a file, one per line.",
    ),
    click.option(
        "--stripe-api-key",
        metavar="sk_…|rk_…",
        help="For what is read from the Stripe API. '-' reads stdin.",
    ),
    click.option(
        "--stripe-api-key-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="The same from a file.",
    ),
)
_LISTS = ("resources", "fan_out")


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all flags of a source; it receives them as one ``Given``."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        settings = {name: kwargs.pop(name) for name in _SETTINGS}
        settings = {name: value for name, value in settings.items() if value is not None}
        for name in _LISTS:
            if name in settings:
                settings[name] = _split(settings[name])
        secrets, secret_files = kwargs.pop("signing_secrets"), kwargs.pop("signing_secret_files")
        key, key_file = kwargs.pop("stripe_api_key"), kwargs.pop("stripe_api_key_file")
        if STDIN in secrets and key == STDIN:
            raise click.UsageError("only one of --signing-secret and --stripe-api-key can be '-'")
        given = Given(
            settings=settings,
            signing_secrets=read_signing_secrets(secrets, secret_files),
            stripe_api_key=_read_stripe_key(key, key_file),
        )
        return command(*args, given=given, **kwargs)

    for option in reversed((*_SETTINGS.values(), *_SECRETS)):
        wrapper = option(wrapper)
    return wrapper


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text.strip() else ()


def read_signing_secrets(values: Sequence[str], files: Sequence[Path]) -> tuple[str, ...] | None:
    """The secrets that were given in any of the ways; None when there is none of the flags.

    Raises ``ConfigError``, without showing a secret.
    """
    from relay.core.signature import check_secret

    if not values and not files:
        return None
    secrets: list[str] = []
    for value in values:
        secrets += _lines("--signing-secret -", sys.stdin.read()) if value == STDIN else [value]
    for path in files:
        secrets += _lines("--signing-secret-file", _read(path, "--signing-secret-file"))
    for secret in secrets:
        check_secret(secret)
    return tuple(dict.fromkeys(secret.strip() for secret in secrets))


def _read_stripe_key(value: str | None, file: Path | None) -> str | None:
    flag = "--stripe-api-key"
    if value is not None and file is not None:
        raise click.UsageError("give --stripe-api-key or --stripe-api-key-file, not both")
    if value is None and file is None:
        return None
    if value == STDIN:
        value = sys.stdin.read()
    elif file is not None:
        value = _read(file, f"{flag}-file")
    key = (value or "").strip()
    if not key:
        raise ConfigError(f"{flag} is blank", setting=flag)
    key_mode(key, setting=flag)
    return key


def _read(path: Path, flag: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{flag}: cannot read {str(path)!r}: {reason}", setting=flag) from error


def _lines(flag: str, text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ConfigError(f"{flag}: there is no secret in it", setting=flag)
    return lines
