"""JSON-RPC 2.0 on the heartbeat socket: what is answered, and how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import UNSET

from daemon.errors import ErrorCode
from daemon.heartbeat.jsonrpc import BadRequest, Request, failure, read_request, success


def refusal(text: bytes) -> dict[str, Any] | None:
    request = read_request(text)
    assert isinstance(request, BadRequest)
    assert request.message
    return None if request.answer is None else json.loads(request.answer)


@pytest.mark.parametrize("request_id", [7, -1, "seven", "", 1.5, None])
def test_a_request_keeps_its_id(request_id: object) -> None:
    text = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": "ping"}).encode()
    assert read_request(text) == Request(method="ping", id=request_id, params=b"")  # type: ignore[arg-type]


def test_a_request_without_id_is_a_notification() -> None:
    request = read_request(b'{"jsonrpc":"2.0","method":"heartbeat","params": {"pid":1} }')
    assert request == Request(method="heartbeat", id=UNSET, params=b'{"pid":1}')
    assert success(UNSET, "now") is None
    assert failure(UNSET, -32000, "no") is None


@pytest.mark.parametrize(
    ("text", "code", "answered"),
    [
        (b'{"jsonrpc":"2.0","id":7,', -32700, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":{\xff}}', -32700, None),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}', -32700, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","x":' + b"[" * 8000 + b"]" * 8000 + b"}", -32700, None),
        (b'garbage "jsonrpc"', -32700, None),
        (b'[{"jsonrpc":"2.0","id":7,"method":"ping"}]', -32600, None),
        (b'{"jsonrpc":"1.0","id":7,"method":"ping"}', -32600, 7),
        (b'{"jsonrpc":2.0,"id":7,"method":"ping"}', -32600, 7),
        (b'{"jsonrpc":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7}', -32600, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":1}', -32600, 7),
        (b'{"jsonrpc":"2.0","method":1}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":[7],"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1e999,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":7,"method":"shutdown"}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":""}', -32601, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"heartbeat","params":7}', -32602, 7),
        (b'{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}', -32602, 7),
    ],
    ids=range(20),
)
def test_what_is_no_request_is_refused_with_its_code(text: bytes, code: int, answered: object) -> None:
    answer = refusal(text)
    assert answer is not None
    assert answer["error"].pop("message")
    assert answer == {"jsonrpc": "2.0", "id": answered, "error": {"code": code}}


@pytest.mark.parametrize(
    "text",
    [b'{"jsonrpc":"2.0","method":"shutdown"}', b'{"jsonrpc":"2.0","method":"heartbeat","params":7}'],
)
def test_a_wrong_notification_is_not_answered(text: bytes) -> None:
    assert refusal(text) is None


def test_a_heartbeat_that_only_mentions_the_word_is_none_of_ours() -> None:
    assert read_request(b'{"pid":1,"status":"jsonrpc"}') is None


def test_answers_have_the_form_of_the_contract() -> None:
    answer = success(7, "2026-11-20T10:00:00Z")
    assert answer == (
        b'{"jsonrpc":"2.0","id":7,"result":{"success":true,"timestamp":"2026-11-20T10:00:00Z"}}'
    )
    refused = failure("x", -32000, "refused", ErrorCode.AGENT_HEALTH)
    assert refused is not None
    assert json.loads(refused)["error"] == {"code": -32000, "message": "refused", "data": {"code": "D3003"}}
