"""Updates over HTTP: bodies, ids, states as the wire names them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from twisted.internet.defer import Deferred

from daemon.config.schema import UpdateConfig
from daemon.errors import UpdateApplyError
from daemon.web.request import BODY_MAX
from daemon.web.room import LARGE_AT_ONCE
from tests.fakes.control import TOKEN, Answer, RigCase

FIELDS = {
    "id", "component", "version", "state", "step", "progress", "started_at", "finished_at", "success",
    "old_version", "new_version", "error", "code", "rolled_back", "evidence",
}


def body(version: str | None = "1.1.0", **changes: Any) -> bytes:
    known: dict[str, Any] = {
        "component": "web", "version": version, "hash": hashlib.sha256(str(version).encode()).hexdigest(),
        "signature": "c2ln", "download_url": "https://updates.example.org/web.tar.gz",
    }
    return json.dumps({name: value for name, value in (known | changes).items() if value is not None}).encode()


class UpdatesTest(RigCase):
    def prepare(self) -> None:
        self.lab.spec("web")
        self.lab.spec("db")

    def push(self, data: bytes, **how: Any) -> Answer:
        return self.client.post("/v1/updates", body=data, **how)

    def test_an_update_is_accepted_and_its_result_found_by_its_id(self) -> None:
        accepted = self.push(body())
        self.assertEqual(accepted.status, 202)
        found = self.client.get(f"/v1/updates/{accepted.json['id']}").json
        self.assertEqual(set(found), FIELDS)
        self.assertEqual(
            [found[k] for k in ("component", "version", "state", "step", "success", "old_version", "new_version",
                                "error", "code", "rolled_back", "progress")],
            ["web", "1.1.0", "succeeded", "done", True, "1.0.0", "1.1.0", None, None, False, 1.0],
        )
        self.assertTrue(found["finished_at"].endswith("Z"))
        self.assertEqual(self.client.get("/v1/updates").json["updates"], [found])

    def test_one_under_way_has_no_success_yet_and_can_be_cancelled(self) -> None:
        self.rig.updates.intake.held["download"] = Deferred()
        update_id = self.push(body()).json["id"]
        found = self.client.get(f"/v1/updates/{update_id}").json
        self.assertEqual((found["state"], found["step"], found["success"], found["finished_at"]),
                         ("running", "download", None, None))
        cancelled = self.client.post(f"/v1/updates/{update_id}/cancel")
        self.assertEqual((cancelled.status, cancelled.json["state"]), (200, "cancelled"))
        self.assertEqual(self.client.post(f"/v1/updates/{update_id}/cancel").status, 409)

    def test_a_second_one_for_the_same_agent_conflicts(self) -> None:
        self.rig.updates.intake.held["download"] = Deferred()
        self.push(body())
        again = self.push(body("1.2.0"))
        self.assertEqual((again.status, again.type), (409, "application/problem+json"))
        self.assertIn("is under way", again.json["detail"])

    def test_a_roll_back_and_a_failure_show_code_and_evidence(self) -> None:
        self.rig.targets[0].failing = {"verify": UpdateApplyError("it died", evidence={"exit_code": 3})}
        found = self.client.get(f"/v1/updates/{self.push(body()).json['id']}").json
        self.assertEqual(
            [found[k] for k in ("state", "success", "error", "code", "rolled_back")],
            ["rolled_back", False, "it died", "D4003", True],
        )
        self.assertEqual(found["evidence"], {"exit_code": 3, "rollback": {"pid": 7}})

    def test_back_to_the_version_before(self) -> None:
        self.assertEqual(self.client.post("/v1/rollback/web").status, 409)
        self.rig.targets[0].back = "0.9.0"
        back = self.client.post("/v1/rollback/web")
        self.assertEqual(back.status, 202)
        found = self.client.get(f"/v1/updates/{back.json['id']}").json
        self.assertEqual((found["state"], found["new_version"]), ("succeeded", "0.9.0"))
        self.assertEqual(self.client.post("/v1/rollback/nobody").status, 404)

    def test_a_package_comes_with_the_request_up_to_its_bound(self) -> None:
        package = bytes(range(256)) * 1000  # far over what other routes take
        self.rig.updates.intake.held["download"] = Deferred()
        accepted = self.push(body(download_url=None, update_data=base64.b64encode(package).decode()))
        self.assertEqual(accepted.status, 202)
        staged = self.rig.updates.tools.staging.folder(accepted.json["id"]) / "package"
        self.assertEqual(staged.read_bytes(), package)
        self.rig.updates.config = UpdateConfig(public_key_file="/k", max_inline_size=1000)
        large = {"download_url": None, "update_data": base64.b64encode(bytes(2000)).decode(), "component": "db"}
        self.assertEqual(self.push(body(**large)).status, 413)
        large["update_data"] = base64.b64encode(bytes(100_000)).decode()
        self.assertEqual(self.push(body(**large)).status, 413)

    def test_what_is_no_update_says_what_one_is(self) -> None:
        for data, part in (
            (b"", "no update"), (b"[]", "no update"), (b"{}", "missing required field"), (b"{" * 60_000, "no update"),
            (body(componnt="web"), "unknown field"), (body(component=7), "component"), (body(version=None), "version"),
            (body(hash="zz"), "64 hex digits"), (body(signature="*"), "base64"), (b"\xff\xfe", "no update"),
            (body(update_data="eA=="), "exactly one"), (body(download_url=None, update_data="*"), "no update"),
            (body(download_url=None), "exactly one"), (body(version="1\u0000"), "version must be"),
        ):
            with self.subTest(data=data[:60]):
                answer = self.push(data)
                self.assertEqual((answer.status, answer.type), (400, "application/problem+json"))
                self.assertIn(part, answer.json["detail"])
        self.assertEqual(self.push(body(component="nobody")).status, 404)
        self.assertEqual(self.client.get("/v1/updates/../node").status, 404)
        self.assertEqual(self.client.get("/v1/updates/" + "x" * 3000).status, 404)

    def test_without_the_token_nothing_is_taken_and_no_large_body_is_kept(self) -> None:
        data = body(download_url=None, update_data=base64.b64encode(bytes(BODY_MAX)).decode())
        client = self.rig.connect()
        for token in ("", "0" * 64):
            answer = client.ask("POST", "/v1/updates", body=data, token=token)
            self.assertEqual(answer.status, 401)
        self.assertEqual(self.rig.update_manager.list(), ())
        elsewhere = client.ask("POST", "/v1/agents/web/stop", body=data, token=TOKEN)
        self.assertEqual(elsewhere.status, 413)

    def test_so_many_packages_at_a_time_are_held_and_no_more(self) -> None:
        data = body(download_url=None, update_data=base64.b64encode(bytes(100_000)).decode())
        self.rig.updates.intake.held["download"] = Deferred()
        head = (f"POST /v1/updates HTTP/1.1\r\nHost: localhost:8084\r\nAuthorization: Bearer {TOKEN}\r\n"
                f"Content-Length: {len(data)}\r\n\r\n").encode()
        slow = [self.rig.connect() for _ in range(LARGE_AT_ONCE)]
        for client in slow:
            client.send(head + data[:-1])
        self.assertEqual(self.rig.packages.taken, LARGE_AT_ONCE)
        refused = self.push(data)
        self.assertEqual((refused.status, refused.headers["retry-after"]), (503, "5"))
        self.assertEqual(self.push(body(component="db")).status, 202)  # small ones need no room
        slow[0].leave()
        self.assertEqual(self.push(data).status, 202)
        slow[1].send(data[-1:])
        self.assertEqual([answer.status for answer in slow[1].answers("POST")], [202])
        self.assertEqual(self.rig.packages.taken, 0)

    def test_over_the_control_socket_no_token_is_needed(self) -> None:
        local = self.rig.connect(local=True, peer="uid 0, pid 1")
        self.assertEqual(local.ask("POST", "/v1/updates", body=body()).status, 202)
        self.assertEqual(self.rig.update_manager.list()[0].success, True)

    def test_updates_are_off_without_keys(self) -> None:
        self.rig.updates.config = UpdateConfig()
        answer = self.push(body())
        self.assertEqual(answer.status, 409)
        self.assertIn("update.public_key_file", answer.json["detail"])
