"""The exec collector: its JSON, and what a command may do wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.collectors.exec import KILL_GRACE_S, MAX_OUTPUT_BYTES, MAX_VALUES, ExecCollector, exec_values
from daemon.errors import CollectError
from daemon.model.agent import ExitStatus
from daemon.model.metrics import Metrics
from tests.fakes.commands import FakeCommandRunner, FakeProgram


def test_objects_are_joined_by_dots_and_null_is_left_out() -> None:
    queue = b'{"depth": 3, "name": "mail", "age": {"max": 1.5}}'
    text = b'{"up": true, "down": false, "queue": ' + queue + b', "gone": null}\n'
    assert exec_values(text) == {
        "up": 1, "down": 0, "queue.depth": 3, "queue.name": "mail", "queue.age.max": 1.5,
    }  # fmt: skip


@pytest.mark.parametrize("edge", [(1 << 64) - 1, -(1 << 63), 0, 1e308, "", "ä"])
def test_edges_that_are_fine(edge: object) -> None:
    assert exec_values(json.dumps({"x": edge}).encode()) == {"x": edge}


def test_empty_object_is_fine() -> None:
    assert exec_values(b"{}") == {}


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (b"", "JSON object"),
        (b"not json", "JSON object"),
        (b"\xff\xfe", "JSON object"),
        (b'{"a": 1} {"b": 2}', "JSON object"),
        (b'{"a": 1', "JSON object"),
        (b"[1, 2]", "not list"),
        (b"3", "not int"),
        (b"null", "not NoneType"),
        (b'{"a": [1]}', "a: arrays are not taken"),
        (b'{"a": {"b": [{}]}}', "a.b: arrays are not taken"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "a: the number is too large"),
        (b'{"a": 18446744073709551616}', "a: the number has more than 64 bits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "JSON object"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a.b": 1, "a": {"b": 2}}', "a.b: occurs twice"),
        (b'{"a": "\\ud800"}', "half a character"),
        (b'{"\\udfff": 1}', "half a character"),
        (b'{"a":' * 100000, "nested too deeply|JSON object"),
    ],
)
def test_other_output_is_refused_with_its_reason(output: bytes, why: str) -> None:
    with pytest.raises(CollectError, match=why) as caught:
        exec_values(output)
    str(caught.value).encode()


def test_number_of_values_is_bounded() -> None:
    with pytest.raises(CollectError, match="more than"):
        exec_values(json.dumps({str(number): number for number in range(MAX_VALUES + 1)}).encode())


class ExecCollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.runner = FakeCommandRunner(self.clock)

    def collect(self, program: FakeProgram | None) -> Deferred[Metrics]:
        if program is not None:
            self.runner.programs["/opt/probe"] = program
        one = ExecCollector(
            name="mail",
            command=("/opt/probe", "--json"),
            interval_s=30,
            timeout_s=10,
            runner=self.runner,
            wall=lambda: 50.0 + self.clock.seconds(),
            env={"PATH": "/bin"},
        )
        self.assertEqual(one.timeout_s, 10 + KILL_GRACE_S)
        return Deferred.fromCoroutine(one.collect())

    def refused(self, program: FakeProgram | None) -> str:
        return self.failureResultOf(self.collect(program), CollectError).value.message

    def test_sample_of_a_command_that_takes_its_time(self) -> None:
        answer = self.collect(FakeProgram(output=b'{"depth": 4}', takes_s=2))
        self.assertNoResult(answer)
        self.clock.advance(2)
        sample = self.successResultOf(answer)
        self.assertEqual((sample.name, sample.timestamp, sample.values), ("mail", 52.0, {"depth": 4}))

    def test_command_gets_its_arguments_and_an_explicit_environment(self) -> None:
        def output(env: Mapping[str, str]) -> bytes:
            return json.dumps({"path": env.get("PATH"), "n": len(env)}).encode()

        sample: Any = self.successResultOf(self.collect(FakeProgram(output=output)))
        self.assertEqual(sample.values, {"path": "/bin", "n": 1})
        self.assertEqual(self.runner.calls[0].argv, ("/opt/probe", "--json"))

    def test_missing_command(self) -> None:
        self.assertIn("cannot start /opt/probe: No such file", self.refused(None))

    def test_exit_code_and_output_are_told(self) -> None:
        message = self.refused(FakeProgram(output=b"no such queue\n", status=ExitStatus(code=3)))
        self.assertIn("exited with 3 and printed 'no such queue'", message)

    def test_signal_is_told(self) -> None:
        self.assertIn("signal 11", self.refused(FakeProgram(output=b"{}", status=ExitStatus(signal=11))))

    def test_unknown_end_is_a_failure(self) -> None:
        self.assertIn("nobody knows", self.refused(FakeProgram(output=b"{}", status=ExitStatus())))

    def test_binary_output_of_a_failed_command_can_be_told(self) -> None:
        self.refused(FakeProgram(output=b"\xff\x00" * 500, status=ExitStatus(code=1))).encode()

    def test_hanging_command_is_killed_before_the_round_is_overdue(self) -> None:
        answer = self.collect(FakeProgram(output=b'{"a": 1}', takes_s=float("inf")))
        self.clock.advance(10)
        message = self.failureResultOf(answer, CollectError).value.message
        self.assertIn("did not end within 10 s", message)
        self.assertEqual((len(self.runner.killed), self.runner.running), (1, []))

    def test_flood_is_killed(self) -> None:
        message = self.refused(FakeProgram(output=b"x" * (MAX_OUTPUT_BYTES + 1)))
        self.assertIn("printed more than", message)

    def test_cancelling_kills_the_command(self) -> None:
        answer = self.collect(FakeProgram(takes_s=5))
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        self.assertEqual((len(self.runner.killed), self.runner.running), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])
