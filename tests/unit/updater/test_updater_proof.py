"""What proves a version, and what does not."""

from __future__ import annotations

import itertools

import pytest

from daemon.model.agent import AgentState, HealthStatus, Identity, LastExit
from daemon.model.health import HealthVerdict
from daemon.updater.agent.proof import Cause, Finding, Proof, Seen

ONE, TWO = (Identity(boot_id="b", pid=pid, start_ticks=pid) for pid in (100, 200))
RUNNING, STARTING = AgentState.RUNNING, AgentState.STARTING
HEALTHY = HealthVerdict(status=HealthStatus.HEALTHY, reason="every check passes")
WAITING = HealthVerdict(status=HealthStatus.HEALTHY, reason="every check passes", waits=("http",))
EARLY = HealthVerdict(status=HealthStatus.STARTING, reason="waiting for http", waits=("http",))
PROOF = Proof(period_s=30.0, deadline=300.0, exits_total=2)


def seen(at: float, state: AgentState = RUNNING, identity: Identity | None = ONE, **more: object) -> Seen:
    return Seen(at=at, state=state, identity=identity, **{"exits_total": 2, **more})  # type: ignore[arg-type]


def after(*looks: Seen, proof: Proof = PROOF) -> Proof:
    for look in looks:
        proof = proof.after(look)
    return proof


@pytest.mark.parametrize("verdict", [None, HEALTHY])
def test_it_is_proven_when_it_ran_well_for_the_period(verdict: HealthVerdict | None) -> None:
    early = after(seen(0, STARTING, verdict=verdict), seen(1, verdict=verdict), seen(30.9, verdict=verdict))
    assert early.finding is Finding.WAIT
    assert early.again_at == 31.0
    assert early.after(seen(31.0, verdict=verdict)).finding is Finding.PROVEN


@pytest.mark.parametrize("verdict", [EARLY, WAITING])
def test_checks_that_never_went_well_prove_nothing(verdict: HealthVerdict) -> None:
    proof = after(seen(1, verdict=verdict), seen(100, verdict=verdict))
    assert (proof.finding, proof.well_since, proof.again_at) == (Finding.WAIT, None, 300.0)
    late = proof.after(seen(300, verdict=verdict))
    assert (late.finding, late.cause) == (Finding.FAILED, Cause.TIMEOUT)
    assert "http never went well" in late.reason


def test_a_break_begins_the_period_anew() -> None:
    proof = after(seen(0, verdict=HEALTHY), seen(20, verdict=EARLY), seen(25, verdict=HEALTHY), seen(31, verdict=HEALTHY))
    assert (proof.finding, proof.again_at) == (Finding.WAIT, 55.0)


@pytest.mark.parametrize(
    ("look", "cause", "words"),
    [
        (seen(5, exits_total=3, identity=None, last_exit=LastExit(code=3, reason="exit code 3")), Cause.EXIT, "exit code 3"),
        (seen(5, identity=None, exits_total=3), Cause.EXIT, "nobody knows how"),
        (seen(5, identity=TWO), Cause.OTHER_PROCESS, "another process"),
        (seen(5, down=True), Cause.DOWN, "operator"),
        (seen(5, configured=False, down=True), Cause.GONE, "left the configuration"),
        *(
            (
                seen(5, verdict=HealthVerdict(status=status, reason="95.0 %, above 50 %", value=95.0, limit=50.0)),
                Cause.UNHEALTHY, f"({status.value}): 95.0 %, above 50 %",
            )
            for status in (
                HealthStatus.DEAD, HealthStatus.NO_HEARTBEAT, HealthStatus.OVER_THRESHOLD,
                HealthStatus.ENDPOINT_FAILED,
            )
        ),
    ],
)
def test_it_fails_at_once(look: Seen, cause: Cause, words: str) -> None:
    proof = after(seen(0), look)
    assert (proof.finding, proof.cause) == (Finding.FAILED, cause)
    assert words in proof.reason
    assert proof.after(seen(500)) == proof  # for good
    proven = after(seen(0), seen(31))
    assert proven.finding is Finding.PROVEN
    assert proven.after(look).finding is Finding.FAILED  # others are waited for, and it broke meanwhile


def test_a_process_that_is_being_stopped_is_waited_for_and_its_successor_is_another() -> None:
    proof = after(seen(0), seen(5, AgentState.STOPPING), seen(6, AgentState.STOPPED, None))
    assert proof.finding is Finding.WAIT
    assert proof.after(seen(7, STARTING, TWO)).cause is Cause.OTHER_PROCESS


def test_what_never_runs_fails_at_the_deadline() -> None:
    proof = after(seen(0, AgentState.STOPPED, None), seen(300, AgentState.STOPPED, None))
    assert (proof.cause, proof.finding) == (Cause.TIMEOUT, Finding.FAILED)
    assert "stopped" in proof.reason


def test_what_was_well_for_too_short_fails_at_the_deadline() -> None:
    proof = after(seen(290), seen(300))
    assert (proof.finding, proof.cause) == (Finding.FAILED, Cause.TIMEOUT)
    assert "10.0 s only, not 30 s" in proof.reason


def test_a_look_that_comes_late_does_not_fail_what_was_well_in_time() -> None:
    assert after(seen(269), seen(400)).finding is Finding.PROVEN
    assert after(seen(271), seen(400)).finding is Finding.FAILED


def test_without_a_period_running_is_enough() -> None:
    proof = after(seen(0, STARTING), proof=Proof(period_s=0.0, deadline=9.0, exits_total=2))
    assert proof.finding is Finding.WAIT
    assert proof.after(seen(1)).finding is Finding.PROVEN


def test_the_evidence_has_the_verdict_with_its_numbers() -> None:
    verdict = HealthVerdict(
        status=HealthStatus.OVER_THRESHOLD, reason="CPU", check="cpu", value=95.0, limit=50.0, duration_s=60.0
    )
    evidence = after(seen(0, verdict=HEALTHY), seen(10, verdict=verdict)).evidence()
    assert evidence["verdict"] == {
        "status": "over_threshold", "reason": "CPU", "check": "cpu", "value": 95.0, "limit": 50.0,
        "duration_s": 60.0, "waits": (),
    }
    assert (evidence["pid"], evidence["state"]) == (100, "running")
    assert PROOF.evidence() == {}


def test_no_order_of_looks_proves_what_was_not_well_for_the_period() -> None:
    kinds = (
        {"verdict": HEALTHY}, {"verdict": EARLY}, {"verdict": WAITING}, {"state": STARTING}, {"identity": TWO},
        {"exits_total": 3, "identity": None},
    )
    for chosen in itertools.product(kinds, repeat=4):
        looks = [seen(10.0 * n, **kind) for n, kind in enumerate(chosen)]  # type: ignore[arg-type]
        proof = after(*looks, proof=Proof(period_s=30.0, deadline=300.0, exits_total=2))
        well = all(look.well for look in looks) and len({look.identity for look in looks}) == 1
        assert (proof.finding is Finding.PROVEN) == well
