"""The first step of an update: whether what is asked for may be tried at all. Pure.

Asked before anything is journalled: what is refused here never becomes an update.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from daemon.config.schema import UpdateConfig
from daemon.errors import RequestError, RequestFault
from daemon.model.update import UpdateRequest
from daemon.updater.download.urls import BadUrlError, allowed_url

VERSION_MAX = 128  # characters: it becomes the name of a folder
SIGNATURE_MAX = 2048  # bytes: RSA with 16384 bits
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]*")
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A request whose form is right and whose origin is permitted.

    Attributes:
        url: what to fetch, normalised; empty for inline data.
        url_shown: the same for messages, without user, password and query.
        data: the package itself; empty for a URL.
        sha256: what it must have, 64 hex digits in lower case.
        signature: base64 without white space.
    """

    version: str
    sha256: str
    signature: str
    url: str = field(default="", repr=False)
    url_shown: str = ""
    data: bytes = field(default=b"", repr=False)


def check_source(request: UpdateRequest, config: UpdateConfig) -> Source:
    """Checks the form of a request and where its package comes from.

    Args:
        request: as it came in.
        config: the section ``update`` in force.

    Raises:
        RequestError: INVALID (form), TOO_LARGE (inline data), FORBIDDEN (its URL),
            PRECONDITION (updates, or URLs, are not configured).
    """
    if not config.public_key_file:
        raise _refused(RequestFault.PRECONDITION,
                       "updates are off: set update.public_key_file to the keys that may sign packages")
    if len(request.version) > VERSION_MAX or _VERSION.fullmatch(request.version) is None:
        raise _refused(RequestFault.INVALID,
                       f"version must be 1 to {VERSION_MAX} letters, digits or .+~_-, "
                       "and begin with a letter or a digit")
    if _SHA256.fullmatch(request.hash) is None:
        raise _refused(RequestFault.INVALID, "hash must be the SHA-256 of the package, 64 hex digits")
    signature = _signature(request.signature)
    if bool(request.download_url) == bool(request.update_data):
        raise _refused(RequestFault.INVALID, "give either download_url or update_data, exactly one of them")
    url = url_shown = ""
    if request.download_url:
        url, url_shown = _url(request.download_url, config)
    else:
        _check_inline(len(request.update_data), config)
    return Source(version=request.version, sha256=request.hash.lower(), signature=signature,
                  url=url, url_shown=url_shown, data=request.update_data)


def _url(text: str, config: UpdateConfig) -> tuple[str, str]:
    if not config.allowed_urls:
        raise _refused(RequestFault.PRECONDITION,
                       "no URL is allowed: add the prefix of the package server to update.allowed_urls")
    try:
        url = allowed_url(text, config.allowed_urls)
    except BadUrlError as error:
        raise _refused(RequestFault.FORBIDDEN, f"download_url is refused: {error}") from error
    return url.text, url.shown


def _check_inline(size: int, config: UpdateConfig) -> None:
    limit, key = min(
        (config.max_inline_size, "max_inline_size"), (config.max_package_size, "max_package_size")
    )
    if size > limit:
        raise _refused(RequestFault.TOO_LARGE,
                       f"update_data has {size} bytes, {limit} are allowed: raise update.{key}, or give a "
                       "download_url where it is the inline size that is too small")


def _signature(text: str) -> str:
    compact = "".join(text.split())  # openssl breaks its lines
    try:
        raw = base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not 1 <= len(raw) <= SIGNATURE_MAX:
        raise _refused(RequestFault.INVALID,
                       f"signature must be base64 of 1 to {SIGNATURE_MAX} bytes, as openssl base64 writes it")
    return compact


def _refused(fault: RequestFault, message: str) -> RequestError:
    return RequestError(fault, message)
