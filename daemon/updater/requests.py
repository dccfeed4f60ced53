"""What is wrong with a request for an update by itself; pure."""

from __future__ import annotations

import re

from daemon.config.schema import UpdateConfig
from daemon.errors import RequestError, RequestFault
from daemon.model.update import UpdateRequest

COMPONENT_MAX = 63
VERSION_MAX = 128
URL_MAX = 4096
SIGNATURE_MAX = 8192
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


def check_request(request: UpdateRequest, config: UpdateConfig, *, trusted: bool) -> None:
    """What is wrong with a request by itself.

    Raises:
        RequestError: INVALID, TOO_LARGE or FORBIDDEN.
    """
    for name, value, most in (
        ("component", request.component, COMPONENT_MAX), ("version", request.version, VERSION_MAX),
        ("signature", request.signature, SIGNATURE_MAX),
    ):
        if not value.strip():
            raise RequestError(RequestFault.INVALID, f"{name} is missing")
        if len(value) > most or not value.isprintable():
            raise RequestError(
                RequestFault.INVALID, f"{name} is longer than {most} characters or not printable"
            )
    if not _HEX.fullmatch(request.hash):
        raise RequestError(RequestFault.INVALID, "hash is the SHA-256 of the package: 64 hex digits")
    if not _BASE64.fullmatch("".join(request.signature.split())):
        raise RequestError(RequestFault.INVALID, "signature is not base64")
    if bool(request.download_url) == bool(request.update_data):
        raise RequestError(RequestFault.INVALID, "exactly one of download_url and update_data is needed")
    if len(request.update_data) > config.max_inline_size:
        raise RequestError(
            RequestFault.TOO_LARGE,
            f"update_data has {len(request.update_data)} bytes; update.max_inline_size is "
            f"{config.max_inline_size}: give a download_url",
        )
    if request.update_data and not trusted:
        raise RequestError(RequestFault.FORBIDDEN, "update_data is taken from proven callers only")
    if len(request.download_url) > URL_MAX:
        raise RequestError(RequestFault.INVALID, f"download_url is longer than {URL_MAX} characters")
