"""Properties of the pure parts, and load against arbitrary text."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from daemon.config.diff import AGENT_LIVE_KEYS, diff
from daemon.config.load import load
from daemon.config.schema import AgentConfig, AgentType, Config
from daemon.config.spec_hash import spec_hash
from daemon.config.units import MAX_SECONDS, parse_duration, parse_size
from daemon.errors import ConfigLoadError, ConfigValidateError

hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")
given = hypothesis.given

FAST = hypothesis.settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
WORDS = st.text("abc {}$", max_size=6)
SECONDS = st.floats(min_value=0.001, max_value=1e6, allow_nan=False)

AGENTS = st.builds(
    AgentConfig,
    id=st.sampled_from(["a", "b", "c"]),
    type=st.sampled_from(AgentType),
    binary_path=st.sampled_from(["/x", "/y"]),
    name=WORDS,
    enabled=st.booleans(),
    args=st.lists(WORDS, max_size=2).map(tuple),
    env=st.dictionaries(st.sampled_from(["A", "B"]), WORDS),
    umask=st.integers(0, 0o777),
    start_seconds=SECONDS,
    stop_timeout=SECONDS,
)
CONFIGS = st.builds(
    Config,
    agents=st.lists(AGENTS, max_size=3, unique_by=lambda agent: agent.id).map(tuple),
    resources=st.builds(type(Config().resources), interval=SECONDS),
)


@FAST
@given(st.integers(0, int(MAX_SECONDS) * 1000))
def test_a_duration_written_in_units_comes_back(millis):
    rest, ms = divmod(millis, 1000)
    rest, s = divmod(rest, 60)
    rest, m = divmod(rest, 60)
    d, h = divmod(rest, 24)
    assert parse_duration(f"{d}d{h}h{m}m{s}s{ms}ms") == pytest.approx(millis / 1000)


@FAST
@given(
    st.integers(0, 2**20),
    st.sampled_from([("kB", 10**3), ("MB", 10**6), ("KiB", 2**10), ("MiB", 2**20), ("", 1)]),
)
def test_a_size_written_in_units_comes_back(count, unit):
    assert parse_size(f"{count}{unit[0]}") == count * unit[1]


@FAST
@given(st.one_of(st.text(max_size=20), st.floats(), st.integers(), st.booleans(), st.none()))
def test_units_return_a_sane_value_or_raise_value_error(value):
    for parse in (parse_duration, parse_size):
        try:
            parsed = parse(value)
        except ValueError:
            continue
        assert parsed >= 0 and not isinstance(value, bool) and value is not None


@FAST
@given(CONFIGS)
def test_a_configuration_does_not_differ_from_itself(config):
    assert diff(config, msgspec.convert(msgspec.to_builtins(config), Config)) == ()


@FAST
@given(CONFIGS, CONFIGS)
def test_every_difference_is_told_once_and_none_is_invented(old, new):
    changes = diff(old, new)
    assert len({(change.agent, change.key) for change in changes}) == len(changes)
    assert all(change.old != change.new for change in changes)
    same_agents = {a.id: a for a in old.agents} == {a.id: a for a in new.agents}
    assert (changes == ()) is (same_agents and old.resources == new.resources)


@FAST
@given(AGENTS, AGENTS)
def test_the_fingerprint_ignores_live_keys_and_nothing_else(one, two):
    top = {key.split(".")[0] for key in AGENT_LIVE_KEYS} | {"enabled", "id"}
    live_swapped = msgspec.structs.replace(one, **{name: getattr(two, name) for name in sorted(top)})
    assert spec_hash(live_swapped) == spec_hash(one)
    restart_swapped = msgspec.structs.replace(two, **{name: getattr(one, name) for name in sorted(top)})
    assert (spec_hash(restart_swapped) == spec_hash(one)) is (restart_swapped == one)


def _load_or_refuse(tmp_path: Path, raw: bytes) -> None:
    file = tmp_path / "fuzz.yaml"
    file.write_bytes(raw)
    try:
        loaded = load(file, environ={"PATH": ""}, interpreter="/nowhere/python")
    except (ConfigLoadError, ConfigValidateError) as e:
        for fault in e.details.get("faults", ()):
            assert fault.line >= 1 and fault.column >= 1
            str(fault).encode()
    else:
        assert diff(loaded.config, loaded.config) == ()


@FAST
@given(st.binary(max_size=200))
def test_arbitrary_bytes_load_or_are_refused(tmp_path, raw):
    _load_or_refuse(tmp_path, raw)


FRAGMENTS = st.one_of(
    st.sampled_from(
        ["daemon: ", "agents:\n", "  ", "- ", "id: a", "type: custom", "binary_path: /b", "labels: {"]
    ),
    st.sampled_from(
        ["env: {", "restart: ", "policy: ", "collectors: {plugins: {p: {", "{", "}", "[", "]", ", "]
    ),
    st.sampled_from(
        [": ", "&x ", "*x", "<<: *x", "!!str ", "!!x ", "'", '"', "#", "---\n", "? ", "=", "~\n"]
    ),
    st.sampled_from(["022", "1:30", "on", ".inf", "1e3", "0x", "\\ud800", "\\0"]),
)


@FAST
@given(st.lists(FRAGMENTS, max_size=30).map("".join))
def test_text_that_looks_like_a_configuration_loads_or_is_refused(tmp_path, text):
    _load_or_refuse(tmp_path, text.encode("utf-8", "surrogatepass"))


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    [
                        "daemon",
                        "agents",
                        "agent",
                        "id",
                        "type",
                        "binary_path",
                        "args",
                        "env",
                        "health_check",
                        "restart",
                        "collectors",
                        "exec",
                        "plugins",
                        "name",
                        "command",
                        "update",
                        "labels",
                    ]
                ),
                st.text(max_size=4),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@FAST
@given(PLAIN)
def test_any_json_value_loads_or_is_refused(tmp_path, value):
    _load_or_refuse(tmp_path, json.dumps(value).encode())


@FAST
@given(
    PLAIN,
    st.sampled_from(
        ["daemon", "manager", "agents", "agent", "agent_defaults", "collectors", "resources", "update"]
    ),
)
def test_any_json_value_in_a_section_loads_or_is_refused(tmp_path, value, section):
    _load_or_refuse(tmp_path, json.dumps({section: value}).encode())
