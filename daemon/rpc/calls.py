"""Calls to another gRPC server from the reactor: a future of grpcio becomes a Deferred."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from twisted.internet.defer import CancelledError, Deferred, fail

from daemon.aio.reactor import ThreadReactor


def unary(
    reactor: ThreadReactor, method: Any, request: Any, timeout_s: float,
    metadata: Sequence[tuple[str, str]] = (),
) -> Deferred[Any]:
    """Calls a method that takes one message and answers one.

    Args:
        reactor: where the answer arrives.
        method: of a synchronous stub.
        request: the message.
        timeout_s: the deadline, kept by gRPC.
        metadata: sent with it.

    Returns:
        fires with the response and fails with ``grpc.RpcError``; ``ValueError`` when the channel is closed.
        Cancelling it cancels the call, without waiting for gRPC.
    """
    try:
        future = method.future(request, timeout=timeout_s, metadata=tuple(metadata))
    except (grpc.RpcError, ValueError) as error:
        return fail(error)
    answer: Deferred[Any] = Deferred(lambda _deferred: future.cancel())

    def settle() -> None:
        if answer.called:
            return  # it was cancelled: nobody waits any more
        try:
            response = future.result()
        except grpc.FutureCancelledError:
            answer.errback(CancelledError())
        except grpc.RpcError as error:
            answer.errback(error)
        else:
            answer.callback(response)

    future.add_done_callback(lambda _future: reactor.callFromThread(settle))
    return answer
