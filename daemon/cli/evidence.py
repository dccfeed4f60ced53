"""What an update found out, for people: nothing that is empty or said already, lines of logs as lines; pure.

``--output json`` has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.cli.session import as_yaml
from daemon.cli.words import printable_line

LINES = "last_lines"  # of the logs of what died
ROLLBACK = "rollback"  # what came of the way back
LINES_MAX = 10


def evidence_text(evidence: Mapping[str, Any], error: str) -> str:
    """The evidence, and the end of the lines that tell why something died; empty for none.

    Args:
        evidence: of an update, as the API gives it.
        error: of the update; a reason that says the same is left out.
    """
    found = {key: value for key, value in evidence.items() if key not in (LINES, ROLLBACK)}
    shown = {key: value for key, value in found.items() if value not in (None, "", [], {}, error)}
    back = evidence.get(ROLLBACK)
    if isinstance(back, Mapping):  # it repeats why it was gone back
        back = {
            key: value for key, value in back.items()
            if value not in (None, "", [], {}, error) and value != evidence.get(key)
        }
    if back:
        shown[ROLLBACK] = back
    text = ""
    if shown:
        text = "evidence:\n" + "".join(f"  {line}\n" for line in as_yaml(shown).splitlines())
    lines = evidence.get(LINES)
    if isinstance(lines, list | tuple) and lines:
        text += _end_of(lines)
    return text


def _end_of(lines: Sequence[Any]) -> str:
    left_out = len(lines) - LINES_MAX
    head = f"last lines, without {left_out} before them:\n" if left_out > 0 else "last lines:\n"
    return head + "".join(f"  {printable_line(log_line(str(line)))}\n" for line in lines[-LINES_MAX:])


def log_line(line: str) -> str:
    """An entry of the daemon's log in JSON as the text it would be; anything else as it is."""
    if not line.startswith("{"):
        return line
    try:
        entry = json.loads(line)
        return f"{entry['timestamp']} {entry['level']} {entry['message']}"
    except (ValueError, LookupError, TypeError, RecursionError):
        return line
