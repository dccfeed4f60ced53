"""Errors over HTTP: the one table from faults to statuses, and ``application/problem+json`` (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from daemon.errors import DaemonError, ErrorCode, RequestError, RequestFault

PROBLEM_TYPE = b"application/problem+json"
DETAIL_MAX = 1000  # characters
FAULTS_MAX = 100

FAULT_STATUS: dict[RequestFault, int] = {
    RequestFault.INVALID: HTTPStatus.BAD_REQUEST,
    RequestFault.UNKNOWN: HTTPStatus.NOT_FOUND,
    RequestFault.FORBIDDEN: HTTPStatus.FORBIDDEN,
    RequestFault.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    RequestFault.SUPERSEDED: HTTPStatus.CONFLICT,
    RequestFault.PRECONDITION: HTTPStatus.CONFLICT,
    RequestFault.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    RequestFault.BUSY: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestFault.STOPPING: HTTPStatus.SERVICE_UNAVAILABLE,
}

# A D-code means that the daemon, not the request, is at fault: 500 unless the request asked for it.
CODE_STATUS: dict[ErrorCode, int] = {
    ErrorCode.CONFIG_LOAD: HTTPStatus.UNPROCESSABLE_ENTITY,
    ErrorCode.CONFIG_VALIDATE: HTTPStatus.UNPROCESSABLE_ENTITY,
}


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of an error.

    Attributes:
        code: the D-code, null where only the request was wrong.
        faults: every fault of a refused configuration, each with file, line and column.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str | None = None
    faults: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


def problem(status: int, detail: str, code: str | None = None) -> Problem:
    """A problem with the status's own title; what a client sent does not come back at full length."""
    if len(detail) > DETAIL_MAX:
        detail = f"{detail[:DETAIL_MAX]}..."
    return Problem(title=HTTPStatus(status).phrase, status=int(status), detail=detail, code=code)


def problem_of(error: DaemonError | RequestError) -> Problem:
    """The problem an error of ours becomes."""
    if isinstance(error, RequestError):
        return problem(FAULT_STATUS[error.fault], error.message)
    status = CODE_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    found = problem(status, error.message, error.code.value)
    faults = error.details.get("faults")
    if isinstance(faults, tuple):
        return msgspec.structs.replace(found, faults=tuple(str(fault) for fault in faults[:FAULTS_MAX]))
    return found
