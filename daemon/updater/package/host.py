"""What this host runs, in the words of a package's manifest."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from daemon.model.platform import OS, architecture

LIB = Path("/lib")
_MUSL_VERSION = re.compile(rb"\0([0-9]+\.[0-9]+\.[0-9]+)\0")  # the one string of that shape in musl's loader
_MUSL_MAX = 8 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What a package has to fit to.

    Attributes:
        os, arch: as Go spells them: ``linux``, ``amd64``.
        python: the tag of the running interpreter, ``cp311``.
        libc: ``glibc-2.36`` or ``musl-1.2.3``; empty when it cannot be told.
    """

    os: str
    arch: str
    python: str
    libc: str


def this_host() -> Host:
    """Looks at the running interpreter. Blocks for a moment; nothing of it changes while it runs."""
    return Host(os=OS, arch=architecture(platform.machine()), python=python_tag(), libc=libc())


def python_tag() -> str:
    """The interpreter tag of PEP 425 with the ABI's letters (``cp313t`` without the interpreter lock)."""
    short = {"cpython": "cp", "pypy": "pp"}.get(sys.implementation.name, sys.implementation.name)
    return f"{short}{sys.version_info.major}{sys.version_info.minor}{sys.abiflags}"


def libc(folder: Path = LIB) -> str:
    """The C library: glibc says its version itself; musl's is read from its loader in ``folder``."""
    try:
        text = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # not glibc: the name means nothing there
        text = ""
    if text:
        return "-".join(text.split())
    return musl(folder)


def musl(folder: Path = LIB) -> str:
    """``musl-`` and the version of the loader in ``folder``; empty when there is none."""
    for loader in sorted(folder.glob("ld-musl-*.so.1")):
        try:
            with loader.open("rb") as file:
                found = _MUSL_VERSION.search(file.read(_MUSL_MAX))
        except OSError:
            continue
        if found is not None:
            return f"musl-{found[1].decode()}"
    return ""
