"""Errors over HTTP: every fault and code has a status, every body the same form."""

from __future__ import annotations

from http import HTTPStatus

import msgspec
import pytest

from daemon.errors import DaemonError, ErrorCode, RequestError, RequestFault
from daemon.web.problems import DETAIL_MAX, FAULT_STATUS, problem, problem_of

EXPECTED_FAULTS = {
    RequestFault.INVALID: 400, RequestFault.UNKNOWN: 404, RequestFault.FORBIDDEN: 403,
    RequestFault.UNAUTHORIZED: 401, RequestFault.SUPERSEDED: 409, RequestFault.PRECONDITION: 409,
    RequestFault.TOO_LARGE: 413, RequestFault.BUSY: 503, RequestFault.STOPPING: 503,
}


def test_the_table_has_every_fault_and_nothing_else() -> None:
    assert set(FAULT_STATUS) == set(RequestFault) == set(EXPECTED_FAULTS)


@pytest.mark.parametrize("fault", RequestFault)
def test_a_fault_of_the_request_has_its_status_and_no_code(fault: RequestFault) -> None:
    body = problem_of(RequestError(fault, "why"))
    assert (body.status, body.detail, body.code) == (EXPECTED_FAULTS[fault], "why", None)
    assert body.title == HTTPStatus(body.status).phrase


@pytest.mark.parametrize("code", ErrorCode)
def test_a_fault_of_the_daemon_has_its_code_and_a_5xx_or_422(code: ErrorCode) -> None:
    body = problem_of(DaemonError(code, "why", secret="detail"))
    expected = 422 if code in (ErrorCode.CONFIG_LOAD, ErrorCode.CONFIG_VALIDATE) else 500
    assert (body.status, body.detail, body.code) == (expected, "why", code.value)


def test_a_body_has_the_members_of_rfc_9457_and_the_code() -> None:
    assert msgspec.to_builtins(problem(404, "no such thing")) == {
        "type": "about:blank", "title": "Not Found", "status": 404, "detail": "no such thing", "code": None,
    }


def test_a_long_detail_is_cut() -> None:
    assert problem(400, "x" * DETAIL_MAX).detail == "x" * DETAIL_MAX
    assert problem(400, "x" * 10**6).detail == "x" * DETAIL_MAX + "..."
