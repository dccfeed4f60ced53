"""JSON-RPC 2.0 on the heartbeat socket: requests read, answers written (jsonrpc.org/specification).

Methods ``heartbeat`` and ``ping``. A request without ``id`` is a notification and gets no answer;
arrays (batches) are refused whole with -32600.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from daemon.errors import ErrorCode

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
REFUSED = -32000  # with the D-code in error.data.code

MARKER = b'"jsonrpc"'  # a text without it is never answered

RequestId = str | int | float | None


class _Envelope(msgspec.Struct):
    jsonrpc: Any = UNSET
    id: Any = UNSET
    method: Any = UNSET
    params: msgspec.Raw | UnsetType = UNSET


_decoder = msgspec.json.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Request:
    """A request we know.

    Attributes:
        method: ``heartbeat`` or ``ping``.
        id: echoed in the answer; UNSET for a notification.
        params: the text of the parameters, empty when there are none.
    """

    method: str
    id: RequestId | UnsetType
    params: bytes


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A text that is no request we know.

    Attributes:
        answer: the error to send back; None for a notification.
        message: the cause.
    """

    answer: bytes | None
    message: str


def read_request(text: bytes) -> Request | BadRequest | None:
    """Reads a text that holds :data:`MARKER`; None means that it is no JSON-RPC after all."""
    try:
        envelope = _decoder.decode(text)
    except msgspec.ValidationError as error:
        return _bad(None, INVALID_REQUEST, f"not one request: {error}")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _bad(None, PARSE_ERROR, f"not JSON: {error}")
    except RecursionError:
        return _bad(None, PARSE_ERROR, "nested too deeply")
    if envelope.jsonrpc is UNSET:
        return None  # the word stood in a value
    request_id = envelope.id
    if isinstance(request_id, bool) or not (
        request_id is UNSET or request_id is None or isinstance(request_id, str | int | float)
    ):
        return _bad(None, INVALID_REQUEST, "id must be text, a number or null")
    if envelope.jsonrpc != "2.0" or not isinstance(envelope.method, str):
        # Not a request at all, so neither a notification: it is answered, with null for want of an id.
        return _bad(None if request_id is UNSET else request_id, INVALID_REQUEST,
                    'jsonrpc must be "2.0" and method a text')
    if envelope.method not in ("heartbeat", "ping"):
        return _bad(request_id, METHOD_NOT_FOUND, "the methods are heartbeat and ping")
    params = b"" if envelope.params is UNSET else bytes(envelope.params).strip()
    if params[:1] not in (b"", b"{", b"["):
        return _bad(request_id, INVALID_PARAMS, "params must be an object")
    return Request(method=envelope.method, id=request_id, params=params)


def success(request_id: RequestId | UnsetType, timestamp: str) -> bytes | None:
    """The answer to a request that was carried out; None for a notification."""
    if request_id is UNSET:
        return None
    return _encoder.encode(
        {"jsonrpc": "2.0", "id": request_id, "result": {"success": True, "timestamp": timestamp}}
    )


def failure(
    request_id: RequestId | UnsetType, code: int, message: str, d_code: ErrorCode | None = None
) -> bytes | None:
    """The answer to a request that was refused; None for a notification."""
    if request_id is UNSET:
        return None
    error: dict[str, object] = {"code": code, "message": message}
    if d_code is not None:
        error["data"] = {"code": d_code.value}
    return _encoder.encode({"jsonrpc": "2.0", "id": request_id, "error": error})


def _bad(request_id: RequestId | UnsetType, code: int, message: str) -> BadRequest:
    return BadRequest(answer=failure(request_id, code, message), message=message)
