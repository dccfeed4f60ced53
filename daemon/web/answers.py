"""Answers in the one form that every API of ours has: JSON, problems, health, and errors of any kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from daemon.errors import DaemonError, RequestError
from daemon.web.arguments import has
from daemon.web.problems import PROBLEM_TYPE, Problem, problem, problem_of
from daemon.web.request import BoundedRequest

JSON = b"application/json"

encode = msgspec.json.Encoder(enc_hook=str).encode
log = Logger()


class CheckBody(msgspec.Struct, frozen=True, kw_only=True):
    """One check of health."""

    name: str
    ok: bool
    error: str | None


class HealthBody(msgspec.Struct, frozen=True, kw_only=True):
    """How the daemon is: the checks that fail, or all where they are asked for."""

    status: str
    checks: tuple[CheckBody, ...] | msgspec.UnsetType = msgspec.UNSET


def write_json(request: BoundedRequest, body: object) -> bytes:
    """Sets the type of a JSON answer, returns its body."""
    request.setHeader(b"content-type", JSON)
    return encode(body)


def write_problem(request: BoundedRequest, body: Problem, realm: str = "hostdaemon") -> bytes:
    """Sets status and type of a problem, returns its body; ``realm`` is named where a token is missing."""
    request.setResponseCode(body.status)
    request.setHeader(b"content-type", PROBLEM_TYPE)
    if body.status == 401:
        request.setHeader(b"www-authenticate", f'Bearer realm="{realm}"'.encode())
    return encode(body)


def write_health(request: BoundedRequest, checks: Iterable[tuple[str, str]]) -> bytes:
    """200, or 503 with the failing checks; all of them where ``verbose`` is asked for.

    Args:
        request: the question.
        checks: name and error of each; an empty error is well.
    """
    found = tuple(checks)
    failing = tuple((name, error) for name, error in found if error)
    if failing:
        request.setResponseCode(503)
    shown = found if has(request, "verbose") else failing
    bodies = tuple(CheckBody(name=name, ok=not error, error=error or None) for name, error in shown)
    status = "unavailable" if failing else "ok"
    return write_json(request, HealthBody(status=status, checks=bodies or msgspec.UNSET))


def answer_errors(app: Klein, *, program: str, no_route: str) -> None:
    """Makes every error of the application's routes a problem.

    Args:
        app: the routes.
        program: whose fault a fault of ours is, such as ``the daemon``.
        no_route: what is said of a path that is none.
    """

    def known(_api: object, request: BoundedRequest, failure: Failure) -> bytes:
        """An error of ours: the table says its status."""
        error: Any = failure.value
        if isinstance(error, RequestError) and error.retry_after_s is not None:
            request.setHeader(b"retry-after", b"%d" % error.retry_after_s)
        return write_problem(request, problem_of(error))

    def refused(_api: object, request: BoundedRequest, failure: Failure) -> bytes:
        """No such route, or not with this method."""
        error: Any = failure.value
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            request.setHeader(b"allow", ", ".join(sorted(error.valid_methods)).encode())
        what = f"{request.method.decode('ascii', 'replace')} {request.path.decode('utf-8', 'replace')}"
        # A doubled slash comes as a redirect; nobody needs that, so it is no route either.
        status = 404 if isinstance(error, RequestRedirect) else error.code or 400
        return write_problem(
            request, problem(status, f"{what} {no_route if status == 404 else 'is not allowed here'}")
        )

    def client_left(_api: object, _request: BoundedRequest, _failure: Failure) -> bytes:
        """The client has gone; what it asked for goes on."""
        return b""

    def fault(_api: object, request: BoundedRequest, failure: Failure) -> bytes:
        """A fault of ours: logged here, not shown."""
        log.failure("{method} {path}", failure=failure, method=request.method, path=request.path)
        return write_problem(request, problem(500, f"a fault of {program}; its log says more"))

    handlers: tuple[tuple[tuple[type[Exception], ...], Any], ...] = (  # the first that fits answers
        ((RequestError, DaemonError), known), ((HTTPException,), refused),
        ((CancelledError,), client_left), ((Exception,), fault),
    )
    for kinds, answer in handlers:
        app.handle_errors(*kinds)(answer)
