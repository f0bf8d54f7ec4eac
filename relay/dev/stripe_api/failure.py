"""Errors in the form of Stripe's API (https://docs.stripe.com/api/errors)."""

from __future__ import annotations

import msgspec


class ApiError(Exception):
    """An answer that is no list."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        error: dict[str, str] = {}
        if code is not None:
            error["code"] = code
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        error["message"] = message
        if param is not None:
            error["param"] = param
        error["type"] = kind
        text = msgspec.json.encode({"error": error})
        self.body = msgspec.json.format(text, indent=2) + b"\n"


def rate_limited(reason: str) -> ApiError:
    """`reason` as Stripe names it: `endpoint-rate`, say."""
    return ApiError(
        429,
        "Request rate limit exceeded. Learn more about rate limits here"
        " https://stripe.com/docs/rate-limits.",
        "rate_limit",
        headers=(("Stripe-Rate-Limited-Reason", reason),),
    )


def wrong_key(key: str) -> ApiError:
    """As for a key that never was, or was revoked."""
    return ApiError(401, f"Invalid API Key provided: {masked(key)}")


def no_key() -> ApiError:
    return ApiError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization"
        " header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    )


def publishable_key() -> ApiError:
    return ApiError(
        403,
        "This API call cannot be made with a publishable API key. Please use a secret API key."
        " You can find a list of your API keys at https://dashboard.stripe.com/account/apikeys.",
        "secret_key_required",
    )


def no_permission(key: str, resource: str, account: str) -> ApiError:
    """As for a restricted key."""
    return ApiError(
        403,
        f"The provided key '{masked(key)}' does not have the required permissions for this endpoint"
        f" on account '{account}'. Having the 'rak_{resource}_read' permission would allow this"
        " request to continue.",
    )


def no_such_account(key: str, account: str) -> ApiError:
    return ApiError(
        403,
        f"The provided key '{masked(key)}' does not have access to account '{account}' (or that"
        " account does not exist). Application access may have been revoked.",
        "account_invalid",
    )


def unknown_version(version: str) -> ApiError:
    return ApiError(400, f"Invalid Stripe API version: {version}")


def unknown_url(method: str, path: str) -> ApiError:
    return ApiError(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we can"
        " help at https://support.stripe.com/.",
    )


def no_such_object(object_type: str, object_id: str, param: str) -> ApiError:
    return ApiError(400, f"No such {object_type}: '{object_id}'", "resource_missing", param)


def masked(key: str) -> str:
    """As Stripe shows a key: its kind and its last four characters."""
    prefix = "_".join(key.split("_")[:2]) + "_" if key.count("_") > 1 else ""
    rest = key[len(prefix) :]
    return prefix + "*" * max(len(rest) - 4, 0) + rest[-4:]
