"""Where one message ends and the next begins on the heartbeat socket.

A message ends at ``\\n`` or, without one, as soon as its JSON object (or array) is complete; several may
follow each other with nothing between, as older senders stream them. A ``\\n`` inside an unfinished
object ends it too, which leaves a text that no decoder accepts: a bad line. Text that begins neither an
object nor an array lasts until ``\\n``. Pure: bytes in, texts out, the same texts however the bytes were
cut; each byte is looked at a bounded number of times, even when bytes arrive one by one.

Used by the connections of :mod:`daemon.heartbeat.connection`.
"""

from __future__ import annotations

import re
from enum import Enum

MAX_LENGTH = 16384  # bytes of one message, its line end not counted

# Loops unrolled so that every byte can be matched in one way only, which keeps them linear. Possessive
# quantifiers would say it shorter, but before Python 3.11.5 they match groups wrongly (gh-106052).
_TEXT = rb'"[^"\\\n]*(?:\\[^\n][^"\\\n]*)*"'
_PLAIN = rb'[^"{}\[\]\n]*'
_BLANK = re.compile(rb"[ \t\r\n]*")
# A whole object without another one inside: what nearly every message is.
_FLAT = re.compile(rb"\{" + _PLAIN + rb"(?:" + _TEXT + _PLAIN + rb")*\}")
# Up to the next bracket or line end outside of strings, or to the quote of a string cut short.
_OUTSIDE = re.compile(_PLAIN + rb"(?:" + _TEXT + _PLAIN + rb")*")
# The rest of a string, up to its quote, a line end, or a backslash that has lost its partner.
_INSIDE = re.compile(rb'[^"\\\n]*(?:\\[^\n][^"\\\n]*)*')

_NEWLINE = 0x0A
_QUOTE = 0x22
_OPENING = frozenset(b"{[")
_BRACE = 0x7B


class _Verdict(Enum):
    """What the scanner found at the place where it stopped."""

    COMPLETE = 1
    LINE_END = 2
    MORE = 3


class Framer:
    """The messages of one connection.

    Args:
        max_length: bytes of one message, its line end not counted.

    Attributes:
        overlong: a message passed ``max_length``; the framer yields nothing any more.
    """

    __slots__ = (
        "_data",
        "_depth",
        "_in_string",
        "_lines_end",
        "_max",
        "_partial",
        "_pos",
        "_scanned",
        "overlong",
    )

    def __init__(self, max_length: int = MAX_LENGTH) -> None:
        self._max = max_length
        self.overlong = False
        self._data: bytes = b""  # what arrived and is not yet cut; everything before _pos is done
        self._pos = 0
        self._partial = bytearray()  # the unfinished message that came with earlier data
        self._scanned = 0  # how far it has been looked at
        self._depth = 0  # brackets open in the message under way; -1: it is no object, nor an array
        self._in_string = False
        self._lines_end = 0  # where what lines() returned last ends, until somebody moves on

    @property
    def unfinished(self) -> bool:
        """Whether the beginning of a message waits for its end."""
        return bool(self._partial)

    @property
    def pending(self) -> bool:
        """Whether bytes wait to be cut."""
        return self._pos < len(self._data)

    def push(self, data: bytes) -> None:
        """Takes more bytes, which :meth:`take` then cuts."""
        if self.overlong:
            return
        self._lines_end = 0
        self._data = self._data[self._pos :] + data if self._pos < len(self._data) else data
        self._pos = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Takes more bytes and returns every message they finish, blanks around it removed in front."""
        self.push(data)
        return self.take()

    def lines(self) -> bytes | None:
        """As many whole lines as fit into ``max_length`` bytes, or None when none begins the rest.

        For decoding line after line at once. Either :meth:`drop_lines` follows, or they are left
        alone and :meth:`take` cuts them into messages one by one.
        """
        self._lines_end = 0
        if self.overlong:
            return None
        if not self._partial:
            end = self._data.rfind(b"\n", self._pos, self._pos + self._max + 1) + 1
        else:
            room = self._max + 1 - len(self._partial)
            end = self._data.find(b"\n", self._pos, self._pos + room) + 1
        if not end:
            return None
        self._lines_end = end
        whole = self._data[self._pos : end]
        return bytes(self._partial) + whole if self._partial else whole

    def drop_lines(self) -> None:
        """Takes what :meth:`lines` just returned as done."""
        if self._lines_end:
            self._pos = self._lines_end
            self._lines_end = 0
            if self._partial:
                self._begin()
            self._let_go()

    def take(self, limit: int = 1 << 30) -> list[bytes]:
        """Cuts off up to ``limit`` messages."""
        found: list[bytes] = []
        self._lines_end = 0
        while len(found) < limit and not self.overlong:
            if self._partial:
                message = self._finish_partial()
            else:
                self._skip_blank()
                if self._pos >= len(self._data):
                    break
                message = self._cut()
            if message is None:
                break
            found.append(message)
        self._let_go()
        return found

    def _let_go(self) -> None:
        """Holds no memory for what is done."""
        if self._pos >= len(self._data):
            self._data, self._pos = b"", 0

    def _skip_blank(self) -> None:
        if blank := _BLANK.match(self._data, self._pos):
            self._pos = blank.end()

    def _begin(self) -> None:
        """Forgets the message under way."""
        self._partial = bytearray()
        self._scanned = self._depth = 0
        self._in_string = False

    def _cut(self) -> bytes | None:
        """The message that begins here, or None when its end has not come yet."""
        data, start = self._data, self._pos
        flat = _FLAT.match(data, start) if data[start] == _BRACE else None
        if flat is not None:
            end, verdict = flat.end(), _Verdict.COMPLETE
        else:
            end, verdict = self._scan(data, start)
        if end - start > self._max:
            self._give_up()
            return None
        if verdict is _Verdict.MORE:
            self._partial += data[start:]
            self._scanned = end - start
            self._pos = len(data)
            if len(self._partial) > self._max:
                self._give_up()
            return None
        self._depth, self._in_string = 0, False
        self._pos = end
        return data[start:end]

    def _finish_partial(self) -> bytes | None:
        """The message that began with earlier data, or None when its end has not come yet."""
        known = len(self._partial)
        # One byte more than a message may have: the line end after the longest one.
        self._partial += self._data[self._pos : self._pos + self._max + 1 - known]
        end, verdict = self._scan(self._partial, self._scanned)
        self._scanned = end
        if verdict is _Verdict.MORE:
            self._pos += len(self._partial) - known
            if len(self._partial) > self._max:
                self._give_up()
            return None
        if end > self._max:
            self._give_up()
            return None
        message = bytes(self._partial[:end])
        self._pos += end - known
        self._begin()
        return message

    def _give_up(self) -> None:
        self.overlong = True
        self._data, self._pos = b"", 0
        self._begin()

    def _scan(self, buffer: bytes | bytearray, pos: int) -> tuple[int, _Verdict]:
        """Goes on through the message under way, from ``pos``, to its end or the end of the buffer."""
        length = len(buffer)
        if self._depth == 0:
            if buffer[pos] in _OPENING:
                self._depth = 1
                pos += 1
            else:
                self._depth = -1
        if self._depth < 0:
            end = buffer.find(b"\n", pos)
            return (length, _Verdict.MORE) if end < 0 else (end, _Verdict.LINE_END)
        while True:
            pos = self._pass(_INSIDE if self._in_string else _OUTSIDE, buffer, pos)
            if pos >= length:
                return length, _Verdict.MORE
            byte = buffer[pos]
            if byte == _NEWLINE:
                return pos, _Verdict.LINE_END
            if byte == _QUOTE:
                self._in_string = not self._in_string
            elif self._in_string:  # a backslash: its partner has not come yet, or is the line end
                if pos + 1 >= length:
                    return pos, _Verdict.MORE
                return pos + 1, _Verdict.LINE_END
            elif byte in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if self._depth == 0:
                    return pos + 1, _Verdict.COMPLETE
            pos += 1

    @staticmethod
    def _pass(pattern: re.Pattern[bytes], buffer: bytes | bytearray, pos: int) -> int:
        found = pattern.match(buffer, pos)
        return pos if found is None else found.end()

