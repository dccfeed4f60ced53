"""From the configuration to collectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from collectors_support import RecordingEvents, make_proc, make_services, sample_of
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from daemon.collectors.factory import CollectorFactory, build_collectors
from daemon.collectors.manager import CollectorManager
from daemon.config.schema import (
    CollectorConfig,
    CollectorsConfig,
    DiskCollectorConfig,
    ExecCollectorConfig,
    NetworkCollectorConfig,
    TextfileCollectorConfig,
)
from daemon.model.metrics import Metrics
from tests.fakes.commands import FakeProgram

OFF = CollectorConfig(enabled=False)


class PluginProduct:
    name = "gpu"
    interval_s = 5.0
    timeout_s = 1.0

    def collect(self) -> Metrics:
        return Metrics(name="gpu", timestamp=0.0, values={"busy": 0.5})


class Entry:
    name = "gpu"

    def load(self) -> Any:
        return lambda name, options, services: PluginProduct()


def entries() -> Iterable[Entry]:
    return [Entry()]


@pytest.fixture
def events() -> RecordingEvents:
    return RecordingEvents()


@pytest.fixture
def factory(tmp_path: Path, events: RecordingEvents) -> CollectorFactory:
    return CollectorFactory(make_services(Clock()), events, proc=make_proc(tmp_path), entry_points=entries)


def names(collectors: Iterable[Any]) -> list[str]:
    return [collector.name for collector in collectors]


def test_the_four_run_by_default(factory: CollectorFactory) -> None:
    made = factory.build(CollectorsConfig())
    assert names(made) == ["cpu", "memory", "disk", "network"]
    assert {(one.interval_s, one.timeout_s) for one in made} == {(60.0, 10.0)}


def test_everything_wanted_is_made_with_its_settings(tmp_path: Path, events: RecordingEvents) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.prom").write_text("a 1\n")
    services = make_services(Clock())
    services.runner.programs["/bin/mail-queue"] = FakeProgram(output=b'{"depth": 2}')  # type: ignore[attr-defined]  # the fake
    config = CollectorsConfig(
        cpu=CollectorConfig(interval=5.0, timeout=2.0),
        memory=OFF,
        disk=DiskCollectorConfig(mount_points=("/var",)),
        network=NetworkCollectorConfig(interfaces=("eth0",)),
        textfile=TextfileCollectorConfig(enabled=True, directory=str(tmp_path / "text")),
        exec=(ExecCollectorConfig(name="mail", command=("/bin/mail-queue",), interval=30.0),),
        plugins={"gpu": {"device": 1}},
    )
    made = build_collectors(config, services, events, proc=make_proc(tmp_path), entry_points=entries)
    assert names(made) == ["cpu", "disk", "network", "textfile", "mail", "gpu"]
    assert [one.interval_s for one in made] == [5.0, 60.0, 60.0, 60.0, 30.0, 5.0]
    values: dict[str, Mapping[str, Any]] = {
        one.name: sample_of(one.collect()).values for one in made if one.name != "disk"
    }
    assert [row["interface"] for row in values["network"]["interfaces"]] == ["eth0"]
    assert (values["textfile"]["a"], values["mail"], values["gpu"]) == (1.0, {"depth": 2}, {"busy": 0.5})
    assert values["cpu"]["cores"] == 2
    assert events.heard == []


def test_broken_plugin_is_announced_and_the_others_are_made(
    factory: CollectorFactory, events: RecordingEvents
) -> None:
    with capturedLogs() as logs:
        made = factory.build(CollectorsConfig(plugins={"absent": {}, "gpu": {}}))
    assert names(made) == ["cpu", "memory", "disk", "network", "gpu"]
    assert [(kind, data["collector"], data["code"]) for kind, _severity, data in events.heard] == [
        ("collector.failed", "absent", "D5001")
    ]
    assert [entry["error_code"] for entry in logs] == ["D5001"]


def test_taken_name_is_announced_and_left_out(factory: CollectorFactory, events: RecordingEvents) -> None:
    command = ExecCollectorConfig(name="cpu", command=("/bin/true",))
    made = factory.build(CollectorsConfig(exec=(command,)))
    assert names(made) == ["cpu", "memory", "disk", "network"]
    assert events.heard[0][2]["error"].startswith("the name 'cpu' is taken")


def test_reload_hands_out_the_same_objects_where_nothing_changed(factory: CollectorFactory) -> None:
    first = factory.build(CollectorsConfig(plugins={"gpu": {"a": 1}}))
    second = factory.build(
        CollectorsConfig(
            memory=CollectorConfig(interval=1.0),
            disk=DiskCollectorConfig(enabled=False),
            plugins={"gpu": {"a": 2}},
        )
    )
    before, after = ({one.name: one for one in made} for made in (first, second))
    assert [name for name in after if after[name] is before[name]] == ["cpu", "network"]
    third = factory.build(CollectorsConfig())
    assert {one.name: one for one in third}["disk"] is not before["disk"]


def test_whole_house_runs_a_minute(tmp_path: Path, events: RecordingEvents) -> None:
    clock = Clock()
    services = make_services(clock)
    made = build_collectors(CollectorsConfig(), services, events, proc=make_proc(tmp_path))
    manager = CollectorManager(clock, services.threads, services.wall, events, made)
    manager.startService()
    clock.advance(60)
    assert {name: sample.timestamp for name, sample in manager.get_latest().items()} == dict.fromkeys(
        ("cpu", "memory", "network", "disk"), 1060.0
    )
    assert all(stats.rounds_total == 2 and stats.success for stats in manager.stats().values())
    done: list[Any] = []
    manager.stopService().addCallback(done.append)
    assert done and clock.getDelayedCalls() == []
