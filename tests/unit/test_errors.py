"""The errors and their codes."""

from __future__ import annotations

import inspect

import pytest

from daemon import errors
from daemon.errors import DaemonError, ErrorCode, RequestError, RequestFault, StorageError

SUBJECTS = [
    kind for _name, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, DaemonError) and not kind.__name__.startswith("_") and kind is not DaemonError
]


def test_every_code_has_exactly_one_error() -> None:
    assert sorted(kind.CODE.value for kind in SUBJECTS) == sorted(code.value for code in ErrorCode)


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.__name__)
def test_an_error_carries_its_code_message_and_details(kind: type[StorageError]) -> None:
    error = kind("it broke; mend it", path="/x", errno=5)
    assert error.code is kind.CODE
    assert error.message == "it broke; mend it"
    assert error.details == {"path": "/x", "errno": 5}
    assert str(error) == f"{kind.CODE.value} it broke; mend it"


def test_a_request_error_is_no_fault_of_the_daemon() -> None:
    error = RequestError(RequestFault.BUSY, "try later", retry_after_s=3)
    assert not isinstance(error, DaemonError)
    assert (error.fault, str(error), error.retry_after_s) == (RequestFault.BUSY, "try later", 3)
