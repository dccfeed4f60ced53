"""The routes of the Manager; each translates and asks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import RequestRedirect

from daemon.errors import DaemonError, RequestError, RequestFault
from daemon.interfaces import WallClock
from daemon.manager import page, queries, views
from daemon.manager.commands import Commands
from daemon.manager.config import ManagerConfig
from daemon.manager.daemons import Answer
from daemon.manager.fleet import Fleet
from daemon.manager.model import CommandRow, CommandState
from daemon.web.arguments import argument, has, number
from daemon.web.problems import PROBLEM_TYPE, Problem, problem, problem_of
from daemon.web.request import BoundedRequest, header_text

JSON = b"application/json"
HTML = b"text/html; charset=utf-8"
LIMIT = 1000
LIMIT_MAX = 10_000
HOUR_S = 3600
_LAST_MOMENT = 253_402_300_799  # of the year 9999

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
    log = Logger()

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
        return self._health(request, {"loop": ""})

    @app.route("/readyz", methods=["GET"])
    @app.route("/health", methods=["GET"])
    @app.route("/healthz", methods=["GET"])
    def readyz(self, request: BoundedRequest) -> bytes:
        """The database takes writes, and gRPC listens; no node matters here."""
        return self._health(request, self._checks())

    def _health(self, request: BoundedRequest, checks: dict[str, str]) -> bytes:
        failing = {name: error for name, error in checks.items() if error}
        if failing:
            request.setResponseCode(503)
        shown = checks if has(request, "verbose") else failing
        body: dict[str, Any] = {"status": "unavailable" if failing else "ok"}
        if shown:
            body["checks"] = [{"name": n, "ok": not e, "error": e or None} for n, e in shown.items()]
        return self._json(request, body)

    @app.route("/metrics", methods=["GET"])
    def metrics(self, request: BoundedRequest) -> bytes:
        """For Prometheus."""
        body, content_type = self._exposition(header_text(request, b"accept"))
        request.setHeader(b"content-type", content_type.encode())
        return body

    # ------------------------------------------------------------------- views

    @app.route("/", methods=["GET"])
    async def index(self, request: BoundedRequest) -> bytes:
        """The page."""
        asked = page.Asked(
            sort=_one_of(argument(request, "sort") or "name", page.SORTS), words=argument(request, "q")[:200],
            page=number(request, "page", 1, 10_000),
        )
        nodes, agents = await self._read(queries.fleet)
        request.setHeader(b"content-type", HTML)
        request.setHeader(b"content-security-policy", page.POLICY.encode())
        return page.render(nodes, agents, asked, self._wall(), self._name)

    @app.route("/v1/nodes", methods=["GET"])
    async def nodes(self, request: BoundedRequest) -> bytes:
        """Every node, or those of one ``state``."""
        state = argument(request, "state")
        if state:
            _one_of(state, ("online", "offline"), "state")
        nodes, counts = await self._read(queries.nodes_and_counts)
        now = self._wall()
        return self._json(request, {"nodes": [
            views.node_body(node, counts.get(node.node_id, {}), now, self._config)
            for node in nodes if not state or node.state == state
        ]})

    @app.route("/v1/nodes/<node_id>", methods=["GET"])
    async def node(self, request: BoundedRequest, node_id: str) -> bytes:
        """One node."""
        node, agents = await self._read(queries.node_with_agents, node_id)
        return self._json(request, views.node_body(node, views.counts(agents), self._wall(), self._config))

    @app.route("/v1/nodes/<node_id>/agents", methods=["GET"])
    async def agents(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its agents, as it told last."""
        found = await self._read(queries.agents_of, node_id)
        now = self._wall()
        return self._json(request, {"agents": [views.agent_body(agent, now) for agent in found]})

    @app.route("/v1/nodes/<node_id>/metrics", methods=["GET"])
    async def node_metrics(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its samples ``from`` (an hour ago) ``to`` (now), of one ``type`` or all, oldest first."""
        since = int(_moment(request, "from", self._wall() - HOUR_S))
        until = int(_moment(request, "to", _LAST_MOMENT))
        limit = number(request, "limit", LIMIT, LIMIT_MAX)
        found, more = await self._read(
            queries.samples, node_id, argument(request, "type"), since, until, limit
        )
        return self._json(request, {
            "node_id": node_id, "metrics": [views.sample_body(sample) for sample in found], "more": more,
        })

    @app.route("/v1/nodes/<node_id>/events", methods=["GET"])
    async def events(self, request: BoundedRequest, node_id: str) -> bytes:
        """Its events and log entries ``from`` ``to``, newest first."""
        since, until = _moment(request, "from", 0.0), _moment(request, "to", _LAST_MOMENT)
        limit = number(request, "limit", 100, LIMIT_MAX)
        found = await self._read(queries.events, node_id, since, until, limit)
        return self._json(request, {"events": [views.event_body(event) for event in found]})

    # -------------------------------------------------------------- operations

    @app.route("/v1/nodes/<node_id>/agents/<agent_id>/<any(start,stop,restart):verb>", methods=["POST"])
    def operate(self, request: BoundedRequest, node_id: str, agent_id: str, verb: str) -> Deferred[bytes]:
        """Forwards the operation to the node's daemon and waits for its outcome."""
        done = self._commands.ask(node_id, agent_id, verb, request.peer)
        return done.addCallback(lambda found: self._operated(request, *found))

    def _operated(self, request: BoundedRequest, command: CommandRow, answer: Answer) -> bytes:
        body = views.command_body(command)
        request.setHeader(b"content-location", f"/v1/commands/{command.command_id}".encode())
        if answer.state is CommandState.IN_PROGRESS:
            request.setResponseCode(202)
        elif answer.state is not CommandState.DONE:
            status = STATUS.get(answer.status, 502)
            if status == 503:
                request.setHeader(b"retry-after", b"5")
            found = problem(status, answer.message, answer.code if answer.code.startswith("D") else None)
            return write_problem(request, found)
        return self._json(request, body)

    @app.route("/v1/nodes/<node_id>/release", methods=["POST"])
    async def release(self, request: BoundedRequest, node_id: str) -> bytes:
        """Lets go of the certificate the node was registered with: its host has another now."""
        await self._fleet.release(node_id, request.peer)
        node, agents = await self._read(queries.node_with_agents, node_id)
        return self._json(request, views.node_body(node, views.counts(agents), self._wall(), self._config))

    @app.route("/v1/nodes/<node_id>/commands", methods=["GET"])
    async def commands(self, request: BoundedRequest, node_id: str) -> bytes:
        """Operations on the node, newest first."""
        found = await self._read(queries.commands, node_id, number(request, "limit", 100, LIMIT_MAX))
        return self._json(request, {"commands": [views.command_body(command) for command in found]})

    @app.route("/v1/commands/<command_id>", methods=["GET"])
    async def command(self, request: BoundedRequest, command_id: str) -> bytes:
        """One operation."""
        return self._json(request, views.command_body(await self._read(queries.command, command_id)))

    # ------------------------------------------------------------------ errors

    @app.handle_errors(RequestError, DaemonError)
    def known(self, request: BoundedRequest, failure: Failure) -> bytes:
        """An error of ours: the table says its status."""
        error: Any = failure.value
        if isinstance(error, RequestError) and error.retry_after_s is not None:
            request.setHeader(b"retry-after", b"%d" % error.retry_after_s)
        return write_problem(request, problem_of(error))

    @app.handle_errors(HTTPException)
    def no_route(self, request: BoundedRequest, failure: Failure) -> bytes:
        """No such route, or not with this method."""
        error: Any = failure.value
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            request.setHeader(b"allow", ", ".join(sorted(error.valid_methods)).encode())
        status = 404 if isinstance(error, RequestRedirect) else error.code or 400
        what = f"{request.method.decode('ascii', 'replace')} {request.path.decode('utf-8', 'replace')}"
        text = "is not a route of the Manager; /v1/nodes is" if status == 404 else "is not allowed here"
        return write_problem(request, problem(status, f"{what} {text}"))

    @app.handle_errors(CancelledError)
    def client_left(self, request: BoundedRequest, failure: Failure) -> bytes:
        """The client has gone; what it asked for goes on."""
        return b""

    @app.handle_errors(Exception)
    def fault(self, request: BoundedRequest, failure: Failure) -> bytes:
        """A fault of ours: logged here, not shown."""
        self.log.failure("{method} {path}", failure=failure, method=request.method, path=request.path)
        return write_problem(request, problem(500, "a fault of the Manager; its log says more"))

    def _json(self, request: BoundedRequest, body: object) -> bytes:
        request.setHeader(b"content-type", JSON)
        return views.body(body)


def write_problem(request: BoundedRequest, found: Problem) -> bytes:
    """Sets status and type of a problem, returns its body."""
    request.setResponseCode(found.status)
    request.setHeader(b"content-type", PROBLEM_TYPE)
    if found.status == 401:
        request.setHeader(b"www-authenticate", b'Bearer realm="hostmanager"')
    return views.body(found)


def _one_of(text: str, known: tuple[str, ...], name: str = "sort") -> str:
    if text not in known:
        raise RequestError(
            RequestFault.INVALID, f"{name} must be one of {', '.join(known)}, not {text[:40]!r}"
        )
    return text


def _moment(request: BoundedRequest, name: str, default: float) -> float:
    """A time in the query: Unix seconds or RFC 3339.

    Raises:
        RequestError: INVALID.
    """
    text = argument(request, name)
    if not text:
        return default
    try:
        if text.replace(".", "", 1).isdecimal() and text.isascii():
            found = float(text)
        else:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + arrives as a blank
            found = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        if not 0 <= found <= _LAST_MOMENT:
            raise ValueError
    except (ValueError, OverflowError):
        raise RequestError(
            RequestFault.INVALID,
            f"{name} must be Unix seconds or RFC 3339, such as 2026-11-20T10:00:00Z, not {text[:40]!r}",
        ) from None
    return found
