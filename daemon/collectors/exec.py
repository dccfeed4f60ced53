"""The exec collector: a command of the operator's that prints one JSON object.

Numbers and text become values, truth values 1 and 0, objects within objects are joined by dots
(``{"queue": {"depth": 3}}`` is ``queue.depth``), null is left out. Arrays are refused: nothing would name
their entries for good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.aio.command import CommandResult, CommandRunner
from daemon.config.secrets import text_shown
from daemon.errors import CollectError
from daemon.interfaces import WallClock
from daemon.model.metrics import Metrics

MAX_OUTPUT_BYTES = 256 * 1024
MAX_VALUES = 10_000
KILL_GRACE_S = 1.0  # between the command's timeout and the round's: its killing is what is reported
_MIN_INT, _MAX_INT = -(1 << 63), (1 << 64) - 1  # what JSON readers elsewhere can hold
_TOLD_OUTPUT = 200  # characters of a failed command's output that its error quotes
_LOOKED_AT = 4096  # bytes of it in which secrets are looked for


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _cell(path: str, value: Any) -> float | int | str:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int) and not _MIN_INT <= value <= _MAX_INT:
        raise ValueError(f"{path}: the number has more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path}: the number is too large for a double")
    if isinstance(value, str):
        _require_unicode(value, path)
    if isinstance(value, list):
        raise ValueError(f"{path}: arrays are not taken; print an object with a key for each entry")
    if not isinstance(value, (int, float, str)):
        raise ValueError(f"{path}: {type(value).__name__} is not taken")
    return value


def _require_unicode(text: str, path: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path.encode('utf-8', 'backslashreplace').decode()}: half a character") from None


def _flatten_into(flat: dict[str, Any], prefix: str, tree: Mapping[str, Any]) -> None:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        _require_unicode(path, path)
        if value is None:
            continue
        if isinstance(value, dict):
            _flatten_into(flat, f"{path}.", value)
            continue
        if path in flat:
            raise ValueError(f"{path}: occurs twice, once with a dot in a key")
        flat[path] = _cell(path, value)
        if len(flat) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")


def exec_values(output: bytes) -> dict[str, Any]:
    """The values in a command's output.

    Raises:
        CollectError: it is not one JSON object of the kind described above.
    """
    try:
        tree = json.loads(output.decode(), parse_constant=_no_constant, object_pairs_hook=_no_repeats)
        if not isinstance(tree, dict):
            raise ValueError(f"a JSON object is wanted, not {type(tree).__name__}")
        flat: dict[str, Any] = {}
        _flatten_into(flat, "", tree)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CollectError(f"the command must print one JSON object on stdout: {why}") from error
    return flat


def result_fault(result: CommandResult, timeout_s: float) -> str:
    """Why a result cannot be used; empty when it can."""
    if result.timed_out:
        return f"the command did not end within {timeout_s:g} s and was killed; raise its timeout"
    if result.truncated:
        return f"the command printed more than {MAX_OUTPUT_BYTES} bytes and was killed; print less"
    if result.status.clean:
        return ""
    if result.status.signal is not None:
        how = f"was ended by signal {result.status.signal}"
    elif result.status.code is not None:
        how = f"exited with {result.status.code}"
    else:
        how = "ended, nobody knows how"
    # Looked at from far enough before: a secret's name must not be what was cut off.
    end = result.output[-_LOOKED_AT:].decode("utf-8", "backslashreplace").strip()
    said = text_shown(end)[-_TOLD_OUTPUT:]
    return f"the command {how}" + (f" and printed {said!r}" if said else "; run it by hand to see why")


class ExecCollector:
    """Runs a command each round, without a shell.

    Args:
        name: the collector's name.
        command: the program and its arguments.
        timeout_s: the command's group is killed after so many seconds; ``timeout_s`` of the collector is a
            little more.
        env: the command's environment.
    """

    def __init__(
        self,
        *,
        name: str,
        command: Sequence[str],
        interval_s: float,
        timeout_s: float,
        runner: CommandRunner,
        wall: WallClock,
        env: Mapping[str, str],
    ) -> None:
        self.name = name
        self.interval_s = interval_s
        self.timeout_s = timeout_s + KILL_GRACE_S
        self._command = tuple(command)
        self._command_timeout_s = timeout_s
        self._runner = runner
        self._wall = wall
        self._env = dict(env)

    async def collect(self) -> Metrics:
        """See Collector.

        Raises:
            CollectError: the command cannot be started, fails, takes too long, or prints something else.
        """
        try:
            result = await self._runner.run(
                self._command,
                env=self._env,
                timeout_s=self._command_timeout_s,
                max_output=MAX_OUTPUT_BYTES,
            )
        except OSError as error:
            raise CollectError(
                f"cannot start {self._command[0]}: {error.strerror or error}; check collectors.exec",
                collector=self.name,
            ) from error
        fault = result_fault(result, self._command_timeout_s)
        if fault:
            raise CollectError(fault, collector=self.name)
        return Metrics(name=self.name, timestamp=self._wall(), values=exec_values(result.output))
