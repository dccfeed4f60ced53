"""Collectors from other distributions: entry points of the group ``hostdaemon.collectors``.

The entry point's name is the collector's name, and what the configuration writes below
``collectors.plugins.NAME`` are its options. The entry point is a factory::

    def factory(name: str, options: Mapping[str, Any], services: CollectorServices) -> Collector: ...

``name`` is the entry point's name, ``options`` the configured mapping as it is (the plug-in validates it and
raises what it likes), ``services`` what the daemon lends (clock, threads, wall time, a command runner).
The result needs ``name``, ``interval_s``, ``timeout_s`` and ``collect()``, see
:class:`daemon.collectors.base.Collector`; with ``blocking = True`` its ``collect`` runs on a thread.

Whatever is wrong with a plug-in (not installed, fails to import, its factory raises, it returns nonsense)
is a :class:`CollectError` about that plug-in alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from daemon.collectors.base import Collector, CollectorServices, is_blocking
from daemon.errors import CollectError
from daemon.model.metrics import Metrics

GROUP = "hostdaemon.collectors"
MIN_INTERVAL_S = 0.1  # a plug-in shall not spin the reactor
_INT_LIMIT = 1 << 63


class EntryPoint(Protocol):
    """What is used of importlib's entry points."""

    @property
    def name(self) -> str:
        """The plug-in's name."""
        ...

    def load(self) -> Any:
        """Imports the factory."""
        ...


EntryPoints = Callable[[], Iterable[EntryPoint]]


def installed_entry_points() -> Iterable[EntryPoint]:
    """The plug-ins of this Python installation."""
    from importlib import metadata  # half a megabyte that a host without plug-ins saves

    return metadata.entry_points(group=GROUP)


def checked_values(values: Any) -> Mapping[str, Any]:
    """The values of a plug-in, proven to be what Metrics promises; else one bad plug-in would spoil the
    answers in which all collectors are told together.

    Raises:
        CollectError: naming the value that is none.
    """
    if not isinstance(values, Mapping):
        raise CollectError(f"values must be a mapping, not {type(values).__name__}")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise CollectError(f"values: the key {key!r} is no text")
        if isinstance(value, (list, tuple)):
            rows = [_checked_row(f"{key}[{index}]", row) for index, row in enumerate(value)]
            checked[_text(key, key)] = rows
        else:
            checked[_text(key, key)] = _checked_cell(key, value)
    return checked


def _checked_row(path: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
        raise CollectError(f"values: {path} must be a mapping with text for keys")
    return {_text(path, key): _checked_cell(f"{path}.{key}", cell) for key, cell in row.items()}


def _checked_cell(path: str, value: Any) -> Any:
    if isinstance(value, str):
        return _text(path, value)
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        if not -_INT_LIMIT <= value < 2 * _INT_LIMIT:
            raise CollectError(f"values: {path} has more than 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CollectError(f"values: {path} is {value}; leave out what is not known")
        return float(value)
    kind = type(value).__name__
    raise CollectError(f"values: {path} must be a number, text or a list of mappings, not {kind}")


def _text(path: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise CollectError(f"values: {path!a} holds half a character") from error
    return str(value)


class PluginCollector:
    """A plug-in's collector under its configured name, with its answers checked.

    Raises:
        CollectError: the product of the factory does not look like a Collector.
    """

    def __init__(self, name: str, product: Any) -> None:
        self.name = name
        self.interval_s = _seconds(product, "interval_s")
        self.timeout_s = _seconds(product, "timeout_s")
        if not callable(getattr(product, "collect", None)):
            raise CollectError(f"the factory returned {type(product).__name__}, which has no collect()")
        self._product: Collector = product
        self.blocking = is_blocking(product)

    def collect(self) -> Metrics | Awaitable[Metrics]:
        """See Collector.

        Raises:
            CollectError: the answer is not what a collector returns.
        """
        answer = self._product.collect()
        if inspect.isawaitable(answer):
            if self.blocking:
                if inspect.iscoroutine(answer):
                    answer.close()
                raise CollectError("a blocking collector must return Metrics, not something to await")
            return self._checked_later(answer)
        return self._checked(answer)

    async def _checked_later(self, answer: Awaitable[Metrics]) -> Metrics:
        return self._checked(await answer)

    def _checked(self, answer: object) -> Metrics:
        if not isinstance(answer, Metrics):
            raise CollectError(f"collect() must return Metrics, not {type(answer).__name__}")
        timestamp = answer.timestamp
        if not isinstance(timestamp, (int, float)) or not math.isfinite(timestamp):
            raise CollectError("the timestamp of Metrics must be Unix seconds")
        return Metrics(name=self.name, timestamp=float(timestamp), values=checked_values(answer.values))


def _seconds(product: Any, field: str) -> float:
    value: Any = getattr(product, field, None)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not MIN_INTERVAL_S <= value < math.inf:
        raise CollectError(f"{field} must be a number of seconds from {MIN_INTERVAL_S} on, not {value!r}")
    return float(value)


def load_plugin(
    name: str, options: Mapping[str, Any], services: CollectorServices, entry_points: EntryPoints
) -> PluginCollector:
    """Imports a plug-in and makes its collector.

    Raises:
        CollectError: whatever was wrong with it.
    """
    try:
        found = next((entry for entry in entry_points() if entry.name == name), None)
        if found is None:
            raise CollectError(
                f"no installed distribution has the entry point {name!r} in {GROUP};"
                f" install it or remove collectors.plugins.{name}"
            )
        return PluginCollector(name, found.load()(name, options, services))
    except CollectError:
        raise
    except (Exception, SystemExit) as error:  # strangers' code: whatever it raises is told as ours
        raise CollectError(
            f"the plug-in {name!r} cannot be used: {type(error).__name__}: {error}", collector=name
        ) from error
