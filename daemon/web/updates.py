"""Updates over HTTP: what a request must look like."""

from __future__ import annotations

import msgspec

from daemon.errors import RequestError, RequestFault
from daemon.model.update import UpdateRequest

ROUTE = b"/v1/updates"
TEXT_BYTES = 64 * 1024  # of a request beside its update_data


class UpdateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/updates``; ``update_data`` is base64 (RFC 4648)."""

    component: str
    version: str
    hash: str
    signature: str
    download_url: str = ""
    update_data: bytes = b""


_DECODER = msgspec.json.Decoder(UpdateBody)


def body_max(inline_max: int) -> int:
    """Bytes of a request whose package is as large as ``max_inline_size`` allows."""
    return (inline_max + 2) // 3 * 4 + TEXT_BYTES


def read_update(data: bytes) -> UpdateRequest:
    """A request; blocks for as long as base64 takes.

    Raises:
        RequestError: INVALID, with the field.
    """
    try:
        body = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RequestError(
            RequestFault.INVALID,
            f"the body is no update: {error}; it is a JSON object with component, version, hash, signature "
            "and download_url or update_data",
        ) from error
    return UpdateRequest(
        component=body.component, version=body.version, hash=body.hash, signature=body.signature,
        download_url=body.download_url, update_data=body.update_data,
    )
