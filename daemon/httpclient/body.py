"""A body on its way into a sink: one piece at a time, and nothing is read while one is being written."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss

from daemon.httpclient.errors import HttpError
from daemon.httpclient.silence import Silence
from daemon.httpclient.sink import Sink

PIECE_BYTES = 256 * 1024  # some hundred microseconds of a disk, and a thousandth of a large package


class Body(Protocol):
    """Takes what an answer delivers; what arrived before the connection broke still reaches the sink.

    Args:
        sink: where the pieces go.
        silence: held while a piece is being written.

    Attributes:
        done: fires when all of it is written; fails with what the sink raised, or HttpError when it was cut.
    """

    def __init__(self, sink: Sink, silence: Silence) -> None:
        self.done: Deferred[None] = Deferred(self._cancelled)
        self._sink = sink
        self._silence = silence
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._written_bytes = 0
        self._writing: Deferred[None] | None = None
        self._end: Failure | None = None  # why nothing more will come

    def dataReceived(self, data: bytes) -> None:
        """Something came; a transport that is paused may still deliver what it holds."""
        if self.done.called:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= PIECE_BYTES and self._writing is None:
            self._write()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """Nothing more will come."""
        self._end = reason
        if self._writing is None:
            self._go_on()

    def _write(self) -> None:
        piece, self._waiting = b"".join(self._waiting), []
        self._waiting_bytes = 0
        self._pause()
        self._silence.hold()
        self._writing = writing = Deferred.fromCoroutine(self._sink.write(piece))
        writing.addCallbacks(self._written, self._failed, callbackArgs=(len(piece),))

    def _written(self, _result: None, size: int) -> None:
        self._writing = None
        self._written_bytes += size
        self._silence.release()
        self._go_on()

    def _go_on(self) -> None:
        if self.done.called:
            return
        if self._waiting_bytes and (self._end is not None or self._waiting_bytes >= PIECE_BYTES):
            self._write()
        elif self._end is None:
            cast(Any, self.transport).resumeProducing()
        # An end that only the closed connection shows is an end all the same: the hash tells.
        elif self._end.check(ResponseDone, PotentialDataLoss):
            self.done.callback(None)
        else:
            self.done.errback(HttpError(f"the connection broke after {self._written_bytes} bytes"))

    def _failed(self, failure: Failure) -> None:
        self._writing = None
        if not self.done.called:
            self.done.errback(failure)

    def _pause(self) -> None:
        if self._end is None:
            cast(Any, self.transport).pauseProducing()

    def _cancelled(self, done: Deferred[None]) -> None:
        if self._writing is not None:
            self._writing.cancel()
