"""The rules of health, pure."""

from __future__ import annotations

import pytest

from daemon.config.schema import AgentConfig, AgentType, HealthCheckConfig
from daemon.health.deciding import ROUNDING_S, SLACK_S, Misses, Sustained, Vitals, judge, silence_from
from daemon.model.agent import HealthStatus

SPEC = AgentConfig(id="a", type=AgentType.CUSTOM, binary_path="/bin/x", health_check=HealthCheckConfig(
    start_period=10.0, heartbeat_timeout=90.0, cpu_threshold=50.0, memory_threshold=100, threshold_duration=60.0))


def test_a_value_must_be_above_at_every_sample_for_the_whole_duration() -> None:
    state = Sustained()
    for at, above in ((0, True), (30, True), (59.999, True)):
        state = state.after(above, at)
        assert state.over_s(at, 60.0) is None
    assert state.after(True, 60).over_s(60, 60.0) == 60
    assert state.after(False, 60).after(True, 61).over_s(61, 60.0) is None


def test_misses_in_a_row() -> None:
    state = Misses().after("refused", forgiven=True)
    assert (state.count, state.reason, state.succeeded) == (0, "refused", False)
    state = state.after("refused", forgiven=False).after("timed out", forgiven=False)
    assert (state.count, state.reason) == (2, "timed out")
    assert state.after("", forgiven=False) == Misses(succeeded=True)


@pytest.mark.parametrize(
    ("ever", "from_start", "timeout", "heartbeat_s", "expected"),
    [
        (False, False, 90.0, None, None), (False, True, 90.0, None, 100.0), (True, False, 90.0, 150.0, 150.0),
        (True, False, 90.0, 20.0, 100.0), (True, False, 0.0, 150.0, None), (True, False, 90.0, None, 100.0),
    ],
)
def test_when_silence_counts(
    ever: bool, from_start: bool, timeout: float, heartbeat_s: float | None, expected: float | None
) -> None:
    spec = AgentConfig(id="a", type=AgentType.CUSTOM, binary_path="/x", heartbeat_from_start=from_start,
                       health_check=HealthCheckConfig(heartbeat_timeout=timeout))
    assert silence_from(spec, started_s=100.0, heartbeat_s=heartbeat_s, ever=ever, watched_s=50.0) == expected


def test_nothing_wrong_is_healthy_and_says_who_lives() -> None:
    verdict = judge(SPEC, Vitals(now_s=100.0, started_s=0.0), 42)
    assert (verdict.status, verdict.reason) == (HealthStatus.HEALTHY, "pid 42 lives, every check passes")


def test_the_order_of_faults() -> None:
    everything = {"heartbeat_from_s": 0.0, "cpu": Sustained(0.0), "rss": Sustained(0.0), "cpu_percent": 99.0,
                  "rss_bytes": 200, "misses": (("http", Misses(3, "x")), ("tcp", Misses(3, "y")))}
    found = []
    for gone in ("", "heartbeat_from_s", "cpu", "rss"):
        everything.pop(gone, None)
        found.append(judge(SPEC, Vitals(now_s=1000.0, started_s=0.0, **everything), 1).check)
    assert found == ["heartbeat", "cpu", "memory", "http"]


def test_a_sample_is_early_only_within_the_slack_before_the_end() -> None:
    state = Sustained(100.0)
    assert Sustained().early_s(160.0, 60.0) is None
    assert state.early_s(160.0 - 2 * SLACK_S, 60.0) is None
    assert state.early_s(160.0 - SLACK_S / 2, 60.0) == pytest.approx(SLACK_S / 2)
    assert state.early_s(160.0, 60.0) is None
    assert state.early_s(200.0, 60.0) is None


def test_no_series_without_a_whole_window_above_ever_triggers() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(derandomize=True, deadline=None, database=None)
    @hypothesis.given(
        st.lists(st.tuples(st.floats(0.01, 60.0), st.booleans()), max_size=60), st.floats(0.1, 100.0)
    )
    def check(series: list[tuple[float, bool]], duration_s: float) -> None:
        state, at, above_from = Sustained(), 0.0, None
        for step, above in series:
            at += step
            state = state.after(above, at)
            above_from = (at if above_from is None else above_from) if above else None
            over_s = state.over_s(at, duration_s)
            whole = above_from is not None and at - above_from >= duration_s - ROUNDING_S
            assert (over_s is not None) == whole
            early_s = state.early_s(at, duration_s)
            if early_s is not None:  # never both; and when it is due, it is due
                assert over_s is None
                assert state.over_s(at + early_s, duration_s) is not None

    check()
