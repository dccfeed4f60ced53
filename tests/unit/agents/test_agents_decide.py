"""The reconcile table: every row, every precedence, and that it always answers."""

from __future__ import annotations

import itertools

import pytest

from daemon.agents.decide import Decision, Do, Observed, Spec, decide
from daemon.model.agent import Wanted

RUN, STOP = Wanted.RUNNING, Wanted.STOPPED
SPEC = Spec(spec_hash="a")
GONE = Spec(configured=False, enabled=False)
DISABLED = Spec(enabled=False, spec_hash="a")
LIVES = Observed(alive=True, spec_hash="a")
FLAGS = ("alive", "survivors", "restart_asked", "settled", "due")


@pytest.mark.parametrize(
    ("spec", "wanted", "observed", "do", "why"),
    [
        # held: before everything else, and never forgotten
        (SPEC, RUN, Observed(alive=True, spec_hash="a", held="being updated"), Do.STOP, "being updated"),
        (SPEC, RUN, Observed(held="being updated"), Do.NOTHING, "being updated"),
        (SPEC, RUN, Observed(held="being updated", restart_asked=True), Do.NOTHING, "being updated"),
        (SPEC, RUN, Observed(held="being updated", survivors=True), Do.CLEAN, "being updated"),
        (SPEC, RUN, Observed(alive=True, held="being updated", restart_asked=True), Do.STOP, "being updated"),
        (SPEC, RUN, Observed(alive=True, held="being updated", unhealthy="x"), Do.STOP, "being updated"),
        (SPEC, STOP, Observed(alive=True, held="being updated"), Do.STOP, "being updated"),
        (DISABLED, RUN, Observed(held="being updated"), Do.NOTHING, "being updated"),
        (GONE, RUN, Observed(alive=True, held="being updated"), Do.STOP, "being updated"),
        (GONE, RUN, Observed(held="being updated"), Do.NOTHING, "being updated"),
        # adopted or running
        (SPEC, RUN, LIVES, Do.KEEP, "it runs as configured"),
        (SPEC, RUN, Observed(alive=True, spec_hash="b"), Do.RESTART, "its configuration changed"),
        (SPEC, RUN, Observed(alive=True, spec_hash=""), Do.RESTART, "its configuration changed"),
        (SPEC, RUN, Observed(alive=True, spec_hash="a", restart_asked=True), Do.RESTART, "a restart was asked"),
        (SPEC, RUN, Observed(alive=True, spec_hash="a", settled=True, due=False), Do.KEEP, "runs as configured"),
        (SPEC, RUN, Observed(alive=True, spec_hash="a", survivors=True), Do.KEEP, "runs as configured"),
        # unhealthy
        (SPEC, RUN, Observed(alive=True, spec_hash="a", unhealthy="no heartbeat"), Do.RESTART, "unhealthy: no h"),
        (SPEC, RUN, Observed(alive=True, spec_hash="a", unhealthy="x", due=False), Do.KEEP, "not due yet; unhealthy"),
        (SPEC, RUN, Observed(alive=True, spec_hash="b", unhealthy="x", due=False), Do.RESTART, "configuration changed"),
        (SPEC, RUN, Observed(alive=True, spec_hash="a", unhealthy="x", restart_asked=True), Do.RESTART, "asked for"),
        (SPEC, STOP, Observed(alive=True, spec_hash="a", unhealthy="x"), Do.STOP, "the operator stopped it"),
        (DISABLED, RUN, Observed(alive=True, spec_hash="a", unhealthy="x"), Do.STOP, "enabled: false"),
        # not in the file
        (GONE, RUN, Observed(alive=True), Do.STOP, "no longer in the configuration, but it runs"),
        (GONE, RUN, Observed(survivors=True), Do.CLEAN, "no longer in the configuration, but processes"),
        (GONE, RUN, Observed(), Do.FORGET, "no longer in the configuration"),
        (GONE, STOP, Observed(), Do.FORGET, "no longer in the configuration"),
        (GONE, RUN, Observed(restart_asked=True), Do.FORGET, "no longer in the configuration"),
        # enabled: false
        (DISABLED, RUN, LIVES, Do.STOP, "enabled: false in the configuration, but it runs"),
        (DISABLED, RUN, Observed(survivors=True), Do.CLEAN, "enabled: false"),
        (DISABLED, RUN, Observed(restart_asked=True), Do.NOTHING, "enabled: false"),
        (DISABLED, STOP, Observed(), Do.NOTHING, "enabled: false"),
        # stopped by the operator
        (SPEC, STOP, LIVES, Do.STOP, "the operator stopped it, but it runs"),
        (SPEC, STOP, Observed(alive=True, spec_hash="b", restart_asked=True), Do.STOP, "the operator stopped it"),
        (SPEC, STOP, Observed(survivors=True), Do.CLEAN, "the operator stopped it"),
        (SPEC, STOP, Observed(), Do.NOTHING, "the operator stopped it"),
        (SPEC, STOP, Observed(restart_asked=True, due=True), Do.NOTHING, "the operator stopped it"),
        # down though it is wanted
        (SPEC, RUN, Observed(survivors=True), Do.CLEAN, "its leader is gone but processes of it live"),
        (SPEC, RUN, Observed(survivors=True, restart_asked=True), Do.CLEAN, "its leader is gone"),
        (SPEC, RUN, Observed(survivors=True, settled=True), Do.CLEAN, "its leader is gone"),
        (SPEC, RUN, Observed(restart_asked=True), Do.SPAWN, "the operator asked for it"),
        (SPEC, RUN, Observed(restart_asked=True, settled=True, due=False), Do.SPAWN, "the operator asked for it"),
        (SPEC, RUN, Observed(settled=True), Do.NOTHING, "its restart policy leaves it so"),
        (SPEC, RUN, Observed(settled=True, due=False), Do.NOTHING, "its restart policy leaves it so"),
        (SPEC, RUN, Observed(due=False), Do.WAIT, "the next try has not come"),
        (SPEC, RUN, Observed(), Do.SPAWN, "it is wanted and not running"),
    ],
)
def test_every_row_of_the_reconcile_table(
    spec: Spec, wanted: Wanted, observed: Observed, do: Do, why: str
) -> None:
    decision = decide(spec, wanted, observed)
    assert decision.do is do
    assert why in decision.why


def every_case() -> list[tuple[Spec, Wanted, Observed, Decision]]:
    cases = []
    hashes = ("a", "b", "")
    specs = (SPEC, GONE, DISABLED)
    for spec, wanted, given, ill, held in itertools.product(specs, Wanted, hashes, ("", "x"), ("", "h")):
        for flags in itertools.product((False, True), repeat=len(FLAGS)):
            observed = Observed(spec_hash=given, unhealthy=ill, held=held, **dict(zip(FLAGS, flags, strict=True)))
            cases.append((spec, wanted, observed, decide(spec, wanted, observed)))
    return cases


def test_every_combination_gets_an_answer_with_a_reason() -> None:
    cases = every_case()
    assert len(cases) == 3 * 2 * 3 * 2 * 2 * 32
    assert all(isinstance(answer.do, Do) and answer.why for *_, answer in cases)
    assert {answer.do for *_, answer in cases} == set(Do)


def test_what_must_be_down_is_never_spawned_kept_or_restarted() -> None:
    for spec, wanted, observed, answer in every_case():
        if spec is not SPEC or wanted is STOP or observed.held:
            assert answer.do not in (Do.SPAWN, Do.RESTART, Do.KEEP, Do.WAIT)
            assert (answer.do is Do.STOP) == observed.alive


def test_nothing_is_spawned_beside_a_living_leader_or_survivors() -> None:
    for _spec, _wanted, observed, answer in every_case():
        if answer.do is Do.SPAWN:
            assert not observed.alive and not observed.survivors
        if answer.do in (Do.KEEP, Do.RESTART, Do.STOP):
            assert observed.alive
        if answer.do is Do.CLEAN:
            assert observed.survivors and not observed.alive


def test_an_agent_is_forgotten_only_when_it_left_the_file_and_nothing_of_it_lives() -> None:
    for spec, _wanted, observed, answer in every_case():
        gone = not spec.configured and not observed.alive and not observed.survivors and not observed.held
        assert (answer.do is Do.FORGET) == gone


def test_a_held_agent_is_brought_down_and_left_so_for_the_reason_of_the_hold() -> None:
    for _spec, _wanted, observed, answer in every_case():
        if observed.held:
            assert answer.why == observed.held
            expected = Do.STOP if observed.alive else Do.CLEAN if observed.survivors else Do.NOTHING
            assert answer.do is expected


def test_only_a_restart_for_health_counts_as_automatic() -> None:
    for _spec, _wanted, observed, answer in every_case():
        if answer.automatic:
            assert answer.do is Do.RESTART
            assert observed.unhealthy and observed.due and observed.alive and not observed.restart_asked
