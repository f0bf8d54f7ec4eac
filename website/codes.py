"""The page of all codes: answers, dead letters, reasons, and what Kafka and Stripe say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from confluent_kafka import KafkaError

from relay.audit.accounts import SKIP_REASONS
from relay.core.errors import UnusableEvent
from relay.core.transform import DEAD_CODES
from relay.kafka import verdict
from relay.metrics import forwarder, receiver
from relay.receiver import ANSWERS
from relay.stripe import DelayVerdict, RefusalVerdict
from website.markdown import code, table

ANSWERED: Mapping[str, str] = {
    "stored": "new, and durably stored",
    "duplicate": "the inbox has this event id already; nothing was added",
    "dead_letter": "genuine and stored, but nothing that can be relayed: `dead_letter` in the answer says why",
    "signature_missing": "no `Stripe-Signature` header",
    "signature_malformed": "the header cannot be read",
    "signature_wrong": "no signature fits any secret of the source: the secret of another endpoint, or a stranger",
    "signature_expired": "signed longer ago, or further ahead, than `--tolerance` allows: a replayed request, or a clock",
    "bad_request": "not HTTP that can be understood",
    "incomplete_request": "the client went away in the middle",
    "unauthorized": "no such source, or the key in the URL is missing or wrong",
    "source_address": "not from an address of `RELAY_STRIPE_SOURCE_ADDRESSES`",
    "method_not_allowed": "only POST is taken",
    "body_timeout": "the body took longer than `RELAY_BODY_TIMEOUT_SECONDS`",
    "body_too_large": "above `RELAY_MAX_BODY_BYTES`",
    "content_encoding": "a compressed body: the signature is over the plain one",
    "headers_too_large": "more than 64 KiB of headers",
    "overloaded": "more bytes in flight than `RELAY_BYTES_IN_FLIGHT`; with `Retry-After`",
    "unavailable": "the database cannot store now; with `Retry-After`",
}
DEAD: Mapping[str, str] = {
    "not_utf8": "the body is not UTF-8",
    "bom": "the body begins with a byte order mark",
    "invalid_json": "the body is not JSON",
    "too_deep": "nested deeper than 500 levels",
    "thin_payload": "a thin payload: choose *snapshot* as the payload style of the endpoint in Stripe",
    "missing_id": "the event has no id",
    "invalid_id": "its id is no text, or longer than 1,000 bytes",
    "missing_type": "the event has no type",
    "invalid_type": "its type is no text, too long, or has an empty segment",
    "missing_object": "there is no `data.object`",
    "invalid_object_id": "the id of the object is no text, or too long",
    "unstorable": "PostgreSQL refuses the row for what is in it; the bytes are kept",
    "no_route": "its resource is not in the schema, and the source says `--unselected FAIL`: widen the schema and replay",
    "invalid_topic": "Kafka refuses the name of its topic",
    "too_large": "larger than the topic takes, also alone: raise `max.message.bytes` and replay",
    "transform_error": "making its records failed, each time: a bug of ours; the error says where",
    "crashed_worker": "it ended the process that worked on it three times, alone: a bug of ours",
}
SKIPPED: Mapping[str, str] = {
    "unselected": "outside of the schema, and the source says `--unselected SKIP`",
    "livemode_mismatch": "of the other mode than `--mode` says",
    "superseded": "read by a snapshot, while the inbox had a live event of the object that is as new or newer",
    "discarded": "an operator said so (`relay events skip`, `relay dlq discard`)",
    "redacted": "its body was erased",
}
NOT_OF_A_BROKER: Mapping[str, str] = {
    "kafka_away": "no broker answers",
    "kafka_unknown_topic": "the topic does not exist, and relay is not to make it, or it is being made",
    "kafka_no_offset": "acknowledged by a repeat, without telling where: sent once more",
}
STRIPE: Mapping[str, str] = {
    "rate_limited": "429: asked again, and more slowly",
    "locked": "429 with `lock_timeout`: asked again",
    "conflict": "409: asked again",
    "server_error": "5xx: asked again",
    "unreachable": "no connection: asked again",
    "timeout": "no answer in `RELAY_STRIPE_TIMEOUT_SECONDS`: asked again",
    "unusable": "an answer that is no list of Stripe's, such as the page of a proxy: asked again, and after nine in a row the resource fails",
    "wrong_key": "401: the key is mistyped, rolled or revoked; the snapshot fails",
    "wrong_account": "the connected account is another's, or has cut the connection; the snapshot fails",
    "no_access": "403: the key may not read this resource, which fails; the others go on",
    "not_found": "404: Stripe has no such list; the resource fails",
    "cursor_gone": "the object that the list was to go on behind was deleted: the range begins again within its second",
    "refused": "another refusal of Stripe's; the resource fails",
}
_VERDICTS: tuple[tuple[str, str, frozenset[int]], ...] = (
    (
        "Passes by itself",
        "The event waits. No attempt is used up and nothing dies, however long it takes.",
        verdict._TRANSIENT,
    ),
    (
        "The cluster refuses",
        "What is refused waits and is tried again every `RELAY_PROBE_SECONDS`; the rest goes on."
        " Mend the cluster or the rights.",
        verdict._REFUSED,
    ),
    ("Too large", "A dead letter `too_large`, once it fails alone.", verdict._TOO_LARGE),
)

_INTRO = """# Codes

Words that do not change, in answers, in `last_error_code` and `error_code` of the [views](views.md), in headers of dead
letters and in labels of metrics. The texts beside them are for people and may change.

## Answers to a webhook
"""
_DEAD = """
## Dead letters

Known on arrival, or when the records are made. Any other code is that of the last of `RELAY_MAX_ATTEMPTS` failures.
"""
_KAFKA = """
## Kafka

`kafka_` and librdkafka's name of the error in lower case. Whatever is not listed here counts as the record's own failure: it
is tried again with growing pauses, and is dead after `RELAY_MAX_ATTEMPTS`.
"""


def page() -> str:
    stripe = [(code(f"stripe_{word}"), text) for word, text in STRIPE.items()]
    parts = [
        _INTRO,
        table(
            ("status", "code", "what it means"),
            [(str(status), code(word), ANSWERED[word]) for status, word in sorted(ANSWERS)],
        ),
        _DEAD,
        table(("code", "what it means"), _rows(DEAD)),
        "\n## Skipped\n",
        table(("`skip_reason`", "what it means"), _rows(SKIPPED)),
        _KAFKA,
        table(("code", "what it means"), _rows(NOT_OF_A_BROKER)),
    ]
    for title, text, numbers in _VERDICTS:
        errors = sorted((verdict.classify(KafkaError(number)) for number in numbers), key=_by_code)
        rows = [(code(error.code), error.message) for error in errors]
        parts.append(f"### {title}\n\n{text}\n\n{table(('code', 'librdkafka says'), rows)}")
    parts += [
        "\n## Stripe\n\nOf snapshots: in `relay snapshot show` and, without `stripe_`, as the reason"
        " in `relay_snapshotter_requests_unanswered_total`.\n",
        table(("code", "what it means"), stripe),
    ]
    return "\n".join(parts)


def _rows(words: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    return [(code(word), text) for word, text in words.items()]


def _by_code(failure: verdict.Failure) -> str:
    return failure.code


def unexplained() -> set[str]:
    """Codes of the program that are not explained here, and explained ones that it has not."""
    dead = {*forwarder._DEAD_CODES, *receiver._DEAD_CODES, *UnusableEvent.CODES, *DEAD_CODES}
    stripe = {*get_args(DelayVerdict), *get_args(RefusalVerdict)}
    return (
        (ANSWERED.keys() ^ {word for _, word in ANSWERS})
        | (DEAD.keys() ^ dead)
        | (SKIPPED.keys() ^ SKIP_REASONS)
        | (STRIPE.keys() ^ stripe)
    )
