"""Values as people read them, and text that cannot harm a terminal."""

from __future__ import annotations

import re

import pytest

from daemon.cli.main import COMMANDS, ELSEWHERE
from daemon.cli.words import age, cut, duration, printable, printable_line, size, sparkline, until, width_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (-3, "0.0s"), (0.42, "0.4s"), (59.9, "59s"), (60, "1m00s"), (200, "3m20s"), (3600, "1h00m"),
     (18245, "5h04m"), (86400, "1d00h"), (12 * 86400 + 3 * 3600, "12d03h")],
)
def test_durations_have_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0B"), (1023, "1023B"), (1024, "1.0K"), (37498880, "35.8M"), (2**60, "1024.0P")]
)
def test_sizes_are_powers_of_1024(count: int | None, text: str) -> None:
    assert size(count) == text


def test_ages_and_what_is_still_to_come() -> None:
    assert age("2026-11-20T10:00:00.000Z", 1795168810) == "10s"
    assert age(None, 0) == "-"
    assert age("yesterday", 0) == "-"
    assert until("2026-11-20T10:00:30Z", 1795168810) == "20s"
    assert until("2026-11-20T10:00:00Z", 1795168810) == "now"


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),  # C1: the same as ESC [
        ("a\rb\x08\x7f", "a\\x0db\\x08\\x7f"),
        ("safe\u202etxt.exe", "safe\\u202etxt.exe"),
        ("a\u200bb\u2066c\u2028d", "a\\u200bb\\u2066c\\u2028d"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("Grüße 日本 🙂", "Grüße 日本 🙂"),
    ],
)
def test_nothing_a_terminal_obeys_is_left(hostile: str, shown: str) -> None:
    assert printable(hostile) == shown


def test_every_control_character_is_shown_and_none_obeyed() -> None:
    controls = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
    assert not any(char in printable(controls) for char in controls)


def test_a_tab_stays_in_a_line_and_not_in_a_cell() -> None:
    assert printable_line("a\tb") == "a\tb"
    assert printable("a\tb") == "a\\tb"


def test_wide_characters_count_twice_and_are_not_cut_in_half() -> None:
    assert width_of("日本") == 4
    assert cut("日本語", 4) == "日…"
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"
    assert cut("abcd", 0) == ""


def test_sparklines_go_from_zero_to_the_highest_and_leave_gaps() -> None:
    assert sparkline([0, 50, None, 100], 4) == "▁▄ █"
    assert sparkline([0, 0], 4) == "  ▁▁"
    assert sparkline([], 3) == "   "
    assert sparkline([1, 2, 3], 2) == "▆█"


def test_the_words_of_other_programs_lead_to_commands_that_exist() -> None:
    assert not set(ELSEWHERE) & set(COMMANDS)
    named = {name for text in ELSEWHERE.values() for name in re.findall(r"hostctl ([a-z]+)", text)}
    assert named <= set(COMMANDS)
    assert named
