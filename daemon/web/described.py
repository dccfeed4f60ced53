"""What each route takes and answers, as a table beside the routes; ``/openapi.json`` is made of it.

A test holds the table against the routes of :class:`daemon.web.api.Api`: neither may have one more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.control.records import DURATION_MAX_S, GREP_MAX, LINES_DEFAULT, LINES_MAX
from daemon.control.views import AgentView, NodeView
from daemon.heartbeat.http_receiver import HeartbeatBody
from daemon.heartbeat.message import Posted
from daemon.heartbeat.stats import HeartbeatStats
from daemon.web.answers import HealthBody
from daemon.web.bodies import (
    AcceptedBody,
    AgentsBody,
    AlertsBody,
    EventsBody,
    HostPointsBody,
    OperatedBody,
    PointsBody,
    ReloadBody,
    ResultsBody,
    SampleBody,
    UpdateAnswer,
    UpdatesBody,
)
from daemon.web.limits import EVENTS_LIMIT, EVENTS_LIMIT_MAX
from daemon.web.updates import UpdateBody

Schema = Mapping[str, Any]
JSON = "application/json"
VERBS = ("start", "stop", "restart")
NAMED = {"description": "what counts is that it is there, with any value or none", "allowEmptyValue": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter.

    Attributes:
        place: ``query``, ``path`` or ``header``.
        schema: JSON Schema of its value.
        more: further keys of the Parameter Object.
    """

    name: str
    schema: Schema
    place: str = "query"
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One method of one path.

    Attributes:
        answers: by status, what media types have as their type or schema; problems are left out.
        problems: statuses of problems beyond those that every route has.
        body: the type of the request's body, None for none.
        token: whether it needs one of the ways to prove that one may change something.
    """

    method: str
    path: str
    name: str
    summary: str
    answers: Mapping[int, Mapping[str, Any]]
    parameters: tuple[Parameter, ...] = ()
    problems: tuple[int, ...] = ()
    body: Any = None
    token: bool = False


# A word that is a verb would be the route for all agents; ids are what the configuration allows.
_AGENT = Parameter(name="agent_id", place="path", schema={"type": "string", "minLength": 1})
_UPDATE = Parameter(name="update_id", place="path", schema={"type": "string", "minLength": 1})
_COMPONENT = Parameter(name="component", place="path", schema={"type": "string", "minLength": 1})
_FILE = Parameter(name="name", place="path", schema={"type": "string", "minLength": 1})
_GRACEFUL = Parameter(name="graceful", schema={"type": "boolean", "default": True})
_DURATION: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 0, "maximum": DURATION_MAX_S},
        {"type": "string", "pattern": "^[1-9][0-9]{0,3}[smh]$"},
    ],
}
_VERBOSE = Parameter(name="verbose", schema={"type": "string"}, more=NAMED)
_EVENT_ID: Schema = {"type": "string", "pattern": "^([0-9]{1,10}-[0-9]{1,10})?$"}
_TEXT: Schema = {"type": "string"}
_HEALTH = {200: {JSON: HealthBody}, 503: {JSON: HealthBody}}


def _get(
    path: str, name: str, summary: str, answer: Any, *parameters: Parameter, problems: tuple[int, ...] = ()
) -> Described:
    return Described(
        method="GET", path=path, name=name, summary=summary, answers={200: {JSON: answer}},
        parameters=parameters, problems=problems,
    )


def _verbs() -> tuple[Described, ...]:
    """The three operations of one agent, and of all."""
    return tuple(
        described for verb in VERBS for described in (
            Described(
                method="POST", path=f"/v1/agents/{verb}", name=f"{verb}_all", token=True, problems=(503,),
                summary=f"{verb} of every enabled agent", answers={200: {JSON: ResultsBody}},
                parameters=(_GRACEFUL,),
            ),
            Described(
                method="POST", path=f"/v1/agents/{{agent_id}}/{verb}", name=f"{verb}_one", token=True,
                summary=f"{verb} of one agent; waits for the outcome, 90 s at most",
                answers={200: {JSON: OperatedBody}, 202: {JSON: OperatedBody}},
                parameters=(_AGENT, _GRACEFUL), problems=(404, 409, 503),
            ),
        )
    )


ROUTES: tuple[Described, ...] = (
    Described(
        method="GET", path="/", name="index",
        summary="the dashboard for a browser, where to look for a program",
        answers={200: {JSON: {"type": "object"}, "text/html": _TEXT}, 304: {}}, problems=(503,),
    ),
    Described(
        method="GET", path="/static/{name}", name="static", summary="a file of the dashboard",
        answers={
            200: dict.fromkeys(("text/html", "text/css", "text/javascript", "text/plain"), _TEXT), 304: {},
        },
        parameters=(_FILE,), problems=(404, 503),
    ),
    _get("/openapi.json", "openapi", "this description", {"type": "object"}, problems=(503,)),
    *(
        Described(
            method="GET", path=path, name=name, summary="the daemon's loop turns", answers=_HEALTH,
            parameters=(_VERBOSE,),
        )
        for path, name in (("/livez", "livez"), ("/-/healthy", "healthy"))
    ),
    *(
        Described(
            method="GET", path=path, name=name,
            summary="configuration loaded, agents taken back, listeners up",
            answers=_HEALTH, parameters=(_VERBOSE,),
        )
        for path, name in (
            ("/readyz", "readyz"), ("/health", "health"), ("/healthz", "healthz"), ("/-/ready", "ready"),
        )
    ),
    _get("/v1/node", "node", "this host and its daemon", NodeView),
    _get("/v1/metrics", "host_metrics", "the latest sample of every collector", dict[str, SampleBody]),
    _get(
        "/v1/metrics/history", "host_history", "what the host did, oldest first", HostPointsBody,
        Parameter(name="duration", schema=_DURATION), Parameter(name="step", schema=_DURATION),
    ),
    Described(
        method="GET", path="/metrics", name="metrics", summary="for Prometheus",
        answers={200: {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}},
    ),
    Described(
        method="GET", path="/metrics/host", name="node_metrics",
        summary="the host for Prometheus, under node_exporter's names",
        answers={200: {"text/plain": _TEXT, "application/openmetrics-text": _TEXT}},
    ),
    _get(
        "/v1/agents", "agents", "every agent, or those of one type", AgentsBody,
        Parameter(name="type", schema=_TEXT),
    ),
    _get("/v1/agents/{agent_id}", "agent", "one agent", AgentView, _AGENT, problems=(404,)),
    _get(
        "/v1/agents/{agent_id}/metrics", "agent_metrics", "what an agent used, oldest first", PointsBody,
        _AGENT, Parameter(name="duration", schema=_DURATION), Parameter(name="step", schema=_DURATION),
        problems=(404,),
    ),
    Described(
        method="GET", path="/v1/agents/{agent_id}/logs", name="agent_logs",
        summary="the end of its log; with follow a stream of what comes",
        answers={200: {"text/plain": _TEXT}},
        parameters=(
            _AGENT,
            Parameter(name="lines", schema={
                "type": "integer", "minimum": 0, "maximum": LINES_MAX, "default": LINES_DEFAULT,
            }),
            Parameter(name="grep", schema={"type": "string", "maxLength": GREP_MAX}),
            Parameter(name="follow", schema={"type": "boolean", "default": False}),
        ),
        problems=(404, 503),
    ),
    *_verbs(),
    _get("/v1/alerts", "alerts", "alerts that stand, then those that were cleared lately", AlertsBody),
    _get("/v1/config", "config", "the configuration in force, without its secrets", {"type": "object"}),
    Described(
        method="POST", path="/v1/config/reload", name="reload", summary="reads the file again and applies it",
        token=True, answers={200: {JSON: ReloadBody}},
        parameters=(Parameter(name="dry_run", schema={"type": "boolean", "default": False}),),
        problems=(409, 422, 503),
    ),
    _get("/v1/updates", "updates", "every update that is remembered, the newest first", UpdatesBody),
    Described(
        method="POST", path="/v1/updates", name="update",
        summary="takes an update of an agent or of the daemon",
        token=True, answers={202: {JSON: AcceptedBody}}, body=UpdateBody, problems=(404, 409, 503),
    ),
    _get(
        "/v1/updates/{update_id}", "one_update", "one update, under way or over", UpdateAnswer, _UPDATE,
        problems=(404,),
    ),
    Described(
        method="POST", path="/v1/updates/{update_id}/cancel", name="cancel_update", token=True,
        summary="calls an update off that has changed nothing yet", answers={200: {JSON: UpdateAnswer}},
        parameters=(_UPDATE,), problems=(404, 409, 503),
    ),
    Described(
        method="POST", path="/v1/rollback/{component}", name="roll_back", token=True,
        summary="goes back to the version before the installed one", answers={202: {JSON: AcceptedBody}},
        parameters=(_COMPONENT,), problems=(404, 409, 503),
    ),
    Described(
        method="GET", path="/v1/events", name="events",
        summary="server-sent events, resumed after Last-Event-ID; a list with once",
        answers={200: {JSON: EventsBody, "text/event-stream": _TEXT}},
        parameters=(
            Parameter(name="once", schema={"type": "string"}, more=NAMED),
            Parameter(name="limit", schema={
                "type": "integer", "minimum": 1, "maximum": EVENTS_LIMIT_MAX, "default": EVENTS_LIMIT,
            }),
            Parameter(name="last_event_id", schema=_EVENT_ID),
            Parameter(name="Last-Event-ID", place="header", schema=_EVENT_ID),
        ),
        problems=(503,),
    ),
    Described(
        method="POST", path="/heartbeat", name="heartbeat",
        summary="an agent's heartbeat; every answer has the same form",
        answers={status: {JSON: HeartbeatBody} for status in (200, 400, 403, 413, 503)}, body=Posted,
    ),
    _get("/heartbeat/stats", "heartbeat_stats", "counters of POST /heartbeat", HeartbeatStats),
)
