"""The manifest of a package: what it is, for which hosts, and the SHA-256 of each of its files.

:func:`parse` takes the bytes of ``manifest.json`` and knows nothing of this host; :func:`check` says whether
the package may be installed here and now. Keys that are not known are left alone: a newer maker may write
them. Keys that are known have the type they must have.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from datetime import datetime

import msgspec

from daemon.errors import UpdateVerifyError
from daemon.model.moment import rfc3339
from daemon.model.update import DAEMON
from daemon.updater.package.version import Version

NAME = "manifest.json"
SIZE_MAX = 1 << 20  # bytes; about six thousand files
PATH_MAX = 1024  # bytes of a name, as fsencode makes them
PART_MAX = 255  # NAME_MAX of Linux
DEPTH_MAX = 32
WORD_MAX = 128
MAIN_MODE, OTHER_MODE = 0o755, 0o644

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0?[0-7]{3}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
SHOWN_MAX = 120  # characters of a name or a value in a message

_ASK = "ask its maker for one that is well formed (scripts/bundle makes them)"


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One file: its SHA-256 in hex, and its permission bits in octal, empty for the usual ones."""

    sha256: str
    mode: str = ""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a package says of itself; WIRE.md, "Update package". Made by :func:`parse`.

    Attributes:
        component: an agent's id or type, or ``daemon``.
        version, min_from: versions; ``min_from`` may be empty.
        os, arch: as Go spells them.
        files: every file of the package but the manifest, by its name in the archive.
        main: the one that is the program; a key of ``files``.
        expires: RFC 3339; empty for never.
        python, libc: ``cp311``, ``glibc-2.36``; of packages of the daemon only.
    """

    component: str
    version: str
    os: str
    arch: str
    files: dict[str, FileEntry]
    main: str = ""
    expires: str = ""
    min_from: str = ""
    python: str = ""
    libc: str = ""

    def mode_of(self, name: str) -> int:
        """The permission bits of a file."""
        if text := self.files[name].mode:
            return int(text, 8)
        return MAIN_MODE if name == self.main else OTHER_MODE


def parse(data: bytes) -> Manifest:
    """Reads a manifest. Everything in it is checked that can be without looking at a host.

    Raises:
        UpdateVerifyError: D4002, with the fault and where it is.
    """
    if len(data) > SIZE_MAX:
        raise _malformed(f"it has more than {SIZE_MAX} bytes")
    try:
        data.decode("utf-8")  # msgspec does not look into the values of keys it does not know
        found = msgspec.json.decode(data, type=Manifest)
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise _malformed("it is nested too deeply") from error
    except msgspec.MsgspecError as error:
        raise _malformed(str(error)) from error
    words = [("component", found.component), ("os", found.os), ("arch", found.arch)]
    if found.component == DAEMON:
        words.append(("python", found.python))
        _libc(found.libc)
    for key, text in words:
        if len(text) > WORD_MAX or not _WORD.fullmatch(text):
            raise _malformed(f"{key} is {shown(text)}, not a word of at most {WORD_MAX} letters and digits")
    for key, text in (("version", found.version), ("min_from", found.min_from)):
        if text or key == "version":
            _version(key, text)
    if found.expires:
        _moment(found.expires)
    found = msgspec.structs.replace(found, main=_main(found))
    _check_files(found)
    return found


def _main(found: Manifest) -> str:
    if not found.files:
        raise _malformed("files is empty")
    if found.main:
        if found.main not in found.files:
            raise _malformed(f"main is {shown(found.main)}, which is none of its files")
        return found.main
    if len(found.files) > 1:
        raise _malformed("it has several files and main does not say which one is the program")
    return next(iter(found.files))


def _check_files(found: Manifest) -> None:
    fault = fault_of_names(found.files)
    if fault:
        raise _malformed(fault)
    for name, entry in found.files.items():
        if not _SHA256.fullmatch(entry.sha256):
            raise _malformed(f"sha256 of {shown(name)} is not 64 lower-case hex digits")
        if entry.mode and not _MODE.fullmatch(entry.mode):
            raise _malformed(f"mode of {shown(name)} is {shown(entry.mode)}, not octal such as 0755")
        mode = found.mode_of(name)
        if mode & 0o002 or not mode & 0o400:
            raise _malformed(
                f"mode of {shown(name)} is {mode:04o}: its owner must be able to read it, and not everybody "
                "to write it"
            )
    if not found.mode_of(found.main) & 0o100:
        raise _malformed(f"main is {shown(found.main)}, which its mode does not let anybody execute")


def fault_of_name(name: str) -> str:
    """Why a name in a package is not accepted; empty when it is.

    Accepted are relative paths of at most 1024 bytes with plain parts: no ``..``, ``.`` or empty part, no
    backslash, nothing that is not printed, Unicode in its composed form.
    """
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return f"the name {shown(name)} is not text"
    parts = name.split("/")
    if not 0 < size <= PATH_MAX or len(parts) > DEPTH_MAX:
        limits = f"longer than {PATH_MAX} bytes or deeper than {DEPTH_MAX} folders"
        return f"the name {shown(name)} is empty, {limits}"
    if not name.isprintable() or "\\" in name or unicodedata.normalize("NFC", name) != name:
        return f"the name {shown(name)} has characters that are not accepted"
    if any(part in ("", ".", "..") or len(part.encode("utf-8")) > PART_MAX for part in parts):
        return f"the name {shown(name)} is not a plain path below the package's own folder"
    return ""


def fault_of_names(names: Iterable[str]) -> str:
    """Why these names cannot be the files of one package; empty when they can.

    Beyond each by itself: no two that differ by case only, folders included (where one file ends up must not
    depend on the filesystem), none that is a file and a folder, none that is ``manifest.json``.
    """
    spelled: dict[str, tuple[str, bool]] = {NAME: (NAME, True)}
    for name in names:
        if fault := fault_of_name(name):
            return fault
        parts = name.split("/")
        for n in range(1, len(parts) + 1):
            path, is_file = "/".join(parts[:n]), n == len(parts)
            before, was_file = spelled.setdefault(path.casefold(), (path, is_file))
            if before != path or was_file != is_file or (is_file and path == NAME):
                return f"the names {shown(before)} and {shown(name)} cannot both be files of one package"
    return ""


def check(
    manifest: Manifest,
    *,
    components: Collection[str],
    version: str,
    installed: str,
    os: str,
    arch: str,
    python: str,
    libc: str,
    now: float,
) -> None:
    """Says whether the package may be installed.

    Args:
        components: what the manifest may name: the agent's id and its type, or ``daemon``.
        version: what was asked for; another ``v`` in front does not matter.
        installed: the version to be newer than. Empty, or a text that is no version: nobody can tell, so
            every version is accepted; hand in the newest that was ever installed to refuse a replayed older
            package even then.
        os, arch, python, libc: of the host, see :mod:`daemon.updater.package.host`; the last two count
            for the daemon's packages alone.
        now: Unix seconds.

    Raises:
        UpdateVerifyError: D4002 with the cause and the next step.
    """
    if manifest.component not in components:
        raise UpdateVerifyError(
            f"the package is for {manifest.component}, not for {' or '.join(sorted(components))}; "
            "send it to the component it was made for"
        )
    own = Version.parse(manifest.version)
    if own.plain != Version.parse(version).plain:
        raise UpdateVerifyError(
            f"the package holds version {manifest.version} and {version} was asked for; "
            f"ask for {manifest.version} or send the package of {version}"
        )
    _check_host(manifest, os=os, arch=arch, python=python, libc=libc)
    if manifest.expires and _moment(manifest.expires) <= now:
        raise UpdateVerifyError(
            f"the package expired at {manifest.expires} and this host's clock says {rfc3339(now)}; "
            "make and sign it anew, or set the clock"
        )
    _check_order(manifest, own, installed)


def _check_host(manifest: Manifest, *, os: str, arch: str, python: str, libc: str) -> None:
    if (manifest.os, manifest.arch) != (os, arch):
        raise UpdateVerifyError(
            f"the package is for {manifest.os}/{manifest.arch} and this host is {os}/{arch}; "
            "send the one that was made for it"
        )
    if manifest.component != DAEMON:
        return
    if manifest.python != python:
        raise UpdateVerifyError(
            f"the package is for Python {manifest.python} and the daemon runs on {python}; "
            "send the one that was made for it"
        )
    family, needed = _libc(manifest.libc)
    host_family, _, host_version = libc.partition("-")
    if family != host_family or Version.parse(host_version) < needed:
        raise UpdateVerifyError(
            f"the package needs {manifest.libc} and this host has {libc or 'a C library nobody knows'}; "
            "send one that was made on an older system"
        )


def _check_order(manifest: Manifest, own: Version, installed: str) -> None:
    try:
        before = Version.parse(installed)
    except UpdateVerifyError:
        before = None
    if before is not None and own <= before:
        raise UpdateVerifyError(
            f"the package holds version {manifest.version}, which is not newer than {installed}, the one "
            "installed; send a newer version, or use the roll-back to go back"
        )
    if manifest.min_from and (before is None or before < Version.parse(manifest.min_from)):
        raise UpdateVerifyError(
            f"the package updates {manifest.min_from} or newer, and {installed or 'an unknown version'} is "
            f"installed; update to {manifest.min_from} first"
        )


def _malformed(fault: str) -> UpdateVerifyError:
    return UpdateVerifyError(f"{NAME} of the package: {fault}; {_ASK}")


def _version(key: str, text: str) -> Version:
    try:
        return Version.parse(text)
    except UpdateVerifyError as error:
        raise _malformed(f"{key} is {shown(text)}, which is no version") from error


def _libc(text: str) -> tuple[str, Version]:
    family, _, version = text.partition("-")
    if family not in ("glibc", "musl"):
        raise _malformed(f"libc is {shown(text)}, not one like glibc-2.36 or musl-1.2")
    return family, _version("libc", version)


def _moment(text: str) -> float:
    try:
        if _RFC3339.fullmatch(text):
            return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        pass  # such as a thirteenth month: told below
    raise _malformed(f"expires is {shown(text)}, not a time such as 2027-01-01T00:00:00Z")


def shown(text: str | bytes) -> str:
    """A name or value from outside, fit for a message and a log line: quoted, ASCII, short."""
    quoted = ascii(text[:SHOWN_MAX])
    return quoted if len(text) <= SHOWN_MAX and len(quoted) <= SHOWN_MAX else f"{quoted[:SHOWN_MAX]}..."
