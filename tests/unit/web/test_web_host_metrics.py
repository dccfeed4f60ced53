"""``/metrics/host``: node_exporter's names over the collectors' latest samples, and none of a failed round."""

from __future__ import annotations

import os

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from daemon.errors import CollectError
from daemon.web.host_families import MODES
from tests.fakes.control import FakeCollector, RigCase

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
CPU = {
    "usage_percent": 1.5, "per_core": [{"core": 0, **dict(zip(MODES, range(8), strict=True))}],
    "load1": 0.5, "load5": 0.25, "load15": 0.125, "boot_time_seconds": 1_700_000_000,
}  # fmt: skip
DISK = {
    "disks": [
        {"mountpoint": '/a"b\\c\n', "device": "/dev/vda1", "fstype": "ext4", "total": 1000, "used": 600, "free": 300,
         "inodes": 50, "inodes_free": 20, "read_only": True},
    ],
    "devices": [
        {"device": "vda", "read_bytes": 512, "write_bytes": 1024, "reads": 3, "writes": 4, "read_seconds": 0.5,
         "write_seconds": 0.25, "io_seconds": 0.125},
    ],
}  # fmt: skip
MEMORY = {
    "total": 100, "free_bytes": 20, "available": 60, "buffers": 5, "cached": 40, "reclaimable": 10, "shared": 7,
    "swap_total": 50, "swap_used": 20,
}  # fmt: skip


class HostMetricsTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.collectors = (  # of this test alone: they use their rounds up
            FakeCollector("cpu", CPU), FakeCollector("disk", DISK),
            FakeCollector("memory", MEMORY, CollectError("no /proc")),
            FakeCollector("network", CollectError("no /proc")), FakeCollector("ours", {"x": 1}),
        )

    def setUp(self) -> None:
        super().setUp()
        self.rig.collectors.startService()
        self.addCleanup(self.rig.collectors.stopService)

    def samples(self, accept: str = "") -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        answer = self.rig.connect().get("/metrics/host", headers={"Accept": accept} if accept else {})
        self.assertEqual(answer.status, 200)
        parse = parse_openmetrics if "openmetrics" in accept else parse_text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in parse(answer.body.decode()) for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        return self.samples()[name, frozenset(labels.items())]

    def test_each_cpu_has_its_time_in_each_mode(self) -> None:
        for number, mode in enumerate(MODES):
            self.assertEqual(self.value("node_cpu_seconds_total", cpu="0", mode=mode), number)
        self.assertEqual(self.value("node_load15"), 0.125)
        self.assertEqual(self.value("node_boot_time_seconds"), 1_700_000_000)

    def test_memory_is_split_as_the_kernel_splits_it(self) -> None:
        self.assertEqual(self.value("node_memory_MemAvailable_bytes"), 60)
        self.assertEqual(self.value("node_memory_Cached_bytes"), 30)  # without the slabs
        self.assertEqual(self.value("node_memory_SReclaimable_bytes"), 10)
        self.assertEqual(self.value("node_memory_SwapFree_bytes"), 30)

    def test_space_is_told_by_mount_whatever_its_name_and_transfers_by_disk(self) -> None:
        mount = {"device": "/dev/vda1", "fstype": "ext4", "mountpoint": '/a"b\\c\n'}
        self.assertEqual(self.value("node_filesystem_size_bytes", **mount), 1000)
        self.assertEqual(self.value("node_filesystem_free_bytes", **mount), 400)
        self.assertEqual(self.value("node_filesystem_avail_bytes", **mount), 300)
        self.assertEqual(self.value("node_filesystem_files_free", **mount), 20)
        self.assertEqual(self.value("node_filesystem_readonly", **mount), 1)
        self.assertEqual(self.value("node_disk_written_bytes_total", device="vda"), 1024)
        self.assertEqual(self.value("node_disk_io_time_seconds_total", device="vda"), 0.125)

    def test_a_failed_round_leaves_a_gap_and_not_an_old_number(self) -> None:
        self.assertNotIn("node_network_receive_bytes_total", {name for name, _labels in self.samples()})
        self.assertEqual(self.value("node_scrape_collector_success", collector="memory"), 1)
        self.assertEqual(self.value("node_memory_MemTotal_bytes"), 100)
        self.lab.run(120, step=5)
        self.assertEqual(self.value("node_scrape_collector_success", collector="memory"), 0)
        self.assertNotIn("node_memory_MemTotal_bytes", {name for name, _labels in self.samples()})
        self.assertIn("memory", self.client_latest())  # /v1/metrics shows it, with its timestamp

    def client_latest(self) -> dict[str, object]:
        found: dict[str, object] = self.rig.connect().get("/v1/metrics").json
        return found

    def test_the_host_has_its_name_and_nothing_is_there_of_the_daemon(self) -> None:
        host = os.uname()
        ((labels, _one),) = [(dict(k[1]), v) for k, v in self.samples().items() if k[0] == "node_uname_info"]
        self.assertEqual(
            (labels["nodename"], labels["release"], labels["machine"]), (host.nodename, host.release, host.machine)
        )
        self.assertEqual(self.value("node_time_seconds"), self.lab.wall())
        self.assertEqual([name for name, _labels in self.samples() if not name.startswith("node_")], [])

    def test_both_formats_say_the_same(self) -> None:
        self.assertEqual(self.samples(), self.samples(OPENMETRICS))
