"""A terminal that is drawn on again and again, for ``top`` and ``status --watch``."""

from __future__ import annotations

import signal

from daemon.cli.table import widest

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # alternate screen, cursor (xterm)
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"  # ECMA-48


def drawn(text: str, columns: int, lines: int) -> str:
    """What puts a text over the one before it without a flicker; what has no room below is counted.

    Args:
        text: lines, each with its line end; nothing in it but our own colours is obeyed by a terminal.
        columns, lines: of the terminal; longer lines take several.
    """
    shown = text.splitlines()
    room = lines - 1  # the last line is the cursor's
    taken = 0
    for number, line in enumerate(shown):
        taken += max(1, -(-widest(line) // columns))
        if taken > room:
            number = max(0, number - 1)
            shown[number:] = [f"... and {len(shown) - number} more lines"]
            break
    return _HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_BELOW


def heed_size() -> None:
    """From here on no change of the terminal's size is missed, though it come while something is drawn."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})  # it stays pending until pause() takes it


def pause(seconds: float) -> None:
    """Waits, after :func:`heed_size`; a new size of the terminal ends it, for it is to be drawn on."""
    signal.sigtimedwait({signal.SIGWINCH}, seconds)
