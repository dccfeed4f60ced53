"""The routes of the Manager; each translates and asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred

from daemon.interfaces import WallClock
from daemon.manager import bodies, page, views
from daemon.manager.asked import event_place, one_of, sample_place, span
from daemon.manager.commands import Commands
from daemon.manager.config import ManagerConfig
from daemon.manager.daemons import Answer
from daemon.manager.fleet import Fleet
from daemon.manager.html import POLICY
from daemon.manager.model import CommandRow, CommandState, NodeState
from daemon.manager.wire import sound_id
from daemon.web.answers import JSON, answer_errors, write_health, write_json, write_problem
from daemon.web.arguments import argument, number, only
from daemon.web.problems import problem
from daemon.web.request import BoundedRequest, header_text

HTML = b"text/html; charset=utf-8"
LIMIT = 1000
LIMIT_MAX = 10_000
WORDS_MAX = 200
PAGES_MAX = 10_000
HOUR_S = 3600

# How a call of ours to a daemon ended, for the one who asked for it.
STATUS: dict[str, int] = {
    "NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "ABORTED": 409, "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 503, "DEADLINE_EXCEEDED": 504, "INTERNAL": 500, "CANCELLED": 503,
}

Read = Callable[..., Deferred[Any]]
Checks = Callable[[], dict[str, str]]


class ManagerApi:
    """All routes on one Klein application.

    Args:
        name: of the Manager.
        config: thresholds that are shown.
        read: reads the database.
        fleet: the nodes.
        commands: operations.
        checks: what readiness depends on, by name; an empty text is well.
        exposition: the body of ``/metrics`` and its type, for an Accept header.
        wall: now.
    """

    app = Klein()
    answer_errors(app, program="the Manager", no_route="is not a route of the Manager; /v1/nodes is")

    def __init__(
        self, *, name: str, config: ManagerConfig, read: Read, fleet: Fleet, commands: Commands,
        checks: Checks, exposition: Callable[[str], tuple[bytes, str]], wall: WallClock,
    ) -> None:
        self._name = name
        self._config = config
        self._read = read
        self._fleet = fleet
        self._commands = commands
        self._checks = checks
        self._exposition = exposition
        self._wall = wall

    # ------------------------------------------------------------------ health

    @app.route("/livez", methods=["GET"])
    def livez(self, request: BoundedRequest) -> bytes:
        """The loop turns: that this is answered says it."""
        return write_health(request, (("loop", ""),))

    @app.route("/readyz", methods=["GET"])
    @app.route("/health", methods=["GET"])
    @app.route("/healthz", methods=["GET"])
    def readyz(self, request: BoundedRequest) -> bytes:
        """The database takes writes, and gRPC listens; no node matters here."""
        return write_health(request, self._checks().items())

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: BoundedRequest) -> bytes:
        """For Prometheus."""
        body, content_type = self._exposition(header_text(request, b"accept"))
        request.setHeader(b"content-type", content_type.encode())
        return body

    # ------------------------------------------------------------------- pages

    @app.route("/", methods=["GET"])
    async def index(self, request: BoundedRequest) -> bytes:
        """The page of the fleet."""
        asked = page.Asked(
            sort=one_of(argument(request, "sort") or "name", page.SORTS, "sort"),
            words=argument(request, "q")[:WORDS_MAX], page=number(request, "page", 1, PAGES_MAX),
        )
        return await self._page(request, bodies.fleet_page, asked, self._wall(), self._name)

    @app.route("/nodes/<node_id>", methods=["GET"])
    async def node_page(self, request: BoundedRequest, node_id: str) -> bytes:
        """The page of one node."""
        return await self._page(
            request, bodies.one_node_page, node_id, self._wall(), self._config, self._name
        )

    async def _page(self, request: BoundedRequest, make: Callable[..., bytes], *asked: Any) -> bytes:
        found: bytes = await self._read(make, *asked)
        request.setHeader(b"content-type", HTML)
        request.setHeader(b"content-security-policy", POLICY.encode())
        return found

    # ------------------------------------------------------------------- views

    @app.route("/v1/nodes", methods=["GET"])
    async def nodes(self, request: BoundedRequest) -> bytes:
        """Nodes by host name, all or those of one ``state``."""
        only(request, "state", "limit", "after")
        state = argument(request, "state")
        if state:
            one_of(state, tuple(NodeState), "state")
        return await self._show(
            request, bodies.nodes, self._wall(), self._config, state, argument(request, "after"),
            number(request, "limit", LIMIT_MAX, LIMIT_MAX),
        )

    @app.route("/v1/nodes/<node_id>", methods=["GET"])
    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """One node."""
        only(request)
        return await self._show(request, bodies.node, self._wall(), self._config, node_id)

    @app.route("/v1/nodes/<node_id>/agents", methods=["GET"])
    async def agents(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its agents, as it told last."""
        only(request, "limit", "after")
        limit = number(request, "limit", LIMIT_MAX, LIMIT_MAX)
        return await self._show(
            request, bodies.agents, self._wall(), node_id, argument(request, "after"), limit
        )

    @app.route("/v1/nodes/<node_id>/metrics", methods=["GET"])
    async def node_metrics(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its samples ``from`` (an hour ago) ``to`` (now), of one ``type`` or all, oldest first."""
        only(request, "type", "from", "to", "limit", "after")
        since, until = span(request, self._wall() - HOUR_S)
        return await self._show(
            request, bodies.samples, node_id, argument(request, "type"), int(since), int(until),
            sample_place(request), number(request, "limit", LIMIT, LIMIT_MAX),
        )

    @app.route("/v1/nodes/<node_id>/events", methods=["GET"])
    async def events(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its events and log entries ``from`` ``to``, newest first."""
        only(request, "from", "to", "limit", "after")
        limit = number(request, "limit", 100, LIMIT_MAX)
        return await self._show(
            request, bodies.events, node_id, *span(request, 0.0), event_place(request), limit
        )

    async def _show(self, request: BoundedRequest, make: Callable[..., bytes], *asked: Any) -> bytes:
        """What a reader's thread made of the database."""
        found: bytes = await self._read(make, *asked)
        request.setHeader(b"content-type", JSON)
        return found

    # -------------------------------------------------------------- operations

    @app.route("/v1/nodes/<node_id>/agents/<agent_id>/<any(start,stop,restart):verb>", methods=["POST"])
    def operate(self, request: BoundedRequest, node_id: str, agent_id: str, verb: str) -> Deferred[bytes]:
        """Forwards the operation to the node's daemon and waits for its outcome."""
        only(request)
        done = self._commands.ask(node_id, sound_id(agent_id, "the agent's id"), verb, request.peer)
        return done.addCallback(lambda found: self._operated(request, *found))

    def _operated(self, request: BoundedRequest, command: CommandRow, answer: Answer) -> bytes:
        request.setHeader(b"content-location", f"/v1/commands/{command.command_id}".encode())
        if answer.state is CommandState.IN_PROGRESS:
            request.setResponseCode(202)
        elif answer.state is not CommandState.DONE:
            status = STATUS.get(answer.status, 502)
            if status == 503:
                request.setHeader(b"retry-after", b"5")
            found = problem(status, answer.message, answer.code if answer.code.startswith("D") else None)
            return write_problem(request, found)
        return write_json(request, views.command_body(command))

    @app.route("/v1/nodes/<node_id>/release", methods=["POST"])
    async def release(self, request: BoundedRequest, node_id: str) -> bytes:
        """Lets go of the certificate the node was registered with: its host has another now."""
        only(request)
        await self._fleet.release(node_id, request.peer)
        return await self._show(request, bodies.node, self._wall(), self._config, node_id)

    @app.route("/v1/nodes/<node_id>/commands", methods=["GET"])
    async def commands(self, request: BoundedRequest, node_id: str) -> bytes:
        """Operations on the node, newest first."""
        only(request, "limit", "after")
        limit = number(request, "limit", 100, LIMIT_MAX)
        return await self._show(request, bodies.commands, node_id, argument(request, "after"), limit)

    @app.route("/v1/commands/<command_id>", methods=["GET"])
    async def command(self, request: BoundedRequest, command_id: str) -> bytes:
        """One operation."""
        only(request)
        return await self._show(request, bodies.command, command_id)
