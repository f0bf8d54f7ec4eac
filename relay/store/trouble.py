"""Why a connection to PostgreSQL cannot be made, in words that name the setting and the fix."""

from __future__ import annotations

import ssl
from typing import Final

import asyncpg
from sqlalchemy.exc import DBAPIError

_URL: Final = "RELAY_DATABASE_URL"
_UNTRUSTED: Final = (
    "the server's certificate is not signed by a CA that we trust: give the CA's file as"
    f" sslrootcert in {_URL}"
)
_OTHER_NAME: Final = (
    f"the server's certificate is for another name: use a host in {_URL} that it names"
)
# By the numbers of OpenSSL (X509_V_ERR_…).
_VERIFICATION: Final = {
    9: "the server's certificate is not valid yet: check the clocks",
    10: "the server's certificate has expired: renew it there",
    18: _UNTRUSTED,
    19: _UNTRUSTED,
    20: _UNTRUSTED,
    21: _UNTRUSTED,
    23: "the server's certificate has been revoked",
    62: _OTHER_NAME,
    64: _OTHER_NAME,
}
_CERTIFICATE: Final = f"check sslcert and sslkey in {_URL}"
# What OpenSSL calls it, the first that is part of its word.
_TLS: Final = {
    "CERTIFICATE_REQUIRED": f"the server wants a client certificate: {_CERTIFICATE}",
    "ALERT_CERTIFICATE_EXPIRED": f"our client certificate has expired: {_CERTIFICATE}",
    "ALERT_UNKNOWN_CA": f"the server does not trust our client certificate: {_CERTIFICATE}",
    "ALERT_BAD_CERTIFICATE": f"the server refuses our client certificate: {_CERTIFICATE}",
    "KEY_VALUES_MISMATCH": f"the key is not that of the certificate: {_CERTIFICATE}",
    "NO_CERTIFICATE_OR_CRL_FOUND": f"sslrootcert or sslcrl in {_URL} holds no certificate in PEM",
    # OpenSSL does not tell these apart.
    "PEM": f"sslcert or sslkey in {_URL} is no PEM, or sslpassword is not the passphrase of sslkey",
    "PROTOCOL_VERSION": f"no version in common: check ssl_min_protocol_version in {_URL}",
}
# Parts of what the server says when it refuses a login.
_LOGIN: Final = {
    "password authentication failed": f"wrong user or password: check {_URL}",
    "certificate authentication failed": f"our certificate is for another user: {_CERTIFICATE}",
    "valid client certificate": f"the server wants a client certificate: {_CERTIFICATE}",
    "no encryption": f"the server takes TLS only: set sslmode=verify-full in {_URL}",
    "no pg_hba.conf entry": "pg_hba.conf on the server does not let this client in",
}


def cause_of(error: BaseException) -> BaseException:
    """The driver's own error, of which SQLAlchemy makes two more."""
    if not isinstance(error, DBAPIError):
        return error
    wrapped: BaseException = error.orig or error
    return wrapped.__cause__ or wrapped


def explain(error: BaseException) -> str | None:
    """What is wrong and what to do about it; None when the error is about something else.

    Neither an address nor any other value is in it: it is fit for whoever may ask.
    """
    cause = cause_of(error)
    tls = _of_tls(cause)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return f"TLS: {_VERIFICATION.get(tls.verify_code, tls.verify_message)}"
    if tls is not None:
        return _first(_TLS, f"{tls.reason} {tls}".upper(), "TLS: ")
    if isinstance(cause, ConnectionError) and "rejected SSL upgrade" in str(cause):
        return (
            "TLS: the server does not speak it: switch ssl on there, or choose another sslmode in"
            f" {_URL}"
        )
    if isinstance(cause, ConnectionAbortedError):
        return (
            "the server ended the connection before the login, its log tells why; if it asks for"
            f" client certificates, {_CERTIFICATE}"
        )
    if isinstance(cause, asyncpg.InvalidAuthorizationSpecificationError):
        return _first(_LOGIN, str(cause))
    if isinstance(cause, asyncpg.TargetServerAttributeNotMatched):
        return f"no host of {_URL} takes writes: promote one"
    if isinstance(cause, FileNotFoundError):
        return f"the socket or a file that {_URL} names is not there"
    if isinstance(cause, TimeoutError):
        return f"no answer in time: check the host in {_URL}, and firewalls on the way"
    return None


def _of_tls(error: BaseException | None) -> ssl.SSLError | None:
    """With TLS 1.3 a refusal of ours comes late, and is only the cause of a lost connection."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _first(table: dict[str, str], text: str, heading: str = "") -> str | None:
    return next((heading + told for part, told in table.items() if part in text), None)
