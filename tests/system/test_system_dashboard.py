"""The dashboard in a real browser, against a real daemon (`./scripts/test-real` installs Debian's Chromium)."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import signal
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.resources.host_record import HOST, HostSample
from daemon.resources.ring import Ring
from tests.fakes.ports import free_port
from tests.system.browser import PHONE, Browser
from tests.system.harness import Daemon, alive, shell, sleeper, wait_for

pytestmark = pytest.mark.real

QUICK = "collectors:\n" + "".join(f"  {n}: {{interval: 1s}}\n" for n in ("cpu", "memory", "disk", "network")) + "resources: {interval: 1s}\n"
ENTER, ESCAPE = "\ue007", "\ue00c"  # WebDriver, 17.4.2
ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
BOLD = "<b>1</b>"

Opened = Callable[..., Browser]


@pytest.fixture
def browser() -> Iterator[Opened]:
    made: list[Browser] = []

    def start(**how: Any) -> Browser:
        made.append(Browser(**how))
        return made[-1]

    yield start
    for each in made:
        each.close()


class Page:
    """A daemon with a TCP port, and its address."""

    def __init__(self, daemon: Daemon, agents: str, rest: str = QUICK) -> None:
        port = free_port()
        daemon.configure(agents, daemon=f"http_port: {port}", rest=rest)
        daemon.start()
        self.url = f"http://127.0.0.1:{port}/"


def table(browser: Browser) -> dict[str, str]:
    """State by agent, as the table shows it."""
    found: dict[str, str] = browser.run("""
        return Object.fromEntries([...document.querySelectorAll("#rows tr")].map(
            (row) => [row.querySelector("button").textContent, row.querySelector(".c-state").textContent]))""")
    return found


def test_what_is_shown_is_what_the_daemon_says(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web") + shell("dying", "sleep 0.3; exit 3") + sleeper("idle", "enabled: false"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    pid = daemon.agent_in("web", "running")["pid"]
    wait_for("the pid", lambda: str(pid) in window.text("#rows tr:first-child"))
    assert set(table(window)) == {"web", "dying", "idle"}
    assert table(window)["idle"] == "disabled"
    wait_for("why it does not run", lambda: "exit code 3" in window.text("#rows tr:nth-child(2) .c-why"))
    for name in ("cpu", "memory", "disk", "network"):
        label = "return document.getElementById(arguments[0]).getAttribute('aria-label')"
        wait_for(f"a history of {name}", lambda label=label, name=name: ": last " in window.run(label, f"{name}-chart"))
    assert daemon.get("/v1/node")["hostname"] == window.text("#host")
    assert window.complaints() == []  # the policy refused nothing of ours


def test_the_host_has_a_past_when_the_page_is_opened(daemon: Daemon, browser: Opened) -> None:
    (daemon.work_dir / "state").mkdir(parents=True, mode=0o700)
    now = int(time.time())
    Ring(daemon.work_dir / "state" / "host.ring", 1440, HOST).append(
        HostSample(at=now - 60 * n, cpu=5.0, memory_used=990 if n == 30 else 500, memory_total=1000, read=4096.0)
        for n in range(300, 0, -1)
    )
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")

    def said(name: str) -> str:
        return str(window.run("return document.getElementById(arguments[0]).getAttribute('aria-label')", f"{name}-chart"))

    wait_for("the last hour", lambda: "to 99 %" in said("memory") and re.search(r"over (59|60) min", said("cpu")))
    assert "read: last " in said("disk")
    window.run("const r = document.getElementById('host-range'); r.value = '86400'; r.dispatchEvent(new Event('change'))")
    wait_for("the last day", lambda: re.search(r"over (4|5) h", said("cpu")))
    assert window.text("#host-said") == ""
    daemon.kill()
    window.shows("#live", "cut off", patience_s=5)
    daemon.start()
    window.shows("#live", "live", patience_s=20)
    wait_for("it is still there", lambda: re.search(r"over (4|5) h", said("cpu")))


def test_an_event_is_there_when_it_happens(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    os.kill(daemon.agent_in("web", "running")["pid"], 9)
    # Sooner than the next question, which is up to 5 s away.
    window.shows("#events li", "agent.", patience_s=4)
    window.shows("#events", "killed by SIGKILL", patience_s=4)
    window.shows("#said", "killed by SIGKILL", patience_s=4)


def test_nothing_changes_without_the_token_and_with_it_all_three_operations_work(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    daemon.agent_in("web", "running")
    window = browser()
    window.open(f"{page.url}#agent=web")
    window.shows("#facts", "running, wanted running")
    window.click("#do-stop")
    wait_for("the question", lambda: window.run("return document.getElementById('ask').open"))
    window.keys(ESCAPE)
    window.shows("#outcome", "nothing was done: there was no token")
    window.click("#do-stop")
    window.type("#ask-token", f"wrong{ENTER}")
    window.shows("#outcome", "Authorization: Bearer")
    assert daemon.agent("web")["status"] == "running"
    assert daemon.events("operation") == []

    window.click("#do-stop")
    window.type("#ask-token", f"\u20ac uro{ENTER}")  # no header can hold it, which is no lost connection
    window.shows("#outcome", "a token has")

    token = (daemon.work_dir / "api.token").read_text().strip()
    window.click("#do-stop")
    window.type("#ask-token", f" {token[:8]} {token[8:]} {ENTER}")  # as a terminal wraps it
    window.shows("#outcome", "stop: done, it is stopped")
    assert daemon.agent("web")["wanted"] == "stopped"
    window.shows("#facts", "stopped, wanted stopped")
    window.click("#do-start")  # not asked again
    window.shows("#outcome", "start: done, it is running")
    before = daemon.agent("web")["pid"]
    window.click("#do-restart")
    window.shows("#outcome", "restart: done, it is running")
    assert daemon.agent("web")["pid"] != before
    assert window.run("return [localStorage.length, document.cookie]") == [0, ""]
    assert token not in window.run("return document.documentElement.outerHTML")


def test_a_cut_is_said_and_after_a_restart_of_the_daemon_it_goes_on(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    daemon.agent_in("web", "running")
    window = browser()
    window.open(f"{page.url}#agent=web")
    window.shows("#live", "live")
    window.shows("#facts", "running")
    daemon.kill()
    window.shows("#live", "cut off", patience_s=5)
    assert "what is shown was true at" in window.text("#banner")
    look = "return [...['#banner', '#detail-banner']].map((s) => !document.querySelector(s).hidden)"
    assert window.run(look) == [True, True]
    grey = "const of = (n) => getComputedStyle(document.querySelector(n)); return [of('main').filter, of('.c-state span').color, of('#node').color]"
    filtered, state, dim = window.run(grey)
    assert filtered == "grayscale(1)" and state == dim  # no green of then
    os.kill(marked := int(window.text("#rows td:nth-child(5)")), 9)  # behind the back of everybody
    wait_for("its end", lambda: not alive(marked))
    daemon.start()
    window.shows("#live", "live")
    assert window.run("return document.body.classList.contains('stale')") is False
    assert window.text("#banner") == ""
    pid = daemon.agent_in("web", "running")["pid"]
    wait_for("the new pid", lambda: window.text("#rows td:nth-child(5)") == str(pid))
    events = window.text("#events")  # of before and after: none is missing, none is there twice
    for event in daemon.get("/v1/events?once&limit=1000")["events"]:
        assert event["message"] in events
    assert window.run("return document.querySelectorAll('#events li').length") == len(
        daemon.get("/v1/events?once&limit=1000")["events"]
    )


def test_an_answer_that_does_not_come_is_no_present(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    os.kill(daemon.pid, signal.SIGSTOP)  # connections stay open, nothing is answered
    try:
        window.shows("#live", "cut off", patience_s=9.5)  # 8 s after the last answer at most, looked at once a second
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    window.shows("#live", "live", patience_s=5)
    os.kill(daemon.pid, signal.SIGSTOP)
    try:  # as after the sleep of a computer, through which its steady clock stands still
        window.run("const now = Date.now; Date.now = () => now() + 60000")
        window.shows("#live", "cut off", patience_s=3)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    window.shows("#live", "live", patience_s=5)


def test_more_windows_than_a_browser_has_connections_all_live(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web") + shell("talks", "while :; do echo tick $((n++)); sleep 0.5; done"))
    window = browser()
    handles = []
    for _ in range(5):  # each would hold two streams, and a browser has six connections
        window.open(f"{page.url}#agent=talks")
        window.shows("#live", "live")
        handles.append(window.window())
    window.open(f"{page.url}#agent=talks")
    window.shows("#live", "live")
    window.shows("#events-said", "asked for every 5 s")
    window.shows("#log-said", "asked for every 5 s")
    ticks = window.text("#log").count("tick")
    assert daemon.post("/v1/agents/web/restart")[0] == 200
    window.shows("#events", "restart of agent web", patience_s=10)
    wait_for("more of the log", lambda: window.text("#log").count("tick") > ticks)
    for handle in handles:
        window.turn_to(handle)
        window.shows("#events", "restart of agent web", patience_s=10)
        assert window.text("#live") == "live"
    window.turn_to(handles[0])
    assert window.text("#events-said") == ""


def test_a_daemon_of_another_version_asks_for_its_own_page(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    window.run("""
        const real = window.fetch;
        window.fetch = async (path, how) => {
          const answer = await real(path, how);
          if (path !== "/v1/node") return answer;
          return new Response(JSON.stringify({ ...await answer.json(), daemon_version: "99.0" }), { headers: answer.headers });
        }""")
    daemon.post("/v1/config/reload")  # an event about the daemon: it is asked at once
    window.shows("#banner", "is now version 99.0, this page is of ")


def test_an_agent_that_leaves_the_configuration_leaves_no_facts_behind(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web") + sleeper("idle", "enabled: false"), QUICK.replace("resources: {interval: 1s}", "resources: {interval: 70s}"))
    pid = daemon.agent_in("web", "running")["pid"]
    window = browser()
    window.open(f"{page.url}#agent=web")
    window.shows("#facts", str(pid))
    window.shows("#history-said", "one is taken every 70 s")
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace(sleeper("web"), ""))
    daemon.post("/v1/config/reload")
    window.shows("#facts", "no such agent")
    assert str(pid) not in window.text("#facts")
    assert window.run("return [...document.querySelectorAll('#detail button')].map((b) => b.disabled)") == [False, True, True, True]
    window.shows("#log-said", "no such agent")
    window.keys(ESCAPE)
    wait_for("the focus", lambda: window.run("return document.activeElement.id") == "agents-title")
    window.open(f"{page.url}#agent=idle")
    window.shows("#history-said", "does not run")
    daemon.config.write_text(text)
    daemon.post("/v1/config/reload")
    window.open(f"{page.url}#agent=web")
    window.shows("#facts", "running, wanted running")
    window.shows("#log-said", "followed")


def test_hostile_log_lines_and_names_stay_text(daemon: Daemon, browser: Opened, root: Path) -> None:
    script = root / "hostile"
    noise = r"printf '\033[2J\033]0;owned\007\u202eevil\u202c'; head -c 100000 /dev/zero | tr '\0' x; echo; head -c 3000 /dev/urandom; echo"
    script.write_text(f"#!/bin/bash\nexport LANG=C.UTF-8\n{noise}\necho {shlex.quote(ATTACK)}\nsleep 1000000\n")
    script.chmod(0o755)
    agents = f'  - id: web\n    type: custom\n    name: {json.dumps(ATTACK)}\n    binary_path: {script}\n    start_seconds: 100ms\n'
    agents += f"  - id: gone\n    type: custom\n    binary_path: {json.dumps('/nowhere/' + ATTACK)}\n"
    page = Page(daemon, agents)
    pid = daemon.agent_in("web", "running")["pid"]
    beat = {"agent_id": "web", "pid": pid, "status": "running", "version": BOLD, "cpu": 1, "memory": 1}
    status, said = daemon.request("POST", "/heartbeat", json.dumps(beat).encode())
    assert status == 200, said
    window = browser()
    window.open(f"{page.url}#agent=web")
    window.shows("#log", ATTACK)
    line = window.text("#log").split("\n")[0]
    assert line.startswith("^[[2J^[]0;owned^G<U+202E>evil<U+202C>xxx")  # nothing is hidden or turned around
    assert len(line) < 9000 and line.endswith(" more characters")
    window.shows("#facts", BOLD)
    window.shows("#rows", BOLD)
    window.shows("#alerts", "<img src=x")
    window.shows("#events", "<img src=x")
    window.open(f"{page.url}#agent={urllib.parse.quote(ATTACK)}")
    window.shows("#detail-title", ATTACK)
    found = window.run("return [document.title, document.querySelectorAll('main img, #detail img, body script').length]")
    assert "owned" not in found[0] and found[1] == 0
    refused = [line for line in window.complaints() if "Content Security Policy" in line or "Security" in line]
    assert refused == []  # the policy had nothing to stop: the page made no element of it


def test_the_policy_stops_what_got_in_all_the_same(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    window.run("document.body.insertAdjacentHTML('beforeend', arguments[0])", ATTACK)
    wait_for("a refusal", lambda: any("Content Security Policy" in line for line in window.complaints()))
    assert window.run("return document.title") != "owned"


def test_by_keyboard_and_for_a_screen_reader(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("one") + sleeper("two"))
    window = browser()
    window.open(page.url)
    window.shows("#live", "live")
    window.run("document.querySelector('#rows tr:nth-child(2) button').focus()")
    window.keys(ENTER)
    window.shows("#detail-title", "two")
    wait_for("focus on the details", lambda: window.run("return document.activeElement.id") == "detail-title")
    window.keys(ESCAPE)
    wait_for("them closed", lambda: window.run("return document.getElementById('detail').hidden"))
    assert window.run("return document.activeElement.textContent") == "two"
    nodes = window.devtools("Accessibility.getFullAXTree")["nodes"]
    roles = [node.get("role", {}).get("value") for node in nodes if not node.get("ignored")]
    assert roles.count("table") == 1 and roles.count("row") == 3 and roles.count("columnheader") == 11
    assert roles.count("rowheader") == 2
    nameless = [
        node["role"]["value"] for node in nodes if not node.get("ignored")
        and node.get("role", {}).get("value") in ("button", "textbox", "searchbox", "checkbox", "combobox", "image", "table")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []
    stuck = window.run('''
        return [...document.querySelectorAll("body *")].filter((e) => e.tabIndex < 0
            && getComputedStyle(e).overflowY === "auto").map((e) => e.id)''')
    assert stuck == ["detail"]  # what scrolls takes the focus; the details have it within
    window.keys(ENTER)
    window.shows("#detail-title", "two")
    window.run("document.activeElement.blur()")
    window.keys(ESCAPE)  # wherever the focus is
    wait_for("them closed", lambda: window.run("return document.getElementById('detail').hidden"))


def test_a_phone_shows_it_without_scrolling_sideways(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("a-rather-long-name-of-an-agent-on-this-host-01") + sleeper("web"))
    window = browser(size=PHONE)
    window.open(page.url)
    window.shows("#live", "live")
    for address in (page.url, f"{page.url}#agent=web"):
        window.open(address)
        width, room = window.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= room == PHONE[0]
    assert window.run("return document.getElementById('main').inert")  # no focus goes to what the details cover
    small = window.run("return [...document.querySelectorAll('#detail button')].filter((b) => b.offsetHeight < 38).length")
    assert small == 0  # a finger is no mouse


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(daemon: Daemon, browser: Opened, dark: bool) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser(dark=dark)
    window.open(page.url)
    window.shows("#live", "live")
    # WCAG 2.2, 1.4.3: 4.5 to 1
    ratios = window.run("""
        const style = getComputedStyle(document.documentElement);
        const light = (name) => {
          const probe = document.createElement("i");
          probe.style.color = style.getPropertyValue(name);
          document.body.append(probe);
          const parts = getComputedStyle(probe).color.match(/[0-9.]+/g).slice(0, 3).map((v) => v / 255);
          probe.remove();
          const [r, g, b] = parts.map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const found = {};
        for (const front of ["--text", "--dim", "--good", "--bad", "--wait", "--accent"]) {
          for (const back of ["--back", "--card", "--grid"]) {
            const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
            found[front + " on " + back] = (a + 0.05) / (b + 0.05);
          }
        }
        return found;""")
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
    lightness = window.run("return getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")
    assert (sum(lightness) < 200) is dark


def test_a_hundred_agents_cost_nothing_while_nothing_happens(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, "".join(sleeper(f"agent-{n:03d}") for n in range(100)), rest="resources: {interval: 60s}\n")
    wait_for("all of them", lambda: daemon.get("/v1/node")["agents"]["running"] == 100, 60)
    window = browser()
    window.open(page.url)
    window.shows("#agents-count", "100 of 100 running", patience_s=40)
    window.run("""
        window.changes = 0;
        window.rows = [...document.querySelectorAll("#rows tr")];
        new MutationObserver((found) => { window.changes += found.filter((f) => !f.target.closest?.(".c-n")).length; })
          .observe(document.getElementById("rows"), { childList: true, subtree: true, characterData: true, attributes: true });
        window.asked = performance.getEntriesByType("resource").length""")
    wait_for("two rounds", lambda: window.run("return performance.getEntriesByType('resource').length - window.asked") >= 4, 30)
    same = "return window.rows.every((row, n) => row === document.querySelectorAll('#rows tr')[n])"
    assert window.run(same) is True
    assert window.run("return window.changes") == 0  # but for uptime and the like
    window.type("#find", "agent-09")
    window.shows("#agents-count", "10 shown")


def test_a_page_of_somebody_else_cannot_operate(daemon: Daemon) -> None:
    page = Page(daemon, sleeper("web"))
    token = (daemon.work_dir / "api.token").read_text().strip()
    address = urllib.parse.urlsplit(page.url)
    for origin in ("http://evil.example", "null", f"https://{address.netloc}"):
        connection = http.client.HTTPConnection(address.netloc, timeout=10)
        connection.request("POST", "/v1/agents/web/stop", headers={"Origin": origin, "Authorization": f"Bearer {token}"})
        assert connection.getresponse().status == 403
        connection.close()


def test_a_tab_in_the_background_holds_no_stream_and_misses_nothing(daemon: Daemon, browser: Opened) -> None:
    page = Page(daemon, sleeper("web"))
    window = browser()
    window.open(f"{page.url}#agent=web")
    window.shows("#live", "live")
    window.shows("#log-said", "followed")

    def connections() -> int:
        return sum(1 for fd in Path(f"/proc/{daemon.pid}/fd").iterdir() if os.readlink(fd).startswith("socket:"))

    hide = """
        Object.defineProperty(document, "hidden", { configurable: true, get: () => arguments[0] });
        document.dispatchEvent(new Event("visibilitychange"))"""
    looked = connections()
    window.run(hide, True)  # a headless browser shows all of its tabs
    # The browser keeps idle connections for later; those with a stream are closed.
    wait_for("the streams' end", lambda: connections() <= looked - 2)
    daemon.post("/v1/agents/web/restart")
    window.run(hide, False)
    window.shows("#live", "live")
    window.shows("#events", "restart of agent web")
    window.shows("#log-said", "followed")
