"""The pages: what they say of nodes and agents, that nothing runs in them, and that a fleet fits."""

from __future__ import annotations

import re
from typing import Any

import pytest

from daemon.manager import html, page
from daemon.manager.model import AgentRow, NodeRow
from tests.fakes.manager import BEGIN, ManagerCase, agent, event, node

UUID_1, UUID_2 = "5f0c7a52-6f2e-4a0e-9b37-0d3c8a6a4f11", "a81d11c0-6f2e-4a0e-9b37-0d3c8a6a4f12"
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class PageCase(ManagerCase):
    def setUp(self) -> None:
        super().setUp()
        self.client = self.rig.connect()

    def page(self, path: str = "/") -> str:
        """A page, once it is seen that nothing in it runs or comes from elsewhere."""
        answer = self.rig.connect().get(path)
        self.assertEqual((answer.status, answer.type), (200, "text/html; charset=utf-8"), answer.body)
        policy = answer.headers["content-security-policy"]
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        text = answer.body.decode()
        for never in ("<script", "<img", "<link", "style=", "src=x onerror=alert(2)>", "javascript:", "://", "<iframe"):
            self.assertNotIn(never, text)
        return text

    def sees(self, text: str, *words: str) -> None:
        for each in words:
            self.assertIn(each, text)


class FleetPageTest(PageCase):
    def test_it_says_what_is_known_in_a_line(self) -> None:
        self.do(self.rig.register())
        self.sees(self.page(), "1 node, 0 offline; 0 agents")
        self.do(self.rig.sync(agent("a"), agent("b"), agent("c", "failed"), agent("d", "odd")))
        self.do(self.rig.register(node("n2")))
        self.do(self.rig.sync(agent("a", "stopped"), node_id="n2"))
        self.sees(self.page(), "2 nodes, 0 offline; 5 agents: 2 running, 1 stopped, 1 failed, 1 other</p>")

    def test_agents_of_a_silent_node_are_as_last_heard_and_grey(self) -> None:
        self.rig.fleet.start(())
        self.do(self.rig.register())
        self.do(self.rig.register(node("n2")))
        self.do(self.rig.sync(agent("web")))
        self.do(self.rig.sync(agent("db"), node_id="n2"))
        for _ in range(20):
            self.rig.clock.pump([15.0] * 4)
            self.do(self.rig.beat())
        text = self.page()
        self.sees(
            text, "2 nodes, 1 offline; 1 agent: 1 running; on offline nodes 1 more, last heard as 1 running",
            "<td>web</td><td class=good>running</td><td class=n>for 20 min</td>",
            "<td>db</td><td class=idle>was running</td><td class=n>told 20 min ago</td>",
        )
        self.sees(self.page("/nodes/n2"), "whether they still run so is not known", "was running")

    def test_two_nodes_of_one_host_are_told_apart(self) -> None:
        for node_id, port in ((UUID_1, "9191"), (UUID_2, "9192")):
            self.do(self.rig.register(node(node_id, hostname="web-1", labels={"grpc_port": port, "rack": "7"})))
        self.sees(self.page(), "5f0c7a52 grpc_port=9191 rack=7", "a81d11c0 grpc_port=9192 rack=7")

    def test_hostile_names_are_text(self) -> None:
        labels = {HOSTILE: HOSTILE}
        self.do(self.rig.register(node(hostname=HOSTILE, daemon_version=HOSTILE, ip="", peer=HOSTILE, labels=labels)))
        self.do(self.rig.sync(agent("<b>", HOSTILE, version=HOSTILE, type=HOSTILE)))
        self.do(self.rig.tell(event("1", HOSTILE)._replace(type=HOSTILE, severity=HOSTILE)))
        self.sees(self.page(), "test &lt;manager&gt;", "&lt;script&gt;", "&lt;b&gt;")
        self.sees(self.page("/nodes/n1"), "test &lt;manager&gt;", "&lt;script&gt;", "&lt;b&gt;")
        self.sees(self.page("/?q=%22%3E%3Cscript%3E"), "no node", "&quot;&gt;&lt;script&gt;")

    def test_a_strange_id_leads_to_its_own_page(self) -> None:
        strange = 'a"?q=<b>#%2f&x'
        self.do(self.rig.register(node(strange)))
        (path,) = re.findall(r'href="(/nodes/[^"]*)"', self.page())
        self.sees(self.page(path), "a&quot;?q=&lt;b&gt;#%2f&amp;x")

    def test_orders_and_words(self) -> None:
        self.do(self.rig.register(node(labels={"rack": "7"})))
        self.do(self.rig.register(node("n2")))
        self.do(self.rig.sync(agent("web")))
        self.rig.clock.advance(60)
        self.do(self.rig.beat("n2"))
        text = self.page("/?sort=age")
        self.assertLess(text.index("host-n1"), text.index("host-n2"))
        for words in ("RACK+web", "rack=7", "running"):
            found = self.page(f"/?q={words}")
            self.sees(found, "host-n1")
            self.assertNotIn("host-n2", found)
        for bad in ("sort=colour", "page=0", "page=x"):
            answer = self.client.get(f"/?{bad}")
            self.assertEqual((answer.status, answer.type), (400, "application/problem+json"))

    def test_of_many_agents_those_that_do_not_run_come_first(self) -> None:
        self.do(self.rig.register())
        self.do(self.rig.sync(*(agent(f"a{n:03}") for n in range(100)), agent("z", "failed")))
        text = self.page()
        self.assertEqual(text.count("class=agents"), page.PAGE_AGENTS + 1)
        self.sees(text, "<td>z</td>", "all 101 agents</a>: 100 running, 1 failed")
        self.assertEqual(self.page("/nodes/n1").count("class=agents"), 101)


class NodePageTest(PageCase):
    def test_it_says_all_of_the_node(self) -> None:
        self.do(self.rig.register(node(UUID_1, owner="host-1", labels={"rack": "7"}), "host-1"))
        self.do(self.rig.sync(agent("web"), node_id=UUID_1, names=("host-1",)))
        self.client.post(f"/v1/nodes/{UUID_1}/agents/web/stop")
        self.sees(
            self.page(f"/nodes/{UUID_1}"), UUID_1, "rack=7", "127.0.0.1:9091", "host-1", "1 running", "stop web",
            "manager.operation", "node.registered",
        )

    def test_a_node_that_cannot_be_operated_says_so(self) -> None:
        self.do(self.rig.register(node(ip="192.0.2.2")))
        self.sees(self.page("/nodes/n1"), "nowhere: there is no safe way to its daemon", "it told of none")

    def test_an_unknown_node_is_a_problem(self) -> None:
        self.assertEqual(self.client.get("/nodes/n9").status, 404)


def rows(count: int, **facts: Any) -> list[NodeRow]:
    known = dict.fromkeys(NodeRow._fields, "x") | {"labels": "{}", "state": "online"}
    known |= {name: 0.0 for name in NodeRow._fields if name.endswith(("_at", "_since"))} | {"reports_lost": 0} | facts
    return [NodeRow(**known | {"node_id": f"n{number:04}"}) for number in range(count)]  # type: ignore[arg-type]


def test_a_large_fleet_comes_in_parts() -> None:
    nodes = rows(450)
    chosen = page.choose(nodes, page.Asked(page=99), {})
    last = page.render(nodes, {}, chosen, {}, page.Asked(page=99), BEGIN, "m").decode()
    assert "page 3 of 3" in last
    assert len(re.findall("<tbody>", last)) == 50


def test_the_page_of_a_fleet_at_its_largest_is_bounded() -> None:
    labels = "{" + ",".join(f'"{"<" * 200}{n}":"{"<" * 200}"' for n in range(64)) + "}"
    nodes = rows(page.PAGE_NODES, labels=labels)
    agents = {
        each.node_id: [AgentRow(each.node_id, "<" * 128, "<" * 64, "<" * 64, "<" * 32, 1, 1, 1.0, 1.0)] * 1000
        for each in nodes
    }
    chosen = page.choose(nodes, page.Asked(), {})
    assert len(page.render(nodes, {}, chosen, agents, page.Asked(), BEGIN, "m")) < 8 * 2**20


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0 s"), (89, "89 s"), (90, "2 min"), (7200, "2 h"), (1e6, "12 d")])
def test_ages(seconds: float, text: str) -> None:
    assert html.age(seconds) == text
