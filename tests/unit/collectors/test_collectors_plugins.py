"""Plug-ins: whatever is wrong with one is said of that one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from collectors_support import make_services, sample_of
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from daemon.collectors.base import CollectorServices
from daemon.collectors.plugins import PluginCollector, checked_values, installed_entry_points, load_plugin
from daemon.errors import CollectError
from daemon.model.metrics import Metrics


class Product:
    """A plug-in's collector; attributes can be replaced."""

    def __init__(self, answer: Any = None, **attributes: Any) -> None:
        self.name = "whatever"
        self.interval_s: Any = 15
        self.timeout_s: Any = 2.5
        self._answer = (
            answer if answer is not None else Metrics(name="whatever", timestamp=7, values={"x": 1})
        )
        for name, value in attributes.items():
            setattr(self, name, value)

    def collect(self) -> Any:
        return self._answer() if callable(self._answer) else self._answer


class Entry:
    """An entry point that loads what it was given, or raises it."""

    def __init__(self, name: str, target: Any) -> None:
        self.name = name
        self._target = target

    def load(self) -> Any:
        if isinstance(self._target, BaseException):
            raise self._target
        return self._target


def load(target: Any, name: str = "gpu", **options: Any) -> PluginCollector:
    def entries() -> Iterable[Entry]:
        return [Entry("other", lambda *_: pytest.fail("not asked for")), Entry("gpu", target)]

    return load_plugin(name, options, make_services(Clock()), entries)


def test_factory_gets_name_options_and_services_and_its_product_runs_under_the_entry_points_name() -> None:
    seen: list[Any] = []

    def factory(name: str, options: Any, services: CollectorServices) -> Product:
        seen.extend((name, dict(options), services.env))
        return Product()

    one = load(factory, device=3)
    assert seen == ["gpu", {"device": 3}, {"PATH": "/bin"}]
    assert (one.name, one.interval_s, one.timeout_s, one.blocking) == ("gpu", 15.0, 2.5, False)
    sample = sample_of(one.collect())
    assert (sample.name, sample.timestamp, sample.values) == ("gpu", 7.0, {"x": 1})


@pytest.mark.parametrize(
    "target",
    [
        ImportError("no module named cuda"),
        SyntaxError("bad"),
        SystemExit(3),
        None,
        "text",
        lambda: Product(),
        lambda name, options, services: 1 / 0,
        lambda name, options, services: None,
        lambda name, options, services: Product(interval_s=0),
        lambda name, options, services: Product(interval_s=-1),
        lambda name, options, services: Product(interval_s=float("nan")),
        lambda name, options, services: Product(interval_s=float("inf")),
        lambda name, options, services: Product(interval_s="60"),
        lambda name, options, services: Product(interval_s=True),
        lambda name, options, services: Product(timeout_s=None),
        lambda name, options, services: Product(collect=3),
    ],
)
def test_broken_plugin_is_a_collect_error(target: Any) -> None:
    with pytest.raises(CollectError, match="D5001"):
        load(target)


def test_missing_plugin_says_what_to_do() -> None:
    with pytest.raises(CollectError, match=r"install it or remove collectors\.plugins\.absent"):
        load(lambda *_: Product(), name="absent")


def test_list_of_entry_points_that_fails_is_a_collect_error() -> None:
    def entries() -> Iterable[Entry]:
        raise OSError("site-packages is gone")

    with pytest.raises(CollectError, match="site-packages is gone"):
        load_plugin("gpu", {}, make_services(Clock()), entries)


def test_installed_entry_points_can_be_listed() -> None:
    assert isinstance(list(installed_entry_points()), list)


def test_good_values_pass_as_plain_ones() -> None:
    assert checked_values({"n": 1, "on": True, "t": "x", "f": 1.5, "rows": ({"name": "a", "v": 2},)}) == {
        "n": 1, "on": 1, "t": "x", "f": 1.5, "rows": [{"name": "a", "v": 2}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        None, [], "text", {1: 2}, {"x": None}, {"x": object()}, {"x": float("nan")}, {"x": float("inf")},
        {"x": 1 << 64}, {"x": -(1 << 63) - 1}, {"x": {"y": 1}}, {"x": [1]}, {"x": [[{}]]}, {"x": [{1: 2}]},
        {"x": [{"y": {"z": 1}}]}, {"x": [{"y": float("nan")}]}, {"x": "\ud800"}, {"\ud800": 1},
        {"x": [{"\udc00": 1}]}, {"x": b"bytes"}, {"x": 1j},
    ],
)  # fmt: skip
def test_values_that_would_spoil_the_common_answer_are_refused(values: Any) -> None:
    with pytest.raises(CollectError) as caught:
        checked_values(values)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "answer",
    [
        3,
        {"x": 1},
        Metrics(name="w", timestamp=float("nan"), values={}),
        Metrics(name="w", timestamp="now", values={}),  # type: ignore[arg-type]  # a stranger's mistake
        Metrics(name="w", timestamp=1.0, values=[1]),  # type: ignore[arg-type]  # a stranger's mistake
    ],
)
def test_answers_that_are_no_metrics_are_refused(answer: Any) -> None:
    one = PluginCollector("gpu", Product(answer))
    with pytest.raises(CollectError):
        one.collect()
    later = PluginCollector("gpu", Product(lambda: succeed(answer)))
    with pytest.raises(CollectError):
        sample_of(later.collect())


def test_answer_that_comes_later_is_checked_and_renamed() -> None:
    async def answer() -> Metrics:
        return Metrics(name="w", timestamp=1.0, values={"x": True})

    sample = sample_of(PluginCollector("gpu", Product(answer)).collect())
    assert (sample.name, sample.values) == ("gpu", {"x": 1})


def test_blocking_collector_may_not_answer_later() -> None:
    async def answer() -> Metrics:
        return Metrics(name="w", timestamp=1.0, values={})

    one = PluginCollector("gpu", Product(answer, blocking=True))
    assert one.blocking
    with pytest.raises(CollectError, match="blocking"):
        one.collect()
