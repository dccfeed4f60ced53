"""Our link and our Manager with each other: what a node reports is what the Manager shows."""

from __future__ import annotations

import time
from typing import Any, cast

from twisted.internet import reactor
from twisted.logger import Logger, LogPublisher

from daemon.aio.threads import ThreadLanes
from daemon.config.schema import ManagerConfig
from daemon.events.bus import EventBus
from daemon.rpc.log_tap import LogTap
from daemon.rpc.manager_link import ManagerLink
from tests.fakes.rpc_link import FACTS, NODE, FakeAgents, FakeCollectors
from tests.fakes.supervised import FakeAlerts
from tests.integration.manager_support import ManagerCase


class TogetherTest(ManagerCase):
    async def test_all_that_is_reported_is_shown(self) -> None:
        await self.serve()
        threads = ThreadLanes(cast(Any, reactor))
        collectors, agents, bus, tap = FakeCollectors(), FakeAgents(), EventBus(time.time), LogTap(time.time)
        agents.states["web"] = "running"
        now = int(time.time())
        collectors.sample("cpu", now, usage_percent=12.5)
        link = ManagerLink(
            reactor=cast(Any, reactor), clock=cast(Any, reactor), threads=threads, wall=time.time,
            config=ManagerConfig(
                address=f"127.0.0.1:{self.config.grpc_port}", report_interval=0.1, reconnect_interval=0.1
            ),
            facts=FACTS, labels={"rack": "7"}, versions=lambda: ("2.0.0", "1.1.0"), collectors=collectors,
            states=agents.all, bus=bus, alerts=cast(Any, FakeAlerts()), directory=self.folder / "reports",
            log_tap=tap,
        )
        link.startService()
        bus.publish("agent.exited", "it exited", agent_id="web")
        Logger("daemon.agents", observer=LogPublisher(tap)).warn("a disk is slow")
        try:
            await self.until(lambda: link.state.delivered == 1, "the report arrives")
            self.assertEqual(link.state.last_error, "")

            (node,) = (await self.get("/v1/nodes"))["nodes"]
            self.assertEqual((node["node_id"], node["state"], node["labels"]), (NODE, "online", {"rack": "7"}))
            found = (await self.get(f"/v1/nodes/{NODE}/metrics?type=cpu"))["metrics"]
            self.assertEqual([(each["timestamp"], each["values"]) for each in found], [(now, {"usage_percent": 12.5})])
            (agent,) = (await self.get(f"/v1/nodes/{NODE}/agents"))["agents"]
            self.assertEqual((agent["id"], agent["status"]), ("web", "running"))
            said: list[str] = []
            for _ in range(100):
                said = [each["message"] for each in (await self.get(f"/v1/nodes/{NODE}/events"))["events"]]
                if "a disk is slow" in said:
                    break
            self.assertIn("it exited", said)
            self.assertIn("a disk is slow", said)
        finally:
            await link.stopService()
            await threads.stop(2.0)
