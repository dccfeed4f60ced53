"""What we need to know of certificates, read by hand: validity, names, the kind of the key (RFC 5280, X.690).

``cryptography`` knows all of it and costs 10 MB of memory in a daemon that reads three files. Nothing
here decides whom to trust; that is gRPC's, at each handshake. These are our own files, looked at so that a
mistake in them is told in words before a client meets it. Pure, but for :func:`fits`, which asks OpenSSL.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE, _OID = 0x30, 0x06
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_UTC_TIME, _GENERAL_TIME = 0x17, 0x18
_COMMON_NAME = bytes.fromhex("550403")
_ALTERNATIVE_NAMES = bytes.fromhex("551d11")
_RSA = bytes.fromhex("2a864886f70d010101")
_EC = bytes.fromhex("2a8648ce3d0201")
# gRPC's TLS offers no signatures of Ed25519, P-521 and others: every handshake would fail.
_CURVES = (bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2b81040022"))  # P-256, P-384
_TEXTS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1C: "utf-32-be", 0x1E: "utf-16-be"}
# The last one: a key of another kind than the certificate's.
_NOT_ITS_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_EMAIL, _DNS, _URI, _IP = 0x81, 0x82, 0x86, 0x87  # of GeneralName

_Part = tuple[int, bytes]  # tag and contents


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One certificate.

    Attributes:
        not_before, not_after: its validity, Unix seconds.
        names: the common name and the alternative names (DNS, URI, e-mail, address), each once.
        spoken: whether gRPC can speak with its key: RSA, or EC on P-256 or P-384.
    """

    not_before: float
    not_after: float
    names: tuple[str, ...]
    spoken: bool


def read_pem(pem: bytes) -> list[Certificate]:
    """Every certificate of a file, in order.

    Raises:
        ValueError: one cannot be read; says where.
    """
    found = []
    for number, block in enumerate(_PEM.findall(pem), 1):
        try:
            found.append(_certificate(base64.b64decode(b"".join(block.split()), validate=True)))
        except (ValueError, IndexError, binascii.Error) as error:
            raise ValueError(f"the {number}. certificate is damaged ({error})") from error
    return found


def fits(cert: bytes, key: bytes) -> bool:
    """Whether a key (PEM, without a passphrase) belongs to the first certificate of a chain.

    Raises:
        ValueError: there is no key that can be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # how strong it is to be is not asked here
    with _in_memory(cert) as cert_file, _in_memory(key) as key_file:
        try:
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
        except ssl.SSLError as error:
            if error.reason in _NOT_ITS_KEY:
                return False
            raise ValueError(str(error.reason or error)) from error
    return True


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path for a library that reads none but files; a key never comes to a disk."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _certificate(der: bytes) -> Certificate:
    whole = _sequence(_first(der))
    fields = list(_parts(_sequence(_first(whole))))
    if fields[0][0] == _VERSION:
        del fields[0]
    _serial, _algorithm, _issuer, validity, subject, key, *more = fields
    begins, ends = (_time(*each) for each in _parts(_sequence(validity)))
    names = [*_common_names(_sequence(subject)), *_alternative_names(more)]
    return Certificate(
        not_before=begins, not_after=ends, names=tuple(dict.fromkeys(name for name in names if name)),
        spoken=_spoken(_sequence(key)),
    )


def _parts(data: bytes) -> Iterator[_Part]:
    """Tag and contents of each value in a row (DER: definite lengths)."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size > 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at: at + count], "big"), at + count
        elif size == 0x80:
            raise ValueError("a length is left open")
        if at + size > len(data):
            raise ValueError("it ends in the middle")
        yield tag, data[at: at + size]
        at += size


def _first(data: bytes) -> _Part:
    for part in _parts(data):
        return part
    raise ValueError("it is empty")


def _sequence(part: _Part) -> bytes:
    """The contents of a SEQUENCE."""
    if part[0] != _SEQUENCE:
        raise ValueError(f"{part[0]:#x} stands where a sequence must")
    return part[1]


def _time(tag: int, text: bytes) -> float:
    """UTCTime has years from 1950 to 2049."""
    said = text.decode("ascii")
    if tag == _UTC_TIME:
        said = ("19" if said[:2] >= "50" else "20") + said
    elif tag != _GENERAL_TIME:
        raise ValueError("a time is none")
    return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _common_names(subject: bytes) -> Iterator[str]:
    for _kind, attributes in _parts(subject):
        for _row, attribute in _parts(attributes):
            (_tag, kind), (text, value) = _parts(attribute)
            if kind == _COMMON_NAME:
                yield value.decode(_TEXTS.get(text, "utf-8"), "replace")


def _alternative_names(fields: list[_Part]) -> Iterator[str]:
    for tag, contents in fields:
        if tag != _EXTENSIONS:
            continue
        for _row, extension in _parts(_sequence(_first(contents))):
            kind, *_critical, (_octets, value) = _parts(extension)
            if kind == (_OID, _ALTERNATIVE_NAMES):
                for form, name in _parts(_sequence(_first(value))):
                    if form in (_EMAIL, _DNS, _URI):
                        yield name.decode("utf-8", "replace")
                    elif form == _IP:
                        yield str(ipaddress.ip_address(name))


def _spoken(key: bytes) -> bool:
    kind, *parameters = _parts(_sequence(_first(key)))
    if kind == (_OID, _EC):
        return bool(parameters) and parameters[0] in [(_OID, curve) for curve in _CURVES]
    return kind == (_OID, _RSA)
