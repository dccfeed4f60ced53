"""stdout and stderr whatever they are: closed, full, or of a character set that lacks our signs."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

_ERRORS = "hostctl"
_PLAIN = str.maketrans("▁▂▃▄▅▆▇█└…", "__.-=+*#`~")  # of the same width, so that columns stand


def prepare() -> None:
    """Makes both streams take every text; a closed one (``>&-``) takes it and keeps nothing of it."""
    codecs.register_error(_ERRORS, _replaced)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Open to the end. It takes the number that is free, so that no socket of ours can.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            continue
        with contextlib.suppress(AttributeError, ValueError):  # replaced by a test, or closed
            stream.reconfigure(errors=_ERRORS)


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    """An error handler of codecs: our own signs in ASCII, others as ``\\u1234``."""
    if isinstance(error, UnicodeEncodeError):
        plain = error.object[error.start].translate(_PLAIN)
        if plain.isascii():
            return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


def message(text: str) -> None:
    """To stderr. One that cannot be written changes nothing of what a command comes to."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def nobody_reads() -> None:
    """stdout's reader has gone (``hostctl logs web | head``): what is buffered must not fail at the end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
