"""Errors as Kubernetes Status objects: one table from exception to code and reason."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from tulle.control.bodies import BadBody, BodyTooLarge, UnsupportedBody
from tulle.control.bounds import TooMany
from tulle.errors import (
    AlreadyExists,
    Conflict,
    Gone,
    IdentityError,
    InvalidResources,
    NotFound,
    NotPermitted,
    StoreError,
    TimedOut,
    TulleError,
    Unreachable,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)

ANSWERS: dict[type[TulleError], tuple[int, str]] = {
    InvalidResources: (422, "Invalid"),
    BadBody: (400, "BadRequest"),
    BodyTooLarge: (413, "RequestEntityTooLarge"),
    UnsupportedBody: (415, "UnsupportedMediaType"),
    NotFound: (404, "NotFound"),
    AlreadyExists: (409, "AlreadyExists"),
    Conflict: (409, "Conflict"),
    Gone: (410, "Expired"),
    NotPermitted: (403, "Forbidden"),
    IdentityError: (400, "BadRequest"),
    TooMany: (429, "TooManyRequests"),
    Unreachable: (503, "ServiceUnavailable"),
    TimedOut: (504, "Timeout"),
    StoreError: (507, "InsufficientStorage"),
}

HTTP_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    404: "NotFound",
    405: "MethodNotAllowed",
    503: "ServiceUnavailable",
}


def status_object(
    code: int, reason: str, message: str, details: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A Status that tells of a failure."""
    status: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if details is not None:
        status["details"] = details
    return status


def violations(error: InvalidResources) -> list[dict[str, Any]]:
    """Every violation as the API shows it."""
    return [violation._asdict() for violation in error.violations]


def code_and_reason(error: TulleError) -> tuple[int, str]:
    """The HTTP status and the Status reason of *error*."""
    return next(
        (ANSWERS[kind] for kind in type(error).__mro__ if kind in ANSWERS), (500, "InternalError")
    )


def failure_status(error: TulleError) -> dict[str, Any]:
    """The Status that tells of *error*, for streams."""
    return status_object(*code_and_reason(error), str(error))


def failure(error: TulleError) -> JSONResponse:
    """The answer that tells of *error*."""
    code, reason = code_and_reason(error)
    if not isinstance(error, InvalidResources):
        headers = {"retry-after": "1"} if code == 429 else None
        return JSONResponse(status_object(code, reason, str(error)), code, headers)
    causes = [
        {
            "reason": "FieldValueInvalid",
            "field": violation.path,
            "message": f"{violation.message}; {violation.allowed}"
            if violation.allowed
            else violation.message,
        }
        for violation in error.violations
    ]
    body = status_object(code, reason, str(error), {"causes": causes})
    return JSONResponse({**body, "violations": violations(error)}, code)


async def on_tulle_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for our own errors."""
    assert isinstance(error, TulleError)  # noqa: S101  registered for this type alone
    return failure(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's handler for what its router refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101  registered for this type alone
    reason = HTTP_REASONS.get(error.status_code, "BadRequest")
    body = status_object(error.status_code, reason, error.detail)
    return JSONResponse(body, error.status_code, error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """The answer to a mistake of ours; Starlette raises it again, so the server logs it."""
    body = status_object(500, "InternalError", "internal error; the server's log has the trace")
    return JSONResponse(body, 500)
