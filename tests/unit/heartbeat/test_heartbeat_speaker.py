"""No process speaks for another's agent."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from daemon.heartbeat.speaker import REVALIDATE_S, Speaker
from daemon.heartbeat.stats import Reason
from tests.fakes.directory import FakeDirectory, FakePeer, FakeTarget


class SpeakerTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.mine = FakeTarget("mine", 10, 11)
        self.other = FakeTarget("other", 20)
        self.directory = FakeDirectory(self.mine, self.other)

    def speaker(self, pid: int, *, strict: bool = True) -> Speaker:
        self.peer = FakePeer(pid)
        return Speaker(self.peer, self.directory, self.clock, require_pid_match=strict)

    def test_an_agents_process_speaks_for_itself_and_its_siblings(self) -> None:
        speaker = self.speaker(10)
        self.assertIs(speaker.judge(10, None), self.mine)
        self.assertIs(speaker.judge(11, "mine"), self.mine)
        self.assertIs(speaker.judge(11, ""), self.mine)

    def test_a_stranger_speaks_for_nobody(self) -> None:
        for pid in (99, 0, -1):
            speaker = self.speaker(pid)
            for inside in (10, 20, 99):
                for agent_id in (None, "", "mine", "nobody"):
                    self.assertIs(speaker.judge(inside, agent_id), Reason.STRANGER)

    def test_an_agent_speaks_for_no_other(self) -> None:
        speaker = self.speaker(20)
        self.assertIs(speaker.judge(10, None), Reason.FOREIGN_PID)
        self.assertIs(speaker.judge(10, "mine"), Reason.FOREIGN_AGENT)
        self.assertIs(speaker.judge(20, "mine"), Reason.FOREIGN_AGENT)
        self.assertIs(speaker.judge(20, "nobody"), Reason.FOREIGN_AGENT)
        self.assertIs(speaker.judge(99, "other"), Reason.FOREIGN_PID)
        self.assertIs(speaker.judge(20, "other"), self.other)

    def test_a_refused_pid_is_not_trusted_afterwards(self) -> None:
        speaker = self.speaker(10)
        speaker.judge(11, None)
        self.assertEqual(speaker.trusted_pid, 11)
        speaker.judge(20, None)
        self.assertEqual(speaker.trusted_pid, 0)

    def test_answers_serve_for_a_second(self) -> None:
        speaker = self.speaker(10)
        for _ in range(50):
            speaker.judge(11, None)
        self.assertEqual((self.directory.questions, self.mine.questions), (1, 1))
        self.clock.advance(REVALIDATE_S)
        speaker.judge(11, None)
        self.assertEqual((self.directory.questions, self.mine.questions), (2, 2))

    def test_a_stranger_costs_one_question_a_second(self) -> None:
        speaker = self.speaker(99)
        for _ in range(50):
            speaker.judge(10, None)
        self.assertEqual(self.directory.questions, 1)

    def test_a_process_that_becomes_an_agents_is_heard(self) -> None:
        speaker = self.speaker(12)
        self.assertIs(speaker.judge(12, None), Reason.STRANGER)
        self.mine.pids.add(12)
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(12, None), self.mine)

    def test_a_living_process_that_is_the_agents_no_more_is_refused(self) -> None:
        speaker = self.speaker(10)
        speaker.judge(10, None)
        self.mine.pids.clear()
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(10, None), Reason.STRANGER)

    def test_a_pid_inside_that_changed_hands_is_refused(self) -> None:
        speaker = self.speaker(10)
        speaker.judge(11, None)
        self.mine.pids.remove(11)
        self.other.pids.add(11)
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(11, None), Reason.FOREIGN_PID)

    def test_the_last_words_of_a_process_count_after_its_end(self) -> None:
        speaker = self.speaker(10)
        speaker.target()
        self.peer.gone = True
        self.mine.pids.clear()
        self.clock.advance(3600)
        self.assertIs(speaker.judge(10, None), self.mine)
        self.assertIs(speaker.judge(11, None), Reason.FOREIGN_PID)

    def test_an_ended_process_gains_nothing_by_the_reuse_of_its_pid(self) -> None:
        speaker = self.speaker(30)
        speaker.target()
        self.peer.gone = True
        self.mine.pids.add(30)
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(30, None), Reason.STRANGER)

    def test_an_ended_process_does_not_move_to_the_agent_that_has_its_pid_now(self) -> None:
        speaker = self.speaker(10)
        speaker.target()
        self.peer.gone = True
        self.mine.pids.clear()
        self.other.pids.add(10)
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(10, "other"), Reason.FOREIGN_AGENT)

    def test_a_peer_that_ended_before_anybody_looked_proves_nothing(self) -> None:
        speaker = self.speaker(10)
        self.peer.gone = True
        self.assertIs(speaker.judge(10, None), Reason.STRANGER)

    def test_last_words_for_an_agent_that_was_removed_go_nowhere(self) -> None:
        speaker = self.speaker(10)
        speaker.target()
        self.peer.gone = True
        del self.directory.agents["mine"]
        self.clock.advance(REVALIDATE_S)
        self.assertIs(speaker.judge(10, None), Reason.STRANGER)

    def test_relaxed_an_unknown_peer_speaks_for_the_agent_it_names(self) -> None:
        for pid in (0, 99):
            speaker = self.speaker(pid, strict=False)
            self.assertIs(speaker.judge(1, "mine"), self.mine)
            self.assertIs(speaker.judge(1, "nobody"), Reason.UNKNOWN_AGENT)
            self.assertIs(speaker.judge(1, None), Reason.UNNAMED)

    def test_relaxed_a_known_agent_still_speaks_for_no_other(self) -> None:
        speaker = self.speaker(20, strict=False)
        self.assertIs(speaker.judge(1, "mine"), Reason.FOREIGN_AGENT)
        self.assertIs(speaker.judge(1, None), self.other)
