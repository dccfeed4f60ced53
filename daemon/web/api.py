"""The routes of the daemon, as the wire contract lists them; each translates and asks control."""

from __future__ import annotations

import msgspec
from klein import Klein
from twisted.internet.defer import Deferred

from daemon.agents.operations import Verb
from daemon.aio.reactor import Clock
from daemon.aio.threads import LaneBusy, LaneTimeout, Threads
from daemon.config.redact import effective, plan
from daemon.control.control import Control, Operated, parse_verb
from daemon.control.records import LINES_DEFAULT, LINES_MAX
from daemon.errors import RequestError, RequestFault
from daemon.events.stream import EventStream
from daemon.heartbeat.http_receiver import HTTPHeartbeatReceiver
from daemon.logs.following import LogFollower
from daemon.model.event import Event
from daemon.model.moment import rfc3339
from daemon.web.answers import JSON, answer_errors, write_health, write_json
from daemon.web.arguments import argument, flag, has, number, seconds
from daemon.web.bodies import (
    AcceptedBody,
    AgentsBody,
    AlertsBody,
    ChangeBody,
    EventsBody,
    OperatedBody,
    ReloadBody,
    ResultBody,
    ResultsBody,
    SampleBody,
    UpdatesBody,
    alert_body,
    event_body,
    update_body,
)
from daemon.web.limits import EVENTS_LIMIT, EVENTS_LIMIT_MAX
from daemon.web.logs import TEXT, log_text, serve_log
from daemon.web.page import INDEX_FILE, asked_for, serve_file, wants_html
from daemon.web.points import host_pieces, pieces, serve_points
from daemon.web.request import BoundedRequest, header_text
from daemon.web.scrape import Exposition, serve_metrics
from daemon.web.sse import EVENTS_TYPE, serve_events
from daemon.web.updates import read_update

HEARTBEAT_BODY_MAX = 16 * 1024
BODY_LANE = "update-request"
BODY_DEADLINE_S = 30.0
STREAMS_MAX = 64  # each may read the whole journal
INDEX = {
    "health": ["/livez", "/readyz"],
    "node": "/v1/node",
    "agents": "/v1/agents",
    "host metrics": ["/v1/metrics", "/v1/metrics/history"],
    "events": "/v1/events?once",
    "alerts": "/v1/alerts",
    "configuration": "/v1/config",
    "updates": "/v1/updates",
    "heartbeats": "/heartbeat/stats",
    "prometheus": ["/metrics", "/metrics/host"],
    "description of this API": "/openapi.json",
}


def _describe() -> bytes:
    """Makes the description; blocks for some milliseconds, the first time for its imports too."""
    from daemon.web.openapi import document  # most daemons are never asked for it

    return document()


class Api:
    """All routes on one Klein application.

    Args:
        clock: for keep-alives of event streams, and turns between pieces of long answers.
        control: the daemon.
        heartbeats: takes ``POST /heartbeat``.
        exposition: ``/metrics``.
        host: ``/metrics/host``.
        threads: read large bodies and the dashboard's files.
    """

    app = Klein()
    answer_errors(app, program="the daemon", no_route="is not a route of this daemon; / lists some")

    def __init__(
        self, clock: Clock, control: Control, heartbeats: HTTPHeartbeatReceiver, exposition: Exposition,
        host: Exposition, threads: Threads,
    ) -> None:
        self._clock = clock
        self._control = control
        self._heartbeats = heartbeats
        self._exposition = exposition
        self._host = host
        self._threads = threads
        self._streams: set[EventStream | LogFollower] = set()
        self._stopping = False

    def stop(self) -> None:
        """Refuses new work and ends the streams."""
        self._stopping = True
        for stream in tuple(self._streams):
            stream.close()

    # ------------------------------------------------------------------ health

    @app.route("/livez", methods=["GET"])
    @app.route("/-/healthy", methods=["GET"])
    def livez(self, request: BoundedRequest) -> bytes:
        """The loop turns: that this is answered says it."""
        return write_health(request, (("loop", ""),))

    @app.route("/readyz", methods=["GET"])
    @app.route("/health", methods=["GET"])
    @app.route("/healthz", methods=["GET"])
    @app.route("/-/ready", methods=["GET"])
    def readyz(self, request: BoundedRequest) -> bytes:
        """Configuration loaded, agents adopted, every configured listener up."""
        return write_health(request, ((check.name, check.error) for check in self._control.readiness()))

    # ------------------------------------------------------------------- views

    @app.route("/", methods=["GET"])
    async def index(self, request: BoundedRequest) -> bytes:
        """Where to look; the dashboard for a browser."""
        request.setHeader(b"vary", b"accept")
        if wants_html(header_text(request, b"accept")):
            return await serve_file(request, self._threads, INDEX_FILE)
        return write_json(request, INDEX)

    @app.route("/static/<name>", methods=["GET"])
    async def static(self, request: BoundedRequest, name: str) -> bytes:
        """A file of the dashboard."""
        return await serve_file(request, self._threads, name)

    @app.route("/openapi.json", methods=["GET"])
    async def openapi(self, request: BoundedRequest) -> bytes:
        """What every route takes and answers (OpenAPI 3.1)."""
        body = await asked_for(self._threads, _describe)
        request.setHeader(b"content-type", JSON)
        return body

    @app.route("/v1/node", methods=["GET"])
    def node(self, request: BoundedRequest) -> bytes:
        """This host and its daemon."""
        return write_json(request, self._control.node())

    @app.route("/v1/metrics", methods=["GET"])
    def host_metrics(self, request: BoundedRequest) -> bytes:
        """The latest sample of every collector."""
        return write_json(
            request,
            {
                name: SampleBody(name=m.name, timestamp=rfc3339(m.timestamp), values=m.values)
                for name, m in self._control.metrics().items()
            },
        )

    @app.route("/v1/metrics/history", methods=["GET"])
    async def host_history(self, request: BoundedRequest) -> bytes:
        """What the host did in the last ``duration`` (an hour), a point for each sample or ``step``."""
        duration_s, step_s = seconds(request, "duration"), seconds(request, "step")
        await serve_points(request, host_pieces(await self._control.records.host_history(duration_s, step_s)))
        return b""

    @app.route("/metrics", methods=["GET"])
    async def metrics(self, request: BoundedRequest) -> bytes:
        """The daemon for Prometheus."""
        await serve_metrics(self._clock, request, self._exposition)
        return b""

    @app.route("/metrics/host", methods=["GET"])
    async def node_metrics(self, request: BoundedRequest) -> bytes:
        """The host for Prometheus, under node_exporter's names."""
        await serve_metrics(self._clock, request, self._host)
        return b""

    @app.route("/v1/agents", methods=["GET"])
    def agents(self, request: BoundedRequest) -> bytes:
        """Every agent, or those of one ``type``."""
        return write_json(request, AgentsBody(agents=self._control.list_agents(argument(request, "type"))))

    @app.route("/v1/agents/<agent_id>", methods=["GET"])
    def agent(self, request: BoundedRequest, agent_id: str) -> bytes:
        """One agent."""
        return write_json(request, self._control.agent(agent_id))

    # ----------------------------------------------------------------- records

    @app.route("/v1/agents/<agent_id>/metrics", methods=["GET"])
    async def agent_metrics(self, request: BoundedRequest, agent_id: str) -> bytes:
        """What an agent used in the last ``duration`` (an hour), a point for each sample or ``step``."""
        duration_s, step_s = seconds(request, "duration"), seconds(request, "step")
        points = await self._control.records.history(agent_id, duration_s, step_s)
        await serve_points(request, pieces(agent_id, points))
        return b""

    @app.route("/v1/agents/<agent_id>/logs", methods=["GET"])
    async def agent_logs(self, request: BoundedRequest, agent_id: str) -> bytes:
        """The last ``lines`` of its log that hold ``grep``; with ``follow`` a stream of what comes."""
        lines = number(request, "lines", LINES_DEFAULT, LINES_MAX, least=0)
        grep = argument(request, "grep")
        if not flag(request, "follow", False):
            found = await self._control.records.log_lines(agent_id, lines, grep)
            request.setHeader(b"content-type", TEXT)
            return log_text(found)
        self._refuse_when_stopping()
        self._refuse_a_crowd()
        follower = self._control.records.follow_log(agent_id, lines, grep)
        self._streams.add(follower)
        try:
            if request.method != b"HEAD":
                await serve_log(request, follower)
        finally:
            follower.close()
            self._streams.discard(follower)
        return b""

    @app.route("/v1/alerts", methods=["GET"])
    def alerts(self, request: BoundedRequest) -> bytes:
        """Alerts that stand, then those that were cleared lately."""
        return write_json(
            request, AlertsBody(alerts=tuple(alert_body(a) for a in self._control.records.alerts()))
        )

    @app.route("/v1/config", methods=["GET"])
    def config(self, request: BoundedRequest) -> bytes:
        """The configuration in force, without its secrets."""
        return write_json(request, effective(self._control.config.in_force))

    @app.route("/v1/config/reload", methods=["POST"])
    async def reload(self, request: BoundedRequest) -> bytes:
        """Reads the file again and applies it; with ``dry_run`` only says what that would change."""
        self._refuse_when_stopping()
        dry_run = flag(request, "dry_run", False)
        result = await self._control.config.reload(dry_run=dry_run, reason="api", peer=request.peer)
        return write_json(request, ReloadBody(
            applied=result.applied, changes=msgspec.convert(plan(result.changes), tuple[ChangeBody, ...]),
            warnings=tuple(result.warnings),
        ))

    # ----------------------------------------------------------------- updates

    @app.route("/v1/updates", methods=["GET"])
    def updates(self, request: BoundedRequest) -> bytes:
        """Every update that is remembered, the newest first."""
        return write_json(
            request, UpdatesBody(updates=tuple(update_body(u) for u in self._control.updates.list()))
        )

    @app.route("/v1/updates", methods=["POST"])
    async def update(self, request: BoundedRequest) -> bytes:
        """Takes an update; what becomes of it is asked for by its id."""
        self._refuse_when_stopping()
        try:  # tens of megabytes of base64
            asked = await self._threads.run(BODY_LANE, BODY_DEADLINE_S, read_update, request.body())
        except (LaneBusy, LaneTimeout) as error:
            raise RequestError(RequestFault.BUSY, "too many requests at once", retry_after_s=5) from error
        update_id = await self._control.updates.submit(asked, peer=request.peer)
        request.setResponseCode(202)
        return write_json(request, AcceptedBody(id=update_id))

    @app.route("/v1/updates/<update_id>", methods=["GET"])
    def one_update(self, request: BoundedRequest, update_id: str) -> bytes:
        """One update, under way or over."""
        return write_json(request, update_body(self._control.updates.get(update_id)))

    @app.route("/v1/updates/<update_id>/cancel", methods=["POST"])
    async def cancel_update(self, request: BoundedRequest, update_id: str) -> bytes:
        """Calls an update off that has changed nothing yet."""
        self._refuse_when_stopping()
        await self._control.updates.cancel(update_id, peer=request.peer)
        return write_json(request, update_body(self._control.updates.get(update_id)))

    @app.route("/v1/rollback/<component>", methods=["POST"])
    async def roll_back(self, request: BoundedRequest, component: str) -> bytes:
        """Goes back to the version before the installed one."""
        self._refuse_when_stopping()
        update_id = await self._control.updates.roll_back(component, peer=request.peer)
        request.setResponseCode(202)
        return write_json(request, AcceptedBody(id=update_id))

    # -------------------------------------------------------------- operations

    @app.route("/v1/agents/<any(start,stop,restart):verb>", methods=["POST"])
    def operate_all(self, request: BoundedRequest, verb: str) -> Deferred[bytes]:
        """Starts, stops or restarts every enabled agent."""
        self._refuse_when_stopping()
        work = self._control.operate_all(
            parse_verb(verb), graceful=flag(request, "graceful", True), peer=request.peer
        )
        return work.addCallback(lambda results: write_json(request, ResultsBody(
            results={name: ResultBody(success=r.success, error=r.error) for name, r in results.items()}
        )))

    @app.route("/v1/agents/<agent_id>/<any(start,stop,restart):verb>", methods=["POST"])
    def operate(self, request: BoundedRequest, agent_id: str, verb: str) -> Deferred[bytes]:
        """Starts, stops or restarts one agent and waits for the outcome, 90 s at most."""
        self._refuse_when_stopping()
        wanted = parse_verb(verb)
        graceful = flag(request, "graceful", True)
        work = self._control.operate(agent_id, wanted, graceful=graceful, peer=request.peer)
        return work.addCallback(lambda done: self._operated(request, done, wanted))

    def _operated(self, request: BoundedRequest, done: Operated, verb: Verb) -> bytes:
        if done.in_progress:
            request.setResponseCode(202)
        return write_json(request, OperatedBody(
            **msgspec.structs.asdict(done.view),
            message=f"{verb.value} goes on; look again" if done.in_progress else msgspec.UNSET,
            warnings=tuple(done.warnings) or msgspec.UNSET,
        ))

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise RequestError(RequestFault.STOPPING, "the daemon is stopping", retry_after_s=5)

    def _refuse_a_crowd(self) -> None:
        if len(self._streams) >= STREAMS_MAX:
            raise RequestError(RequestFault.BUSY, f"{STREAMS_MAX} streams are open already", retry_after_s=30)

    # ------------------------------------------------------------------ events

    @app.route("/v1/events", methods=["GET"])
    async def events(self, request: BoundedRequest) -> bytes:
        """Server-sent events, resumed after Last-Event-ID; a JSON list with ``once``."""
        last_id = header_text(request, b"last-event-id") or argument(request, "last_event_id") or None
        if has(request, "once"):
            limit = number(request, "limit", EVENTS_LIMIT, EVENTS_LIMIT_MAX)
            found: tuple[Event, ...]
            if last_id is None:
                found = self._control.bus.latest(limit)
            else:
                found = (await self._control.bus.read_after(last_id, limit)).events
            return write_json(request, EventsBody(events=tuple(event_body(event) for event in found)))
        self._refuse_when_stopping()
        self._refuse_a_crowd()
        stream = EventStream(self._control.bus, last_id)
        if request.method == b"HEAD":  # the head alone: a stream would never end
            stream.close()
            request.setHeader(b"content-type", EVENTS_TYPE)
            return b""
        self._streams.add(stream)
        try:
            await serve_events(self._clock, request, stream)
        finally:
            stream.close()
            self._streams.discard(stream)
        return b""

    # -------------------------------------------------------------- heartbeats

    @app.route("/heartbeat")  # any method: its answers have their own form, 405 too
    def heartbeat(self, request: BoundedRequest) -> bytes:
        """An agent's heartbeat; every answer has the same form, errors included."""
        if request.method != b"POST":
            request.setHeader(b"allow", b"POST")
            answer = self._heartbeats.refuse(405, "heartbeats are sent by POST")
        elif request.too_large:
            answer = self._heartbeats.refuse(413, f"a heartbeat has {HEARTBEAT_BODY_MAX} bytes at most")
        else:
            answer = self._heartbeats.submit(request.body())
        request.setResponseCode(answer.status)
        request.setHeader(b"content-type", JSON)
        if answer.retry_after_s is not None:
            request.setHeader(b"retry-after", b"%d" % answer.retry_after_s)
        return answer.body()

    @app.route("/heartbeat/stats", methods=["GET"])
    def heartbeat_stats(self, request: BoundedRequest) -> bytes:
        """Counters of ``POST /heartbeat``."""
        return write_json(request, self._heartbeats.stats())
