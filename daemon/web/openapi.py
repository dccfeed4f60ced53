"""The description of the API (OpenAPI 3.1.0), made of the table of routes and of the types they send.

Imported when it is first asked for: most daemons never are, and what makes schemas takes memory.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from daemon import __version__
from daemon.web.described import JSON, ROUTES, Described
from daemon.web.problems import Problem

PROBLEM = "application/problem+json"
EVERYWHERE = (400, 403, 413, 500)  # problems that any route may answer with; see docs/protocols.md
WITH_TOKEN = (401,)
REFERENCE = "#/components/schemas/{name}"
SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "the text of work_dir/api.token"},
    "certificate": {"type": "mutualTLS", "description": "a certificate of daemon.http_tls.client_ca_file"},
}


def document() -> bytes:
    """The description as JSON."""
    types = [kind for kind in _types() if not isinstance(kind, dict)]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    known = {id(kind): schema for kind, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, known)
    return msgspec.json.encode({
        "openapi": "3.1.0",
        "info": {
            "title": "hostdaemon",
            "version": __version__,
            "description": "One daemon per host: agents, host metrics, events, updates. Reading needs "
            "nothing. Over the control socket nothing else does either: its peers are known.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, "responses": _problems(known), "securitySchemes": SECURITY},
    })


def _types() -> list[Any]:
    """Every type and schema of the table, once each."""
    found = {id(Problem): Problem}
    for route in ROUTES:
        for media in route.answers.values():
            found |= {id(kind): kind for kind in media.values()}
        if route.body is not None:
            found[id(route.body)] = route.body
    return list(found.values())


def _problem_statuses(route: Described) -> tuple[int, ...]:
    return (*EVERYWHERE, *(WITH_TOKEN if route.token else ()), *route.problems)


def _response(status: int) -> str:
    return "".join(word.capitalize() for word in HTTPStatus(status).phrase.split())


def _problems(known: dict[int, Any]) -> dict[str, Any]:
    """A response for each status that is a problem, named by its phrase."""
    statuses = sorted({status for route in ROUTES for status in _problem_statuses(route)})
    return {
        _response(status): {
            "description": HTTPStatus(status).phrase, "content": {PROBLEM: {"schema": known[id(Problem)]}},
        }
        for status in statuses
    }


def _operation(route: Described, known: dict[int, Any]) -> dict[str, Any]:
    def content(media: Any) -> dict[str, Any]:
        shown = {kind: {"schema": known.get(id(schema), schema)} for kind, schema in media.items()}
        return {"content": shown} if shown else {}

    answers: dict[int, dict[str, Any]] = {
        status: {"description": HTTPStatus(status).phrase, **content(media)}
        for status, media in route.answers.items()
    }
    for status in _problem_statuses(route):
        if status in answers:  # the same status with either body
            answers[status]["content"] |= content({PROBLEM: Problem})["content"]
        else:
            answers[status] = {"$ref": f"#/components/responses/{_response(status)}"}
    operation: dict[str, Any] = {
        "operationId": route.name, "summary": route.summary,
        "responses": {str(status): answers[status] for status in sorted(answers)},
        "security": [{name: []} for name in SECURITY] if route.token else [],
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": each.name, "in": each.place, "schema": each.schema,
                **({"required": True} if each.place == "path" else {}), **each.more,
            }
            for each in route.parameters
        ]
    if route.body is not None:
        operation["requestBody"] = {"required": True, **content({JSON: route.body})}
    return operation
