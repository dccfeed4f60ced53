"""Why no answer came, in the words an operator reads."""

from __future__ import annotations

import errno

import pytest
from twisted.internet.error import (
    ConnectError,
    ConnectionLost,
    ConnectionRefusedError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
)
from twisted.python.failure import Failure
from twisted.web._newclient import ParseError, ResponseFailed, ResponseNeverReceived

from daemon.aio.dial import UnresolvedError
from daemon.httpclient import explain


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(), "connection refused"),
        (TimeoutError(), "no connection within 5 s"),
        (NoRouteError(osError=errno.EHOSTUNREACH, string="No route to host"), "113"),
        (ConnectError(string="odd"), "odd"),
        (TCPTimedOutError(), "TCP connection timed out"),
        (UnresolvedError("the name x does not resolve"), "the name x does not resolve"),
        (ResponseNeverReceived([Failure(ConnectionLost())]), "the connection was closed before an answer came"),
        (
            ResponseFailed([Failure(ParseError("wrong number of parts", b"SSH-2.0"))]),
            "the answer is not HTTP (wrong number of parts b'SSH-2.0')",
        ),
        (ResponseFailed([Failure(ValueError("no colon"))]), "the answer is not HTTP (no colon)"),
        (OverflowError("port must be 0-65535."), "port must be 0-65535"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_operator_reads(error: Exception, text: str) -> None:
    assert text in explain(error, 5.0)


def test_what_the_other_side_said_is_cut() -> None:
    assert len(explain(ResponseFailed([Failure(ParseError("x", b"x" * 10_000))]), 5.0)) < 300
